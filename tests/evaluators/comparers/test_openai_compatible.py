"""An address of OpenAI's protocol is asked in both senses: garbage is a failure, 429 is waited for, the key stays."""

import base64
import io
import json
import math
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from omegaconf import OmegaConf
from PIL import Image

from alignbench.configuration.build import build, conf_folder
from alignbench.errors import UserError
from evaluators.comparers.openai_compatible import OpenAICompatibleComparer, listed_log_odds, read_answer
from tests.serving import at_work

KEY = "sk-secret-of-the-test"


class Server(ThreadingHTTPServer):
    """Answers with what it is given, the last one for ever; keeps what it was sent."""

    daemon_threads = True

    def __init__(self, *answers):
        self.answers, self.asked, self.headers = list(answers), [], []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        server.asked.append((self.path, body))
        server.headers.append(dict(self.headers))
        answer = server.answers.pop(0) if len(server.answers) > 1 else server.answers[0]
        status, content = answer(body) if callable(answer) else answer
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "0.01")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def chat(text="A", tops=None, model="judge-1", **others):
    """An answer of the protocol."""
    logprobs = None
    if tops is not None:
        logprobs = {"content": [{"token": text, "top_logprobs": [{"token": t, "logprob": p} for t, p in tops.items()]}]}
    choice = {"message": {"role": "assistant", "content": text}, "logprobs": logprobs}
    usage = {"prompt_tokens": 1500, "completion_tokens": 1}
    return {"model": model, "system_fingerprint": "fp_1", "choices": [choice], "usage": usage} | others


def comparer(server, **values):
    settings = {"key_variable": None, "num_parallel": 2, "num_retries": 2, "pause_seconds": 0.01} | values
    return OpenAICompatibleComparer("judge", server.url, "qwen", **settings)


