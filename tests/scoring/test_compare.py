"""Comparers are asked once about each pair and order, and only again where an image has changed."""

from types import SimpleNamespace

import numpy as np
import pytest
from accelerate import Accelerator
from omegaconf import OmegaConf
from PIL import Image
from rich.console import Console

from alignbench.errors import UserError
from alignbench.pairwise.comparer import Comparer, Verdict
from alignbench.pairwise.orders import position_bias
from alignbench.scoring import compare
from alignbench.scoring.compare import Comparing, refuse_no_opponent
from alignbench.scoring.pairs import opponents, planned_calls
from alignbench.settings.compare import Compare
from alignbench.store.run_folder import RunFolder
from alignbench.store.verdicts import VerdictFile, judged_pairs
from evaluators.networks.preprocess import Pictures
from tests.processes import together
from tests.studies import SAMPLING, World

BIAS = 0.75


class Means(Pictures):
    """Sees the mean level of each picture."""

    def __call__(self, images):
        return [float(np.asarray(image).mean()) for image in super().__call__(images)]


class Stub(Comparer):
    """Prefers the brighter image, and the first one by a known amount; notes what it is asked."""

    name, version, preprocess, batch_size = "stub", "1", Means(), 3

    def __init__(self, bias=BIAS, weights="", model="", fails_on=(), can_change=False):
        self.bias, self._weights, self.model, self.fails_on = bias, weights, model, fails_on
        self.can_change = can_change
        self.asked = []

    @property
    def weights(self):
        return self._weights

    def compare(self, first, second, prompts):
        assert 0 < len(prompts) <= self.batch_size
        self.asked += zip(first, second, prompts, strict=True)
        return [
            Verdict(None, None, (10, 2))
            if prompt in self.fails_on
            else Verdict.of_log_odds(one - other + self.bias, tokens=(10, 1), answered_by=self.model)
            for one, other, prompt in zip(first, second, prompts, strict=True)
        ]


@pytest.fixture
def world(tmp_path, no_wait_for_the_disk):
    """Base, and two methods whose images differ."""
    world = World(tmp_path / "results")
    for method in ("base", "dpo", "kto"):
        world.run(method)
    return world


def folder(world, method):
    (path,) = world.root.glob(f"{method}-*")
    return RunFolder(path)


def comparing(world, monkeypatch, *stubs, **settings):
    """Return the comparisons of a new command, and what it prints."""
    monkeypatch.setattr(compare, "build", lambda node: {stub.name: stub for stub in stubs})
    cfg = OmegaConf.create({"results": str(world.root), "comparers": {}, "compare": Compare.defaults() | settings})
    alone = SimpleNamespace(
        process_index=0, num_processes=1, is_main_process=True, device="cpu", wait_for_everyone=lambda: None
    )
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    return Comparing(cfg, "shapes", SAMPLING, alone, console)


def lines(world, stub="stub"):
    return VerdictFile.of(world.root, "shapes", SAMPLING, stub, "1").read()


def ask(world, monkeypatch, method, stub, **settings):
    """Compare a run in a new command; return how many calls it made."""
    before = len(stub.asked)
    comparing(world, monkeypatch, stub, **settings).compare(folder(world, method))
    return len(stub.asked) - before


def test_both_orders_give_the_exact_quality_and_the_known_bias(world, monkeypatch):
    assert ask(world, monkeypatch, "dpo", Stub()) == 8
    pairs = judged_pairs(lines(world))
    images = {method: folder(world, method).images("shapes", SAMPLING) for method in ("base", "dpo")}
    for (a, b, prompt_id, _), pair in pairs.items():
        assert a.startswith("base")
        assert b.startswith("dpo")
        means = [np.asarray(Image.open(images[one] / f"{prompt_id}-0.png")).mean() for one in ("base", "dpo")]
        assert pair.quality == pytest.approx(means[0] - means[1])
        assert pair.position == pytest.approx(BIAS)
    found = position_bias(pairs.values())
    assert found.log_odds.value == pytest.approx(BIAS)
    assert (found.calls, found.tokens) == (8, (80, 8))


def test_a_repeated_command_asks_nothing_and_a_changed_image_asks_again(world, monkeypatch):
    stub = Stub()
    assert ask(world, monkeypatch, "dpo", stub) == 8
    content = lines(world)
    assert ask(world, monkeypatch, "dpo", stub) == 0
    assert lines(world) == content
    file = folder(world, "dpo").images("shapes", SAMPLING) / "p2-0.png"
    Image.new("RGB", (64, 64), "white").save(file)
    assert ask(world, monkeypatch, "dpo", stub) == 2
    assert {prompt for *_, prompt in stub.asked[-2:]} == {"a green square"}
    assert ask(world, monkeypatch, "dpo", stub) == 0


