"""HPSv3 scores as the official package does, reads its file strictly, and can be trained on."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from safetensors.torch import save_file
from transformers.models.qwen2_vl import modeling_qwen2_vl
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from alignbench.calibrate.official import random_weights, write_qwen2_vl
from alignbench.calibrate.samples import SAMPLES, picture
from alignbench.configuration.build import conf_folder
from alignbench.errors import UserError
from evaluators import hpsv3
from evaluators.hpsv3 import AREA, INSTRUCTION, HPSv3, PatchRotary, patches_of, places_of
from evaluators.networks.preprocess import QwenPixels

GOLDEN = Path(__file__).parent / "data" / "hpsv3_golden.json"
LONG = "a very long prompt " + "with many words that somebody will read to the end " * 10
PROMPTS = ["a photo of a cat", "", LONG, "{braces}, {text_prompt}", "Ein Café — 東京", "<|im_end|>", "two dogs", "dogs"]
# config.json of Qwen/Qwen2-VL-7B-Instruct
PUBLISHED = {
    "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
    "num_key_value_heads": 4, "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "vision_config": {
        "depth": 32, "embed_dim": 1280, "mlp_ratio": 4, "num_heads": 16, "in_chans": 3, "hidden_size": 3584,
        "patch_size": 14, "spatial_merge_size": 2, "spatial_patch_size": 14, "temporal_patch_size": 2,
    },
}  # fmt: skip


def published_shapes(architecture, num_tokens):
    """Return name and shape of every parameter of HPSv3.safetensors, written down from the official modules."""
    vision = architecture["vision_config"]
    shapes = {}

    def linear(name, rows, columns, bias=True):
        shapes[f"{name}.weight"] = (rows, columns)
        if bias:
            shapes[f"{name}.bias"] = (rows,)

    def norm(name, size):
        shapes.update({f"{name}.weight": (size,), f"{name}.bias": (size,)})

    width, size = vision["embed_dim"], vision["patch_size"]
    shapes["visual.patch_embed.proj.weight"] = (width, 3, vision["temporal_patch_size"], size, size)
    for block in (f"visual.blocks.{number}" for number in range(vision["depth"])):
        norm(f"{block}.norm1", width)
        norm(f"{block}.norm2", width)
        linear(f"{block}.attn.qkv", 3 * width, width)
        linear(f"{block}.attn.proj", width, width)
        linear(f"{block}.mlp.fc1", vision["mlp_ratio"] * width, width)
        linear(f"{block}.mlp.fc2", width, vision["mlp_ratio"] * width)
    merged = vision["spatial_merge_size"] ** 2 * width
    norm("visual.merger.ln_q", width)
    linear("visual.merger.mlp.0", merged, merged)
    linear("visual.merger.mlp.2", vision["hidden_size"], merged)

    width, inner = architecture["hidden_size"], architecture["intermediate_size"]
    key_width = width // architecture["num_attention_heads"] * architecture["num_key_value_heads"]
    shapes["model.embed_tokens.weight"] = shapes["lm_head.weight"] = (num_tokens, width)
    for layer in (f"model.layers.{number}" for number in range(architecture["num_hidden_layers"])):
        linear(f"{layer}.self_attn.q_proj", width, width)
        linear(f"{layer}.self_attn.k_proj", key_width, width)
        linear(f"{layer}.self_attn.v_proj", key_width, width)
        linear(f"{layer}.self_attn.o_proj", width, width, bias=False)
        linear(f"{layer}.mlp.gate_proj", inner, width, bias=False)
        linear(f"{layer}.mlp.up_proj", inner, width, bias=False)
        linear(f"{layer}.mlp.down_proj", width, inner, bias=False)
        shapes[f"{layer}.input_layernorm.weight"] = shapes[f"{layer}.post_attention_layernorm.weight"] = (width,)
    shapes["model.norm.weight"] = (width,)

    for number, (rows, columns) in {0: (1024, width), 3: (16, 1024), 5: (2, 16)}.items():
        linear(f"rm_head.{number}", rows, columns)
    return shapes


@pytest.fixture(scope="module")
def made():
    """What the official package made of the samples."""
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def base(made, tmp_path_factory):
    """The folder of a base whose tokenizer and configuration the official package had."""
    folder = tmp_path_factory.mktemp("hpsv3") / "base"
    instruction, _, _ = INSTRUCTION.read_text(encoding="utf-8").partition("\nPlease provide the overall")
    write_qwen2_vl(folder, made["architecture"], instruction)
    return folder


@pytest.fixture(scope="module")
def checkpoint(made, base):
    """The weights that the official package had, in the layout of its file."""
    vocabulary = json.loads((base / "tokenizer.json").read_text())
    num_tokens = len(vocabulary["model"]["vocab"]) + len(vocabulary["added_tokens"]) + 1
    weights = random_weights(published_shapes(made["architecture"], num_tokens), made["seed"])
    return {name: value.bfloat16() for name, value in weights.items()}


@pytest.fixture(scope="module")
def arguments(base, checkpoint):
    """Arguments of an evaluator with these weights."""
    save_file(checkpoint, base.parent / "HPSv3.safetensors")
    return {"source": str(base.parent), "base": str(base)}


@pytest.fixture(scope="module")
def tiny(arguments):
    return HPSv3(**arguments, precision="float32")


@pytest.fixture(scope="module")
def pictures():
    """Pictures of several shapes."""
    return [picture(size, mode, seed=number) for number, (size, mode, _) in enumerate(SAMPLES)]


# ---- the official package


def largest_difference(evaluator, made, pictures):
    scores = evaluator.score(pictures, [prompt for _, _, prompt in SAMPLES])
    return (scores - torch.tensor([sample["official"] for sample in made["samples"]])).abs().max().item()


def test_scores_equal_those_of_the_official_package(tiny, made, pictures):
    assert largest_difference(tiny, made, pictures) < 1e-5
    scores = [sample["official"] for sample in made["samples"]]
    assert len({round(score, 2) for score in scores}) == len(scores)


def test_the_official_scores_notice_rows_and_columns_and_exact_frequencies(arguments, made, pictures, monkeypatch):
    multimodal = HPSv3(**arguments, precision="float32")
    text = multimodal.network.trunk.language_model

    def with_rows(position_ids, **inputs):
        axes = torch.tensor([1, 2, 1])[:, None, None]  # the second axis advances by half, as rows of two patches do
        return read(position_ids=position_ids // axes, **inputs)

    read = text.forward
    monkeypatch.setattr(text, "forward", with_rows)
    assert largest_difference(multimodal, made, pictures) > 1e-3
    monkeypatch.setattr(hpsv3, "rounded", lambda frequencies: frequencies)
    exact = HPSv3(**arguments, precision="float32")
    assert largest_difference(exact, made, pictures) > 1e-3


def test_the_published_precision_is_as_near_to_the_official_one_as_that_is_to_float32(arguments, made, pictures):
    evaluator = HPSv3(**arguments)
    assert evaluator.precision == "bfloat16"
    scores = evaluator.score(pictures, [prompt for _, _, prompt in SAMPLES])
    official = torch.tensor(made["bfloat16"])
    float32 = torch.tensor([sample["official"] for sample in made["samples"]])
    assert (scores - official).abs().max() < 0.02 < float32.std() / 4
    assert (official - float32).abs().max() > 1e-4
    dtypes = {parameter.dtype for parameter in evaluator.network.trunk.parameters()}
    assert dtypes == {torch.bfloat16}
    assert {parameter.dtype for parameter in evaluator.network.head.parameters()} == {torch.float32}
    assert scores.dtype == torch.float32


def test_token_ids_equal_those_of_the_official_package(tiny, made, pictures):
    prompts = [prompt for _, _, prompt in SAMPLES]
    assert [sample["prompt"] for sample in made["samples"]] == prompts
    assert tiny.encode_prompts(prompts) == made["token_ids"]
    assert tiny.before_image == made["before_image"]
    sizes = [tiny.preprocess.size(*image.size) for image in pictures]
    assert [width * height // 784 for width, height in sizes] == made["num_image_tokens"]
    assert len(set(made["num_image_tokens"])) > 2


# ---- the file


def test_the_published_architecture_takes_every_parameter_of_the_published_layout():
    config = hpsv3.Qwen2VLConfig.from_dict(PUBLISHED | {"vocab_size": 151658})
    with torch.device("meta"):
        published = {name: torch.empty(shape) for name, shape in published_shapes(PUBLISHED, 151658).items()}
        expected = {name: value.shape for name, value in hpsv3.HPSv3Network(config).state_dict().items()}
    assert {name: value.shape for name, value in hpsv3.from_published(published).items()} == expected
    # of Qwen2-VL-7B-Instruct itself, without the reward head: half the bytes that its index counts
    shapes = published_shapes(PUBLISHED, 152064)
    numbers = [torch.Size(shape).numel() for name, shape in shapes.items() if not name.startswith("rm_head")]
    assert sum(numbers) == 16_582_751_232 // 2


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("model.layers.1.self_attn.k_proj.bias", "trunk.language_model.layers.1.self_attn.k_proj.bias"),
        ("visual.merger.ln_q.weight", "trunk.visual.merger.ln_q.weight"),
        ("rm_head.5.weight", "head.5.weight"),
    ],
)
def test_a_missing_parameter_is_refused_by_name(tmp_path, arguments, checkpoint, name, named):
    save_file({key: value for key, value in checkpoint.items() if key != name}, tmp_path / "HPSv3.safetensors")
    with pytest.raises(UserError, match=f"missing: {named}"):
        _ = HPSv3(**(arguments | {"source": str(tmp_path)})).network


@pytest.mark.parametrize("name", ["model.layers.3.mlp.up_proj.weight", "rm_head.6.bias", "score.weight"])
def test_an_unknown_parameter_is_refused_by_name(tmp_path, arguments, checkpoint, name):
    save_file(checkpoint | {name: torch.zeros(3)}, tmp_path / "HPSv3.safetensors")
    with pytest.raises(UserError, match=f"left over: .*{name.removeprefix('rm_head')}"):
        _ = HPSv3(**(arguments | {"source": str(tmp_path)})).network


def test_a_table_of_tokens_without_the_reward_is_refused(tmp_path, arguments, checkpoint):
    shorter = checkpoint | {"model.embed_tokens.weight": checkpoint["model.embed_tokens.weight"][:-1].clone()}
    save_file(shorter, tmp_path / "HPSv3.safetensors")
    with pytest.raises(UserError, match=r"of another shape: trunk\.language_model\.embed_tokens\.weight"):
        _ = HPSv3(**(arguments | {"source": str(tmp_path)})).network


@pytest.mark.parametrize(
    ("argument", "file"), [("source", "HPSv3.safetensors"), ("base", "config.json"), ("base", "tokenizer.json")]
)
def test_what_is_not_there_is_refused_in_one_sentence_before_anything_loads(tmp_path, arguments, argument, file):
    if file == "tokenizer.json":
        (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=f"lacks {file}") as refused:
        HPSv3(**(arguments | {argument: str(tmp_path)}))
    assert "\n" not in str(refused.value)


def test_a_precision_in_which_the_network_overflows_is_refused(arguments):
    with pytest.raises(UserError, match="precision=float16 is unknown to hpsv3; available: bfloat16, float32"):
        HPSv3(**arguments, precision="float16")


def test_weights_are_read_when_they_are_first_needed(arguments, base, tmp_path):
    evaluator = HPSv3(**arguments)
    assert evaluator.supports(PROMPTS) is None
    evaluator.encode_prompts(PROMPTS)
    assert "network" not in vars(evaluator)
    for file in base.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes() + b"\n")
    assert HPSv3(**(arguments | {"base": str(tmp_path)})).weights != evaluator.weights


def test_the_shipped_instruction_is_the_published_one():
    digest = "f6ee57479d4e9eee76b49c00dc962e1e696a5a2b3cc32cebd9b1fa76fe27502c"
    assert hashlib.sha256(INSTRUCTION.read_bytes()).hexdigest() == digest
    assert digest in INSTRUCTION.with_name("README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("group", ["evaluator", "reward"])
def test_the_configuration_builds_the_published_evaluator(arguments, group):
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        node = compose(f"{group}/hpsv3")[group]
    evaluator = instantiate(node, **arguments)
    assert isinstance(evaluator, HPSv3)
    assert (evaluator.name, evaluator.precision) == ("hpsv3", "bfloat16")
    assert evaluator.preprocess.key == "qwen2_vl_200704_28"
    assert evaluator.gradient_checkpointing == (group == "reward")


# ---- prompts


def test_a_prompt_stands_in_the_instruction_and_the_token_of_the_reward_is_last(tiny):
    text = INSTRUCTION.read_text(encoding="utf-8")
    for prompt, ids in zip(PROMPTS, tiny.encode_prompts(PROMPTS), strict=True):
        read = tiny.tokenizer.decode(ids, skip_special_tokens=False)
        whole = text.replace("{text_prompt}", prompt)
        assert "<|vision_end|>" + whole == read + "\n\nEND\n"
        assert ids[-1] == tiny.tokenizer.token_to_id("<|Reward|>") == tiny.tokenizer.get_vocab_size() - 1


def test_a_prompt_changes_the_score_by_its_last_word_however_long_it_is(tiny, pictures):
    scores = tiny.score(pictures[:1] * 4, [LONG + "cat", LONG + "dog", "", " "])
    assert torch.pdist(scores[:, None]).min() > 1e-4
    assert scores.isfinite().all()


@pytest.mark.parametrize("token", ["<|image_pad|>", "<|Reward|>", "<|endoftext|>"])
def test_a_prompt_that_spells_out_a_token_of_the_frame_does_not_move_the_frame(tiny, pictures, token):
    alone = tiny.score(pictures[:1], [f"a {token} cat"])
    together = tiny.score(pictures[:3], [f"a {token} cat", "cat", ""])
    torch.testing.assert_close(together[:1], alone, atol=1e-5, rtol=0)
    assert (alone - tiny.score(pictures[:1], ["a cat"])).abs() > 1e-4


# ---- images


def test_sizes_are_those_of_qwen2_vl(pictures):
    pixels = QwenPixels(AREA, factor=28)
    sides = [8, 29, 64, 127, 300, 448, 449, 500, 511, 512, 640, 768, 1000, 1023, 1024, 1344, 2048, 4096]
    for width in sides:
        for height in sides:
            if max(width, height) <= 20 * min(width, height):
                expected = smart_resize(height, width, factor=28, min_pixels=AREA, max_pixels=AREA)
                assert pixels.size(width, height) == (expected[1], expected[0])
    assert [tuple(image.shape) for image in pixels(pictures[:3])] == [(3, 448, 448), (3, 364, 504), (3, 560, 392)]


def test_patches_that_will_be_merged_follow_each_other():
    pixels = torch.arange(3 * 56 * 84).view(3, 56, 84)
    patches, places = patches_of(pixels, size=14, merged=2, num_frames=2), places_of(4, 6, merged=2)
    assert places[:6].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [0, 2], [0, 3]]
    assert sorted(places.tolist()) == [[row, column] for row in range(4) for column in range(6)]
    for patch, (row, column) in zip(patches, places, strict=True):
        seen = pixels[:, 14 * row : 14 * row + 14, 14 * column : 14 * column + 14]
        assert torch.equal(patch.view(3, 2, 14, 14), torch.stack([seen, seen], dim=1))


def test_patches_turn_by_their_place_in_the_numbers_of_the_network():
    rotary, places = PatchRotary(head_dim=80), places_of(32, 32, merged=2)
    # as the published network makes its table: everything in bfloat16
    frequencies = (1.0 / 10000 ** (torch.arange(0, 40, 2).float() / 40)).bfloat16()
    table = torch.outer(torch.arange(32, dtype=torch.bfloat16), frequencies)
    angles = torch.cat([table[places[:, 0]], table[places[:, 1]]], dim=1)
    cos, sin = rotary(places, torch.bfloat16)
    assert torch.equal(cos, torch.cat([angles, angles], dim=1).cos())
    assert torch.equal(sin, torch.cat([angles, angles], dim=1).sin())
    exact, _ = rotary(places, torch.float32)
    assert (exact - cos.float()).abs().max() > 0.03


# ---- scores


@pytest.fixture(scope="module")
def expected(tiny, pictures):
    """Scores of eight images, one at a time."""
    return tiny.score([*pictures, *pictures[:2]], PROMPTS, batch_size=1)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_scores_do_not_depend_on_the_batch_or_its_order(tiny, pictures, expected, batch_size):
    images = [*pictures, *pictures[:2]]
    assert expected.std() > 0.05
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0)).tolist()
    scores = tiny.score([images[i] for i in order], [PROMPTS[i] for i in order], batch_size)
    torch.testing.assert_close(scores, expected[order], atol=1e-5, rtol=0)


def test_the_mean_is_reported_and_not_the_spread(arguments, checkpoint, tmp_path, pictures):
    bias = torch.tensor([3.0, -7.0])
    fixed = {"rm_head.5.weight": torch.zeros_like(checkpoint["rm_head.5.weight"]), "rm_head.5.bias": bias}
    save_file(checkpoint | fixed, tmp_path / "HPSv3.safetensors")
    scores = HPSv3(**(arguments | {"source": str(tmp_path)})).score(pictures[:2], PROMPTS[:2])
    assert scores.tolist() == [3.0, 3.0]


# ---- training


@pytest.mark.parametrize(("side", "bound"), [(448, 1e-5), (512, 0.002), (1024, 0.003)])
def test_the_training_path_differs_from_the_published_one_by_the_resizing_alone(tiny, photos, pixels_of, side, bound):
    images = photos(2, side)
    scores = tiny.score(images, PROMPTS[:2])
    with torch.no_grad():
        rewards = tiny.reward(pixels_of(images), PROMPTS[:2])
        pixels = tiny.preprocess.differentiable(pixels_of(images)) - torch.stack(tiny.preprocess(images))
    assert (scores - rewards).abs().max() < bound
    assert pixels.abs().mean() < 0.005
    assert pixels.abs().max() < 0.06


def test_the_gradient_through_pixels_matches_finite_differences(arguments, photos, pixels_of, monkeypatch):
    def norm(self, states):
        return self.weight * states * torch.rsqrt(states.square().mean(-1, keepdim=True) + self.variance_epsilon)

    # float64 all the way, where transformers goes down to float32
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    monkeypatch.setattr(modeling_qwen2_vl.Qwen2VLRMSNorm, "forward", norm)
    reward = HPSv3(**arguments, precision="float32")
    reward.network.double()
    pixels = pixels_of(photos(1, 64)).double().requires_grad_()
    gradient = torch.autograd.grad(reward.reward(pixels, PROMPTS[:1]).sum(), pixels)[0]
    direction = torch.ones_like(pixels).bernoulli_(0.5, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        ahead, behind = (reward.reward(pixels + step * 1e-6 * direction, PROMPTS[:1]).sum() for step in (1, -1))
    slope = (ahead - behind) / 2e-6
    assert slope.abs() > 1e-3
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-6, atol=0)


def test_checkpointing_changes_neither_score_nor_gradient_and_every_pixel_has_one(arguments, photos, pixels_of):
    def measured(gradient_checkpointing):
        reward = HPSv3(**arguments, precision="float32", gradient_checkpointing=gradient_checkpointing)
        assert not any(parameter.requires_grad for parameter in reward.network.parameters())
        assert not any(module.training for module in reward.network.modules())
        pixels, kept = pixels_of(photos(1, 600)).requires_grad_(), []
        with torch.autograd.graph.saved_tensors_hooks(lambda saved: kept.append(saved.numel()) or saved, lambda x: x):
            rewards = reward.reward(pixels, PROMPTS[:1])
        return rewards.detach(), torch.autograd.grad(rewards.sum(), pixels)[0], sum(kept)

    (plain, plain_gradient, plain_kept), (score, gradient, kept) = measured(False), measured(True)
    assert torch.equal(score, plain)
    torch.testing.assert_close(gradient, plain_gradient, atol=1e-7, rtol=1e-5)
    assert (gradient != 0).double().mean() > 0.99
    assert kept < plain_kept


def test_it_has_no_embeddings_because_its_network_reads_image_and_prompt_together(tiny):
    assert not tiny.has_embeddings
    with pytest.raises(TypeError, match="hpsv3 has no embeddings"):
        tiny.embed_text(PROMPTS)
