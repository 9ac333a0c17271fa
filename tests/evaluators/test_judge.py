"""A trained judge comes back from its folder as it was, scores and is trained on, and refuses what it is not."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from alignbench.errors import UserError
from alignbench.files import with_check, without_check
from alignbench.miniature.scenes import render, sample_scene
from alignbench.store.reward_model_folder import CONFIG, WEIGHTS, RewardModelRecord, write_reward_model
from evaluators import load
from evaluators.image_reward import ImageReward
from evaluators.judges.attention import FrozenAttention
from evaluators.judges.blip import ImageRewardLike
from evaluators.judges.clip import PickScoreLike
from evaluators.judges.head import FrozenHead
from evaluators.pickscore import PickScore
from tests.evaluators.test_image_reward import TINY, checkpoint

PROMPTS = ["a red circle on a white background", "a small blue square, and much more of it", ""]


@pytest.fixture(scope="module")
def scenes():
    randoms = [np.random.default_rng(seed) for seed in range(3)]
    return [Image.fromarray(render(sample_scene(random), random)) for random in randoms]


@pytest.fixture(scope="module")
def recipes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("image_reward")
    torch.save(checkpoint(), folder / "ImageReward.pt")
    shapes_clip = load("shapes_clip")
    return {
        "pickscore_like": PickScoreLike(shapes_clip, frozen_share=0.0),
        "image_reward_like": ImageRewardLike(ImageReward(str(folder), **TINY), frozen_share=0.5, frozen_vision=False),
        "image_reward_mini": ImageRewardLike(load("shapes_matching"), frozen_share=0.0, frozen_vision=True),
        "head": FrozenHead(shapes_clip, hidden=8, dropout=0.2),
        "attention": FrozenAttention(shapes_clip, width=16, num_blocks=1),
    }


def record(recipe, reward_model, name="anna"):
    start = recipe.start
    node = {"_target_": "evaluators.shapes_reward.ShapesReward", "name": "shapes_clip"}
    return RewardModelRecord(
        name=name,
        judge=reward_model.description(),
        start={"evaluator": start.name, "version": start.version, "weights": start.weights, "node": node},
        calibrated_on="scenes",
        judged_by=["shapes_annotators"],
        data={},
        figures={},
        training={},
        config={},
        package_versions={},
        commit=None,
    )


def moved(reward_model):
    """Return the judge with its trained weights moved, as training leaves them."""
    generator = torch.Generator().manual_seed(0)
    for parameter in reward_model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)
    reward_model.log_scale.fill_(0.3)
    return reward_model.eval()


@pytest.fixture(
    scope="module", params=["pickscore_like", "image_reward_like", "image_reward_mini", "head", "attention"]
)
def trained(request, recipes, tmp_path_factory):
    """A judge as training leaves it, and its folder."""
    torch.manual_seed(0)
    reward_model = moved(recipes[request.param].make())
    folder = tmp_path_factory.mktemp("judges") / "anna"
    write_reward_model(folder, reward_model, record(recipes[request.param], reward_model), {"reliability.png": b""})
    return reward_model, folder


@torch.no_grad()
def test_the_folder_scores_as_the_judge_did(trained, scenes):
    reward_model, folder = trained
    inputs = reward_model.preprocess(scenes)
    texts = reward_model.encode_prompts(PROMPTS)
    if reward_model.frozen_features:
        inputs, texts = reward_model.image_features(inputs), reward_model.text_features(texts)
    loaded = load("judge", path=str(folder))
    found = loaded.score(scenes, PROMPTS)
    torch.testing.assert_close(found, reward_model(inputs, texts), rtol=1e-5, atol=1e-5)
    assert found.unique().numel() == 3
    assert loaded.name == "anna"
    assert loaded.lineage == ("anna", "shapes_annotators")
    assert not any(parameter.requires_grad for parameter in loaded.network.parameters())


@torch.no_grad()
def test_several_images_of_a_prompt_are_scored_with_that_prompt(trained, scenes):
    reward_model, _ = trained
    inputs, texts = reward_model.preprocess(scenes[:2] + scenes[1:]), reward_model.encode_prompts(PROMPTS[:2])
    if reward_model.frozen_features:
        inputs, texts = reward_model.image_features(inputs), reward_model.text_features(texts)
    both = reward_model(inputs, texts)
    torch.testing.assert_close(both[:2], reward_model(inputs[:2], texts), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(both[2:], reward_model(inputs[2:], texts), rtol=1e-4, atol=1e-4)


def test_the_scale_is_a_factor_on_all_scores(trained, scenes):
    _, folder = trained
    loaded = load("judge", path=str(folder))
    before = loaded.score(scenes, PROMPTS)
    loaded.network.log_scale.add_(np.log(2.0))
    torch.testing.assert_close(loaded.score(scenes, PROMPTS), 2 * before, rtol=1e-4, atol=1e-4)


def test_it_is_a_reward_with_a_gradient_that_agrees_with_its_scores(trained, scenes):
    _, folder = trained
    reward = load("judge", path=str(folder))
    size = reward.preprocess.size
    pictures = [scene.resize((size, size)) for scene in scenes]
    pixels = torch.stack([torch.from_numpy(np.array(one)).permute(2, 0, 1) / 255 for one in pictures]).requires_grad_()
    rewards = reward.reward(pixels, PROMPTS)
    torch.testing.assert_close(rewards.detach(), reward.score(pictures, PROMPTS), rtol=1e-4, atol=1e-4)
    rewards.sum().backward()
    assert (pixels.grad.abs().amax(dim=(1, 2, 3)) > 0).all()


def test_only_judges_whose_image_and_text_meet_have_embeddings(trained):
    reward_model, folder = trained
    reward = load("judge", path=str(folder))
    assert reward.has_embeddings == (reward_model.kind == "pickscore_like")
    pixels = torch.rand(2, 3, 64, 64)
    if not reward.has_embeddings:
        with pytest.raises(TypeError, match="has no embeddings"):
            reward.embed_text(PROMPTS)
        with pytest.raises(TypeError, match="has no embeddings"):
            reward.embed_image(pixels)
        return
    texts = reward.embed_text(PROMPTS[:2])
    cosine = (reward.embed_image(pixels) * texts).sum(-1)
    scale = (reward.network.network.logit_scale + reward.network.log_scale).exp()
    torch.testing.assert_close(scale * cosine, reward.reward(pixels, PROMPTS[:2]))


def test_a_head_keeps_its_own_weights_alone(trained):
    reward_model, folder = trained
    size = (folder / WEIGHTS).stat().st_size
    if reward_model.builds_on_start:
        assert size < 40_000
    else:
        assert size > 4 * sum(parameter.numel() for parameter in reward_model.parameters())


def test_a_head_upon_other_weights_is_refused(recipes, tmp_path, scenes):
    reward_model = recipes["head"].make()
    what = record(recipes["head"], reward_model)
    write_reward_model(tmp_path / "anna", reward_model, replace(what, start=what.start | {"weights": "others"}), {})
    with pytest.raises(UserError, match="was trained upon shapes_clip@1, and what is there now has another weights"):
        load("judge", path=str(tmp_path / "anna")).score(scenes, PROMPTS)


def test_the_share_of_layers_that_stay_has_no_gradient(recipes):
    network = PickScoreLike(load("shapes_clip"), frozen_share=0.5).make().network
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    frozen = {name for name, _ in network.named_parameters()} - trained
    assert {name for name in frozen if "encoder.layers" not in name} == {
        "vision_model.embeddings.class_embedding",
        "vision_model.embeddings.patch_embedding.weight",
        "vision_model.embeddings.position_embedding.weight",
        "vision_model.pre_layrnorm.weight",
        "vision_model.pre_layrnorm.bias",
        "text_model.embeddings.token_embedding.weight",
        "text_model.embeddings.position_embedding.weight",
    }
    assert "vision_model.encoder.layers.2.mlp.fc1.weight" in trained
    assert "text_model.encoder.layers.0.mlp.fc1.weight" in frozen
    assert "logit_scale" in trained


def test_a_vision_tower_that_stays_as_it_is_has_no_gradient(recipes):
    reward_model = recipes["image_reward_mini"].make()
    assert reward_model.frozen_features
    assert not any(parameter.requires_grad for parameter in reward_model.network.vision.parameters())
    assert all(parameter.requires_grad for parameter in reward_model.network.text.parameters())


def test_a_judge_cuts_prompts_as_the_blip_that_it_starts_from(recipes, tmp_path):
    """`circle` is one piece of the shapes world's vocabulary, with another number in BERT's."""
    for kind in ("image_reward_like", "image_reward_mini"):
        start, reward_model = recipes[kind].start, recipes[kind].make()
        write_reward_model(tmp_path / kind, reward_model, record(recipes[kind], reward_model), {})
        loaded = load("judge", path=str(tmp_path / kind))
        assert torch.equal(loaded.encode_prompts(PROMPTS), start.encode_prompts(PROMPTS))
    assert not (tmp_path / "image_reward_like" / "vocabulary.txt").exists()


def test_training_does_not_move_the_evaluator_that_it_starts_from(recipes, scenes):
    start = recipes["pickscore_like"].start
    before = start.score(scenes, PROMPTS)
    moved(recipes["pickscore_like"].make())
    assert torch.equal(start.score(scenes, PROMPTS), before)


def test_a_judge_from_pickscore_reads_prompts_as_pickscore_does(weights, tokenizer_folder, architecture):
    start = PickScore(weights["pickscore"], tokenizer=str(tokenizer_folder), architecture=architecture)
    reward_model = PickScoreLike(start, 0.0).make().eval()
    prompts = ["a cat", "two dogs \u2019 bones " * 40]
    with torch.no_grad():
        texts = reward_model.text_features(reward_model.encode_prompts(prompts))
    torch.testing.assert_close(texts, start.embed_text(prompts), rtol=1e-5, atol=1e-5)


def test_a_judge_from_pickscore_needs_nothing_of_it_afterwards(
    weights, tokenizer_folder, architecture, tmp_path, photos
):
    shutil.copytree(weights["pickscore"], tmp_path / "source")
    shutil.copytree(tokenizer_folder, tmp_path / "tokenizer")
    start = PickScore(str(tmp_path / "source"), tokenizer=str(tmp_path / "tokenizer"), architecture=architecture)
    recipe = PickScoreLike(start, 0.0)
    reward_model = moved(recipe.make())
    write_reward_model(tmp_path / "anna", reward_model, record(recipe, reward_model), {})
    before = load("judge", path=str(tmp_path / "anna")).score(photos(2, 256), ["a cat", "a dog"])
    shutil.rmtree(tmp_path / "source")
    shutil.rmtree(tmp_path / "tokenizer")
    assert torch.equal(load("judge", path=str(tmp_path / "anna")).score(photos(2, 256), ["a cat", "a dog"]), before)


@torch.no_grad()
def test_words_that_are_not_there_are_not_looked_at(recipes, scenes):
    reward_model = recipes["attention"].make().eval()
    images, texts = (
        reward_model.image_features(reward_model.preprocess(scenes)),
        reward_model.text_features(reward_model.encode_prompts(PROMPTS)),
    )
    together = reward_model(images, texts)
    for row in range(3):
        length = int(texts[row].ne(0).any(dim=-1).sum())
        alone = reward_model(images[row : row + 1], texts[row : row + 1, :length])
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-5)
    assert texts.ne(0).any(dim=-1).sum(dim=1).tolist()[2] == 2  # an empty prompt has its start and its end


# ---- refusals


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        (PickScoreLike, {"frozen_share": 0.0}),
        (FrozenHead, {"hidden": 8, "dropout": 0.0}),
        (FrozenAttention, {"width": 16, "num_blocks": 1}),
    ],
)
def test_what_is_no_clip_is_no_start(recipe, options):
    with pytest.raises(UserError, match="shapes_oracle_realism has none"):
        recipe(load("shapes_oracle_realism"), **options)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_an_impossible_share_is_refused(recipes, share):
    with pytest.raises(UserError, match=r"judge\.frozen_share"):
        PickScoreLike(recipes["pickscore_like"].start, share)


def test_a_folder_without_a_judge_is_refused(tmp_path):
    with pytest.raises(
        UserError, match=r"lacks config\.json; expected a folder that `python -m alignbench\.train_reward`"
    ):
        load("judge", path=str(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "describes no judge of format 1"),
        ({"surprise": 1}, "describes no judge of format 1"),
        ({"start": {"node": {"_target_": "os.system"}}}, "starts from os.system, which is not read from a folder"),
    ],
)
def test_a_record_of_something_else_is_refused(trained, tmp_path, change, message):
    shutil.copytree(trained[1], tmp_path / "anna")
    values = json.loads((tmp_path / "anna" / CONFIG).read_text())
    (tmp_path / "anna" / CONFIG).write_text(json.dumps(with_check(without_check(values) | change)))
    with pytest.raises(UserError, match=message):
        load("judge", path=str(tmp_path / "anna"))


def test_only_heads_can_be_told_where_their_start_is(trained):
    reward_model, folder = trained
    message = "shapes_clip has no source" if reward_model.builds_on_start else "is for heads"
    with pytest.raises(UserError, match=message):
        load("judge", path=str(folder), source="FOLDER")
