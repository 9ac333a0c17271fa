"""A remote evaluator scores as the local one does, and says in one sentence why it cannot."""

import base64
import io
import json
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alignbench.data.prompts import Prompt, PromptSet
from alignbench.errors import UserError
from alignbench.files import write_png
from alignbench.generation.generate import Sampling, image_set
from alignbench.scoring.score import info, score
from alignbench.serve.protocol import Info
from alignbench.serve.server import ScoreServer
from alignbench.store.image_records import image_name
from alignbench.store.manifest import Manifest
from alignbench.store.run_folder import RunFolder
from alignbench.store.scores import Scores
from evaluators import load
from evaluators.clip_score import ClipScore
from evaluators.networks.preprocess import ClipPixels
from evaluators.remote import PngFiles, Remote
from tests.serving import at_work

HOSTILE = [
    'a "quoted" \'cat\' \\ with a backslash, {"prompts": []}',
    "a cat 🐈‍⬛ and a family 👨‍👩‍👧",
    "قطة على السجادة \u202e reversed",
    "x" * 10_000,
    "two\nlines\r\n\tand a tab, a nul \x00",
    "",
]


@pytest.fixture(autouse=True)
def no_token(monkeypatch):
    monkeypatch.delenv("ALIGNBENCH_TOKEN", raising=False)


def remote(server, **values):
    """Return the evaluator that a server offers; it gives up soon."""
    return Remote(server.url, **{"pause_seconds": 0.01, "num_retries": 2, "timeout_seconds": 20} | values)


@pytest.fixture(scope="module")
def make_clip(weights, architecture):
    """Build a tiny CLIP."""
    return lambda: ClipScore("clip_score", weights["clip_score"], architecture=architecture)


@pytest.fixture(scope="module")
def clip(make_clip):
    """One for all tests."""
    return make_clip()


@pytest.fixture(scope="module")
def served_clip(clip):
    with at_work(ScoreServer(clip, port=0)) as server:
        yield server


# ---- as the local one


def test_scores_are_those_of_the_local_evaluator_to_the_last_bit(clip, served_clip, photos):
    images, prompts = photos(5, 100), ["a red fox", "an astronaut", "", "cat " * 100, "a fox"]
    expected = clip.score(images, prompts)
    assert torch.equal(remote(served_clip).score(images, prompts), expected)
    assert expected.std() > 0.01
    parts = torch.cat([clip.score(images[start : start + 2], prompts[start : start + 2]) for start in (0, 2, 4)])
    assert torch.equal(remote(served_clip, images_per_request=2).score(images, prompts), parts)


def test_files_are_scored_as_pictures_are(served_clip, photos, tmp_path):
    photos(1, 100)[0].save(tmp_path / "cat.jpg")
    with Image.open(tmp_path / "cat.jpg") as image:
        expected = remote(served_clip).score([image], ["a cat"])
    assert torch.equal(remote(served_clip).score([tmp_path / "cat.jpg"], ["a cat"]), expected)


def test_a_table_cannot_tell_them_apart(clip, served_clip):
    asked = remote(served_clip)
    assert info(asked) == info(clip)
    assert Info.of(asked) == Info.of(clip)
    assert asked.weights == clip.weights != ""
    assert remote(served_clip, name="other").name == "other"
    assert asked.supports(HOSTILE) is None
    assert asked.network is None
    asked.to("cpu")


def test_an_evaluator_of_the_shapes_world_can_be_served_too(photos):
    local = load("shapes_oracle_cleanliness")
    with at_work(ScoreServer(local, port=0)) as server:
        images = photos(3, 64)
        assert torch.equal(remote(server).score(images, HOSTILE[:3]), local.score(images, HOSTILE[:3]))
        assert info(remote(server)) == info(local)


def in_mode(mode):
    """Return a picture with detail in one of PIL's modes."""
    rng = np.random.default_rng(0)
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65536, (40, 60), dtype=np.uint16))
    if mode == "I":
        return Image.fromarray(rng.integers(0, 65536, (40, 60), dtype=np.int32))
    rgb = Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8))
    if mode == "P, opaque":
        picture = rgb.quantize(16)
        picture.info["transparency"] = bytes([255] * 16)
        return picture
    return rgb.convert(mode)


