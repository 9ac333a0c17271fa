"""The pages as a site: it is built whole, leads everywhere, and needs neither server nor network."""

import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.pages import ROOT

LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src"}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site's folder; mkdocs.yml makes an error of a page without a place in the navigation, and of a dead link."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


class Html(HTMLParser):
    """What a page is linked to, what it loads, and where links may lead in it."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.ids: set[str] = set()
        self.language: str | None = None
        self.feed(file.read_text())

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.ids.add(attributes.get("id") or "")
        if tag == "html":
            self.language = attributes.get("lang")
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])
        if tag in LOADED and attributes.get(LOADED[tag]):
            self.loaded.append(attributes[LOADED[tag]])


@pytest.fixture(scope="module")
def pages(site):
    return {file: Html(file) for file in site.rglob("*.html") if file.name != "404.html"}


@pytest.mark.matrix
def test_every_link_leads_to_a_place_on_the_site(pages):
    """Those to files outside docs/ as well: they are shown on pages of their own."""
    elsewhere = set()
    for file, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.netloc:
                elsewhere.add(link)
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            assert target.exists(), f"{file.name} links to {link}"
            fragment = unquote(parts.fragment)
            assert not fragment or fragment in pages[target].ids, f"{file.name} links to {link}"
    assert elsewhere == {
        "https://hydra.cc",
        "https://optuna.org",
        "https://ui.perfetto.dev",
        "https://github.com/RapidAI/RapidOCR",
        "https://github.com/djghosh13/geneval",
        *(
            f"https://arxiv.org/abs/{paper}"
            for paper in (
                "2303.11897",
                "2307.06350",
                "2310.11513",
                "2310.18235",
                "2403.05135",
                "2404.01291",
                "2512.16853",
            )
        ),
    }


def test_every_page_says_its_language(pages, site):
    """Han characters look different in Chinese and Japanese; a browser chooses by the language of the page."""
    for file, page in pages.items():
        assert page.language == ("zh-Hans" if site / "zh" in file.parents else "en"), file


def test_code_that_pages_link_to_is_shown_whole(site):
    file = site / "repository" / "conf" / "method" / "dpo.yaml.html"
    assert all(option in file.read_text() for option in ("beta_convention", "prompt_dropout"))
    folder = Html(site / "repository" / "conf" / "reward" / "index.html")
    assert {f"{file.stem}yaml" for file in (ROOT / "conf" / "reward").iterdir()} <= folder.ids


def test_nothing_is_loaded_from_elsewhere(pages, site):
    for file, page in pages.items():
        for address in page.loaded:
            parts = urlsplit(address)
            assert not parts.netloc, f"{file.name} loads {address}"
            assert (file.parent / parts.path).exists(), f"{file.name} loads {address}"


@pytest.mark.parametrize("words", ["cuda out of memory", "black"])
def test_the_search_finds_answers_on_a_site_opened_from_the_disk(site, open_window, words):
    window = open_window()
    window.page.goto(f"{(site / 'index.html').as_uri()}?q={words}")
    window.page.wait_for_selector(".md-search-result__item a[href*='faq.html']", state="attached", timeout=60_000)
    assert not window.requests_elsewhere
    assert not window.errors
