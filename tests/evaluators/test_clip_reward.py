"""PickScore, HPSv2 and CLIPScore: as published, the same in any batch, and with an exact gradient."""

import copy
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip import tokenize
from PIL import Image
from torch.nn import functional as F
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer

from alignbench.errors import UserError
from alignbench.models.weights.state_dicts import read_state_dict
from alignbench.scoring.score import info, score
from alignbench.store.image_records import ImageSet, PromptRecord
from alignbench.store.manifest import Manifest
from alignbench.store.run_folder import RunFolder
from alignbench.store.scores import Scores
from evaluators.clip_score import ClipScore
from evaluators.hpsv2 import HPSv2
from evaluators.pickscore import PickScore

NAMES = ["pickscore", "hpsv2_0", "hpsv2_1", "clip_score", "clip_score_l14"]
CURLY = "it\u2019s the artist\u2019s cat"
PROMPTS = ["a red fox in the snow", "An astronaut, riding a horse", "", CURLY, "cat " * 100]


@pytest.fixture(scope="module")
def build(weights, tokenizer_folder, architecture):
    """Build an evaluator by its name on tiny weights."""
    classes = {
        "pickscore": partial(PickScore, tokenizer=str(tokenizer_folder)),
        "hpsv2_0": partial(HPSv2, "hpsv2_0"),
        "hpsv2_1": partial(HPSv2, "hpsv2_1"),
        "clip_score": partial(ClipScore, "clip_score"),
        "clip_score_l14": partial(ClipScore, "clip_score_l14"),
    }

    def make(name, **arguments):
        tiny = architecture | {"quick_gelu": name == "clip_score_l14"}
        return classes[name](**{"source": weights[name], "architecture": tiny} | arguments)

    return make


@pytest.fixture(scope="module")
def evaluators(build):
    """One evaluator of each name; for tests that leave them as they are."""
    return {name: build(name) for name in NAMES}


# ---- as published


@pytest.mark.parametrize("name", ["hpsv2_0", "hpsv2_1", "clip_score"])
@torch.no_grad()
def test_scores_are_those_of_open_clip(evaluators, photos, tiny_open_clip, name):
    images, evaluator = photos(5, 300), evaluators[name]
    image = F.normalize(tiny_open_clip.encode_image(evaluator.preprocess(images)), dim=-1)
    text = F.normalize(tiny_open_clip.encode_text(tokenize(PROMPTS)), dim=-1)
    torch.testing.assert_close(evaluator.score(images, PROMPTS), (image * text).sum(dim=-1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["pickscore", "clip_score_l14"])
@torch.no_grad()
def test_scores_are_those_of_transformers(evaluators, photos, tokenizer_folder, tiny_pickscore, tiny_openai_clip, name):
    network = tiny_pickscore if name == "pickscore" else tiny_openai_clip
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder)
    ids = tokenizer(PROMPTS, padding="max_length", truncation=True, max_length=77, return_tensors="pt").input_ids
    images, evaluator = photos(5, 300), evaluators[name]
    output = network(
        input_ids=ids if name == "pickscore" else tokenize(PROMPTS), pixel_values=evaluator.preprocess(images)
    )
    expected = output.logits_per_image.diag() / network.logit_scale.exp()
    torch.testing.assert_close(evaluator.score(images, PROMPTS), expected, atol=1e-6, rtol=0)
    assert expected.std() > 0.01


@torch.no_grad()
def test_pickscore_is_what_its_readme_computes_with_the_processor_of_transformers(
    evaluators, weights, photographs, tokenizer_folder
):
    model = CLIPModel.from_pretrained(weights["pickscore"]).eval()
    processor = CLIPProcessor(CLIPImageProcessorPil(), CLIPTokenizer.from_pretrained(tokenizer_folder))
    arguments = {"padding": True, "truncation": True, "max_length": 77, "return_tensors": "pt"}
    expected = []
    for picture, prompt in zip(photographs, PROMPTS[1:], strict=True):
        image = model.get_image_features(**processor(images=picture, **arguments)).pooler_output
        text = model.get_text_features(**processor(text=prompt, **arguments)).pooler_output
        expected.append((text / text.norm(dim=-1)) @ (image / image.norm(dim=-1)).T)
    scores = evaluators["pickscore"].score(photographs, PROMPTS[1:])
    torch.testing.assert_close(scores, torch.cat(expected)[:, 0], atol=1e-6, rtol=0)


