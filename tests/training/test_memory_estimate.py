"""The estimate of memory: exact for what is counted, close for what is computed, and helpful where it is too much."""

import json
import re
import weakref
from functools import partial
from typing import get_args

import pytest
import torch
from omegaconf import OmegaConf
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from alignbench.configuration.build import build, conf_folder
from alignbench.configuration.compose import check_command_line, composed
from alignbench.errors import UserError
from alignbench.evaluator import Reward
from alignbench.models.architectures import FOLDER
from alignbench.models.tiny_random import tiny_adapter
from alignbench.models.weights.quantised import quantise_blocks
from alignbench.models.weights.skeleton import skeleton
from alignbench.training import memory_estimate as module
from alignbench.training.bfloat16_updates import WeightUpdates, make_optimizer
from alignbench.training.memory_estimate import (
    GIB,
    _reward,
    advice,
    estimate,
    refuse_what_cannot_fit,
    table,
    total,
)
from alignbench.training.optimizer_memory import state_bytes
from tests.families import EVERY

COMMAND = ["model=flux_mini", "data=shapes", "method=dpo"]
ONE = "train.micro_batch_size=1"


def on_meta(family):
    model = tiny_adapter(family)
    for part in (*model.frozen_networks, model.denoiser):
        torch.nn.Module.to(part, "meta")
    return model


def sizes(*overrides, model=None):
    cfg = composed(["model=flux_mini", "data=shapes", *overrides])
    return {part.name: part.num_bytes for part in estimate(cfg, model)}


@pytest.mark.parametrize(
    ("name", "num_parameters"),
    [
        ("flux", 11_901_408_320),
        ("sdxl", 2_567_463_684),
        ("sd15", 859_520_964),
        ("sd3", 2_243_171_520),
        ("sd21", 865_910_724),
        ("sd35_large", 8_056_627_520),
        ("flux_schnell", 11_891_178_560),
        ("z_image", 6_154_908_736),
        ("qwen_image", 20_430_401_088),
        ("flux2_klein", 3_875_544_576),
        ("flux2_klein_9b", 9_078_581_248),
        ("flux2", 32_223_281_152),
        ("qwen_image_21", 7_115_124_736),
        ("wan", 1_418_996_800),
        ("sana", 1_604_462_752),
        ("lumina2", 2_609_769_152),
        ("chroma", 8_899_983_424),
    ],
)
def test_the_published_architectures_have_as_many_weights_as_the_published_models(name, num_parameters):
    cfg = composed([f"model={name}", "data=shapes", "method=sft"])
    assert json.loads((FOLDER / f"{name}.json").read_text())["hub_id"] == cfg.model.pretrained_model_name_or_path
    model = skeleton(cfg.model)
    assert sum(p.numel() for p in model.denoiser.parameters()) == num_parameters
    assert all(p.is_meta for part in (*model.frozen_networks, model.denoiser) for p in part.parameters())


@pytest.mark.parametrize("family", EVERY)
def test_blank_conditioning_has_the_shapes_of_encoded_prompts(family):
    model = tiny_adapter(family)
    blank, real = model.blank_conditioning(2), model.encode_prompts(["a circle", "a square"])
    for name in ("pooled_prompt_embeds", "time_ids"):
        parts = getattr(blank, name), getattr(real, name)
        assert [None if part is None else part.shape for part in parts[:1]] == [
            None if part is None else part.shape for part in parts[1:]
        ]
    (rows, tokens, width), (num, most, size) = real.prompt_embeds.shape, blank.prompt_embeds.shape
    assert (rows, width) == (num, size)
    assert tokens <= most
    longest = model.encode_prompts(["a word " * 1000]).prompt_embeds
    assert longest.shape[1] == most


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
@pytest.mark.parametrize(
    "mode", ["default", "bf16_compensated", pytest.param("bf16_stochastic", marks=pytest.mark.matrix)]
)
@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_weights_gradients_and_states_are_what_is_really_allocated(optimizer, mode, tuning):
    changes = [f"memory={mode}", f"train.tuning={tuning}", f"optimizer={optimizer}", "method=sft"]
    estimated = sizes(*changes, model=on_meta("flux"))
    train = composed(["model=flux_mini", *changes]).train
    model = tiny_adapter("flux")
    model.prepare_training(tuning, train.lora_rank, train.lora_alpha, train.weights_dtype)
    trained = [p for p in model.denoiser.parameters() if p.requires_grad]
    make = partial(build(OmegaConf.load(conf_folder() / "optimizer" / f"{optimizer}.yaml")), lr=1e-5)
    chosen = make_optimizer(make, trained, train.weight_updates, 0)
    for parameter in trained:
        parameter.grad = torch.ones_like(parameter)
    chosen.step()
    everything = (*model.denoiser.parameters(), *model.denoiser.buffers())
    assert estimated["weights"] == sum(tensor.nbytes for tensor in everything)
    assert estimated["gradients"] == sum(p.grad.nbytes for p in trained)
    assert estimated["optimizer"] == kept(chosen.state_dict())


