"""The plain steps have the losses and gradients of the program's, and both make the passes that papers count."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from alignbench.batch import PromptBatch
from alignbench.configuration.build import build
from alignbench.configuration.compose import composed
from alignbench.context import Context
from alignbench.data.batches.collate import collate
from alignbench.data.batches.encode import Encoder
from alignbench.data.source import LabelledSample, PairSample, PromptSample, TrainingImage
from alignbench.models.lagged_weights import LaggedWeights
from alignbench.models.tiny_random import tiny_adapter
from benchmarks.reference_steps.build import STEPS, Parts, plain_step
from benchmarks.reference_steps.model import Draws, Sample
from benchmarks.reference_steps.preference import SmPO
from benchmarks.reference_steps.rewards import PlainReward
from benchmarks.steps.meter import Meter
from benchmarks.steps.turns import SameTimesteps

PROMPTS = ["a red circle", "two blue squares", "a green star on white", "a small black ring"]
SCORES = ((0.7, 0.1), (0.2, 0.5), (0.9, 0.3), (0.0, 1.0))  # in two pairs the scorer prefers the loser by vote
# few steps; what the plain steps are not written for is off
SHORT = {
    "smpo": ["method.inversion.num_steps=4"],
    "srpo": ["method.num_rollout_steps=3"],
    "refl": ["method.num_rollout_steps=4", "method.min_sigma=0", "method.earliest=0.5"],
    "draft": ["method.num_rollout_steps=3", "method.min_sigma=0", "method.truncation.num_steps=2"],
    "grpo": [
        "method.group_size=2", "method.num_rollout_steps=4", "method.rollout_batch_size=4", "method.window.stop=3",
        "method.window.size=2", "method.window.choice=fixed", "method.updates_per_round=1", "method.kl_weight=0.1",
    ],
    "nft": [
        "method.group_size=2", "method.num_rollout_steps=4", "method.rollout_batch_size=4", "method.levels.num=2",
        "method.levels.stop=3", "method.kl_weight=0.1",
    ],
}  # fmt: skip
MODELS = {"stable_diffusion": "sd15_mini", "flux": "flux_mini"}
FIRST = {("dpo", "stable_diffusion"), ("nft", "flux")}  # in the first step of CI
CASES = [
    pytest.param(name, family, marks=[] if (name, family) in FIRST else [pytest.mark.matrix])
    for name in STEPS
    for family in MODELS
]


class DrawsOfTheProgram(Draws):
    """The draws of a context, images neither mirrored nor drawn from a posterior."""

    def __init__(self, context):
        self.context = context

    def noise(self, rows, shape, purpose="noise"):
        if purpose.startswith("posterior"):
            return torch.zeros(len(rows), *shape)
        return self.context.noise(torch.tensor(rows), shape, purpose)

    def shared_noise(self, shape, purpose):
        return torch.randn(tuple(shape), generator=self.context.shared_generator(purpose))

    def uniform(self, rows, purpose):
        if purpose.startswith("mirror"):
            return torch.ones(len(rows), dtype=torch.float64)
        return self.context.uniform(torch.tensor(rows), purpose)

    def timesteps(self, adapter, rows):
        size = adapter.latent_shape[-2:]
        generators = [self.context.sample_generator(row, "timesteps") for row in rows]
        return torch.cat([adapter.sample_timesteps(1, generator, size) for generator in generators])

    def points(self, adapter, rows, num):
        return SameTimesteps(self.context).points(adapter, rows, num)

    def order(self, rows, num):
        return torch.stack(
            [torch.randperm(num, generator=self.context.sample_generator(row, "levels")) for row in rows]
        )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two pictures of each prompt."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    found = []
    for number in range(len(PROMPTS)):
        pair = tuple(folder / f"{number}-{side}.png" for side in "wl")
        for file in pair:
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file)
        found.append(pair)
    return found


@pytest.fixture
def both(kit, files):
    """Return a function that makes one turn of a method, by the program and by the plain step."""

    def run(name, family, micro_batch_size=4, overrides=()):
        own = ["method.prompt_dropout=0.5"] if name in ("dpo", "kto", "sft", "smpo") else []
        cfg = composed([f"model={MODELS[family]}", f"method={name}", *own, *SHORT.get(name, ()), *overrides])
        context = Context(0, 0, micro_batch_size)
        group = cfg.method.get("group_size", 1)
        samples = [
            Sample(10 + row, PROMPTS[row // group], files[row], desirable=row % 3 > 0, scores=SCORES[row])
            for row in range(len(PROMPTS))
        ]

        method, model = build(cfg.method), tiny_adapter(family)
        model.prepare_training("full", 1, 1.0)
        model.make_reference()
        model.lagged_weights = LaggedWeights([p for p in model.denoiser.parameters() if p.requires_grad])
        kit.perturb(model)
        if name == "smpo":
            method.fit(torch.tensor(SCORES))
        counted = Meter()
        counted.watch(model, method.reward)
        with counted.counting():
            metrics = kit.backward(method, model, batch_of(samples, method, model, context), context)
        losses = torch.cat([one["loss"] for one in metrics])

        adapter = tiny_adapter(family)
        reward = PlainReward(build(cfg.reward))
        features = {text: adapter.encode_prompts([text]) for text in PROMPTS}
        parts = Parts(cfg.method, adapter, micro_batch_size, DrawsOfTheProgram(context), reward, (0.0, 1.0), features)
        step = plain_step(parts)
        kit.perturb(adapter)
        plainly_counted = Meter()
        plainly_counted.watch(adapter, reward.reward)
        plain_losses = []
        with plainly_counted.counting():
            for losses_of_update in step.updates(samples):
                plain_losses.append([])
                for loss in losses_of_update:
                    loss.backward()
                    plain_losses[-1].append(float(loss.detach()))
        return SimpleNamespace(
            loss=float(losses.mean()),
            losses=losses.tolist(),
            gradient=kit.gradient(model),
            rows=counted.rows,
            plain_loss=sum(map(sum, plain_losses)) / len(plain_losses),
            plain_losses=plain_losses,
            plain_gradient=kit.gradient(adapter),
            plain_rows=plainly_counted.rows,
        )

    return run


def batch_of(samples, method, model, context):
    """Return what the program's data path makes of some samples."""
    kind = method.batch_type.__name__
    items = []
    for sample in samples:
        images = [TrainingImage(file.name, np.asarray(Image.open(file))) for file in sample.files]
        made = PromptSample(sample.prompt)
        if kind == "PairBatch":
            made = PairSample(sample.prompt, *images, 0.8)
        elif kind == "LabelledBatch":
            made = LabelledSample(sample.prompt, images[0], sample.desirable)
        items.append((sample.index, made))
    scores = {
        (sample.prompt, file.name): score
        for sample in samples
        for file, score in zip(sample.files, sample.scores, strict=True)
    }
    batch = collate(items, method, Encoder(model), context, scores if method.scorer is not None else None)
    assert isinstance(batch, PromptBatch)
    return batch


