"""Images of runs, paired by their scores."""

import hashlib
import shutil

import pytest

from alignbench.diffusion.initial_noise import InitialNoise
from alignbench.errors import UserError
from alignbench.store.image_records import PromptRecord, SamplingRecord, write_prompts, write_sampling
from alignbench.store.manifest import Manifest
from alignbench.store.run_folder import RunFolder
from alignbench.store.scores import ScoreInfo, Scores

PROMPTS = ["p", "q"]


@pytest.fixture
def run(tmp_path, encoded):
    """Write a run whose images of each prompt have the given scores; return its folder."""

    def write(name, scores, higher_is_better=True, seed=0, **sampling):
        folder, count = tmp_path / name, len(scores[0])
        place = folder / "images" / "mine" / "0123456789"
        place.mkdir(parents=True)
        files = [[f"{prompt}-{k}.png" for k in range(count)] for prompt in PROMPTS]
        for number, file in enumerate(file for several in files for file in several):
            (place / file).write_bytes(encoded(10 * number + len(name), kind="PNG"))
        records = zip(PROMPTS, files, strict=True)
        write_prompts(place, [PromptRecord(prompt, prompt, (), tuple(several)) for prompt, several in records])
        write_sampling(
            place, SamplingRecord("mine", 4, None, "per_prompt", seed, count, len(PROMPTS), False, **sampling)
        )
        RunFolder(folder).open(Manifest(name, name.split("-")[0], "flux_mini", None, "0", "0"))
        digests = [hashlib.sha256((place / f).read_bytes()).hexdigest()[:32] for several in files for f in several]
        info = ScoreInfo("reward", "1", higher_is_better=higher_is_better)
        ids, numbers = [prompt for prompt in PROMPTS for _ in range(count)], list(range(count)) * len(PROMPTS)
        target = RunFolder(folder).score_file("mine", "0123456789", "reward", "1")
        target.parent.mkdir(parents=True)
        Scores.of(info, ids, numbers, [score for several in scores for score in several], digests).write(target)
        return folder

    return write


def pairs(data):
    return [(s.prompt, s.image_w.key, s.image_l.key, round(s.probability_w, 4)) for s in data.view("pairs")]


def test_the_best_image_of_a_prompt_is_paired_with_the_worst(run, source):
    folder = run("base-a-0", [[0.1, 0.9, 0.5], [0.3, 0.3, 0.3]])
    data = source("runs", path=str(folder), evaluator="reward")
    assert pairs(data) == [("p", "p-1.png", "p-0.png", 1.0)]
    assert data.num_filtered == {"tie": 1}
    assert data.labelled_by == ("reward",)


def test_every_two_images_are_paired_with_the_probability_of_their_score_difference(run, source):
    folder = run("base-a-0", [[0.0, 2.0, 1.0], [1.0, 1.0, 0.0]])
    data = source("runs", path=str(folder), evaluator="reward", which="all", temperature=1.0)
    assert pairs(data) == [
        ("p", "p-1.png", "p-0.png", 0.8808),  # 1 / (1 + exp(-2))
        ("p", "p-2.png", "p-0.png", 0.7311),
        ("p", "p-1.png", "p-2.png", 0.7311),
        ("q", "q-0.png", "q-2.png", 0.7311),
        ("q", "q-1.png", "q-2.png", 0.7311),
    ]


def test_a_low_score_wins_where_that_is_better(run, source):
    folder = run("base-a-0", [[0.1, 0.9], [0.5, 0.3]], higher_is_better=False)
    found = pairs(source("runs", path=str(folder), evaluator="reward"))
    assert found == [("p", "p-0.png", "p-1.png", 1.0), ("q", "q-1.png", "q-0.png", 1.0)]


def test_images_of_several_runs_are_paired_with_each_other(run, source):
    folders = [run("base-a-0", [[0.1], [0.9]]), run("dpo-ab-1", [[0.2], [0.3]])]
    data = source("runs", path=[str(folder) for folder in folders], evaluator="reward")
    assert [(prompt, winner.split("/")[0], loser.split("/")[0]) for prompt, winner, loser, _ in pairs(data)] == [
        ("p", "dpo-ab-1", "base-a-0"),
        ("q", "base-a-0", "dpo-ab-1"),
    ]