@pytest.mark.parametrize("family", EVERY)
@pytest.mark.parametrize("bits", [8, 4])
def test_a_quantised_base_takes_what_is_estimated(family, bits):
    changes = [f"memory=base_{bits}bit", "train.tuning=lora", "method=sft"]
    estimated = sizes(*changes, model=on_meta(family))
    train = composed(["model=flux_mini", *changes]).train
    model = tiny_adapter(family)
    model.prepare_training("lora", train.lora_rank, train.lora_alpha, train.weights_dtype, train.base_bits)
    everything = (*model.denoiser.parameters(), *model.denoiser.buffers())
    assert estimated["weights"] == sum(tensor.nbytes for tensor in everything)
    assert estimated["weights"] < sizes(*changes, "train.base_bits=null", model=on_meta(family))["weights"]


@pytest.mark.parametrize(("bits", "bytes_per_weight"), [(8, 1 + 4 / 64), (4, 1 / 2 + 4 / 64)])
def test_nearly_all_of_flux_is_quantised(bits, bytes_per_weight):
    model = skeleton(composed(["model=flux", "data=shapes", "method=sft"]).model)
    number = sum(p.numel() for p in model.denoiser.parameters())
    quantise_blocks(model.denoiser, bits)
    assert module._bytes(model.denoiser) / number == pytest.approx(bytes_per_weight, rel=0.02)


def kept(node):
    """Return the bytes of all tensors in a state, but for single numbers."""
    if isinstance(node, dict):
        return sum(kept(value) for value in node.values())
    return node.nbytes if isinstance(node, torch.Tensor) and node.dim() else 0


@pytest.mark.parametrize("mode", ["default", "bf16_compensated", "bf16_stochastic"])
@pytest.mark.parametrize(
    "optimizer", sorted({file.stem for file in (conf_folder() / "optimizer").glob("*.yaml")} - {"default"})
)
def test_what_every_optimizer_file_keeps_is_found(optimizer, mode):
    pytest.importorskip(OmegaConf.load(conf_folder() / "optimizer" / f"{optimizer}.yaml")._target_.split(".")[0])
    changes = [f"memory={mode}", "train.tuning=full", f"optimizer={optimizer}", "method=sft"]
    cfg = composed(["model=flux_mini", "data=shapes", *changes])
    (part,) = (part for part in estimate(cfg, on_meta("flux")) if part.name == "optimizer")
    weights = list(on_meta("flux").denoiser.parameters())
    remainders = 2 * sum(p.numel() for p in weights) * (mode == "bf16_compensated")
    assert part.unknown == ""
    assert part.num_bytes == remainders + sum(BYTES[optimizer](p.shape, p.numel()) for p in weights) + (
        2 * 4 * 256 if optimizer == "adamw8bit" and max(p.numel() for p in weights) >= 4096 else 0  # two code books
    )


def adafactor_bytes(shape, number):
    return 4 * number if len(shape) < 2 else 4 * (number / shape[-1] + number / shape[-2])


