"""A BLIP learns from scenes and captions which prompts are right of an image; what was shipped has learned it."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from alignbench.miniature.candidates import scene_for, with_fault
from alignbench.miniature.captions import Demand, demand_of, parse, prompts, split_of
from alignbench.miniature.oracle import facts
from alignbench.miniature.pretrain.examples import (
    PATCH_ANSWERS,
    RESERVED_SHARE,
    Example,
    draw_example,
    met_by,
    truths,
)
from alignbench.miniature.pretrain.export import export_matching
from alignbench.miniature.pretrain.loop import Plan
from alignbench.miniature.pretrain.matching import (
    MatchingTraining,
    build_matching,
    build_tokenizer,
    matching_loss,
    train_matching,
)
from alignbench.miniature.pretrain.tokenizers import GRAMMAR_WORDS, build_wordpiece_vocabulary
from alignbench.miniature.reading import read
from alignbench.miniature.scenes import STYLES, Scene, Shape, render, sample_scene
from alignbench.text import is_held_out
from evaluators.shapes_matching import FOLDER, ShapesMatching

SCENE = Scene(
    (Shape("square", "blue", "small", 0.3, 0.5, 0.1), Shape("cross", "yellow", "large", 0.7, 0.5, 0.18)), "gray", "flat"
)


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    rng = np.random.default_rng(0)
    return [draw_example(rng) for _ in range(200)]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    path = tmp_path_factory.mktemp("matching") / "vocabulary.txt"
    path.write_text("".join(f"{piece}\n" for piece in build_wordpiece_vocabulary()))
    return path


# ---- what is shown


def test_a_scene_meets_as_many_demands_as_the_oracle_reads_in_its_rendering():
    """Which of two halves of a swapped colour is the wrong one, both may see differently."""
    rng = np.random.default_rng(1)
    for _ in range(40):
        scene = sample_scene(rng, style="flat")
        demand = replace(demand_of(scene), style=None)
        for asked in (demand, with_fault(demand, rng), with_fault(with_fault(demand, rng), rng)):
            met, as_read = met_by(scene, asked), facts(read(render(scene, rng)), asked)
            assert met.keys() == as_read.keys()
            assert sum(met.values()) == sum(as_read.values())


def test_a_style_word_is_a_demand_like_any_other():
    assert met_by(SCENE, demand_of(SCENE))["style"]
    assert not met_by(SCENE, replace(demand_of(SCENE), style="shaded"))["style"]
    assert "style" not in met_by(SCENE, replace(demand_of(SCENE), style=None))


def test_first_captions_are_right_and_the_others_mostly_wrong(examples):
    right = np.array([[all(met.values()) for met in one.met] for one in examples])
    assert right[:, 0].all()
    assert right[:, 1:].mean() < 0.1


def test_no_caption_is_of_the_held_out_split_nor_one_that_judges_are_measured_on(examples):
    shown: list[Demand] = [parse(caption) for one in examples for caption in one.captions]
    assert {split_of(demand) for demand in shown} == {"train"}
    assert not any(is_held_out(str(replace(demand, style=None)), RESERVED_SHARE) for demand in shown)


def test_each_word_answers_for_what_it_says():
    caption = "shaded . a small blue square left of a large red cross , gray background [SEP] [PAD]".split()
    met = met_by(SCENE, parse("shaded. a small blue square left of a large red cross, gray background"))
    wrong = [word for word, truth in zip(caption, truths(caption, met), strict=True) if truth == 0]
    silent = [word for word, truth in zip(caption, truths(caption, met), strict=True) if truth == -1]
    assert wrong == ["shaded", "red"]
    assert silent == [".", "a", "of", "a", ",", "background", "[PAD]"]


def test_patches_show_the_shape_that_covers_them(examples):
    for one in examples:
        demand = parse(one.captions[0])
        seen = {tuple(row) for row in one.shown.tolist()} - {(0, 0, 0, 0)}
        said = {(PATCH_ANSWERS[0].index(what.shape), PATCH_ANSWERS[1].index(what.colour)) for what in demand.shapes}
        assert {row[:2] for row in seen} == said


def test_dirt_is_told_where_it_was_laid(examples):
    dirty = [one for one in examples if one.dirt.any()]
    assert 0.15 < len(dirty) / len(examples) < 0.45
    assert max(abs(one.dirt).max() for one in dirty) < 1.1


# ---- training


def test_words_of_the_world_are_one_piece_and_others_are_spelled(vocabulary):
    tokenizer = build_tokenizer(vocabulary)
    assert tokenizer.pad_token_id == 0
    for word in GRAMMAR_WORDS:
        assert tokenizer.tokenize(word) == [word]
    assert tokenizer.unk_token_id not in tokenizer("A zebra's 4 hats; in C3!").input_ids
    assert tokenizer.tokenize("Zebra") == ["z", "##e", "##b", "##r", "##a"]


@pytest.mark.matrix
def test_training_goes_on_where_it_stopped_and_what_it_made_is_an_evaluator(vocabulary, tmp_path):
    tokenizer, plan = build_tokenizer(vocabulary), Plan(num_updates=2, learning_rate=1e-3, muon="encoder")
    networks = []
    for stops in ((2,), (1, 2)):
        stage = tmp_path / f"stage {len(stops)}"
        for stop in stops:
            torch.manual_seed(7)
            network = build_matching(tokenizer)
            train_matching(network, tokenizer, stage, replace(plan, stop_at=stop))
        networks.append(network)
    whole, resumed = networks
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)

    (stage / "vocabulary.txt").write_bytes(vocabulary.read_bytes())
    export_matching(stage, tmp_path / "shipped")
    evaluator = ShapesMatching(tmp_path / "shipped")
    images = [Image.fromarray(render(SCENE, np.random.default_rng(0)))] * 2
    texts = ["a small blue square left of a large yellow cross, gray background", "a cat"]
    with torch.no_grad():
        seen = whole.vision(pixel_values=evaluator.preprocess(images)).last_hidden_state
        expected = whole(seen, tokenizer(texts, padding="longest", return_tensors="pt").input_ids)
    torch.testing.assert_close(evaluator.score(images, texts), expected, atol=2e-3, rtol=0)  # half precision


def test_every_answer_reaches_the_weights(vocabulary, examples):
    tokenizer = build_tokenizer(vocabulary)
    training = MatchingTraining(build_matching(tokenizer))
    loss, _ = matching_loss(training, tokenizer, examples[:4], torch.Generator().manual_seed(0))
    loss.backward()
    unmoved = {name for name, weight in training.named_parameters() if weight.grad is None or not weight.grad.any()}
    # biases of keys cancel in the softmax; embeddings of later positions are not reached by short captions
    assert not {name for name in unmoved if not name.endswith("key.bias")}


# ---- what is shipped


def test_the_shipped_vocabulary_is_the_one_that_is_built():
    assert (FOLDER / "vocabulary.txt").read_text().split("\n")[:-1] == build_wordpiece_vocabulary()
    assert json.loads((FOLDER / "config.json").read_text())["text"]["vocab_size"] == len(
        build_tokenizer(FOLDER / "vocabulary.txt")
    )


@pytest.mark.parametrize("style", STYLES)
def test_the_shipped_network_tells_the_right_picture_from_one_with_a_single_fault(style):
    """On prompts whose content it never saw."""
    rng = np.random.default_rng(0)
    asked = prompts("heldout", 128, seed=3)
    wanted = [demand for prompt in asked for demand in (parse(prompt), with_fault(parse(prompt), rng))]
    images = [Image.fromarray(render(scene_for(demand, style, rng), rng)) for demand in wanted]
    with torch.no_grad():
        right, wrong = (
            ShapesMatching().score(images, [prompt for prompt in asked for _ in (0, 1)]).unflatten(0, (-1, 2)).T
        )
    assert (right > wrong).float().mean() > 0.9
