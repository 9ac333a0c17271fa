"""A training by a model behind an address: it bears a bad server, goes on where it was, and notices another model."""

import base64
import io
import json
import time
from hashlib import sha256

import numpy as np
import pytest
from PIL import Image

from alignbench.pairwise.canaries import canaries
from tests.evaluators.comparers.test_openai_compatible import KEY, Server, chat
from tests.program import alignbench
from tests.serving import at_work
from tests.tiny_runs import files_of, log_of

CALLS = 12  # of one group of four images
PATIENCE = 4.0  # seconds; a busy machine takes longer than usual to answer


class Judge(Server):
    """Prefers the brighter image, and says nothing of some pairs.

    Attributes:
        breaks_after: answers after which it refuses all requests; None: never.
        num_bad: how many requests it refuses for now, before it answers any; of the last of them nobody awaits the end.
        sign: -1 for a model that prefers the darker image.
        answered: digest of each request that was answered, those of the canary pairs apart.
    """

    def __init__(self):
        super().__init__(self.answer)
        self.breaks_after, self.num_bad, self.sign = None, 0, 1
        self.answered, self.num_canaries = [], 0

    def handle_error(self, request, client_address):
        """Say nothing of clients that did not wait."""

    def answer(self, body):
        told = body["messages"][0]["content"]
        urls = [part["image_url"]["url"] for part in told if "image_url" in part]
        pictures = [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]
        first, second = (float(np.asarray(picture, np.float64).mean()) for picture in pictures)
        log_odds = self.sign * (first - second) / 10 + 0.2
        answer = 200, chat("A", {"A": -5 + log_odds / 2, "B": -5 - log_odds / 2})
        if any(one.prompt in told[-1]["text"] for one in canaries()):
            self.num_canaries += 1
            return answer
        if self.breaks_after is not None and len(self.answered) >= self.breaks_after:
            return 400, {"error": {"message": "out of order"}}
        if self.num_bad > 0:
            self.num_bad -= 1
            if self.num_bad == 0:
                time.sleep(PATIENCE + 0.1)
            return 429, {"error": {"message": "too many requests"}}
        self.answered.append(sha256(json.dumps(body).encode()).hexdigest())
        is_garbage = round(100 * first) % 4 == 0
        return (200, chat(f"I cannot say, {KEY}")) if is_garbage else answer


@pytest.fixture
def judge(monkeypatch):
    monkeypatch.setenv("KEY_OF_THE_TEST", KEY)
    with at_work(Judge()) as server:
        yield server


def train(root, server):
    return alignbench(
        "method=grpo", "model=sd15_mini", "reward=comparer", "comparers@reward.comparer=openai", "stages=[train]",
        "reward.comparer.name=asked", f"reward.comparer.base_url={server.url}", "reward.comparer.model=judge",
        "reward.comparer.key_variable=KEY_OF_THE_TEST", f"reward.comparer.timeout_seconds={PATIENCE}",
        "reward.comparer.pause_seconds=0.01", "reward.comparer.num_parallel=1", "reward.value=quality",
        "reward.max_failed=1", "method.group_size=4", "method.updates_per_round=1", "method.num_rollout_steps=2",
        "method.rollout_guidance_scale=1", "method.window.stop=null", "method.window.size=null",
        "train.max_train_steps=2", "train.total_batch_size=4", "train.micro_batch_size=4",
        "train.checkpointing_steps=1", "train.logging_steps=1", "data.num_prompts=12",
        f"results={root}", check=False,
    )  # fmt: skip


def test_a_training_that_was_stopped_asks_nothing_twice_and_ends_like_one_that_was_not(tmp_path, judge):
    done = train(tmp_path / "whole", judge)
    assert done.returncode == 0, done.stderr
    assert judge.num_canaries == 8
    expected = judge.answered
    assert len(expected) > 2 * CALLS  # of some pairs it said nothing, and was asked again in fewer words

    judge.answered, judge.num_bad, judge.breaks_after = [], 3, len(expected) - 5
    done = train(tmp_path / "stopped", judge)
    assert (done.returncode, "answers 400: out of order" in done.stderr) == (2, True), done.stderr
    assert judge.num_bad == 0
    (stopped,) = (tmp_path / "stopped").glob("grpo-*")
    assert (stopped / "checkpoints" / "step-1").is_dir()

    kept, asked = files_of(stopped), len(judge.answered)
    judge.sign = -1  # another model behind the same name
    done = train(tmp_path / "stopped", judge)
    assert done.returncode == 2
    assert "test pairs otherwise than before, such as" in done.stderr
    assert "start the server with the former model, and the same command goes on" in done.stderr
    assert len(judge.answered) == asked
    assert {name for name, content in files_of(stopped).items() if kept[name] != content} <= {"manifest.json"}

    judge.sign, judge.breaks_after = 1, None
    done = train(tmp_path / "stopped", judge)
    assert done.returncode == 0, done.stderr
    assert sorted(judge.answered) == sorted(expected)
    assert judge.num_canaries == 4 * 8
    (whole,) = (tmp_path / "whole").glob("grpo-*")
    assert log_of(whole) == log_of(stopped)
    assert any(0 < line["reward_failed"] < 1 for line in log_of(whole))
    assert files_of(whole / "policy") == files_of(stopped / "policy")
    assert KEY in dict(judge.headers[0])["Authorization"]
    for name, content in files_of(tmp_path).items():
        assert KEY.encode() not in content, name
    assert files_of(whole / "rewards").keys() == {"asked/canaries.json", "asked/verdicts-0.jsonl"}
