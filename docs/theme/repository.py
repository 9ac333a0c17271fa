"""A hook of MkDocs: what pages link to outside `docs/` becomes pages and files of the site.

A link such as `../conf/method/dpo.yaml` works where the repository is browsed. On the site it leads to a page under
`repository/` that shows the file, or all files of a folder, so the site needs no other host.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent.parent
PLACE = "repository"  # of those pages on the site
# what is shown as text; other files are copied
LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml", ".csv": "text"}
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(?=[)#])")  # the path of a Markdown link, but of one to another host


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what pages link to outside `docs/`, and what those link to in turn."""
    queue = [Path(file.abs_src_path) for file in files.documentation_pages() if file.abs_src_path]
    found: set[Path] = set()
    while queue:
        page = queue.pop()
        for target in _linked(page):
            if target not in found and Path(config.docs_dir) not in target.parents:
                found.add(target)
                files.append(_file(target, config))
                if target.suffix == ".md":
                    queue.append(target)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead to where `on_files` put what they name."""
    place, docs = page.file.src_uri, Path(config.docs_dir)
    if place.startswith(f"{PLACE}/") and not (ROOT / place.removeprefix(f"{PLACE}/")).is_file():
        return markdown  # shows code
    source = ROOT / place.removeprefix(f"{PLACE}/") if place.startswith(f"{PLACE}/") else docs / place

    def moved(link: re.Match[str]) -> str:
        target = (source.parent / link[0]).resolve()
        uri = target.relative_to(docs).as_posix() if docs in target.parents else _uri(target)
        return os.path.relpath(uri, Path(place).parent)

    prose = FENCED.split(markdown)
    code = FENCED.findall(markdown)
    moved_prose = [LINK.sub(moved, part) for part in prose]
    return "".join(a + b for a, b in zip(moved_prose, [*code, ""], strict=True))


def _linked(page: Path) -> Iterator[Path]:
    for link in LINK.findall(FENCED.sub("", page.read_text())):
        yield (page.parent / link).resolve()


def _uri(target: Path) -> str:
    """Return where the site has a file or folder of the repository."""
    name = target.relative_to(ROOT).as_posix()
    if target.is_dir():
        return f"{PLACE}/{name}/index.md"
    return f"{PLACE}/{name}.md" if target.suffix in LANGUAGES else f"{PLACE}/{name}"


def _file(target: Path, config: MkDocsConfig) -> File:
    if not target.is_dir() and target.suffix not in LANGUAGES:
        return File.generated(config, _uri(target), abs_src_path=str(target), inclusion=InclusionLevel.NOT_IN_NAV)
    files = sorted(target.iterdir()) if target.is_dir() else [target]
    shown = [file for file in files if file.suffix in LANGUAGES]
    title = target.relative_to(ROOT).as_posix()
    blocks = [
        f"{f'## {file.name}' if target.is_dir() else ''}\n\n````{LANGUAGES[file.suffix]}\n{file.read_text()}````\n"
        for file in shown
    ]
    text = f"---\nsearch:\n  exclude: true\n---\n# {title}\n\n" + "\n".join(blocks)
    return File.generated(config, _uri(target), content=text, inclusion=InclusionLevel.NOT_IN_NAV)
