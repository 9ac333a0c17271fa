"""What the server of a study answers, and to whom; tests/study/test_page.py sees the page itself."""

import http.client
import json
import sys
from contextlib import contextmanager

import pytest

from alignbench.errors import UserError
from alignbench.study.__main__ import main
from alignbench.study.plan import tasks
from alignbench.study.server import StudyServer
from alignbench.votes.ballots import Ballots
from tests.serving import at_work


@contextmanager
def at_work_on(folder, **settings):
    """Yield the server of a study, in a thread."""
    ballots = Ballots(folder.ballots)
    with at_work(StudyServer(folder, ballots, port=0, **settings)) as server:
        yield server
    ballots.close()


class Browser:
    """Keeps cookies, as a browser does."""

    def __init__(self, server):
        self.server, self.cookies = server, {}

    def ask(self, method, path, content=None, **headers):
        connection = http.client.HTTPConnection(*self.server.server_address[:2], timeout=20)
        body = content if isinstance(content, bytes | None) else json.dumps(content).encode()
        headers = {"Content-Type": "application/json", "Cookie": self.cookie} | headers
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        for text in response.headers.get_all("Set-Cookie", []):
            name, _, value = text.partition(";")[0].partition("=")
            self.cookies[name] = value
        content = response.read()
        connection.close()
        json_ = response.headers["Content-Type"] == "application/json"
        return response.status, json.loads(content) if json_ else content, response.headers

    @property
    def cookie(self):
        return "; ".join(["other={[1 2]}", *(f"{name}={value}" for name, value in self.cookies.items())])

    def joined(self, name="Ada"):
        assert self.ask("POST", "/join", {"name": name})[0] == 200
        return self

    def vote(self, task, question="overall", answer="left"):
        return self.ask("POST", "/vote", {"task": task, "question": question, "answer": answer})


@pytest.fixture
def study(world):
    return world.study("base", "dpo")


@pytest.fixture
def server(study):
    with at_work_on(study) as server:
        yield server


def test_nothing_that_a_rater_gets_names_a_method_or_a_run(server):
    rater = Browser(server).joined()
    seen = []
    for task in range(len(tasks(server.folder, 0))):
        _, state, headers = rater.ask("GET", "/state")
        seen += [json.dumps(state), str(headers)]
        for address in state["images"]:
            status, image, headers = rater.ask("GET", f"/{address}")
            assert (status, headers["Content-Type"]) == (200, "image/png")
            seen += [image.decode("latin-1"), str(headers)]
        for question in ("overall", "appeal", "alignment"):
            rater.vote(task, question)
    seen += [str(rater.ask("GET", path)[1]) for path in ("/", "/page.js", "/page.css")]
    for word in ("dpo", "base-sd15", "sd15", "made by", "damaged", "check_", server.folder.study.name):
        assert not [text for text in seen if word in text], word


def test_images_have_addresses_that_cannot_be_told_apart_or_guessed(server):
    ada, bob = Browser(server).joined("Ada"), Browser(server).joined("Bob")
    same = next(place for place, task in enumerate(tasks(server.folder, 0)) if task.check == "same")
    for task in range(same):
        for question in ("overall", "appeal", "alignment"):
            ada.vote(task, question)
    state = ada.ask("GET", "/state")[1]
    assert len(set(state["images"])) == 2
    first, second = (ada.ask("GET", f"/{address}")[1] for address in state["images"])
    assert first == second
    address = state["images"][0]
    assert bob.ask("GET", f"/{address}")[0] == 404
    assert Browser(server).ask("GET", f"/{address}")[0] == 403
    for name in (
        "0-0-",
        "0-0-" + "0" * 24,
        "99-0-x",
        "0-9-x",
        "a-b-c",
        "",
        "../study.sqlite",
        address[7:] + "0",
    ):
        assert ada.ask("GET", f"/images/{name}")[0] == 404, name


def test_a_vote_may_be_sent_twice_and_an_undo_takes_back_one(server):
    rater = Browser(server).joined()
    for _ in range(2):
        status, state, _ = rater.vote(0)
        assert (status, state["task"], state["question_name"]) == (200, 0, "appeal")
    rater.vote(0, "appeal")
    for _ in range(2):
        state = rater.ask("POST", "/undo", {"task": 0, "question": "appeal"})[1]
        assert (state["question_name"], state["last"]) == ("appeal", {"task": 0, "question": "overall"})
    assert [vote.question for vote in server.ballots.votes()] == ["overall"]


def test_votes_say_what_was_shown_where(server):
    rater = Browser(server).joined()
    shown = tasks(server.folder, 0)
    for number, task in enumerate(shown):
        rater.vote(number, answer="right")
        vote = server.ballots.votes()[-1]
        assert (vote.prompt_id, vote.left_run, vote.right_run) == (task.prompt_id, *(one.run for one in task.images))
        assert (vote.check_kind, vote.passed) == (task.check, task.check and task.images[0].damaged)


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"{", 400),
        (b"\xff", 400),
        (b"[" * 9000, 400),
        ([], 400),
        ({}, 400),
        ({"task": 0, "question": "overall", "answer": "best"}, 400),
        ({"task": 0, "question": "nothing", "answer": "left"}, 400),
        ({"task": 0, "question": ["overall"], "answer": "left"}, 400),
        ({"task": -1, "question": "overall", "answer": "left"}, 400),
        ({"task": 10**9, "question": "overall", "answer": "left"}, 400),
        ({"task": True, "question": "overall", "answer": "left"}, 400),
        ({"task": "0", "question": "overall", "answer": "left"}, 400),
        (b" " * 20_000, 413),
    ],
)  # fmt: skip
def test_what_is_no_vote_is_refused(server, content, status):
    rater = Browser(server).joined()
    found, answer, _ = rater.ask("POST", "/vote", content)
    assert found == status
    assert answer.keys() == {"error"}
    assert server.ballots.votes() == []