MODES = ["RGB", "RGBA", "L", "LA", "1", "P", "P, opaque", "CMYK", "YCbCr", "HSV", "I;16", "I"]


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("mode", MODES)
def test_pictures_of_any_mode_are_handed_over_without_loss(clip, served_clip, mode):
    picture = in_mode(mode)
    [content] = PngFiles("clip_224")([picture])
    with Image.open(io.BytesIO(content)) as arrived:
        assert torch.equal(ClipPixels(32)([arrived]), ClipPixels(32)([picture]))
        assert arrived.mode == "RGB"
    assert torch.equal(remote(served_clip).score([picture], ["a cat"]), clip.score([picture], ["a cat"]))


@pytest.mark.parametrize("prompt", HOSTILE, ids=range(len(HOSTILE)))
def test_prompts_arrive_as_they_are(clip, served_clip, photos, prompt):
    images = photos(1, 64)
    assert torch.equal(remote(served_clip).score(images, [prompt]), clip.score(images, [prompt]))


def test_preprocessings_are_shared_by_what_comes_back_and_not_by_what_tables_say():
    png, pixels = PngFiles("clip_224"), ClipPixels(224)
    assert png.key == pixels.key
    assert png != pixels
    assert pixels != png
    assert len({png, pixels, PngFiles("other"), ClipPixels(224)}) == 2


# ---- the real program


@pytest.fixture
def program(weights, architecture, monkeypatch):
    """`python -m alignbench.serve` on the tiny CLIP, with a token."""
    monkeypatch.setenv("ALIGNBENCH_TOKEN", "secret")
    tiny = json.dumps(architecture).replace('"', "")  # as one types mappings
    process = subprocess.Popen(
        [sys.executable, "-m", "alignbench.serve", "clip_score", "--port", "0", f"source={weights['clip_score']}",
         f"architecture={tiny}"],
        cwd=Path(__file__).resolve().parents[2], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    yield process
    process.kill()
    process.communicate()


@pytest.mark.matrix
def test_the_program_serves_the_score_stage_and_ends_when_told(program, make_clip, photos, tmp_path):
    line = program.stdout.readline()
    assert line.startswith("serving clip_score@1 on http://127.0.0.1:"), program.communicate()[1]
    sampling = Sampling(num_inference_steps=2, guidance_scale=1.0, batch_size=4)
    prompts = PromptSet("test", tuple(Prompt(f"p{i}", "a red fox " * i) for i in range(4)), 64)
    tables = []
    for evaluator in (load("remote", url=line.split()[-1]), make_clip()):  # both have seen no prompt yet
        folder = RunFolder(tmp_path / str(len(tables)))
        folder.open(Manifest(run="run", method="base", model="m", seed=None, config_hash="0", recipe_hash="0"))
        for i, image in enumerate(photos(4, 100)):
            write_png(folder.images("test", sampling.hash) / image_name(f"p{i}", 0), image)
        score(folder, image_set(prompts, sampling, 100), [evaluator], batch_size=4, progress=False)
        tables.append(Scores.read(folder.score_file("test", sampling.hash, "clip_score", "1")))
    assert tables[0].info == tables[1].info
    np.testing.assert_array_equal(tables[0].score, tables[1].score)
    program.send_signal(signal.SIGTERM)
    assert program.communicate(timeout=20) == ("", "")
    assert program.returncode == 0


# ---- what the server may do


class Scripted(ThreadingHTTPServer):
    """Answers each request with what `answer(path, content)` returns: a status and bytes, or None to hang up."""

    daemon_threads = True

    def __init__(self, answer):
        self.answer, self.asked = answer, []
        super().__init__(("127.0.0.1", 0), ScriptedHandler)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class ScriptedHandler(BaseHTTPRequestHandler):
    def do_GET(self):
        content = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "null")
        self.server.asked.append((self.path, self.headers, content))
        answer = self.server.answer(self.path, content)
        if answer is not None:
            status, body = answer
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", "http://127.0.0.1:9/")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, format, *args):
        pass


OWN = {
    "protocol": 1, "name": "own", "version": "2.1-b", "higher_is_better": False, "range": [0, None],
    "precision": "float16", "display_scale": 10, "preprocess": "own_32", "weights": "",
}  # fmt: skip


def as_json(content, status=200):
    return status, json.dumps(content).encode()


def scripted(scores, description=OWN):
    """Return a server with this info; `scores(content)` answers what is asked of /score."""
    return at_work(Scripted(lambda path, content: as_json(description) if path == "/info" else scores(content)))