def eight_bit_bytes(shape, number):
    return 8 * number if number < 4096 else 2 * number + 2 * 4 * -(-number // 256)


BYTES = {
    "adamw": lambda _, number: 8 * number,
    "adamw_fused": lambda _, number: 8 * number,
    "adafactor": adafactor_bytes,
    "adamw8bit": eight_bit_bytes,
    "prodigy": lambda _, number: 16 * number,
}


@pytest.mark.parametrize("updates", get_args(WeightUpdates))
def test_muon_keeps_one_average_of_each_matrix(updates):
    matrices = [torch.empty(6, 5, dtype=torch.bfloat16), torch.empty(6, 5, dtype=torch.bfloat16), torch.empty(3, 4)]
    size = {"nearest": 2, "compensated": 4 + 2, "stochastic": 4}[updates]
    assert state_bytes(partial(torch.optim.Muon, lr=1.0), matrices, updates) == 60 * size + 12 * 4


class Unsteppable(torch.optim.SGD):
    def step(self, closure=None):
        raise NotImplementedError("only on a GPU")


class Silent(Reward):
    """A reward that does not say what it weighs."""


@pytest.mark.parametrize(
    ("changes", "part", "reason"),
    [
        ({"train.optimizer": {"_target_": f"{__name__}.Unsteppable", "_partial_": True}}, "optimizer", "only on a GPU"),
        ({"train.optimizer": {"_target_": "nowhere.Adam", "_partial_": True}}, "optimizer", "not installed"),
        ({"method.reward": {"_target_": f"{__name__}.Silent"}}, "reward", "does not say"),
    ],
)
def test_what_cannot_be_known_is_said_and_nothing_is_refused(monkeypatch, changes, part, reason):
    monkeypatch.setattr(module, "skeleton", lambda _: on_meta("flux"))
    cfg = composed(["model=flux_mini", "data=shapes", "method=srpo", "reward=shapes_clip"])
    for key, value in changes.items():
        OmegaConf.update(cfg, key, value, merge=False, force_add=True)
    told = refuse_what_cannot_fit(cfg, 1)
    assert f"without {part}, which is unknown" in told
    assert reason in told
    assert re.search(rf"{part} +unknown: .*{reason}", table(cfg, None))
    assert f"without {part}" in table(cfg, 2**50)


def test_a_reference_an_average_and_offloading_count_where_they_exist():
    small = sizes("method=sft", "train.ema_decay=null", model=on_meta("flux"))
    large = sizes("method=dpo", "train.ema_decay=0.9", model=on_meta("flux"))
    assert (small["reference"], large["reference"]) == (0, small["weights"])
    assert (small["average of weights"], large["average of weights"]) == (0, small["gradients"])
    assert sizes("method=dpo", "train.tuning=lora", model=on_meta("flux"))["reference"] == 0
    assert small["text encoders"] > 0
    away = sizes("method=sft", "memory=offload", model=on_meta("flux"))
    assert away["text encoders"] == away["VAE"] == 0
    assert sizes("method=srpo", "memory=offload", model=on_meta("flux"))["VAE"] > 0


def test_what_comes_for_a_visit_counts_where_it_is_more_than_what_works_later(monkeypatch):
    here, away = (sizes("method=sft", mode, model=on_meta("flux")) for mode in ("memory=default", "memory=offload"))
    guests = here["text encoders"] + here["VAE"]
    assert away["visit of text encoders"] == max(0, guests - away["activations"])
    monkeypatch.setattr(module, "_network_activations", lambda *_: module.Saved(num_bytes=guests - 10))
    assert sizes("method=sft", "memory=offload", model=on_meta("flux"))["visit of text encoders"] == 10
    assert sizes("method=sft", "memory=default", model=on_meta("flux"))["visit of text encoders"] == 0


class Live(TorchDispatchMode):
    """Counts the bytes of all tensors made inside it that are still there, and the most there ever were."""

    def __init__(self, given):
        super().__init__()
        self.num_bytes = self.peak = 0
        self.given = [tensor.untyped_storage() for tensor in given]  # views of them are nothing new
        self.known = weakref.WeakSet(self.given)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        outputs = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(outputs):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage() not in self.known:
                storage = tensor.untyped_storage()
                self.known.add(storage)
                self.num_bytes += storage.nbytes()
                weakref.finalize(storage, self.freed, storage.nbytes())
        self.peak = max(self.peak, self.num_bytes)
        return outputs

    def freed(self, num_bytes):
        self.num_bytes -= num_bytes


def measured(call, network, *inputs):
    """Return the most bytes that a call and its backward pass take; gradients of the network lie there before."""
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    gradients = [parameter.grad for parameter in network.parameters() if parameter.requires_grad]
    with Live([*network.parameters(), *network.buffers(), *gradients, *inputs]) as live:
        call().float().square().sum().backward()
    return live.peak


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", EVERY)
def test_activations_are_close_to_those_of_a_real_backward_pass(family, checkpointing):
    model = tiny_adapter(family)
    model.prepare_training("full", 0, 0)
    model.enable_checkpointing(checkpointing, decoder=False)
    rows = 4
    guidance = torch.ones(rows) if model.guidance_is_distilled else None
    noisy, conditioning = torch.randn(rows, *model.latent_shape), model.blank_conditioning(rows)
    real = measured(lambda: model.forward(noisy, torch.ones(rows), conditioning, guidance), model.denoiser)
    skeleton = on_meta(family)
    skeleton.prepare_training("full", 0, 0)
    ratio = module._network_activations(skeleton, rows, (32, 32), checkpointing).peak / real
    assert 0.95 < ratio < 1.35


def test_every_step_with_a_gradient_keeps_its_activations_and_guidance_doubles_them():
    """DRaFT on a UNet, guided and not; of AlignProp's draws on 50 steps hardly any is above 23."""
    changes = ["method=draft", "model=sd15_mini", "train.ema_decay=null"]

    def activations(*overrides):
        return sizes(*changes, *overrides, model=on_meta("stable_diffusion"))["activations"]

    plain = ["method.rollout_guidance_scale=1", "train.micro_batch_size=4"]
    one, two, three = (activations(*plain, f"method.truncation.num_steps={num}") for num in (1, 2, 3))
    assert three - two == two - one > 0.5 * one
    half_a_batch = ["method.rollout_guidance_scale=4", "train.micro_batch_size=2"]
    assert activations(*half_a_batch) == one
    random = activations(*plain, "method.truncation.draw=gaussian", "method.num_rollout_steps=50")
    assert random == one + 22 * (two - one)


@pytest.mark.parametrize(("method", "guidance"), [("grpo", "rollout"), ("spo", "rollout"), ("srpo", "train")])
def test_guidance_with_a_gradient_through_both_calls_counts_twice(method, guidance):
    def activations(scale, detached, micro_batch_size):
        changes = [f"method.{guidance}_guidance_scale={scale}", f"method.detach_unconditional={detached}"]
        changes += [f"method={method}", "model=sd15_mini", f"train.micro_batch_size={micro_batch_size}"]
        return sizes(*changes, model=on_meta("stable_diffusion"))["activations"]

    assert activations(4, "false", 2) == activations(1, "false", 4) == activations(4, "true", 4)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_decoder_is_close_to_a_real_backward_pass(checkpointing):
    model = tiny_adapter("flux")
    model.enable_checkpointing(False, decoder=checkpointing)
    latents = torch.randn(2, *model.latent_shape, requires_grad=True)
    real = measured(lambda: model.pipeline.vae.decode(latents, return_dict=False)[0], model.pipeline.vae, latents)
    ratio = module._decode_activations(on_meta("flux"), 2, checkpointing).peak / real
    assert 0.95 < ratio < 1.35


@pytest.mark.matrix
def test_what_cannot_fit_is_refused_with_what_would(monkeypatch):
    def tiny(cfg):
        return on_meta("flux")

    monkeypatch.setattr(module, "skeleton", tiny)
    cfg = composed(COMMAND)
    needed = total(estimate(cfg))
    refuse_what_cannot_fit(cfg, needed)
    with pytest.raises(UserError, match=r"memory=\[offload\] would need"):
        refuse_what_cannot_fit(cfg, needed - 1)
    small = total(estimate(composed([*COMMAND, "memory=[offload,checkpointing,bf16_stochastic]", ONE])))
    assert f"memory=[offload,checkpointing,bf16_stochastic] {ONE} would need" in advice(cfg, small)
    for bits in (8, 4):
        command = [*COMMAND, f"memory=[offload,checkpointing,base_{bits}bit]", "train.tuning=lora", ONE]
        small = total(estimate(composed(command)))
        assert f"memory=[offload,checkpointing,base_{bits}bit] train.tuning=lora {ONE} would need" in advice(cfg, small)
        adapters = composed([*COMMAND, "train.tuning=lora"])
        assert f"memory=[offload,checkpointing,base_{bits}bit] {ONE} would need" in advice(adapters, small)
    assert "even all modes" in advice(cfg, 0)
    monkeypatch.setattr(
        module, "CARDS", {"1 GB": 0, "2 GB": small / GIB, "3 GB": (needed - 1) / GIB, "4 GB": needed / GIB}
    )
    lines = {line[:26].strip(): line[26:].strip() for line in table(cfg, 2 * needed).splitlines()}
    assert lines["together, a device"] == f"{needed / GIB:.3f} GiB"
    assert lines["on a card of 1 GB"].endswith("does not fit, whatever is saved")
    assert f"fits with {advice(cfg, small).partition(' would')[0]}: {small / GIB:.1f} GiB" in lines["on a card of 2 GB"]
    assert "fits with memory=[offload]: " in lines["on a card of 3 GB"]
    assert lines["on a card of 4 GB"].endswith("GiB: fits")
    assert lines["free here"].endswith("GiB: fits")


@pytest.mark.parametrize("reward", ["pickscore", "hpsv2_1", "clip_score"])
def test_published_rewards_count_without_their_weights(reward):
    cfg = composed(["method=srpo", "model=flux_mini", f"reward={reward}"])
    assert _reward(cfg.method.reward).num_bytes == 4 * 986_109_441 + 8 * (257 + 77)  # position ids of both towers


def test_a_dry_run_needs_neither_weights_nor_data():
    check_command_line(["dry_run=true", "method=dpo", "model=flux"], False)
    with pytest.raises(UserError, match=r"data\.path must be set"):
        check_command_line(["method=dpo", "model=flux", "model.pretrained_model_name_or_path=."], False)
    check_command_line(["dry_run=true", "model=flux", "data=shapes", "reward=hpsv2_1"], False)
    with pytest.raises(UserError, match="does not train"):
        check_command_line(["dry_run=true", "method=base"], False)
