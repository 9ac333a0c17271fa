"""One update on a device that cannot be read: what it waits for, and what is read of it in the end."""

from contextlib import nullcontext

import pytest
import torch
from accelerate import Accelerator
from torch.utils._python_dispatch import TorchDispatchMode

from alignbench.batch import LabelledBatch, PairBatch, PromptBatch
from alignbench.context import Context
from alignbench.errors import UserError
from alignbench.method import Loss
from alignbench.models.lagged_weights import LaggedWeights
from alignbench.models.tiny_random import tiny_adapter
from alignbench.online.online_method import RolledOut
from alignbench.training.parallel import Replicated
from alignbench.training.update import read, update
from methods import srpo
from tests.online_runs import PROMPTS, method_of

META = torch.device("meta")


class Waits(TorchDispatchMode):
    """Counts how often the CPU waits for the device `meta`: numbers read from it, and copies to it that block.

    A number that is read would raise on `meta` itself; here all are zero.
    """

    def __init__(self):
        super().__init__()
        self.reads = self.copies = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        is_there = any(isinstance(one, torch.Tensor) and one.device == META for one in args)
        goes_to = getattr(kwargs.get("device"), "type", None)
        name = function.overloadpacket.__name__ if hasattr(function, "overloadpacket") else str(function)
        if is_there and name in ("_local_scalar_dense", "nonzero"):
            self.reads += 1
            return 0.0 if name == "_local_scalar_dense" else torch.empty(0, args[0].ndim, dtype=torch.int64)
        if is_there and name == "_to_copy" and goes_to == "cpu":
            self.reads += 1
            return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        if not is_there and name == "_to_copy" and goes_to == "meta":
            self.copies += not kwargs.get("non_blocking")
        return function(*args, **kwargs)


@pytest.fixture
def model(monkeypatch):
    """A model on a device without data; its network is one number, as those of diffusers are slow there."""
    found = tiny_adapter("stable_diffusion")
    found.no_prompt = found.encode_no_prompt()
    number = torch.nn.Linear(1, 1, bias=False, device=META)
    number.config = found.denoiser.config
    monkeypatch.setattr(found.pipeline, "unet", number)
    monkeypatch.setattr(found, "forward", lambda noisy_latents, *_: noisy_latents * number.weight)
    monkeypatch.setattr(found, "decode", lambda latents, _: latents[:, :3])
    monkeypatch.setattr(found, "reference", nullcontext)
    monkeypatch.setattr(found, "_vae_precision", nullcontext)  # there is no autocast for this device
    return found


def micro_batches(name, method, model, context):
    """Two micro-batches of two samples each, as the loop gets them of a share that lies on the device."""
    prompts = PROMPTS[:4]
    index, latents = torch.arange(4), torch.zeros(4, *model.latent_shape)
    rows = (index, prompts, model.blank_conditioning(4))
    if name == "nft":
        scores = torch.zeros(4, 1)
        images = RolledOut(*rows, latents, scores=scores, advantage=scores[:, 0], flat=scores[:, 0] > 0).to(META)
        model.lagged_weights = LaggedWeights([p for p in model.denoiser.parameters() if p.requires_grad])
        with torch.no_grad():
            return method.noised(model, images, context)
    batches = {
        "dpo": lambda: PairBatch(*rows, latents_w=latents, latents_l=latents, probability_w=torch.ones(4)),
        "kto": lambda: LabelledBatch(*rows, latents, desirable=index % 2 == 0),
        "srpo": lambda: PromptBatch(*rows),
    }
    (found,) = method.rollout(model, batches[name]().to(META), context)
    return found


class MeanColour:
    """A reward of pixels alone."""

    has_embeddings = False


@pytest.mark.parametrize("name", ["dpo", "kto", "kto/class_mean", "nft", "srpo"])
def test_an_update_reads_nothing_from_the_device_but_its_figures_in_one_copy(name, model, monkeypatch):
    monkeypatch.setattr(srpo, "reward_of", lambda reward, pixels, texts: pixels.mean((1, 2, 3)))
    name, _, q_mode = name.partition("/")
    method = method_of(name, reward=MeanColour() if name == "srpo" else None)
    if q_mode:
        method.q_mode = q_mode
    context = Context(0, 0, 2, device=META)
    parameters = [p for p in model.denoiser.parameters() if p.requires_grad]
    parallel = Replicated(Accelerator(cpu=True))
    model.policy = model.denoiser
    optimizer = torch.optim.AdamW(parameters, foreach=True)
    with Waits() as waits:
        found = micro_batches(name, method, model, context)
        figures = update(method, model, found, context, parallel, parameters, [])
        norm = parallel.clip(parameters, [], 1.0)
        parallel.step(optimizer)
        assert waits.reads == 0
        assert waits.copies == 0
        with pytest.raises(UserError, match="no sample of update 1 counts"):  # as all numbers are zero
            read([("", figures)], {"grad_norm": norm}, parallel.accelerator)
        assert waits.reads == 1


def figures(values, weights, **metrics):
    """The figures of an update of one micro-batch whose network is one number."""
    parameter = torch.nn.Parameter(torch.ones(()))
    batch = PromptBatch(torch.arange(len(values)) + 7, PROMPTS[: len(values)], torch.zeros(len(values)))

    class Given:
        name = "given"

        def loss(self, model, batch, context):
            return Loss(parameter * torch.tensor(values), torch.tensor(weights), metrics)

    class Model:
        policy = torch.nn.Identity()

    parallel = Replicated(Accelerator(cpu=True))
    found = update(Given(), Model(), [batch], Context(4, 0, 8), parallel, [parameter], [])
    return found, parameter.grad, parallel.accelerator


def test_figures_are_averages_over_the_samples_that_have_one_and_the_gradient_is_that_of_the_mean():
    accuracy = torch.tensor([1.0, torch.nan, 0.0])
    found, gradient, accelerator = figures([1.0, 2.0, 6.0], [1.0, 1.0, 2.0], accuracy=accuracy)
    averages, beside = read([("", found), ("sft/", found)], {"grad_norm": torch.tensor(3.0)}, accelerator)
    assert averages == pytest.approx({"loss": 3.75, "accuracy": 1 / 3, "sft/loss": 3.75, "sft/accuracy": 1 / 3})
    assert gradient.item() == pytest.approx(3.75)
    assert beside == {"grad_norm": 3.0}


def test_a_metric_that_says_nothing_of_any_sample_is_left_out():
    found, _, accelerator = figures([1.0], [1.0], gain=torch.tensor([torch.nan]))
    assert read([("", found)], {}, accelerator)[0] == {"loss": 1.0}


def test_samples_whose_loss_is_not_finite_are_named():
    found, _, accelerator = figures([1.0, torch.inf, torch.nan], [1.0, 1.0, 1.0])
    told = "the loss of method=given is not finite at update 5, of samples 8 ('two blue squares'), 9 ('a green star"
    with pytest.raises(FloatingPointError) as raised:
        read([("", found)], {}, accelerator)
    assert str(raised.value).startswith(told)


def test_a_gradient_in_half_precision_is_multiplied_by_an_exact_factor():
    """On a GPU the product of a bfloat16 tensor and a factor there would round the factor to 8 bits."""
    parameter = torch.nn.Parameter(torch.ones(1000, dtype=torch.bfloat16))
    gradient = torch.linspace(0.1, 3, 1000).bfloat16()
    parameter.grad = gradient.clone()
    Replicated(Accelerator(cpu=True)).collect([parameter], torch.tensor(1 / 24, dtype=torch.float64))
    assert torch.equal(parameter.grad, (gradient.double() / 24).bfloat16())
