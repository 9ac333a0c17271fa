"""Layers in 8 and 4 bits: what they hold, what they compute and pass back, and adapters that are trained on them."""

import re

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional

from alignbench.models.adapter import ModelAdapter
from alignbench.models.tiny_random import tiny_adapter
from alignbench.models.weights import quantised
from alignbench.models.weights.quantised import BITS, BLOCK, NF4, QuantisedLinear, pack, quantise_blocks, unpack
from tests.families import EVERY

DTYPES = [torch.float32, torch.bfloat16]


def matrix(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def predictions(model: ModelAdapter) -> torch.Tensor:
    with torch.no_grad():
        return predict(model)


def predict(model: ModelAdapter) -> torch.Tensor:
    noise = matrix(2, *model.latent_shape)
    return model.predict(noise, torch.tensor([900.0, 100.0]), model.encode_prompts(["a circle", "two squares"]))


# ---- numbers


def test_eight_bits_hold_whole_multiples_of_the_scale_exactly():
    weight = 0.5 * torch.arange(-127, 1).float()[None]  # two blocks, of scales 0.5 and 63 / 127 * 0.5
    packed, scales = pack(weight, 8)
    assert scales.tolist() == [[0.5], [pytest.approx(0.5 * 63 / 127)]]
    assert packed[0].tolist() == list(range(-127, -63))
    torch.testing.assert_close(unpack(packed, scales, weight.shape, torch.float32), weight, rtol=1e-6, atol=0.13)
    assert torch.equal(unpack(packed, scales, weight.shape, torch.float32)[0, :BLOCK], weight[0, :BLOCK])


def test_four_bits_hold_the_sixteen_values_exactly_two_in_a_byte():
    weight = 3 * torch.tensor(NF4).repeat(4)[None]
    packed, scales = pack(weight, 4)
    assert (packed.shape, packed.dtype, scales.tolist()) == ((1, 32), torch.uint8, [[3.0]])
    assert packed[0, :3].tolist() == [0x01, 0x23, 0x45]  # the first weight is in the upper half
    assert torch.equal(unpack(packed, scales, weight.shape, torch.float32), weight)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_weight_becomes_the_nearest_value_of_its_block(bits, dtype):
    weight = matrix(10, 30, dtype=dtype)  # the last block is not full
    packed, scales = pack(weight, bits)
    assert packed.nbytes == 5 * BLOCK * bits // 8
    found = unpack(packed, scales, weight.shape, torch.float32)
    levels = torch.tensor(NF4) if bits == 4 else torch.arange(-127, 128).float()
    flat = functional.pad(weight.float().flatten(), (0, 20)).view(5, BLOCK)
    values = levels * scales  # of each block
    nearest = (flat[:, :, None] - values[:, None, :]).abs().amin(dim=2).flatten()[:300]
    torch.testing.assert_close((found - weight.float()).abs().flatten(), nearest, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bits", BITS)
def test_blocks_of_zeros_stay_zero(bits):
    assert torch.equal(unpack(*pack(torch.zeros(2, 64), bits), (2, 64), torch.float32), torch.zeros(2, 64))


@pytest.mark.parametrize("bits", BITS)
def test_unpacking_rounds_once_and_in_whatever_pieces(bits, monkeypatch):
    packed = pack(matrix(16, 100), bits)
    whole = unpack(*packed, (16, 100), torch.float32)
    assert torch.equal(unpack(*packed, (16, 100), torch.bfloat16), whole.bfloat16())
    monkeypatch.setattr(quantised, "CHUNK", 3)
    assert torch.equal(unpack(*packed, (16, 100), torch.float32), whole)


def test_four_bits_are_those_of_bitsandbytes():
    functions = pytest.importorskip("bitsandbytes.functional")
    weight = matrix(64, 128, dtype=torch.bfloat16)  # on a CPU theirs mixes up scales where rows are no whole blocks
    theirs, state = functions.quantize_4bit(weight, blocksize=BLOCK, quant_type="nf4", compress_statistics=False)
    packed, scales = pack(weight, 4)
    assert torch.equal(packed.flatten(), theirs.flatten())
    assert torch.equal(unpack(packed, scales, weight.shape, torch.bfloat16), functions.dequantize_4bit(theirs, state))


# ---- layers


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_computes_and_passes_back_as_one_with_the_unpacked_matrix(bits, dtype, bias):
    torch.manual_seed(0)
    plain = nn.Linear(96, 40, bias=bias).to(dtype).requires_grad_(False)
    layer = QuantisedLinear(plain, bits)
    plain.weight.data = unpack(layer.weight, layer.scales, (40, 96), dtype)
    input = matrix(2, 5, 96, dtype=dtype).requires_grad_()
    kept = []
    with saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        output = layer(input)
    assert torch.equal(output, plain(input))
    (ours,) = torch.autograd.grad(output.square().sum(), input)
    (wanted,) = torch.autograd.grad(plain(input).square().sum(), input)
    assert torch.equal(ours, wanted)
    assert sum(tensor.nbytes for tensor in kept) == layer.weight.nbytes + layer.scales.nbytes  # not the matrix
    with torch.no_grad():
        assert torch.equal(layer(input), output)


def test_a_layer_follows_autocast_and_a_change_of_dtype_leaves_its_scales_alone():
    layer = QuantisedLinear(nn.Linear(64, 8), 8)
    scales = layer.scales.clone()
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(matrix(3, 64)).dtype == torch.bfloat16
    layer.to(torch.bfloat16)
    assert torch.equal(layer.scales, scales)
    assert (layer.weight.dtype, layer.bias.dtype) == (torch.int8, torch.bfloat16)
    assert layer.to("meta").scales.is_meta


@pytest.mark.parametrize("family", EVERY)
def test_linear_layers_of_the_blocks_are_quantised_and_nothing_else(family):
    model = tiny_adapter(family)
    linear = {name for name, layer in model.denoiser.named_modules() if isinstance(layer, nn.Linear)}
    model.prepare_training("lora", rank=2, alpha=2, base_bits=4)
    layers = dict(model.denoiser.named_modules())
    found = {name.replace(".base_layer", "") for name, one in layers.items() if isinstance(one, QuantisedLinear)}
    left = linear - found
    blocks = re.compile(r".*blocks\.|mid_block\.|layers\.|noise_refiner\.|context_refiner\.")
    assert all(blocks.match(name) for name in found)
    assert not any(blocks.match(name) for name in left)
    assert left  # the time embedding at least
    assert {p.dtype for name, p in model.denoiser.named_parameters() if "lora_" in name} == {torch.float32}


# ---- adapters on them


@pytest.mark.parametrize(("bits", "bound"), [(8, 0.02), (4, 0.3)])
@pytest.mark.parametrize("family", EVERY)
def test_adapters_learn_on_a_base_that_stays_and_is_the_reference(family, bits, bound, tmp_path):
    model = tiny_adapter(family)
    untouched = predictions(model)
    model.prepare_training("lora", rank=4, alpha=4, base_bits=bits)
    model.make_reference()
    start = predictions(model)
    assert 0 < (start - untouched).norm() / untouched.norm() < bound
    base = {name: value.clone() for name, value in model.denoiser.state_dict().items() if "lora_" not in name}

    trained = [p for p in model.denoiser.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    losses = []
    for _ in range(4):
        loss = predict(model).square().mean()
        loss.backward()
        losses.append(loss.item())
        if len(losses) == 2:  # the first update moves the matrices that start at zero
            assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained)
        optimizer.step()
        optimizer.zero_grad()
    assert losses == sorted(losses, reverse=True)
    assert len(set(losses)) == len(losses)
    with model.reference():
        assert torch.equal(predictions(model), start)
    after = model.denoiser.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in base.items())

    model.save_policy(tmp_path)
    fresh = tiny_adapter(family)
    fresh.load_policy(tmp_path)
    exact, ours = predictions(fresh), predictions(model)
    assert (exact - ours).norm() / exact.norm() < bound
    quantise_blocks(fresh.denoiser, bits)  # as it is done to generate
    assert torch.equal(predictions(fresh), ours)


@pytest.mark.parametrize("family", EVERY)
def test_gradient_checkpointing_changes_no_gradient_of_adapters(family):
    def gradients(checkpointing):
        torch.manual_seed(0)
        model = tiny_adapter(family)
        model.prepare_training("lora", rank=2, alpha=2, base_bits=8)
        model.enable_checkpointing(checkpointing, decoder=False)
        predict(model).square().mean().backward()
        return [p.grad for p in model.denoiser.parameters() if p.grad is not None]

    torch.testing.assert_close(gradients(True), gradients(False), rtol=1e-5, atol=1e-8)
