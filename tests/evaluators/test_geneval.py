"""GenEval from pictures to tables, with a tiny detector that finds cats everywhere."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image, ImageColor
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

from alignbench.configuration.build import conf_folder
from alignbench.data.prompts import drawbench, geneval
from alignbench.errors import UserError
from alignbench.scoring.calibration import _samples, scores
from alignbench.scoring.evidence import evidence_file
from evaluators.annotations import Annotations
from evaluators.geneval import CLASSES, MMDET_FILE, GenEval, GenEvalFacebook, Scene
from evaluators.geneval_colours import ColourClassifier, isolated
from evaluators.geneval_rules import COLOURS
from evaluators.networks.mask2former import DetectedObject
from tests.evaluators.conftest import TINY_QUICK
from tests.program import alignbench, rows

CAT, BENCH = "a photo of a cat", "a photo of a bench"


# ---- colours


class PaintClip:
    """Stands in for CLIP: its features are red, green and blue, of the word for a colour and of what is not grey."""

    def __init__(self):
        self.num_seen = 0

    def preprocess(self, pictures):
        arrays = [np.asarray(picture).reshape(-1, 3).astype(np.float32) for picture in pictures]
        return torch.stack([torch.from_numpy(one[(one != 0x99).any(axis=1)].mean(axis=0)) for one in arrays])

    def image_features(self, inputs):
        self.num_seen += len(inputs)
        return torch.nn.functional.normalize(inputs - 127.5, dim=-1)

    def embed_text(self, texts):
        words = [text.removeprefix("a photo of a ").replace("-colored", "").split()[0] for text in texts]
        colours = torch.tensor([ImageColor.getrgb(word) for word in words], dtype=torch.float32)
        return torch.nn.functional.normalize(colours - 127.5, dim=-1)


@pytest.fixture
def painted():
    """A picture with a blue disc and a yellow square on pink, and its two objects."""
    picture = Image.new("RGB", (60, 40), "pink")
    y, x = np.mgrid[:20, :20]
    disc = (x - 9.5) ** 2 + (y - 9.5) ** 2 < 100
    pixels = np.array(picture)
    pixels[10:30, 5:25][disc] = ImageColor.getrgb("blue")
    pixels[5:15, 40:50] = ImageColor.getrgb("yellow")
    objects = (
        DetectedObject(CLASSES.index("cup"), 0.9, (5, 10, 25, 30), disc),
        DetectedObject(CLASSES.index("clock"), 0.8, (40, 5, 50, 15), np.ones((10, 10), bool)),
    )
    return Image.fromarray(pixels), objects


def test_around_the_object_all_is_grey(painted):
    picture, (disc, square) = painted
    alone = np.asarray(isolated(picture, disc))
    assert alone.shape == (20, 20, 3)
    assert alone[0, 0].tolist() == [0x99] * 3, "a corner of the box is outside of the disc"
    assert alone[10, 10].tolist() == [0, 0, 255]
    assert {tuple(pixel) for pixel in alone.reshape(-1, 3)} == {(0x99, 0x99, 0x99), (0, 0, 255)}
    assert np.asarray(isolated(picture, square)).reshape(-1, 3).tolist() == [[255, 255, 0]] * 100


def test_painted_objects_have_their_colours(painted):
    picture, objects = painted
    classify = ColourClassifier(PaintClip())
    found = [classify(picture, one, CLASSES[one.label]) for one in objects]
    assert [COLOURS[int(np.argmax(one))] for one in found] == ["blue", "yellow"]
    assert [sum(one) for one in found] == pytest.approx([1, 1])


def test_the_vector_of_a_colour_is_the_normalised_mean_of_three_texts():
    asked = []

    def embed_text(texts):
        asked.extend(texts)
        return torch.eye(len(texts))  # all of them at right angles

    vectors = ColourClassifier(SimpleNamespace(embed_text=embed_text)).colour_vectors("cup")
    assert asked[3:6] == ["a photo of a orange cup", "a photo of a orange-colored cup", "a photo of a orange object"]
    assert vectors.shape == (10, 30)
    assert vectors[1, 3:6].tolist() == pytest.approx([3**-0.5] * 3)
    assert vectors[1].norm().item() == pytest.approx(1)


def test_a_colour_is_asked_for_once_for_all_evaluators(painted):
    picture, objects = painted
    clip = PaintClip()
    scene = Scene(picture, objects, ColourClassifier(clip))
    assert scene.colours(objects[0], "cup") == scene.colours(objects[0], "cup")
    assert clip.num_seen == 1


# ---- the evaluator


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    """A folder of a tiny random network that is sure to see cats in all of its masks."""
    torch.manual_seed(0)
    stages = {"out_features": ["stage1", "stage2", "stage3", "stage4"], "num_heads": [1, 1, 2, 2], "window_size": 7}
    config = Mask2FormerConfig(
        backbone_config=SwinConfig(embed_dim=8, depths=[1, 1, 1, 1], **stages), num_labels=80, num_queries=3,
        decoder_layers=2, encoder_layers=1, hidden_dim=32, feature_size=32, mask_feature_size=32,
        encoder_feedforward_dim=16, dim_feedforward=16, num_attention_heads=2,
    )  # fmt: skip
    network = Mask2FormerForUniversalSegmentation(config)
    torch.nn.init.zeros_(network.class_predictor.weight)
    network.class_predictor.bias.data = torch.full((81,), -9.0)
    network.class_predictor.bias.data[CLASSES.index("cat")] = 9.0
    folder = tmp_path_factory.mktemp("detector")
    network.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def _small_input(monkeypatch):
    monkeypatch.setattr("evaluators.networks.mask2former.SHORT_SIDE", 64)


@pytest.fixture(scope="module")
def three(detector, weights):
    """The evaluators of the three rules with facebook's detector."""
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        node = compose("evaluator/geneval_fb").evaluator
    node.source, node.clip.source, node.clip.architecture = str(detector), weights["clip_score_l14"], TINY_QUICK
    return [instantiate(node, rules=rules) for rules in ("published", "strict", "soft")]