def test_each_reads_prompts_with_the_tokenizer_it_was_published_with(evaluators, tokenizer_folder):
    plain, curly = PROMPTS[:2], [CURLY]
    pickscore, hpsv2, clip_score = (evaluators[name] for name in ("pickscore", "hpsv2_1", "clip_score"))
    assert torch.equal(pickscore.tokenize(plain), hpsv2.tokenize(plain))
    assert torch.equal(clip_score.tokenize(curly), clip_score.tokenize(["it's the artist's cat"]))
    assert torch.equal(clip_score.tokenize(curly), hpsv2.tokenize(curly))
    assert not torch.equal(pickscore.tokenize(curly)[:, :4], hpsv2.tokenize(curly)[:, :4])
    expected = CLIPTokenizer.from_pretrained(tokenizer_folder)(curly, return_tensors="pt").input_ids
    assert torch.equal(pickscore.tokenize(curly), expected)


@pytest.mark.parametrize("name", ["pickscore", "hpsv2_1"])
def test_a_prompt_cut_at_77_tokens_keeps_its_end_token(evaluators, name):
    evaluator = evaluators[name]
    ids = evaluator.tokenize(["cat " * 100, "cat"])
    assert ids.shape == (2, 77)
    assert ids[0, -1] == ids[1, 2] == 49407
    assert ids[0, 0] == 49406
    assert (ids[0] == 49407).sum() == 1
    cut, whole = evaluator.embed_text(["cat " * 100, "cat " * 75])
    torch.testing.assert_close(cut, whole, atol=1e-6, rtol=0)


def test_the_two_releases_of_hpsv2_and_the_two_clips_share_no_table(build, evaluators):
    infos = [info(evaluators[name]) for name in NAMES]
    assert [entry.evaluator for entry in infos] == NAMES
    assert {entry.display_scale for entry in infos} == {100.0}
    assert info(build("hpsv2_1", preprocess="legacy_noaa")) != info(build("hpsv2_1"))
    assert info(build("hpsv2_1", precision="bfloat16")) != info(build("hpsv2_1"))


def test_preprocessing_is_shared_by_all_but_hpsv2(evaluators):
    assert len({evaluators[name].preprocess for name in NAMES if "hps" not in name}) == 1
    first, second = (evaluators[name].preprocess for name in ("hpsv2_0", "hpsv2_1"))
    assert first == second != evaluators["pickscore"].preprocess


# ---- the same in any company


@pytest.mark.parametrize("name", ["pickscore", "hpsv2_1", "clip_score"])
def test_scores_depend_neither_on_the_batch_nor_on_its_order(evaluators, photos, name):
    images, texts = photos(64, 64), [f"{number} {PROMPTS[number % 5]}" for number in range(64)]
    evaluator = evaluators[name]
    scores = evaluator.score(images, texts)
    for size in (1, 7):
        evaluator._text.clear()
        parts = [evaluator.score(images[n : n + size], texts[n : n + size]) for n in range(0, 64, size)]
        torch.testing.assert_close(torch.cat(parts), scores, atol=1e-5, rtol=0)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0)).tolist()
    evaluator._text.clear()
    shuffled = evaluator.score([images[n] for n in order], [texts[n] for n in order])
    torch.testing.assert_close(shuffled, scores[order], atol=1e-5, rtol=0)
    assert scores.dtype == torch.float32
    assert ((scores >= -1) & (scores <= 1)).all()


def test_a_prompt_is_encoded_once_and_alike_in_any_company(build, monkeypatch):
    evaluator = build("clip_score")
    encoded = []
    tokenize = evaluator.tokenize
    monkeypatch.setattr(evaluator, "tokenize", lambda prompts: encoded.extend(prompts) or tokenize(prompts))
    first = evaluator.embed_text(PROMPTS[:2])
    again = evaluator.embed_text([PROMPTS[4], PROMPTS[1], PROMPTS[0], PROMPTS[4]])
    assert encoded == [PROMPTS[0], PROMPTS[1], PROMPTS[4]]
    assert torch.equal(again[1:3], first.flip(0))
    assert torch.equal(build("clip_score").embed_text(PROMPTS)[[4, 1, 0, 4]], again)