def test_nothing_is_asked_before_it_is_needed_and_info_is_asked_once(photos):
    with scripted(lambda content: as_json({"scores": [len(prompt) for prompt in content["prompts"]]})) as server:
        own = remote(server, images_per_request=2)
        assert server.asked == []
        for _ in range(2):
            assert (own.name, own.version, own.higher_is_better, own.range) == (
                "own",
                "2.1-b",
                False,
                (0, float("inf")),
            )
            assert (own.precision, own.display_scale, own.preprocess.key) == ("float16", 10.0, "own_32")
        assert [path for path, *_ in server.asked] == ["/info"]
        images = photos(3, 64)
        assert own.score(images, ["a", "bb", "ccc"]).tolist() == [1, 2, 3]
        assert [path for path, *_ in server.asked[1:]] == ["/info", "/score", "/score"]
        sent = [file for *_, content in server.asked[2:] for file in content["images"]]
        for file, image in zip(sent, images, strict=True):
            with Image.open(io.BytesIO(base64.b64decode(file))) as arrived:
                assert arrived.format == "PNG"
                assert np.array_equal(np.asarray(arrived), np.asarray(image))
        assert "Authorization" not in server.asked[0][1]


def test_the_token_is_that_of_the_environment_and_goes_nowhere_else(monkeypatch, clip, photos):
    monkeypatch.setenv("ALIGNBENCH_TOKEN", "secret")
    with at_work(ScoreServer(clip, port=0, token="secret")) as server:
        assert torch.equal(remote(server).score(photos(1, 64), ["a"]), clip.score(photos(1, 64), ["a"]))
        for token in ("wrong", ""):
            monkeypatch.setenv("ALIGNBENCH_TOKEN", token)
            with pytest.raises(UserError, match="answers 401: the token is missing or wrong; set ALIGNBENCH_TOKEN"):
                _ = remote(server).name
    monkeypatch.setenv("ALIGNBENCH_TOKEN", "secret")
    with at_work(Scripted(lambda *_: (302, b""))) as server:
        with pytest.raises(UserError, match="answers 302"):
            _ = remote(server).name
        assert len(server.asked) == 1
        assert server.asked[0][1]["Authorization"] == "Bearer secret"
    monkeypatch.setenv("ALIGNBENCH_TOKEN", "sec\nret")
    with pytest.raises(UserError, match="the token must consist of"):
        _ = Remote("http://127.0.0.1:9").name


@pytest.mark.parametrize("status", [None, 502, 503, 504])
def test_what_passes_is_tried_again(photos, status):
    failures = iter([None if status is None else (status, b"")] * 2)
    with scripted(lambda content: next(failures, as_json({"scores": [1.5]}))) as server:
        assert remote(server).score(photos(1, 64), ["a"]).tolist() == [1.5]
        assert [path for path, *_ in server.asked].count("/score") == 3


def test_a_server_that_was_killed_is_asked_a_few_times_and_then_refused_in_one_sentence(photos):
    with scripted(lambda content: as_json({"scores": [1.0]})) as server:
        own = remote(server, pause_seconds=0.05)
        own.score(photos(1, 64), ["a"])
        url, address = server.url, server.server_address
    start = time.monotonic()
    with pytest.raises(UserError) as error:
        own.score(photos(1, 64), ["a"])
    assert 0.15 <= time.monotonic() - start < 5  # 0.05 + 0.1
    assert f"{url}/info does not answer after 3 attempts" in str(error.value)
    assert "refused" in str(error.value)
    assert "\n" not in str(error.value)

    # started again on the same address, it goes on
    class Again(Scripted):
        def __init__(self, answer):
            self.answer, self.asked = answer, []
            ThreadingHTTPServer.__init__(self, address, ScriptedHandler)

    back = Again(lambda path, content: as_json(OWN if path == "/info" else {"scores": [2.0]}))
    with at_work(back):
        assert own.score(photos(1, 64), ["a"]).tolist() == [2.0]


def test_a_server_that_is_silent_is_given_up(photos):
    def sleep(path, content):
        time.sleep(0.5)

    with at_work(Scripted(sleep)) as server, pytest.raises(UserError, match=r"after 2 attempts .*timed out"):
        _ = remote(server, timeout_seconds=0.1, num_retries=1).name