@pytest.mark.parametrize(("name", "family"), CASES)
def test_loss_and_gradient_are_those_of_the_program(both, name, family):
    # a plain ReFL stops a whole micro-batch at one step, the program each image at its own
    turn = both(name, family, micro_batch_size=1 if name == "refl" else 4)
    assert turn.plain_loss == pytest.approx(turn.loss, rel=1e-4, abs=1e-6)
    size = turn.gradient.norm()
    assert size > 1e-6
    assert (turn.plain_gradient - turn.gradient).norm() < 2e-3 * size


@pytest.mark.matrix
def test_inversion_of_the_released_code_is_that_of_smpo_upstream(both):
    options = ["method.inversion.mode=upstream_020", "method.inversion.average=true"]
    turn = both("smpo", "stable_diffusion", overrides=options)
    assert turn.plain_loss == pytest.approx(turn.loss, rel=1e-4)
    assert (turn.plain_gradient - turn.gradient).norm() < 2e-3 * turn.gradient.norm()


@pytest.mark.matrix
@pytest.mark.parametrize("family", MODELS)
def test_each_point_of_an_inversion_has_the_loss_of_an_inversion_to_it(both, family, monkeypatch):
    """The plain step inverts each pair to each point anew, over the stops that the program makes on its way."""
    num, drawn = 3, {}
    points = SameTimesteps.points

    def noted(self, adapter, rows, num):
        found = points(self, adapter, rows, num)
        drawn.update({t: sorted(row) for row in found.tolist() for t in row})
        return found

    def path(self, timestep):
        stops, stride = [0.0], 1000 // self.num_steps
        for point in drawn[timestep]:
            length = point - stops[-1]
            steps = max(1, round(length / stride))
            inner = [float(round(stops[-1] + length * step / steps)) for step in range(1, steps)]
            stops += [*inner, point]
            if point == timestep:
                break
        return list(zip([None, *stops[1:-1]], stops[1:], stops[1:], strict=True))

    monkeypatch.setattr(SameTimesteps, "points", noted)
    monkeypatch.setattr(SmPO, "path", path)
    turn = both("smpo", family, overrides=[f"method.points_per_inversion={num}", "method.beta=20"])
    found = [len(PROMPTS) * loss for losses in turn.plain_losses for loss in losses]
    assert found == pytest.approx(turn.losses, rel=1e-4)
    assert len(set(found)) == num * len(PROMPTS)
    assert (turn.plain_gradient / num - turn.gradient).norm() < 2e-3 * turn.gradient.norm()
    # the program inverts once, up to the last point; the plain step does so up to each of them
    assert turn.rows["backward"] == turn.plain_rows["backward"] == 2 * num * len(PROMPTS)
    steps = [len(path(SimpleNamespace(num_steps=4), timestep)) for timestep in drawn]
    longest = [len(path(SimpleNamespace(num_steps=4), row[-1])) for row in drawn.values()]
    trained = 2 * num * len(PROMPTS)
    assert turn.plain_rows["forward"] == 2 * 2 * sum(steps) + trained
    assert turn.rows["forward"] == 2 * 2 * sum(longest) / num + trained