@pytest.mark.parametrize("name", ["", "  ", 7, None, "x" * 101, "a\nb", "\u202edesrever"])
def test_names_that_cannot_be_shown_are_refused(server, name):
    assert Browser(server).ask("POST", "/join", {"name": name})[0] == 400
    assert server.ballots.raters() == []


def test_who_comes_back_by_name_goes_on_and_who_leaves_is_forgotten(server):
    first = Browser(server).joined("Ada")
    first.vote(0)
    assert Browser(server).joined(" Ada ").ask("GET", "/state")[1]["question_name"] == "appeal"
    assert first.ask("POST", "/leave", {})[1]["rater"] is None
    assert first.ask("GET", "/state")[1]["rater"] is None
    assert first.vote(1)[0] == 403


def test_other_sites_cannot_vote_nor_read(server):
    rater = Browser(server).joined()
    vote = {"task": 0, "question": "overall", "answer": "left"}
    assert rater.ask("POST", "/vote", vote, **{"Content-Type": "text/plain"})[0] == 415  # all that a form may send
    assert rater.ask("POST", "/vote", vote, Host="rebound.example.org")[0] == 403
    assert rater.ask("GET", "/state", Host="rebound.example.org:8080")[0] == 403
    assert rater.ask("GET", "/state", Host="[")[0] == 400
    assert rater.ask("POST", "/vote", vote, Origin="https://example.org")[0] == 403
    assert rater.ask("POST", "/vote", [vote] * 1000)[0] == 413
    assert rater.ask("POST", "/vote", b"", **{"Content-Length": "-5"})[0] == 411
    assert rater.ask("OPTIONS", "/vote", Origin="https://example.org")[0] == 501  # no leave for other origins
    _, _, headers = rater.ask("GET", "/")
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "Access-Control-Allow-Origin" not in headers
    assert server.ballots.votes() == []


def test_a_token_is_needed_once_and_then_a_cookie_does(study):
    token = "a+b/c;d&é".replace("é", "=")
    with at_work_on(study, host="127.0.0.1", token=token) as server:
        browser = Browser(server)
        for path in ("/", "/?token=wrong", "/?token=", "/?token=%ff", "/page.js", "/state", "/images/0-0-x"):
            assert browser.ask("GET", path)[0] == 401, path
        assert browser.ask("POST", "/join", {"name": "Ada"})[0] == 401
        assert b"whole link" in browser.ask("GET", "/")[1]
        path = server.url.partition(f":{server.server_address[1]}")[2]
        status, _, headers = browser.ask("GET", path)
        assert status == 200
        cookie = headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert token not in cookie
        assert browser.ask("GET", "/state", Host="study.example.org")[0] == 200
        assert browser.joined().vote(0)[0] == 200


def test_a_failure_is_the_servers_and_the_vote_is_not_acknowledged(server, monkeypatch, capfd):
    rater = Browser(server).joined()

    def full(vote):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(server.ballots, "cast", full)
    status, answer, _ = rater.vote(0)
    assert (status, answer) == (500, {"error": "the server failed; tell who sent you here"})
    monkeypatch.undo()
    assert rater.ask("GET", "/state")[1]["last"] is None
    assert "No space left" in capfd.readouterr().err


def test_two_studies_on_one_machine_keep_their_raters_apart(world, server):
    browser = Browser(server).joined("Ada")
    with at_work_on(world.study("base", "dpo", seed=1)) as other:
        browser.server = other
        assert browser.ask("GET", "/state")[1]["rater"] is None
        browser.joined("Bob")
        browser.server = server
        assert browser.ask("GET", "/state")[1]["rater"] == "Ada"


def test_other_hosts_need_a_token(study):
    with pytest.raises(UserError, match="set ALIGNBENCH_TOKEN or give --token"):
        StudyServer(study, Ballots(study.ballots), host="0.0.0.0")


def test_the_program_refuses_in_one_sentence(world, monkeypatch, capsys):
    monkeypatch.delenv("ALIGNBENCH_TOKEN", raising=False)
    runs = [str(world.run(method)) for method in ("base", "dpo")]
    for words, sentence in (
        (["vote", *runs, "--preset", "smpo", "--host", "0.0.0.0"], "set ALIGNBENCH_TOKEN or give --token"),
        (["vote", *runs, "--preset", "smpo", "--token", "a b"], "the token must consist"),
        (["vote", runs[0], "--preset", "smpo"], "at least two runs"),
        (["results", str(world.root)], "is not a study"),
    ):
        monkeypatch.setattr(sys, "argv", ["study", *words])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 2
        assert sentence in capsys.readouterr().err
    assert not (world.root / "studies").exists()
