"""Evaluators that do not score as they should, or as they did, are refused before anything rests on them."""

import hashlib
import json
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from alignbench.calibrate import __main__ as program
from alignbench.configuration.compose import composed
from alignbench.errors import UserError
from alignbench.evaluator import Evaluator, Preprocess
from alignbench.scoring import calibration as reference
from alignbench.scoring.calibration import IMAGES, RECORD, STORED, Calibration, calibrate, compare, store, summary
from alignbench.scoring.network_pool import NetworkPool
from alignbench.scoring.score import info

SAMPLES = json.loads((IMAGES / "samples.json").read_text())
DIGEST = "d086a077f167b1e2e885194cf013df49fe62d0116ad839aee5024e1142a43f0a"  # of the shipped images and prompts


class Mean(Preprocess):
    key = "mean"

    def __call__(self, images) -> Tensor:
        return torch.tensor([np.asarray(image, np.float32).mean() / 255 for image in images])


class Light(Evaluator):
    """Mean light; prompts fit the image whose place in the list they have."""

    name, version, preprocess, range = "light", "1", Mean(), (0.0, 1.0)

    def __init__(self, shift: float = 0.0, matches: Sequence[int] | None = None, **settings) -> None:
        self.shift, self.matches, self.num_scored = shift, matches, 0
        for name, value in settings.items():
            setattr(self, name, value)

    @property
    def weights(self) -> str:
        return vars(self).get("digest", "")

    def encode_prompts(self, prompts):
        places = {sample["prompt"]: number for number, sample in enumerate(SAMPLES["photos"])}
        return [places[prompt] for prompt in prompts]

    def score_features(self, features, encoded):
        self.num_scored += len(features)
        if self.matches is None:
            return features + self.shift
        lights = compare_lights()
        images = [min(range(len(lights)), key=lambda place: abs(lights[place] - light)) for light in features]
        return torch.tensor([float(self.matches[place] == image) for place, image in zip(encoded, images, strict=True)])


def compare_lights() -> list[float]:
    from alignbench.images import opened

    return Mean()([opened(IMAGES / sample["file"]) for sample in SAMPLES["photos"]]).tolist()


@pytest.fixture
def cpu() -> NetworkPool:
    return NetworkPool(torch.device("cpu"))


def test_what_is_scored_is_frozen():
    digest = hashlib.sha256((IMAGES / "samples.json").read_bytes())
    for sample in [*SAMPLES["photos"], *SAMPLES["scenes"], *SAMPLES["words"]]:
        digest.update((IMAGES / sample["file"]).read_bytes())
    assert digest.hexdigest() == DIGEST


def test_the_shapes_evaluators_score_as_stored():
    from alignbench.configuration.build import build

    for node in composed([]).evaluators.values():
        found = compare(build(node), None)
        assert found.outcome == "as stored"
        assert found.largest_difference is not None
        assert found.largest_difference < 1e-4


def test_first_values_are_kept_and_later_ones_compared(tmp_path, cpu, monkeypatch):
    light = Light()
    first = calibrate([light], tmp_path, cpu)["light@1"]
    assert (first.outcome, first.largest_difference, light.num_scored) == ("first values", None, 4)
    again = calibrate([light], tmp_path, cpu)["light@1"]
    assert (again.known, light.num_scored) == (True, 4)
    monkeypatch.setattr(reference, "version", lambda name: "another")
    later = calibrate([Light(shift=4e-4)], tmp_path, cpu)["light@1"]
    assert later.outcome == "as before"
    assert later.largest_difference == pytest.approx(4e-4, rel=1e-3)
    monkeypatch.setattr(reference, "version", lambda name: "a third")
    with pytest.raises(UserError, match=r"light@1 differs by 0.0008 from the values of its first calibration"):
        calibrate([Light(shift=8e-4)], tmp_path, cpu)


@pytest.mark.parametrize(
    ("change", "named"), [({"digest": "f00d"}, "weights"), ({"precision": "bfloat16"}, "precision")]
)
def test_one_results_folder_takes_one_way_of_scoring(tmp_path, cpu, change, named):
    calibrate([Light()], tmp_path, cpu)
    with pytest.raises(UserError, match=f"light@1 scored with another {named} in this results folder"):
        calibrate([Light(**change)], tmp_path, cpu)
    assert calibrate([Light(**change)], tmp_path / "other", cpu)["light@1"].outcome == "first values"


def test_only_one_process_writes(tmp_path, cpu):
    calibrate([Light()], tmp_path, cpu, write=False)
    assert not (tmp_path / RECORD).exists()