def test_a_server_that_serves_something_else_meanwhile_is_refused(photos):
    descriptions = iter([OWN, OWN, OWN | {"weights": "other"}])
    server = Scripted(lambda path, content: as_json(next(descriptions) if path == "/info" else {"scores": [1.0]}))
    with at_work(server):
        own = remote(server)
        own.score(photos(1, 64), ["a"])
        with pytest.raises(UserError, match=r"serves .*weights='other'.* now, and served .* before"):
            own.score(photos(1, 64), ["a"])


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ((200, b"<html>"), "is not JSON"),
        ((200, b"[" * 100_000), "is not JSON"),
        (as_json([]), "does not follow protocol 1"),
        (as_json({"protocol": 2}), "does not follow protocol 1"),
        (as_json({"protocol": 1}), "its info has name=None"),
        (as_json(OWN | {"name": "../../evil"}), "its info has name='../../evil'"),
        (as_json(OWN | {"version": 2}), "its info has version=2"),
        (as_json(OWN | {"higher_is_better": "yes"}), "its info has higher_is_better='yes'"),
        (as_json(OWN | {"range": [0]}), "its info has range="),
        (as_json(OWN | {"display_scale": 0}), "its info has display_scale=0"),
        (as_json(OWN | {"preprocess": None}), "its info has preprocess=None"),
        ((404, b"no such\n page"), "answers 404: no such page"),
        (as_json({"error": "busy\nwith  others"}, 500), "answers 500: busy with others"),
        ((418, b""), "answers 418: no reason given"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_info_that_is_none_is_refused_at_once(answer, sentence):
    with at_work(Scripted(lambda *_: answer)) as server:
        with pytest.raises(UserError) as error:
            remote(server).supports(["a"])
        assert len(server.asked) == 1
    assert sentence in str(error.value)
    assert server.url in str(error.value)
    assert "\n" not in str(error.value)


NO_LIST, WRONG = "gave no list of numbers", r"finite scores for 2 images"


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ((200, b"nothing"), "is not JSON"),
        (as_json([1, 2]), NO_LIST),
        (as_json({"score": [1, 2]}), NO_LIST),
        (as_json({"scores": [1, "2"]}), NO_LIST),
        (as_json({"scores": [1, None]}), NO_LIST),
        (as_json({"scores": [1, True]}), NO_LIST),
        (as_json({"scores": [1]}), WRONG),
        (as_json({"scores": [1, 2, 3]}), WRONG),
        ((200, b'{"scores": [1, NaN]}'), WRONG),
        ((200, b'{"scores": [1, 1e39]}'), WRONG),
        ((200, b'{"scores": [1, 1' + b"0" * 10_000 + b"]}"), WRONG),
        (as_json({"error": "images[1] is blank"}, 400), "/score answers 400: images[1] is blank"),
    ],
)  # fmt: skip
def test_scores_that_are_none_are_refused_at_once(photos, answer, sentence):
    with scripted(lambda content: answer) as server:
        with pytest.raises(UserError) as error:
            remote(server).score(photos(2, 64), ["a", "b"])
        assert [path for path, *_ in server.asked].count("/score") == 1
    assert sentence in str(error.value)


def test_a_request_that_is_too_large_is_told_so(clip, photos):
    with at_work(ScoreServer(clip, port=0, max_request_mb=0.1)) as server:
        with pytest.raises(UserError, match=r"answers 413: the request has .* MB, at most 0.1 are taken; send fewer"):
            remote(server).score(photos(8, 100), ["a"] * 8)
        assert remote(server, images_per_request=1).score(photos(8, 100), ["a"] * 8).shape == (8,)


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8000", "ftp://host", "http://", "http://host:port", "http://host/?q=1", "file:///etc"]
)
def test_a_url_that_is_none_is_refused_before_anything_is_asked(url):
    with pytest.raises(UserError, match=r"expected something like http://127.0.0.1:8000"):
        Remote(url)


@pytest.mark.parametrize(
    "values",
    [{"num_retries": -1}, {"timeout_seconds": 0}, {"images_per_request": 0}, {"name": "a/b"}, {"name": "a b"}],
)
def test_arguments_of_no_use_are_refused(values):
    with pytest.raises(UserError, match=next(iter(values))):
        Remote("http://127.0.0.1:8000/", **values)


def test_a_password_does_not_get_into_the_configuration():
    with pytest.raises(UserError, match="set ALIGNBENCH_TOKEN instead"):
        Remote("http://user:secret@host")


def test_the_file_has_the_defaults_of_the_class():
    loaded, plain = load("remote", url="http://127.0.0.1:8000/"), Remote("http://127.0.0.1:8000")
    assert isinstance(loaded, Remote)
    assert vars(loaded) == vars(plain)
    with pytest.raises(UserError, match="remote needs url"):
        load("remote")