@pytest.mark.matrix
def test_other_weights_are_asked_anew_and_the_former_are_known_still(world, monkeypatch):
    assert ask(world, monkeypatch, "dpo", Stub()) == 8
    assert ask(world, monkeypatch, "dpo", Stub(weights="new")) == 8
    assert ask(world, monkeypatch, "dpo", stub := Stub()) == 0
    latest = VerdictFile.of(world.root, "shapes", SAMPLING, "stub", "1").read_latest()
    assert {one.identity for one in latest} == {stub.identity}  # tables show whom the last command chose
    assert sum(one.verdict.tokens[0] for one in latest) == 0  # which cost nothing


@pytest.mark.matrix
def test_all_pairs_of_a_run_are_those_with_every_other_run(world, monkeypatch):
    stub = Stub()
    assert ask(world, monkeypatch, "kto", stub, pairs="all") == 16
    assert ask(world, monkeypatch, "dpo", stub, pairs="all") == 8  # with kto it is compared already
    assert ask(world, monkeypatch, "base", stub) == 0  # with all others in any case
    assert {(one.a.split("-")[0], one.b.split("-")[0]) for one in lines(world)} == {
        ("base", "dpo"), ("base", "kto"), ("dpo", "kto"),
    }  # fmt: skip


@pytest.mark.matrix
def test_the_same_files_in_another_run_are_not_asked_about(world, monkeypatch):
    stub = Stub()
    ask(world, monkeypatch, "dpo", stub)
    copied = RunFolder(world.run("copy"))
    for file in folder(world, "dpo").images("shapes", SAMPLING).glob("*.png"):
        (copied.images("shapes", SAMPLING) / file.name).write_bytes(file.read_bytes())
    assert ask(world, monkeypatch, "copy", stub) == 0
    assert ask(world, monkeypatch, "copy", stub, pairs="all") == 8  # kto; an image and its copy are a tie unasked
    same = [one for one in lines(world) if {one.a.split("-")[0], one.b.split("-")[0]} == {"copy", "dpo"}]
    assert len(same) == 8
    assert {one.verdict.won for one in same} == {0.5}


@pytest.mark.matrix
def test_one_random_order_takes_half_the_calls_and_is_a_part_of_both(world, monkeypatch):
    stub = Stub()
    assert ask(world, monkeypatch, "dpo", stub, orders="random") == 4
    assert ask(world, monkeypatch, "dpo", stub, orders="both") == 4
    assert ask(world, monkeypatch, "dpo", stub, orders="random") == 0
    prompts = {f"p{number}": f"a cat {number}" for number in range(40)}
    runs = [RunFolder(world.run(method, prompts)) for method in ("sft", "mapo")]
    drawn = [call.a_first for call in planned_calls(runs[0], runs[1:], "shapes", SAMPLING, orders="random")]
    assert len(drawn) == 40
    assert 10 < sum(drawn) < 30


def test_a_limit_stops_with_a_sentence_keeps_all_and_goes_on(world, monkeypatch):
    stub = Stub()
    with pytest.raises(UserError, match=r"compare\.max_calls=5 calls are made, and 3 are left; all verdicts are kept"):
        ask(world, monkeypatch, "dpo", stub, max_calls=5)
    assert len(lines(world)) == len(stub.asked) == 5
    ask(world, monkeypatch, "dpo", stub, max_calls=5)
    assert len(stub.asked) == 8


@pytest.mark.matrix
def test_fewer_prompts_are_a_part_of_more(world):
    runs = [folder(world, method) for method in ("dpo", "base")]
    some, more = (
        {call.pair.prompt_id for call in planned_calls(runs[0], runs[1:], "shapes", SAMPLING, num_prompts=num)}
        for num in (2, 3)
    )
    assert (len(some), len(more)) == (2, 3)
    assert some < more
    with pytest.raises(UserError, match=r"compare\.num_prompts=5 is more than the 4 prompts"):
        planned_calls(runs[0], runs[1:], "shapes", SAMPLING, num_prompts=5)


def test_failures_are_counted_and_not_asked_again(world, monkeypatch):
    stub = Stub(fails_on=["a red circle"])
    asked = comparing(world, monkeypatch, stub)
    asked.compare(folder(world, "dpo"))
    printed = " ".join(asked.console.export_text().split())
    assert "failures 1 (25.0 %)" in printed
    assert "stub failed on more than 5 % of the pairs, so no table has its figures" in printed
    assert ask(world, monkeypatch, "dpo", stub) == 0


