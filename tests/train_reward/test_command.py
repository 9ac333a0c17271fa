"""`python -m alignbench.train_reward`: from a command to a judge that scores and is trained on, and refusals."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from accelerate import Accelerator
from hydra import compose, initialize_config_dir

from alignbench.configuration.build import build, conf_folder
from alignbench.configuration.compose import check_command_line, composed
from alignbench.errors import UserError
from alignbench.reading import read_json_lines
from alignbench.store.reward_model_folder import RewardModelRecord
from alignbench.store.run_folder import RunFolder
from alignbench.train_reward.checks import check
from alignbench.train_reward.run import _hash, reward_model_name, train_reward
from alignbench.training.train import train
from evaluators import load

ROOT = Path(__file__).resolve().parents[2]
FEW = [
    "data.num_pairs=96",
    "data.num_prompts=64",
    "train.max_train_steps=4",
    "train.total_batch_size=8",
    "train.micro_batch_size=8",
    "train.evaluation_steps=2",
]


def reward_model(root, *overrides):
    cfg = composed([*FEW, f"results={root}", *overrides], "train_reward")
    check(cfg)
    return train_reward(cfg)


@pytest.fixture(scope="module", params=["image_reward_mini", "pickscore_like", "head"])
def choice(request):
    return request.param


@pytest.fixture(scope="module")
def anna(choice, tmp_path_factory):
    """The results folder and the record of a judge of that kind."""
    root = tmp_path_factory.mktemp("results")
    (root / "judges" / ".anna.0123456789ab.tmp").mkdir(parents=True)  # left by a kill
    return root, reward_model(root, f"judge={choice}", "name=anna")


def test_the_folder_says_what_the_judge_is_and_how_it_does(anna, choice):
    root, record = anna
    folder = root / "judges" / "anna"
    assert RewardModelRecord.read(folder) == record
    left = {path.name for path in (root / "judges").iterdir()} - {".locks"}
    assert left == {"anna"}, "nothing unfinished is left"
    parts = record.data["num_pairs"]
    assert sum(parts.values()) == 96
    assert record.figures["num_pairs"] == parts["heldout"]
    assert record.figures["best"]["accuracy"]["value"] > 0.5
    assert record.start["evaluator"] == ("shapes_matching" if choice == "image_reward_mini" else "shapes_clip")
    assert record.judged_by == ["shapes_annotators"]
    assert (folder / "reliability.png").read_bytes().startswith(b"\x89PNG")
    assert [line["step"] for line in read_json_lines(folder / "train.jsonl")] == [2, 4]


def test_the_figures_are_those_of_the_evaluator_that_came_of_it(anna):
    """Read from the folder, the judge prefers as many winners of the held-out pairs as its record says."""
    root, record = anna
    data = build(composed(FEW, "train_reward").data)
    from PIL import Image

    from alignbench.train_reward.pairs import PairSplit

    view, prompts = data.view("pairs"), [pair.prompt for pair in data.pairs]
    rows = PairSplit.of(prompts, 0.2, 0.1).heldout
    evaluator = load("judge", path=str(root / "judges" / "anna"))
    scores = [
        evaluator.score(
            [Image.fromarray(getattr(view[row], side).pixels) for row in rows], [prompts[row] for row in rows]
        )
        for side in ("image_w", "image_l")
    ]
    assert (scores[0] > scores[1]).float().mean().item() == pytest.approx(record.figures["accuracy"]["value"])


def test_a_repeated_command_finds_what_is_done_and_another_under_its_name_is_refused(anna, choice):
    root, record = anna
    kind = f"judge={choice}"
    before = (root / "judges" / "anna" / "config.json").stat().st_mtime_ns
    left = root / "judges" / f".anna-{_hash(composed([*FEW, kind, 'name=anna'], 'train_reward'))}.unfinished"
    left.mkdir()  # by a kill when the judge was there
    assert reward_model(root, kind, "name=anna", "train.logging_steps=7") == record
    assert (root / "judges" / "anna" / "config.json").stat().st_mtime_ns == before
    assert not left.exists()
    with pytest.raises(UserError, match="was made with another seed; give a name of its own"):
        reward_model(root, kind, "name=anna", "seed=1")


def test_a_method_trains_on_it_and_says_so(anna, tmp_path):
    root, _ = anna
    few = ["train.max_train_steps=2", "train.total_batch_size=2", "train.micro_batch_size=2", "data.num_prompts=8"]
    command = ["method=srpo", "reward=judge", f"reward.path={root}/judges/anna", "method.num_rollout_steps=2", *few]
    assert check_command_line(command, False) == 1
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        cfg = compose("config", command)
    model, method = build(cfg.model.adapter), build(cfg.method)
    start = [parameter.detach().clone() for parameter in model.denoiser.parameters()]
    train(cfg, model, method, build(cfg.data), RunFolder(tmp_path), Accelerator(cpu=True))
    lines = read_json_lines(tmp_path / "train.jsonl")
    assert all(np.isfinite(line["reward"]) for line in lines)
    assert any((now != then).any() for now, then in zip(model.denoiser.parameters(), start, strict=True))
    assert method.trained_on == ("anna", "shapes_annotators")


def test_it_is_an_evaluator_of_the_main_program(anna):
    root, _ = anna
    command = ["method=base", "+evaluator@evaluators.anna=judge", f"evaluators.anna.path={root}/judges/anna"]
    assert check_command_line(command, False) == 1


# ---- one person's taste


def test_one_person_is_asked_alone_and_the_law_is_that_of_the_person(tmp_path):
    one = composed(["data.annotators.only=[7]", "data.num_votes=1", *FEW], "train_reward")
    all_of_them = composed(FEW, "train_reward")
    person, people = build(one.data), build(all_of_them.data)
    assert person.annotators.weights.shape == (1, 5)
    assert (person.annotators.weights[0] == people.annotators.weights[7]).all()
    laws = [[data.law(pair) for pair in data.pairs] for data in (person, people)]
    assert {pair.probability_w for pair in person.pairs} == {1.0}
    assert np.mean(np.abs(np.array(laws[0]) - 0.5)) > np.mean(np.abs(np.array(laws[1]) - 0.5))  # one is surer than many
    assert reward_model_name(one) != reward_model_name(all_of_them)


# ---- refusals


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["judge=pickscor_like"], "judge=pickscor_like is unknown; did you mean pickscore_like"),
        (["train.learning_rat=1"], "train.learning_rat is unknown"),
        (["heldout_share=0"], "heldout_share=0 must be a number between 0 and 1"),
        (["heldout_share=0.6", "validation_share=0.4"], "leave nothing to train on"),
        (["train.max_train_steps=0"], "train.max_train_steps=0 must be a whole number of at least 1"),
        (["train.patience_steps=0"], "train.patience_steps=0"),
        (["train.learning_rate=-1"], "train.learning_rate=-1 must be a number above 0"),
        (["train.mixed_precision=fp8"], "train.mixed_precision=fp8 is unknown"),
        (["name=a/b"], "name=a/b must consist of letters"),
        (["name=pickscore"], "name=pickscore is an evaluator's already"),
        (["seed=x"], "seed=x must be a whole number"),
        (["data=prompts", "data.path=FILE"], "a judge learns from pairs, and data=prompts has only prompts"),
        (["data=local"], "data.path must be set"),
        (["judge=image_reward_like", "evaluator@judge.start=shapes_clip"], "judge.start is shapes_clip; choose"),
        (["judge.frozen_vision=0.5"], "judge.frozen_vision=0.5 must be true or false"),
        (["judge=head", "judge.hidden=0"], "judge.hidden=0 must be a whole number"),
        (["judge=head", "judge.dropout=1"], "judge.dropout=1 must be at least 0 and below 1"),
        (["data.annotators.only=[100]"], "must name some of the annotators, numbered 0 to 99"),
        (["data.annotators.only=[7]"], "data.num_votes=5 exceeds the 1 annotators there are"),
    ],
)
def test_what_cannot_work_is_refused_in_one_sentence(overrides, message):
    with pytest.raises(UserError) as refused:
        check(composed(overrides, "train_reward"))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_mistake_ends_in_one_sentence_and_status_2():
    command = [sys.executable, "-m", "alignbench.train_reward", "judge=haed"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("alignbench: judge=haed is unknown; did you mean head? available: attention, head")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("kind", sorted(file.stem for file in (conf_folder() / "judge").glob("*.yaml")))
def test_every_kind_of_judge_composes_and_sets_its_learning_rate(kind):
    cfg = composed([f"judge={kind}"], "train_reward")
    assert cfg.judge.start._target_.startswith("evaluators.")
    assert cfg.train.learning_rate > 0
