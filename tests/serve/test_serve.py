"""The server of an evaluator: what it answers, to whom, and how it begins and ends."""

import base64
import http.client
import io
import json
import socket
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from alignbench.errors import UserError
from alignbench.evaluator import Evaluator
from alignbench.serve.__main__ import usable
from alignbench.serve.access import checked_token, is_loopback
from alignbench.serve.http import Handler
from alignbench.serve.protocol import Info
from alignbench.serve.server import ScoreServer
from evaluators import load
from evaluators.networks.preprocess import ClipPixels
from tests.serving import at_work


@pytest.fixture(scope="module")
def oracle():
    """A server that needs no token and takes a megabyte."""
    with at_work(ScoreServer(load("shapes_oracle_agreement"), port=0, max_request_mb=1, batch_size=2)) as server:
        yield server


def ask(server, method, path, body=None, **headers):
    """Return status and answer of a request; `body` is bytes, or becomes JSON."""
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=20)
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    connection.request(method, path, data, headers)
    response = connection.getresponse()
    assert response.headers["Content-Type"] == "application/json"
    answer = json.loads(response.read())
    connection.close()
    return response.status, answer


def picture(seed=0, **how):
    """Return a picture as base64."""
    values = np.random.default_rng(seed).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    return encoded(Image.fromarray(values), **how)


def animation():
    """Return a PNG of two frames as base64."""
    frames = [Image.new("RGB", (64, 64), shade) for shade in ("red", "blue")]
    return encoded(frames[0], save_all=True, append_images=frames[1:])


def encoded(image, **how):
    file = io.BytesIO()
    image.save(file, **{"format": "PNG"} | how)
    return base64.b64encode(file.getvalue()).decode()


PROMPT = "a red square right of a large green cross, beige background"


def test_info_says_what_a_table_says(oracle):
    status, answer = ask(oracle, "GET", "/info")
    assert status == 200
    assert answer == {
        "protocol": 1, "name": "shapes_oracle_agreement", "version": "2", "higher_is_better": True, "range": [0.0, 1.0],
        "precision": "float32", "display_scale": 1.0, "preprocess": "oracle_64", "weights": "",
        "calibrated_on": "scenes", "matches_prompts": True,
    }  # fmt: skip
    assert Info.from_json(answer) == Info.of(oracle.evaluator)
    unbounded = replace(Info.of(oracle.evaluator), range=(float("-inf"), float("inf")))
    assert unbounded.to_json()["range"] == [None, None]
    assert Info.from_json(unbounded.to_json()) == unbounded
    of_words = replace(Info.of(oracle.evaluator), calibrated_on="words")
    assert Info.from_json(of_words.to_json()) == of_words


def test_pictures_get_the_scores_of_the_evaluator_and_none_get_none(oracle):
    files = [picture(0), picture(1), picture(2, format="JPEG")]
    status, answer = ask(oracle, "POST", "/score", {"prompts": [PROMPT] * 3, "images": files})
    images = [Image.open(io.BytesIO(base64.b64decode(file))) for file in files]
    assert (status, answer) == (200, {"scores": oracle.evaluator.score(images, [PROMPT] * 3).tolist()})
    assert ask(oracle, "POST", "/score", {"prompts": [], "images": []}) == (200, {"scores": []})


