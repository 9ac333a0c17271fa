"""A run is measured until its win rate is significant, by the plan that was made before the first image."""

import io
import json
from typing import Any

import pytest
from accelerate import Accelerator
from rich.console import Console

from alignbench.data.prompts import Prompt, PromptSet
from alignbench.errors import UserError
from alignbench.generation.generate import Sampling
from alignbench.stages.looks.look_by_look import LookByLook
from alignbench.store.image_records import PromptRecord, SamplingRecord, store_records
from alignbench.store.look_record import look_file, read_looks
from alignbench.store.manifest import Manifest
from alignbench.store.run_folder import RunFolder
from alignbench.store.scores import ScoreInfo, Scores

NUM = 50
WHOLE = PromptSet("test", tuple(Prompt(f"p{i:02d}", f"prompt {i}") for i in range(NUM)), NUM)
SAMPLING = Sampling(2, 3.0, stop="obrien_fleming")
INFO = ScoreInfo("clip", "1")


class Stub:
    """An evaluator as far as a plan asks it."""

    def __init__(self, name="clip"):
        self.name, self.version = name, "1"


class Measured:
    """Two runs whose images exist, and the look at them."""

    def __init__(self, root, gains, sampling=SAMPLING, evaluators=("clip",), whole=WHOLE):
        self.gains, self.asked = gains, []
        self.fail_at: int | None = None
        self.base, self.own = (RunFolder(root / name) for name in ("base-m-0", "dpo-m-0"))
        for folder, method, seed in ((self.base, "base", None), (self.own, "dpo", 0)):
            folder.open(Manifest(folder.name, method, "m", seed, method, method))
        self.said = io.StringIO()
        runs, console = (self.own, self.base), Console(file=self.said, width=200)
        stubs: list[Any] = [Stub(name) for name in evaluators]
        self.looks = LookByLook.of(sampling, whole, stubs, runs, Accelerator(cpu=True), console)

    def measure(self, prompts):
        self.asked.append(len(prompts))
        if len(self.asked) == self.fail_at:
            raise KeyboardInterrupt
        ids = [prompt.prompt_id for prompt in prompts]
        records = [PromptRecord(one.prompt_id, one.prompt, (), (f"{one.prompt_id}-0.png",)) for one in prompts]
        sampling = SamplingRecord("test", 2, 3.0, "per_prompt", 0, 1, NUM, len(prompts) < NUM)
        for folder, scores in ((self.base, [0.0] * len(ids)), (self.own, [self.gains(name) for name in ids])):
            store_records(folder, folder.images("test", SAMPLING.hash), records, sampling)
            file = folder.score_file("test", SAMPLING.hash, "clip", "1")
            folder.store(file, Scores.of(INFO, ids, [0] * len(ids), scores, [""] * len(ids)).write)

    def run(self):
        self.looks.run(self.measure)
        return self.said.getvalue()


def wins(name):
    return 1.0


def equal(name):
    return 1.0 if int(name[1:]) % 2 else -1.0


def looks_of(measured):
    record = read_looks(measured.own, "test", SAMPLING.hash)
    assert record is not None
    return record.looks


def test_a_method_that_always_wins_stops_at_the_second_look(tmp_path):
    """Ten prompts can give p = 2 / 2^10 at best, which the first boundary of 5e-6 does not take."""
    measured = Measured(tmp_path, wins)
    said = measured.run()
    assert measured.asked == [10, 20]
    assert "look 1 of 5: 10 of 50 prompts, win rate over base 100.0 %, p 0.002, boundary 5.1e-06: goes on" in said
    assert "look 2 of 5: 20 of 50 prompts, win rate over base 100.0 %, p 1.9e-06, boundary 0.0013: stops" in said
    assert [(look.win_rate, look.p_value, look.stops) for look in looks_of(measured)] == [
        (1.0, 2 / 2**10, False),
        (1.0, 2 / 2**20, True),
    ]


def test_a_method_that_always_loses_stops_as_early(tmp_path):
    measured = Measured(tmp_path, lambda name: -1.0)
    assert "win rate over base 0.0 %" in measured.run()
    assert measured.asked == [10, 20]


def test_a_method_that_does_not_differ_is_measured_to_the_end(tmp_path):
    measured = Measured(tmp_path, equal)
    assert "look 5 of 5: 50 of 50 prompts, win rate over base 50.0 %" in (said := measured.run())
    assert said.rstrip().endswith("boundary 0.041: not reached")
    assert measured.asked == [10, 20, 30, 40, 50]