@pytest.mark.parametrize("name", ["pickscore", "hpsv2_1", "clip_score"])
def test_prompts_encoded_before_give_the_scores_of_prompts_encoded_anew(build, photos, tmp_path, monkeypatch, name):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    images, texts = photos(10, 64), [f"{PROMPTS[number % 5]} {number // 5}" for number in range(10)]
    for number, image in enumerate(images):
        image.save(tmp_path / f"{number}.png")
    rows = [PromptRecord(f"p{n}", text, (), (str(tmp_path / f"{n}.png"),)) for n, text in enumerate(texts)]

    def table(run, prompts):
        folder, evaluator = RunFolder(tmp_path / run), build(name)
        folder.open(Manifest(run, "base", "test", None, "0", "0"))
        images = ImageSet("test", "0", [row for row in rows if row.prompt in prompts], None, generated=False)
        score(folder, images, [evaluator], 4, progress=False)
        return Scores.read(folder.score_file("test", "0", name, "1")).score, evaluator

    some, _ = table("some", texts[3:])  # so that those of `mixed` are partly read and partly encoded
    mixed, _ = table("mixed", texts)
    kept, reader = table("kept", texts)
    assert not reader._text  # nothing was encoded
    anew = build(name).score(images, texts).numpy()
    np.testing.assert_allclose(mixed, anew, atol=1e-6)
    np.testing.assert_allclose(mixed[3:], some, atol=1e-6)  # in other batches
    np.testing.assert_array_equal(kept, mixed)


# ---- precision


@pytest.mark.parametrize(("precision", "bound"), [("bfloat16", 0.02), ("float16", 0.003)])
def test_half_precision_moves_scores_a_little_and_ties_none(build, photos, precision, bound):
    images, texts = photos(64, 64), [f"{number} {PROMPTS[number % 2]}" for number in range(64)]
    exact, half = (build("pickscore", precision=p).score(images, texts) for p in ("float32", precision))
    assert half.dtype == torch.float32
    assert (half - exact).abs().max() < bound
    assert len(half.unique()) == 64


# ---- as rewards


@pytest.mark.parametrize("name", NAMES)
def test_the_training_path_differs_from_the_published_one_by_the_resizing_alone(evaluators, photos, pixels_of, name):
    evaluator, images = evaluators[name], photos(5, 512)
    difference = 100 * (evaluator.score(images, PROMPTS) - evaluator.reward(pixels_of(images), PROMPTS))
    # these pictures have more fine detail and more saturated pixels than photographs: harder to resize alike
    assert difference.abs().max() < (0.001 if "hps" in name else 0.3)


@pytest.mark.parametrize("name", NAMES)
def test_the_training_path_keeps_within_a_tenth_on_photographs(evaluators, photographs, pixels_of, name):
    published = evaluators[name].score(photographs, PROMPTS[:4])
    trained = torch.cat(
        [evaluators[name].reward(pixels_of([image]), [text]) for image, text in zip(photographs, PROMPTS, strict=False)]
    )
    assert 100 * (published - trained).abs().max() < 0.1
    assert 100 * published.std() > 1


@pytest.mark.parametrize("name", ["pickscore", "hpsv2_1", "clip_score"])
def test_the_gradient_through_pixels_matches_finite_differences(build, photos, pixels_of, name):
    evaluator = build(name)
    evaluator.network = copy.deepcopy(evaluator.network).double()  # others share it
    pixels = pixels_of(photos(2, 256)).double().requires_grad_()
    gradient = torch.autograd.grad(evaluator.reward(pixels, PROMPTS[:2]).sum(), pixels)[0]
    assert torch.isfinite(gradient).all()
    assert (gradient != 0).double().mean() > 0.99
    block = torch.zeros_like(pixels)
    block[:, :, 100:108, 60:68] = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    ahead, behind = (evaluator.reward(pixels.detach() + s * 1e-5 * block, PROMPTS[:2]).sum() for s in (1, -1))
    slope = (ahead - behind) / 2e-5
    assert slope.abs() > 1e-6
    torch.testing.assert_close((gradient * block).sum(), slope, rtol=1e-5, atol=0)