@pytest.mark.parametrize("shift", [-2.0, 2.0, float("nan")])
def test_impossible_scores_are_refused(shift):
    with pytest.raises(UserError, match="where 0 to 1 is possible; its weights are damaged"):
        compare(Light(shift), None)


def test_prompts_have_to_fit_their_own_images_best():
    assert compare(Light(matches=[0, 1, 2, 3], matches_prompts=True), None).values == [1.0] * 4
    message = "finds that coffee.png shows 'a rocket on its launch pad at dusk' rather than 'a red cup"
    with pytest.raises(UserError, match=message):
        compare(Light(matches=[0, 1, 3, 2], matches_prompts=True), None)
    assert compare(Light(matches=[0, 1, 3, 2]), None).values == [1.0, 1.0, 0.0, 0.0]  # not every evaluator claims it


@pytest.mark.parametrize(
    ("change", "fits"),
    [({"shift": 4e-4}, True), ({"shift": 1e-3}, False), ({"shift": 4e-3, "precision": "bfloat16"}, True),
     ({"shift": 6e-3, "precision": "bfloat16"}, False), ({"shift": 0.1, "digest": "f00d"}, None)],
)  # fmt: skip
def test_stored_values_hold_for_their_weights(monkeypatch, tmp_path, change, fits):
    monkeypatch.setattr(reference, "STORED", tmp_path / "values.json")
    store({"light@1": (info(Light()), compare(Light(), None))})
    if fits is False:
        with pytest.raises(UserError, match="from the values stored with the program"):
            compare(Light(**change), None)
    else:
        assert compare(Light(**change), None).outcome == ("as stored" if fits else "first values")


def test_an_evaluator_can_have_a_tolerance_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setattr(reference, "STORED", tmp_path / "values.json")
    store({"light@1": (info(Light()), compare(Light(), None))})
    assert compare(Light(shift=9e-3, tolerance=0.01), None).outcome == "as stored"
    with pytest.raises(UserError, match=r"differs by 0\.011 from .*, where 0\.01 is allowed"):
        compare(Light(shift=0.011, tolerance=0.01), None)


def test_an_evaluator_can_have_images_and_prompts_of_its_own(tmp_path):
    own = tmp_path / "own.json"
    Image.new("RGB", (32, 32), (51, 51, 51)).save(tmp_path / "dark.png")
    own.write_text(json.dumps([{"file": "dark.png", "prompt": SAMPLES["photos"][2]["prompt"]}]))
    assert compare(Light(calibration_samples=own), None).values == pytest.approx([0.2])


def test_values_of_lower_precision_are_not_stored(monkeypatch, tmp_path):
    monkeypatch.setattr(reference, "STORED", tmp_path / "values.json")
    half = Light(precision="float16")
    store({"light@1": (info(half), compare(half, None))})
    assert json.loads((tmp_path / "values.json").read_text()) == {}


def test_the_summary_counts_what_is_as_expected_and_names_what_has_nothing_to_be_compared_with():
    def found(*outcomes, known=()):
        return {f"e{i}@1": Calibration(outcome, None, [], known=i in known) for i, outcome in enumerate(outcomes)}

    assert summary(found("as stored")) == "1 evaluator scores the test images as expected"
    assert summary(found("as stored", "as before", "first values")) == (
        "2 evaluators score the test images as expected; first scores of the test images by e2@1, kept for comparison"
    )
    assert summary(found("as stored", "first values", known=(0, 1))) == ""


def test_the_program_calibrates_what_is_present_and_tells_what_is_not(capsys, tmp_path):
    before = STORED.read_bytes()
    overrides = [
        "+evaluator@evaluators.hpsv2_1=hpsv2_1",
        f"evaluators.hpsv2_1.source={tmp_path}",
        f"results={tmp_path}",
    ]
    assert program.calibrate_all(overrides, precision=None, keep=False)
    lines = capsys.readouterr().out.splitlines()
    assert sum("as stored" in line for line in lines) == 6
    assert sum("hpsv2_1" in line and "absent" in line for line in lines) == 1
    assert STORED.read_bytes() == before
    assert not (tmp_path / RECORD).exists()


def test_the_program_refuses_where_no_weights_are_present(tmp_path):
    gone = [f"evaluators.{name}.source={tmp_path}" for name in ("hpsv2_1", "image_reward", "aesthetic", "clip_score")]
    with pytest.raises(UserError, match="no evaluator has its weights here"):
        program.calibrate_all(["evaluators=papers", f"evaluators.pickscore.tokenizer={tmp_path}", *gone], None, False)