@pytest.fixture
def pictures(photos):
    return [*photos(2, 48), photos(1, 96)[0].crop((0, 0, 96, 64))]


def test_the_names_of_classes_are_those_of_the_prompts():
    annotations = Annotations("geneval").values()
    assert {clause["class"] for one in annotations for clause in one["include"]} == set(CLASSES)
    assert len(CLASSES) == 80


def test_cats_are_found_and_nothing_else(three, pictures):
    published, strict, soft = three
    assert [one.name for one in three] == ["geneval_fb", "geneval_fb_strict", "geneval_fb_soft"]
    assert published.score(pictures, [CAT, BENCH, CAT]).tolist() == [1, 0, 1]
    found, evidence = published.explain(published.image_features(pictures[:2]), published.encode_prompts([CAT, BENCH]))
    assert found.tolist() == [1, 0]
    num_cats = sum(one["object"] == "cat" for one in evidence[0]["objects"])
    scores = [one["score"] for one in evidence[0]["objects"]]
    assert scores == sorted(scores, reverse=True)
    assert min(scores) > 0.3
    assert evidence[0]["reasons"] == []
    [condition] = evidence[0]["conditions"]
    assert condition == {"condition": "cat >= 1", "holds": True, "margin": evidence[0]["margin"]}
    assert condition["margin"] > 0
    assert evidence[1]["reasons"] == ["expected bench >= 1, found 0"]
    assert evidence[1]["margin"] == pytest.approx(0.3, abs=1e-3)
    assert strict.score(pictures[:1], [CAT]).item() == (num_cats == 1)
    assert soft.score(pictures[:1], [CAT]).item() == 2 - num_cats
    json.dumps(evidence)


def test_scores_do_not_depend_on_the_batch(three, pictures):
    published, *_ = three
    prompts = [prompt for prompt in geneval("geneval", None).texts if " cat" in prompt]
    images = [pictures[number % 3] for number in range(len(prompts))]
    together = published.explain(published.image_features(images), published.encode_prompts(prompts))
    alone = [
        published.explain(published.image_features([image]), published.encode_prompts([prompt]))
        for image, prompt in zip(images, prompts, strict=True)
    ]
    assert torch.equal(torch.cat([scores for scores, _ in alone]), together[0])
    assert [evidence for _, [evidence] in alone] == together[1]
    assert any(one["condition"] == "green cat" for evidence in together[1] for one in evidence["conditions"])


def test_the_three_share_what_is_seen_and_differ_in_name(three):
    assert len({(one.preprocess, one.shared_pass, one.weights) for one in three}) == 1
    assert [one.range for one in three] == [(0, 1), (0, 1), (-14, 1)]
    assert {(one.summary, one.overall) for one in three} == {("mean", "groups")}