def test_gradient_checkpointing_computes_layers_twice_and_changes_nothing(build, photos, pixels_of):
    rewards, gradients, calls = [], [], []
    for checkpointing in (False, True):
        evaluator = build("hpsv2_1", gradient_checkpointing=checkpointing)
        count = []
        evaluator.network.vision_model.encoder.layers[0].layer_norm1.register_forward_hook(
            lambda *_, c=count: c.append(1)
        )
        pixels = pixels_of(photos(2, 256)).requires_grad_()
        reward = evaluator.reward(pixels, PROMPTS[:2])
        gradients.append(torch.autograd.grad(reward.sum(), pixels)[0])
        rewards.append(reward.detach())
        calls.append(len(count))
    assert calls == [1, 2]
    assert torch.equal(*rewards)
    torch.testing.assert_close(*gradients)


def test_the_reward_is_the_product_of_its_embeddings_and_only_pixels_get_a_gradient(evaluators, photos, pixels_of):
    for evaluator in evaluators.values():
        pixels = pixels_of(photos(2, 64))
        image, text = evaluator.embed_image(pixels), evaluator.embed_text(PROMPTS[:2])
        assert evaluator.has_embeddings
        torch.testing.assert_close(image.norm(dim=-1), torch.ones(2))
        torch.testing.assert_close(text.norm(dim=-1), torch.ones(2))
        torch.testing.assert_close(evaluator.reward(pixels, PROMPTS[:2]), (image * text).sum(dim=-1))
        assert not any(parameter.requires_grad for parameter in evaluator.network.parameters())
        assert not any(module.training for module in evaluator.network.modules())


# ---- refusals


@pytest.mark.parametrize(
    ("make", "file"),
    [
        (PickScore, "model.safetensors"),
        (partial(HPSv2, "hpsv2_0"), "HPS_v2_compressed.pt"),
        (partial(HPSv2, "hpsv2_1"), "HPS_v2.1_compressed.pt"),
        (partial(ClipScore, "clip_score"), "open_clip_pytorch_model.bin"),
        (partial(ClipScore, "clip_score_l14"), "model.safetensors"),
    ],
)
def test_absent_weights_are_refused_in_one_sentence_when_the_evaluator_is_built(make, file, tmp_path, tokenizer_folder):
    arguments = {"tokenizer": str(tokenizer_folder)} if make is PickScore else {}
    with pytest.raises(UserError) as refused:
        make(source=str(tmp_path), **arguments)
    assert str(refused.value).startswith(f"{tmp_path} lacks {file}; give {file} or its folder")
    assert "\n" not in str(refused.value)


def test_an_absent_tokenizer_is_refused(weights, tmp_path):
    with pytest.raises(UserError, match=r"lacks tokenizer\.json"):
        PickScore(weights["pickscore"], tokenizer=str(tmp_path))


def test_the_tokenizer_needs_no_other_file(build, evaluators, tokenizer_folder, tmp_path):
    shutil.copy(tokenizer_folder / "tokenizer.json", tmp_path)
    alone = build("pickscore", tokenizer=str(tmp_path))
    assert torch.equal(alone.tokenize(PROMPTS), evaluators["pickscore"].tokenize(PROMPTS))


def test_weights_are_read_when_they_are_first_needed(build):
    evaluator = build("hpsv2_1")
    assert evaluator.supports(PROMPTS) is None
    assert "network" not in vars(evaluator)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda state: state.pop("visual.ln_post.bias"), "missing: vision_model.post_layernorm.bias;"),
        (lambda state: state.update(extra=torch.ones(1)), "left over: extra;"),
    ],
)
def test_weights_that_do_not_fit_are_named(build, weights, tmp_path, change, complaint):
    state = read_state_dict(Path(weights["clip_score"]) / "open_clip_pytorch_model.bin")
    change(state)
    torch.save(state, tmp_path / "open_clip_pytorch_model.bin")
    with pytest.raises(UserError, match=complaint):
        build("clip_score", source=str(tmp_path)).score([Image.new("RGB", (8, 8))], ["a"])


def test_an_unknown_preprocessing_is_answered_with_those_that_exist(build):
    with pytest.raises(UserError, match="preprocess=aliased is unknown; available: antialias, legacy_noaa"):
        build("hpsv2_1", preprocess="aliased")