NO_LIST = "must be an object with prompts, a list of text"


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"{", "is not JSON"),
        (b"", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 100000, "is not JSON"),
        ([], NO_LIST),
        ({"images": []}, NO_LIST),
        ({"prompts": "a", "images": []}, NO_LIST),
        ({"prompts": [1], "images": []}, NO_LIST),
        ({"prompts": [], "images": [None]}, "with images, a list of text"),
        ({"prompts": [PROMPT], "images": []}, "0 images and 1 prompts"),
        ({"prompts": [PROMPT], "images": ["%%%"]}, "images[0] is not base64"),
        ({"prompts": [PROMPT], "images": ["é"]}, "images[0] is not base64"),
        ({"prompts": [PROMPT], "images": [""]}, "images[0] is neither PNG nor JPEG"),
        ({"prompts": [PROMPT] * 2, "images": [picture(), picture(format="GIF")]}, "images[1] is neither PNG nor JPEG"),
        ({"prompts": [PROMPT], "images": [picture()[:2000]]}, "images[0] is damaged"),
        ({"prompts": [PROMPT], "images": [encoded(Image.new("RGB", (4, 4)))]}, "images[0] is 4 x 4 pixels"),
        ({"prompts": [PROMPT], "images": [animation()]}, "images[0] has 2 frames; give one of them"),
        ({"prompts": ["a cat"], "images": [picture()]}, "judges by prompts of the shapes world alone"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_scored_is_said_in_one_sentence(oracle, body, sentence):
    status, answer = ask(oracle, "POST", "/score", body)
    assert status == 400
    assert answer.keys() == {"error"}
    assert sentence in answer["error"]


def test_other_addresses_and_methods_are_refused(oracle):
    assert ask(oracle, "GET", "/")[0] == 404
    assert ask(oracle, "GET", "/score") == (405, {"error": "/score is asked with POST, not GET"})
    assert ask(oracle, "POST", "/info", {})[0] == 405
    assert ask(oracle, "PUT", "/score", {})[0] == 501
    chunked = {"Transfer-Encoding": "chunked"}
    assert ask(oracle, "POST", "/score", b"0\r\n\r\n", **chunked)[0] == 411
    assert ask(oracle, "POST", "/score", b"", **{"Content-Length": "-5"})[0] == 411


def test_a_question_about_the_headers_alone_gets_no_body(oracle):
    connection = http.client.HTTPConnection(*oracle.server_address[:2], timeout=20)
    connection.request("HEAD", "/info")
    response = connection.getresponse()
    assert (response.status, response.fp.read() if response.fp else b"") == (501, b"")
    connection.close()


def test_other_sites_cannot_ask(oracle):
    """Neither by a name of their own for this machine nor from a page that a visitor's browser shows."""
    assert ask(oracle, "GET", "/info", Host="rebound.example.org")[0] == 403
    assert ask(oracle, "GET", "/info", Host="[")[0] == 400
    request = {"prompts": [], "images": []}
    for origin in ("https://example.org", "null", "http://127.0.0.1:1"):
        assert ask(oracle, "POST", "/score", request, Origin=origin)[0] == 403
    assert ask(oracle, "POST", "/score", request, Origin=oracle.url)[0] == 200
    connection = http.client.HTTPConnection(*oracle.server_address[:2], timeout=20)
    connection.request("GET", "/info")
    headers = connection.getresponse().headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "Python" not in headers["Server"]
    connection.close()


def test_an_evaluator_that_loses_its_own_connection_is_a_failure_that_the_asker_is_told(oracle, monkeypatch, capfd):
    def lost(request):
        raise ConnectionResetError("the network is gone")

    monkeypatch.setattr(oracle, "score", lost)
    status, answer = ask(oracle, "POST", "/score", {"prompts": [], "images": []})
    assert (status, answer) == (500, {"error": "ConnectionResetError: the network is gone"})
    assert "the network is gone" in capfd.readouterr().err


def test_who_sends_nothing_any_more_is_left(oracle, monkeypatch, capfd):
    monkeypatch.setattr(Handler, "timeout", 0.1)
    with socket.create_connection(oracle.server_address[:2], timeout=20) as connection:
        connection.sendall(b"POST /score HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n{")
        assert connection.recv(1000) == b""
    assert ask(oracle, "GET", "/info")[0] == 200
    assert capfd.readouterr().err == ""


def test_a_request_that_is_too_large_is_told_so(oracle):
    status, answer = ask(oracle, "POST", "/score", b" " * 3_000_000)
    assert status == 413
    assert "3.0 MB, at most 1 are taken" in answer["error"]


def test_a_token_is_needed_where_there_is_one():
    with at_work(ScoreServer(load("shapes_oracle_cleanliness"), port=0, token="secret", max_request_mb=4)) as server:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
            assert ask(server, "GET", "/info", **headers)[0] == 401
            status, answer = ask(server, "POST", "/score", b" " * 3_000_000, **headers)
            assert status == 401
            assert "ALIGNBENCH_TOKEN" in answer["error"]
        assert ask(server, "GET", "/info", Authorization="Bearer secret")[0] == 200


class Failing(Evaluator):
    """Fails in one way or another."""

    name, version, preprocess = "failing", "1", ClipPixels(8)

    def encode_prompts(self, prompts):
        return list(prompts)

    def score_features(self, features, encoded):
        if encoded[0] == "crash":
            raise RuntimeError("out of memory")
        return torch.full((len(encoded),), float("nan"))


def test_a_failure_is_the_servers_and_it_goes_on(capfd):
    with at_work(ScoreServer(Failing(), port=0)) as server:
        assert ask(server, "POST", "/score", {"prompts": ["crash"], "images": [picture()]}) == (
            500, {"error": "RuntimeError: out of memory"},
        )  # fmt: skip
        status, answer = ask(server, "POST", "/score", {"prompts": ["nan"], "images": [picture()]})
        assert status == 500
        assert "not one finite number" in answer["error"]
        assert ask(server, "GET", "/info")[0] == 200
    assert "RuntimeError: out of memory" in capfd.readouterr().err


def test_who_asks_and_leaves_is_no_trouble(oracle, capfd):
    connection = http.client.HTTPConnection(*oracle.server_address[:2])
    connection.putrequest("POST", "/score")
    connection.putheader("Content-Length", "1000")
    connection.endheaders(b"{")
    connection.close()
    assert ask(oracle, "GET", "/info")[0] == 200
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("host", ["0.0.0.0", "", "example.org", "192.168.0.1"])
def test_other_hosts_need_a_token(host):
    with pytest.raises(UserError, match="set ALIGNBENCH_TOKEN or give --token"):
        ScoreServer(load("shapes_oracle_realism"), host=host, port=0)


def test_loopback_is_known_in_all_its_names():
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.8.8.8", "::1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "localhost.example.org", "")))