def test_another_model_behind_the_name_stops_before_its_verdicts_are_kept(world, monkeypatch):
    ask(world, monkeypatch, "dpo", Stub(model="judge-2026-01", fails_on=["a red circle"]))  # failures name none
    kept = lines(world)
    with pytest.raises(UserError, match=r"stub: judge-2026-11 answers now and judge-2026-01 answered before; set"):
        ask(world, monkeypatch, "kto", Stub(model="judge-2026-11"))
    assert lines(world) == kept


def test_a_comparer_that_can_change_answers_the_canary_pairs_first(world, monkeypatch):
    stub = Stub(can_change=True)
    assert ask(world, monkeypatch, "dpo", stub) == 8 + 8
    several = comparing(world, monkeypatch, once := Stub(can_change=True, weights="once"))
    for method in ("dpo", "kto"):
        several.compare(folder(world, method))
    assert len(once.asked) == 8 + 2 * 8  # a command that compares several runs asks them once
    ask(world, monkeypatch, "dpo", stub)  # whose verdicts are the latest again
    answers = VerdictFile.of(world.root, "shapes", SAMPLING, "stub", "1").canary_answers(stub.identity)
    content = answers.read_bytes()
    assert ask(world, monkeypatch, "dpo", stub) == 0  # a repeated command asks nothing at all
    kept = lines(world)
    with pytest.raises(
        UserError, match=r"stub answers [1-8] of 8 test pairs otherwise than before, such as '.*', so another model"
    ):
        ask(world, monkeypatch, "kto", Stub(bias=BIAS + 3, can_change=True))
    assert lines(world) == kept
    assert answers.read_bytes() == content
    assert ask(world, monkeypatch, "kto", Stub(bias=BIAS + 0.5, can_change=True)) == 8 + 8  # as rounding may do
    other = Stub(bias=BIAS + 3, weights="other options", can_change=True)  # is another judge
    assert ask(world, monkeypatch, "dpo", other) == 8 + 8
    assert answers.read_bytes() == content


@pytest.mark.matrix
def test_an_image_that_is_gone_is_named(world, monkeypatch):
    (folder(world, "kto").images("shapes", SAMPLING) / "p1-0.png").unlink()
    with pytest.raises(UserError, match=r"1 of 8 images are missing, such as .*p1-0\.png; add generate to stages"):
        ask(world, monkeypatch, "kto", Stub())


@pytest.mark.matrix
def test_two_comparers_of_one_name_are_refused(world, monkeypatch):
    other = Stub()
    monkeypatch.setattr(compare, "build", lambda node: {"x": Stub(), "y": other})
    cfg = OmegaConf.create({"results": str(world.root), "comparers": {}, "compare": Compare.defaults()})
    alone = SimpleNamespace(process_index=0, num_processes=1)
    with pytest.raises(UserError, match="stub is the name of more than one comparer"):
        Comparing(cfg, "shapes", SAMPLING, alone, Console())


@pytest.mark.matrix
def test_opponents_are_other_recipes_of_the_same_model_with_the_same_images(world):
    world.run("sdxl_method", model="sdxl_mini")
    world.run("dpo", seed=1)
    assert [one.name for one in opponents(folder(world, "kto"), "shapes", SAMPLING, "base")] == [
        folder(world, "base").name
    ]
    others = opponents(folder(world, "kto"), "shapes", SAMPLING, "all")
    assert sorted(one.name.split("-")[0] for one in others) == ["base", "dpo", "dpo"]
    assert opponents(folder(world, "kto"), "shapes", "other", "all") == []


def test_base_alone_is_refused(tmp_path):
    world = World(tmp_path / "results")
    base = RunFolder(world.run("base"))
    with pytest.raises(UserError, match="has no second run to compare base-sd15_mini-base0 with"):
        refuse_no_opponent(base, "shapes", SAMPLING)
    world.run("dpo")
    refuse_no_opponent(base, "shapes", SAMPLING)


def _compare_in_group(rank, root):
    """Compare a run in one process of a group; return how many calls it made."""
    stub, world = Stub(), World(root)
    compare.build = lambda node: {"stub": stub}
    cfg = OmegaConf.create({"results": str(root), "comparers": {}, "compare": Compare.defaults()})
    Comparing(cfg, "shapes", SAMPLING, Accelerator(cpu=True), Console(quiet=True)).compare(folder(world, "dpo"))
    return len(stub.asked)


@pytest.mark.matrix
def test_two_processes_share_the_calls(world):
    assert sorted(together(_compare_in_group, world.root)) == [3, 5]  # batches of three calls, three and two
    assert len(lines(world)) == len({(one.pair, one.a_first) for one in lines(world)}) == 8
    assert together(_compare_in_group, world.root) == [0, 0]