def test_a_repeated_command_has_the_same_looks_and_takes_none(tmp_path):
    first = Measured(tmp_path, wins).run()
    file = look_file(RunFolder(tmp_path / "dpo-m-0"), "test", SAMPLING.hash)
    before = file.stat().st_mtime_ns, file.read_bytes()
    again = Measured(tmp_path, wins)
    assert again.run() == first
    assert again.asked == [20]  # whose images and scores are there
    assert (file.stat().st_mtime_ns, file.read_bytes()) == before


def test_a_killed_command_goes_on_with_the_look_that_it_was_at(tmp_path):
    killed = Measured(tmp_path, equal)
    killed.fail_at = 3
    with pytest.raises(KeyboardInterrupt):
        killed.run()
    assert len(looks_of(killed)) == 2
    going_on = Measured(tmp_path, equal)
    going_on.run()
    assert going_on.asked == [30, 40, 50]
    whole = Measured(tmp_path / "whole", equal)
    whole.run()
    assert looks_of(going_on) == looks_of(whole)


def test_a_kill_before_the_first_image_leaves_the_plan(tmp_path):
    killed = Measured(tmp_path, wins)
    killed.fail_at = 1
    with pytest.raises(KeyboardInterrupt):
        killed.run()
    assert Measured(tmp_path, wins).run().count("look ") == 2


@pytest.mark.parametrize(
    "changes", [{"looks": 4}, {"stop": "pocock"}, {"looks": [0.2, 0.4, 0.6, 0.8]}, {"stop_on": "other"}]
)
def test_other_looks_at_the_same_run_are_refused(tmp_path, changes):
    Measured(
        tmp_path, wins, evaluators=("clip", "other"), sampling=Sampling(2, 3.0, stop="obrien_fleming", stop_on="clip")
    ).run()
    settings = {"stop": "obrien_fleming", "stop_on": "clip"} | changes
    with pytest.raises(
        UserError, match=r"was begun with other looks .* give those settings back, or set sampling.stop=none"
    ):
        Measured(tmp_path, wins, evaluators=("clip", "other"), sampling=Sampling(2, 3.0, **settings))


def test_a_larger_prompt_set_is_another_plan(tmp_path):
    Measured(tmp_path, wins).run()
    with pytest.raises(UserError, match="was begun with other looks"):
        Measured(tmp_path, wins, whole=PromptSet("test", WHOLE.prompts[:40], NUM))


def test_images_that_were_made_without_looks_are_refused(tmp_path):
    Measured(tmp_path / "a", wins)
    measured = Measured(tmp_path, wins)
    measured.measure(WHOLE)
    with pytest.raises(UserError, match="has images of this sampling already, which were made without looks"):
        Measured(tmp_path, wins)


@pytest.mark.parametrize(
    ("evaluators", "stop_on", "message"),
    [
        (("clip", "other"), None, "add sampling.stop_on=NAME, one of clip, other"),
        (("clip",), "clap", "sampling.stop_on=clap is not among the evaluators; did you mean clip"),
    ],
)
def test_an_evaluator_has_to_decide(tmp_path, evaluators, stop_on, message):
    with pytest.raises(UserError, match=message):
        Measured(tmp_path, wins, Sampling(2, 3.0, stop="pocock", stop_on=stop_on), evaluators)


def test_looks_at_other_times_spend_the_level(tmp_path):
    measured = Measured(tmp_path, wins, Sampling(2, 3.0, stop="pocock", looks=[0.1, 0.5]))
    said = measured.run()
    assert "pocock, by clip after 5, 25, 50 prompts, by alpha spending" in " ".join(said.split())
    assert measured.asked == [5, 25]
    assert "boundary 0.0079" in said  # 0.05 ln(1 + 0.1 (e - 1))


def test_a_damaged_record_is_told(tmp_path):
    measured = Measured(tmp_path, wins)
    measured.run()
    file = look_file(measured.own, "test", SAMPLING.hash)
    values = json.loads(file.read_text())
    file.write_text(json.dumps(values | {"rule": "by hand"}))
    with pytest.raises(UserError, match="has changed since it was written"):
        Measured(tmp_path, wins)
    measured.own.record(file)
    with pytest.raises(UserError, match="has a wrong entry rule"):
        Measured(tmp_path, wins)
