"""What only a CUDA device can show: `pytest -m cuda`. Elsewhere each test is skipped and says so."""

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from omegaconf import OmegaConf
from PIL import Image

from alignbench.configuration.build import build, conf_folder
from alignbench.context import Context
from alignbench.diffusion.initial_noise import initial_noise
from alignbench.generation.pipeline_sampler import Sampler
from alignbench.models.tiny_random import tiny_adapter
from alignbench.models.weights.quantised import BITS, QuantisedLinear, pack, unpack
from alignbench.scoring import network_pool
from alignbench.scoring.network_pool import NetworkPool
from alignbench.store.run_folder import RunFolder
from alignbench.training.background_write import MainMemory
from alignbench.training.train import train
from evaluators.shapes_reward import ShapesReward
from tests.tiny_runs import DiesAt, Interrupted, RandomPairs, dpo, files_of, log_of, settings, sft

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and there is none"),
]
GPU = "cuda"


def fit(path, method, device=GPU, **changes):
    """Train a tiny FLUX on a device."""
    AcceleratorState._reset_state(reset_partial_state=True)
    cfg = settings(**changes)
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision=cfg.train.mixed_precision)
    return train(cfg, tiny_adapter("flux"), method, RandomPairs(), RunFolder(path), accelerator)


# ---- draws and copies


def test_the_noise_of_a_training_has_the_bits_of_a_cpu(tmp_path, monkeypatch):
    """Also where it is copied from pinned memory while the device works: a copy that is read too early would differ."""
    seen, draw = [], Context.noise

    def noted(self, *arguments, **names):
        noise = draw(self, *arguments, **names)
        seen.append(noise.clone())
        return noise

    monkeypatch.setattr(Context, "noise", noted)
    losses = {}
    for device in ("cpu", GPU):
        fit(tmp_path / device, sft(), device)
        losses[device] = [line["loss"] for line in log_of(tmp_path / device)]
    on_cpu, on_gpu = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    assert len(on_cpu) == len(on_gpu) >= 4
    assert all(torch.equal(one.cpu(), other.cpu()) for one, other in zip(on_cpu, on_gpu, strict=True))
    assert losses[GPU] == pytest.approx(losses["cpu"], rel=1e-3)


def test_images_of_one_noise_are_those_of_a_cpu_within_a_few_levels():
    levels = {}
    for device in ("cpu", GPU):
        model = tiny_adapter("flux")
        model.to(device)
        noise = torch.stack([initial_noise(f"p{n}", 0, 0, model.latent_shape) for n in range(2)])
        pictures = Sampler(model, 3, 3.0)([("p0", 0), ("p1", 0)], ["a circle", "a square"], noise)
        levels[device] = torch.stack([torch.from_numpy(one) for one in pictures]).int()
    assert (levels["cpu"] - levels[GPU]).abs().max() <= 3


# ---- half precision


def test_half_precision_with_a_scaled_loss_trains_and_goes_on_after_a_kill_as_if_there_was_none(tmp_path):
    half = {"mixed_precision": "fp16", "checkpointing_steps": 2, "max_train_steps": 4}
    fit(tmp_path / "whole", dpo(), **half)
    with pytest.raises(Interrupted):
        fit(tmp_path / "killed", DiesAt(dpo(), 3), **half)
    fit(tmp_path / "killed", dpo(), **half)
    assert files_of(tmp_path / "killed" / "policy") == files_of(tmp_path / "whole" / "policy")
    norms = [line["grad_norm"] for line in log_of(tmp_path / "whole")]
    assert any(0 < norm < float("inf") for norm in norms)


# ---- few bits


@pytest.mark.parametrize("bits", BITS)
def test_weights_in_few_bits_are_those_of_a_cpu(bits):
    weight = torch.randn(96, 130, generator=torch.Generator().manual_seed(0))
    here, there = pack(weight, bits), pack(weight.to(GPU), bits)
    assert all(torch.equal(one, other.cpu()) for one, other in zip(here, there, strict=True))
    unpacked = [unpack(*packed, (96, 130), torch.bfloat16).cpu() for packed in (here, there)]
    assert torch.equal(*unpacked)
    linear = torch.nn.Linear(130, 96)
    inputs = torch.randn(4, 130)
    expected = QuantisedLinear(linear, bits)(inputs)
    found = QuantisedLinear(linear.to(GPU), bits)(inputs.to(GPU))
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-5, atol=1e-5)


def test_adamw_of_bitsandbytes_keeps_8_bits_and_moves_as_adamw_does():
    pytest.importorskip("bitsandbytes")
    moved = {}
    for name in ("adamw", "adamw8bit"):
        parameter = torch.nn.Parameter(torch.zeros(64, 128, device=GPU))
        optimizer = build(OmegaConf.load(conf_folder() / "optimizer" / f"{name}.yaml"))([parameter], lr=1e-2)
        for step in range(3):
            parameter.grad = torch.randn(64, 128, generator=torch.Generator().manual_seed(step)).to(GPU)
            optimizer.step()
        moved[name] = parameter.detach()
    assert optimizer.state[parameter]["state1"].dtype == torch.uint8
    gap = (moved["adamw8bit"] - moved["adamw"]).norm() / moved["adamw"].norm()
    assert gap < 0.05


# ---- scores


def test_scores_are_those_of_a_cpu():
    pictures = [Image.fromarray(picture_of(number)) for number in range(6)]
    prompts = [f"a red circle {number}" for number in range(6)]
    reward = ShapesReward("shapes_clip")
    expected = reward.score(pictures, prompts)
    reward = ShapesReward("shapes_clip")
    reward.to(GPU)
    assert (reward.score(pictures, prompts) - expected).abs().max() < 2e-5  # as displayed, times 100: 0.002


def picture_of(number):
    return torch.randint(0, 256, (64, 64, 3), generator=torch.Generator().manual_seed(number)).byte().numpy()


def test_a_network_that_makes_room_waits_on_the_cpu(monkeypatch):
    pool, first, second = NetworkPool(torch.device(GPU)), ShapesReward("shapes_clip"), ShapesReward("shapes_preference")
    pool.use(first)
    assert first.device.type == GPU
    monkeypatch.setattr(network_pool, "free_memory", lambda device: 0)
    pool.use(second)
    assert (first.device.type, second.device.type) == ("cpu", GPU)
    pool.use(first)
    assert (first.device.type, second.device.type) == (GPU, "cpu")


# ---- checkpoints


def test_the_copy_of_a_state_on_a_gpu_is_not_changed_by_what_follows():
    weights = torch.randint(100, (3000, 1000), device=GPU).float()
    state = {"weights": weights, "view": weights[7:9].t(), "half": torch.ones(5, device=GPU).half(), "rate": 0.1}
    expected = weights.cpu()
    memory = MainMemory(pinned=True)
    for _ in range(2):
        copied = memory.copy(state)
        weights.add_(1)
        assert torch.equal(copied["weights"], expected)
        assert torch.equal(copied["view"], expected[7:9].t())
        assert torch.equal(copied["half"], torch.ones(5).half())
        assert copied["rate"] == 0.1
        assert copied["weights"].is_pinned()
        weights.sub_(1)