def passes(rows):
    return Counter({name: rows[name] for name in ("forward", "trained forward", "backward")})


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("name", "family", "expected"),
    [
        # per sample: calls without a gradient, and calls with one, of which each has a backward pass
        ("dpo", "stable_diffusion", (2, 2)),
        ("kto", "stable_diffusion", (1, 1)),
        ("mapo", "stable_diffusion", (0, 2)),
        ("sft", "stable_diffusion", (0, 1)),
        ("srpo", "flux", (3, 2)),
        ("draft", "flux", (1, 2)),
        # 4 steps of sampling; 2 trained steps, each asked of the reference, too
        ("grpo", "flux", (4 + 2, 2)),
        # 4 steps of sampling; 2 levels, each asked of the old policy and of the reference, too
        ("nft", "flux", (4 + 4, 2)),
    ],
)
def test_both_make_the_passes_that_are_counted_for_the_method(both, name, family, expected):
    turn = both(name, family)
    without, trained = (len(PROMPTS) * one for one in expected)
    wanted = Counter({"forward": without, "trained forward": trained, "backward": trained})
    assert passes(turn.rows) == passes(turn.plain_rows) == wanted


@pytest.mark.matrix
def test_guided_sampling_takes_two_rows_an_image_in_both(both):
    turn = both("draft", "stable_diffusion")
    assert passes(turn.rows) == passes(turn.plain_rows)
    assert turn.rows["trained forward"] == 2 * 2 * len(PROMPTS)


@pytest.mark.matrix
def test_inversion_asks_twice_a_step_for_both_images(both):
    turn = both("smpo", "stable_diffusion")
    context = Context(0, 0, 4)
    draws = DrawsOfTheProgram(context).timesteps(tiny_adapter("stable_diffusion"), range(10, 14)).tolist()
    num_steps = sum(1 + sum(stop < t for stop in (251, 501, 751)) for t in draws)
    assert turn.rows["forward"] == turn.plain_rows["forward"] == 2 * 2 * num_steps + 2 * len(PROMPTS)
    assert turn.rows["backward"] == turn.plain_rows["backward"] == 2 * len(PROMPTS)


@pytest.mark.matrix
def test_refl_samples_to_the_last_step_in_the_program_and_to_the_drawn_one_in_the_script(both):
    turn = both("refl", "flux", micro_batch_size=1)
    uniform = Context(0, 0, 1).uniform(torch.arange(10, 14), "stop")
    assert turn.rows["forward"] == 3 * len(PROMPTS)
    assert turn.plain_rows["forward"] == int((2 + (uniform * 2).floor()).sum())
    assert turn.rows["backward"] == turn.plain_rows["backward"] == len(PROMPTS)


def test_a_plain_step_refuses_settings_that_it_is_not_written_for():
    cfg = composed(["model=sd15_mini", "method=dpo", "method.labels=soft"])
    with pytest.raises(ValueError, match="labels=hard, not soft"):
        plain_step(Parts(cfg.method, tiny_adapter("stable_diffusion"), 1, Draws()))