def test_scores_of_different_settings_are_not_compared(run, source):
    folders = [run("base-a-0", [[0.1], [0.9]]), run("dpo-ab-1", [[0.2], [0.3]], higher_is_better=False)]
    with pytest.raises(UserError, match="have different versions or settings"):
        _ = source("runs", path=[str(folder) for folder in folders], evaluator="reward").prompts


def test_scores_that_are_missing_or_of_other_images_are_refused(run, source):
    folder = run("base-a-0", [[0.1, 0.9], [0.5, 0.3]])
    with pytest.raises(UserError, match=r"holds no scores of data.evaluator=rewart; did you mean reward\?"):
        _ = source("runs", path=str(folder), evaluator="rewart").prompts
    next(folder.rglob("p-0.png")).write_bytes(b"other")
    with pytest.raises(UserError, match=r"p-0.png has changed since it was scored"):
        _ = source("runs", path=str(folder), evaluator="reward").prompts
    with pytest.raises(Exception, match=r"data.path=nowhere is not a folder"):
        source("runs", path="nowhere", evaluator="reward")
    with pytest.raises(Exception, match=r"data.temperature=0 must be a number above 0"):
        source("runs", path=str(folder), evaluator="reward", temperature=0)


# ---- with the noise that images were made from


def test_each_image_of_a_generated_pair_has_the_noise_that_it_was_made_from(run, source):
    """The better score wins, so the noise has to change places with its image."""
    folders = [run("base-a-0", [[0.1], [0.9]], seed=3), run("dpo-ab-1", [[0.2], [0.3]], seed=4)]
    view = source("runs", path=[str(folder) for folder in folders], evaluator="reward").view("generated_pairs")
    assert [(s.image_w.key.split("/")[0], s.image_l.key.split("/")[0]) for s in view] == [
        ("dpo-ab-1", "base-a-0"),
        ("base-a-0", "dpo-ab-1"),
    ]
    found = [(s.noise_w.prompt_id, s.noise_w.sampling_seed, s.noise_l.sampling_seed) for s in view]
    assert found == [("p", 4, 3), ("q", 3, 4)]
    folder = run("base-abc-2", [[0.1, 0.9, 0.5], [0.2, 0.1, 0.3]])
    (first, second) = source("runs", path=str(folder), evaluator="reward").view("generated_pairs")
    assert (first.noise_w, first.noise_l) == (
        InitialNoise("p", 1, 0, "per_prompt"),
        InitialNoise("p", 0, 0, "per_prompt"),
    )
    assert (second.noise_w.number, second.noise_l.number) == (2, 1)


def test_generated_pairs_are_the_pairs_and_use_the_same_images(run, source):
    data = source("runs", path=str(run("base-a-0", [[0.1, 0.9], [0.5, 0.3]])), evaluator="reward")
    generated = [(s.prompt, s.image_w.key, s.image_l.key, s.probability_w) for s in data.view("generated_pairs")]
    assert generated == pairs(data)
    assert data.identities("generated_pairs") == data.identities("pairs")


@pytest.mark.parametrize(
    ("model", "sampling", "reason"),
    [
        ("sd15_mini", {}, "they were made by model=flux_mini, and model=sd15_mini is trained"),
        ("flux_mini", {"scheduler": "EulerAncestralDiscrete"}, "EulerAncestralDiscrete, which adds noise in each step"),
        ("flux_mini", {"control": {"controlnet": "depth"}}, "they follow the maps of a ControlNet"),
        ("flux_mini", {"num_frames": 9, "fps": 16.0}, "they have 9 frames at 16 a second, and the model has one"),
    ],
)
def test_noise_that_does_not_lead_to_its_image_is_refused(run, source, model, sampling, reason):
    folder = run("base-a-0", [[0.1, 0.9], [0.5, 0.3]], **sampling)
    with pytest.raises(UserError, match=reason):
        source("runs", path=str(folder), evaluator="reward").check_noise(model)


def test_images_outside_of_a_run_are_refused_with_their_noise(run, source, tmp_path):
    made = run("base-a-0", [[0.1, 0.9], [0.5, 0.3]]) / "images" / "mine" / "0123456789"
    copy = shutil.copytree(made, tmp_path / "copy")
    with pytest.raises(UserError, match="they are not in the folder of a run"):
        source("runs", path=str(copy), evaluator="reward").check_noise("flux_mini")
    source("runs", path=str(made), evaluator="reward").check_noise("flux_mini")