def test_a_token_must_fit_a_header():
    assert checked_token(None) is checked_token("") is None
    assert checked_token("a-B_9~=") == "a-B_9~="
    for token in ("a b", "a\n", "é"):
        with pytest.raises(UserError, match="ASCII"):
            checked_token(token)


def test_what_cannot_work_is_refused(oracle):
    evaluator = oracle.evaluator
    with pytest.raises(UserError, match=r"cannot be listened on .*in use"):
        ScoreServer(evaluator, port=oracle.server_address[1])
    with pytest.raises(UserError, match="batch_size=0 must be at least 1"):
        ScoreServer(evaluator, batch_size=0)
    with pytest.raises(UserError, match="cannot be listened on"):
        ScoreServer(evaluator, port=70000)


# ---- the program; that it serves, tests/evaluators/test_remote.py shows


def test_the_program_refuses_in_one_sentence(monkeypatch, capsys):
    import alignbench.serve.__main__ as serve

    monkeypatch.delenv("ALIGNBENCH_TOKEN", raising=False)
    for words, sentence in (
        (["pickscor"], "evaluator pickscor is unknown; did you mean pickscore"),
        (["pickscore", "sorce=x"], "pickscore.sorce is unknown"),
        (["shapes_oracle_realism", "--host", "0.0.0.0", "aspect=realism"], "set ALIGNBENCH_TOKEN or give --token"),
        (["shapes_oracle_realism", "--port", "0", "--token", "a b"], "the token must consist"),
    ):
        monkeypatch.setattr(sys, "argv", ["serve", *words])
        with pytest.raises(SystemExit) as stopped:
            serve.main()
        assert stopped.value.code == 2
        assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("device", ["cuda:99", "nonsense"])
def test_a_device_that_is_not_there_is_refused_in_a_sentence(device):
    assert usable("cpu") == "cpu"
    with pytest.raises(UserError, match=f"device={device} cannot be used .*; give another"):
        usable(device)