def asked(server, num=1, **values):
    judge = comparer(server, **values)
    images = judge.preprocess([Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")])
    return judge.compare([images[0]] * num, [images[1]] * num, ["a cat"] * num)


def test_log_odds_come_from_all_forms_of_both_labels():
    tops = {"A": math.log(0.5), " A": math.log(0.1), "B": math.log(0.2), "The": math.log(0.05)}
    with at_work(Server((200, chat("A", tops)))) as server:
        (found,) = asked(server)
    assert found.log_odds == pytest.approx(math.log(0.6 / 0.2))
    assert (found.won, found.tokens, found.raw) == (1.0, (1500, 1), "A")
    assert (found.answered_by, found.fingerprint) == ("judge-1", "fp_1")
    assert found.seconds > 0


def test_a_label_that_is_not_listed_is_as_likely_as_the_least_likely_that_is():
    assert listed_log_odds({"B": -0.25, "x": -3.0, "y": -5.0}) == pytest.approx(-5.0 + 0.25)
    assert listed_log_odds({"A": math.log(0.75)}) == pytest.approx(math.log(0.75 / 0.25))
    assert listed_log_odds({"The": -0.1, "A": -3.0}) is None


def test_the_request_is_greedy_shows_both_images_in_order_and_asks_for_probabilities():
    with at_work(Server((200, chat("B", {"B": -0.1, "A": -2.0})))) as server:
        (found,) = asked(server)
        ((path, body),) = server.asked
    assert found.won == 0.0
    assert path == "/v1/chat/completions"
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("qwen", 0, 1)
    assert (body["logprobs"], body["top_logprobs"]) == (True, 20)
    told = [part.get("text") for part in body["messages"][0]["content"]]
    assert told[:3:2] == ["Image A:", "Image B:"]
    assert "a cat" in told[4]
    urls = [part["image_url"]["url"] for part in body["messages"][0]["content"] if "image_url" in part]
    pictures = [Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,")))) for url in urls]
    assert [picture.getpixel((0, 0)) for picture in pictures] == [(255, 0, 0), (0, 0, 255)]


def test_without_probabilities_the_word_counts_and_reasoning_may_be_long():
    with at_work(Server((200, chat("Both show a cat.\nB")))) as server:
        (found,) = asked(server, answer="word", options={"seed": None, "top_p": 1, "extra": {"think": True}})
        body = server.asked[0][1]
    assert (found.log_odds, found.won) == (None, 0.0)
    assert body["max_tokens"] == 1024
    assert "logprobs" not in body
    assert "seed" not in body
    assert (body["top_p"], body["extra"]) == (1, {"think": True})


@pytest.mark.parametrize(
    "garbage",
    [
        chat("I cannot say."),
        chat("\ud800"),
        chat("", {"The": -0.1, "A": -4.0}),
        {"choices": []},
        {"choices": [{"message": {"content": None}}]},
        {"choices": "no"},
        [],
        chat("A", {"A": float("-inf")}, choices=[{"message": {"content": 3}, "logprobs": {"content": [{}]}}]),
    ],
)
def test_garbage_is_asked_about_once_more_and_then_a_failure(garbage):
    with at_work(Server((200, garbage))) as server:
        (found,) = asked(server)
        assert len(server.asked) == 2
        assert "Write only the letter" in server.asked[1][1]["messages"][0]["content"][-1]["text"]
    assert (found.won, found.log_odds) == (None, None)
    found.raw.encode()


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_passes_is_asked_again(status):
    with at_work(Server((status, {"error": {"message": "later"}}), (200, chat("A", {"A": -0.1})))) as server:
        (found,) = asked(server)
        assert len(server.asked) == 2
    assert found.won == 1.0


def test_a_server_that_never_answers_stops_the_command():
    with at_work(Server((429, {"error": {"message": "too many requests"}}))) as server:
        with pytest.raises(UserError, match=r"does not answer after 3 attempts \(429: too many requests\)"):
            asked(server)
        assert len(server.asked) == 3


def test_a_request_that_is_refused_stops_the_command_and_a_filtered_pair_is_a_failure():
    refusal = {"error": {"message": "no such model"}}
    with at_work(Server((400, refusal))) as server, pytest.raises(UserError, match="answers 400: no such model"):
        asked(server)
    filtered = {"error": {"message": "not this image", "code": "content_policy_violation"}}
    with at_work(Server((400, filtered))) as server:
        (found,) = asked(server)
    assert found.won is None
    assert "not this image" in found.raw


def test_what_is_no_json_stops_the_command():
    with at_work(Server((200, b"<html>"))) as server, pytest.raises(UserError, match="gave what is not JSON"):
        asked(server)


def test_several_requests_are_under_way_and_answers_keep_their_order():
    def answer(body):
        text = body["messages"][0]["content"][-1]["text"]
        return 200, chat("A", {"A": -0.5 - float("number 3" in text), "B": -1.0})

    with at_work(Server(answer)) as server:
        judge = comparer(server, num_parallel=4)
        (image,) = judge.preprocess([Image.new("RGB", (8, 8))])
        found = judge.compare([image] * 6, [image] * 6, [f"number {n}" for n in range(6)])
    assert [one.won for one in found] == [1.0, 1.0, 1.0, 0.0, 1.0, 1.0]


# ---- the key


def test_the_key_is_sent_and_is_in_no_message_and_no_attribute(monkeypatch):
    monkeypatch.setenv("TEST_KEY", KEY)
    with at_work(Server((401, {"error": {"message": f"wrong key {KEY}"}}))) as server:
        judge = comparer(server, key_variable="TEST_KEY")
        images = judge.preprocess([Image.new("RGB", (8, 8))] * 2)
        with pytest.raises(UserError, match=r"answers 401: wrong key \*\*\*") as refused:
            judge.compare(images[:1], images[1:], ["a cat"])
        assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
        assert KEY not in json.dumps(server.asked)
    assert KEY not in str(refused.value)
    assert KEY not in f"{vars(judge)} {judge.identity} {judge._client!r}"


def test_an_answer_that_repeats_the_key_is_kept_without_it(monkeypatch):
    monkeypatch.setenv("TEST_KEY", KEY)
    with at_work(Server((200, chat(f"your key is {KEY}")))) as server:
        (found,) = asked(server, key_variable="TEST_KEY")
    assert KEY not in found.raw


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"key_variable": "TEST_KEY"}, "key_variable=TEST_KEY: this environment variable is not set; export TEST_KEY="),
        ({"base_url": "http://judge.example/v1", "key_variable": "SET_KEY"}, "would carry the key unencrypted"),
        ({"base_url": "https://me:pw@judge.example"}, "base_url must hold no password, for it is stored"),
        ({"base_url": "judge.example"}, "base_url=judge.example is not understood"),
        ({"name": "my judge"}, "name=my judge must consist of letters"),
    ],
)
def test_what_is_of_no_use_is_refused_before_anything_is_asked(monkeypatch, values, told):
    monkeypatch.delenv("TEST_KEY", raising=False)
    monkeypatch.setenv("SET_KEY", KEY)
    node = OmegaConf.load(conf_folder() / "comparers" / "openai.yaml")
    given = {"name": "judge", "base_url": "http://127.0.0.1:1", "model": "m", "key_variable": None} | values
    with pytest.raises(UserError, match=told):
        build(OmegaConf.merge(node, given))


def test_the_configuration_builds_it_and_its_options_decide_what_it_is():
    node = OmegaConf.load(conf_folder() / "comparers" / "openai.yaml")
    given = {"name": "judge", "base_url": "http://127.0.0.1:1/v1/", "model": "m", "key_variable": None}
    judge = build(OmegaConf.merge(node, given))
    assert (judge.version, judge.identity) == ("1-768px", "m log_odds pictures_768_lanczos")
    other = build(OmegaConf.merge(node, given, {"options": {"extra": {"think": [1, False]}}}))
    assert other.identity == 'm log_odds {"extra": {"think": [1, false]}} pictures_768_lanczos'


def test_numbers_that_are_none_are_no_tokens():
    found = read_answer(chat("A") | {"usage": {"prompt_tokens": float("inf"), "completion_tokens": "x"}}, 0.0)
    assert found.tokens == (0, 0)