def test_other_prompts_are_refused_before_anything_loads(three, monkeypatch):
    monkeypatch.setattr("evaluators.geneval.load_mask2former", None)
    sentence = three[0].supports([CAT, "a cat"])
    assert sentence == (
        "geneval_fb scores the prompts of GenEval alone (prompts=geneval), and 1 of 2 prompts have no annotation in "
        "geneval.jsonl, such as 'a cat'"
    )
    assert three[0].supports(drawbench("drawbench", None).texts).startswith("geneval_fb scores the prompts of GenEval")
    assert three[0].supports(geneval("geneval", None).texts) is None


def test_mmdets_file_and_facebooks_have_names_of_their_own(tmp_path, weights, detector):
    clip = SimpleNamespace(precision="float32")
    (tmp_path / MMDET_FILE).write_bytes(b"\x80weights")
    assert GenEval("strict", str(tmp_path), None, clip).name == "geneval_strict"
    assert GenEvalFacebook("soft", str(detector), None, clip).name == "geneval_fb_soft"
    with pytest.raises(UserError, match=f"lacks {MMDET_FILE}"):
        GenEval("published", str(detector), None, clip)
    with pytest.raises(ValueError, match="rules=exact is unknown; available: published, strict, soft"):
        GenEval("exact", str(tmp_path), None, clip)


def test_a_detector_of_other_classes_is_refused(three, detector, monkeypatch):
    config = Mask2FormerConfig.from_json_file(detector / "config.json")
    config.num_labels = 133
    other = Mask2FormerForUniversalSegmentation(config)
    monkeypatch.setattr("evaluators.geneval.load_mask2former", lambda *_: other)
    three[0].release()
    with pytest.raises(UserError, match="tells 133 classes apart; geneval_fb needs a detector of COCO's 80"):
        _ = three[0].network


def test_calibration_has_samples_of_its_own(three):
    folder, samples = _samples(three[0])
    assert three[0].supports([sample["prompt"] for sample in samples]) is None
    assert all((folder / sample["file"]).is_file() for sample in samples)
    assert scores(three[0]) == [1, 0, 0, 1]  # a cat everywhere: prompts are of a cat, a cup, a person and a cat


# ---- the whole path


@pytest.mark.matrix
def test_tables_have_the_mean_of_tasks_and_a_row_for_each(detector, weights, tmp_path, pictures):
    prompts = [CAT, BENCH, "a photo of two clocks"]  # two of one task, one of another
    for name in ("before", "after"):
        (tmp_path / name).mkdir()
        for number, picture in enumerate(pictures):
            picture.save(tmp_path / name / f"{number}.png")
        lines = [json.dumps({"file": f"{number}.png", "prompt": prompt}) for number, prompt in enumerate(prompts)]
        (tmp_path / name / "list.jsonl").write_text("\n".join(lines))
    results = tmp_path / "results"
    architecture = json.dumps(TINY_QUICK).replace('"', "").replace("true", "True")
    command = (
        "model=images", f"model.folders=[{tmp_path / 'before'},{tmp_path / 'after'}]", f"results={results}",
        "calibration=false", "evaluators=none", "+evaluator@evaluators.geneval_fb=geneval_fb",
        f"evaluators.geneval_fb.source={detector}", f"evaluators.geneval_fb.clip.source={weights['clip_score_l14']}",
        f"evaluators.geneval_fb.clip.architecture={architecture}",
    )  # fmt: skip
    alignbench(*command)
    table = {row["group"]: row for row in rows(results / "leaderboard.csv") if row["method"] == "after"}
    means = {group: float(row["mean"]) for group, row in table.items()}
    assert means == {"all": 0.25, "counting": 0.0, "single_object": 0.5}  # of images it would be 1 / 3
    assert float(table["all"]["mean_ci_low"]) <= 0.25 <= float(table["all"]["mean_ci_high"])
    text = (results / "leaderboard.md").read_text()
    assert "Mean score" in text
    assert "geneval\\_fb ↑, mean" in text
    assert "of no run are more than 0.0 % of the images within 0.02" in text
    [file] = results.glob("*after*/scores/geneval/*/*.parquet")
    lines = [json.loads(line) for line in evidence_file(file).read_text().splitlines()]
    assert [line["prompt_id"] for line in lines if not line["reasons"]] == ["geneval-00062"]
    assert len(lines) == 3
