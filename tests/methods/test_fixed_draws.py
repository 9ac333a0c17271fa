"""What is known of the reference at fixed draws stands in for its passes, in every loss that can use it."""

from dataclasses import replace

import pytest
import torch
from omegaconf import OmegaConf

from alignbench.batch import GeneratedPairBatch, PairBatch
from alignbench.configuration import build as configuration
from alignbench.errors import UserError
from alignbench.method import Method

# passes of a sample with the reference's values known and without: a call with a gradient counts three
PASSES = {"dpo": (6, 8), "sdpo": (6, 8), "pnapo": (6, 8), "reverse_kl": (6, 8), "linear_dpo": (6, 8), "kto": (3, 4)}
CHANGES = {
    "sdpo": {"_target_": "methods.dpo.DPO", "safeguard": 0.9},
    "pnapo": {"_target_": "methods.pnapo.PNAPO"},
    "linear_dpo": {"reference": "frozen"},
    "smpo": {"labels": "votes", "scorer": None},
}


def build(name: str, **changes) -> Method:
    file = {"sdpo": "dpo", "pnapo": "dpo"}.get(name, name)
    node = OmegaConf.load(configuration.conf_folder() / "method" / f"{file}.yaml")
    del node["defaults"]
    return configuration.build(OmegaConf.merge(node, CHANGES.get(name, {}), changes))


@pytest.fixture
def model(kit):
    """A linear network that has moved away from its reference."""
    model = kit.ToyModel(kit.Linear(0.3))
    model.make_reference()
    with torch.no_grad():
        model.network.a.fill_(0.35)
    return model


def outcome(kit, model, method, batch, **known):
    """Return the metrics and gradient of an update, and the passes of a sample."""
    before = model.network_passes
    batch = replace(batch, **known)
    (metrics,) = kit.backward(method, model, batch, kit.context())
    return metrics, kit.gradient(model), (model.network_passes - before) / len(batch)


@pytest.mark.parametrize("error_weighting", ["uniform", "eps_equivalent"])
@pytest.mark.parametrize("name", PASSES)
def test_the_update_is_the_same_without_the_passes_of_the_reference(kit, model, name, error_weighting):
    method = build(name, num_draws=2, error_weighting=error_weighting)
    if method.batch_type is GeneratedPairBatch:
        noise = torch.randn(2, 4, *model.shape, generator=torch.Generator().manual_seed(2))
        pairs = kit.batch(PairBatch, model)
        batch = GeneratedPairBatch(**vars(pairs), noise_w=noise[0], noise_l=noise[1])
    else:
        batch = kit.batch(method.batch_type, model)
    # errors of another weighting serve, too
    known = build(name, num_draws=2).reference_values(model, batch, kit.context())
    metrics, gradient, passes = outcome(kit, model, method, batch, known=known)
    expected, expected_gradient, expected_passes = outcome(kit, model, method, batch)
    assert (passes, expected_passes) == PASSES[name]
    assert metrics["loss"].std() > 0
    for figure, value in expected.items():
        torch.testing.assert_close(metrics[figure], value, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(gradient, expected_gradient)


def test_an_inversion_by_the_reference_stands_in_for_inverting_and_for_the_reference(kit, model):
    inversion = {"num_steps": 5, "inverter": "reference"}
    method = build("smpo", num_draws=2, inversion=inversion)
    batch = kit.batch(method.batch_type, model)
    before = model.network_passes
    known = method.reference_values(model, batch, kit.context())
    inverting = (model.network_passes - before) / len(batch)
    metrics, gradient, passes = outcome(kit, model, method, batch, known=known)
    expected, expected_gradient, expected_passes = outcome(kit, model, method, batch)
    assert (passes, expected_passes) == (6, 6 + inverting)
    assert inverting == 4 * expected["num_steps"].mean() + 2
    for figure, value in expected.items():
        torch.testing.assert_close(metrics[figure], value, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(gradient, expected_gradient)
    for other in ({"num_steps": 4}, {"num_renoise": 0}):
        assert build("smpo", num_draws=2, inversion=inversion | other).reference_settings != method.reference_settings


def test_what_cannot_be_kept_is_refused():
    with pytest.raises(UserError, match=r"method.num_draws=2 keeps inversions, and those by the policy change"):
        build("smpo", num_draws=2)
    with pytest.raises(UserError, match=r"num_draws=2 keeps one inversion .*points_per_inversion=3 has none to share"):
        build("smpo", num_draws=2, points_per_inversion=3, inversion={"inverter": "reference"})
    with pytest.raises(UserError, match=r"method.reference=ema change; set method.reference=frozen"):
        build("linear_dpo", num_draws=2, reference="ema")


def test_a_method_that_has_fixed_draws_and_no_values_says_so(kit, model):
    class Nothing(Method):
        name, num_draws = "nothing", 2

        def loss(self, model, batch, context):
            raise NotImplementedError

    with pytest.raises(NotImplementedError, match="method=nothing has num_draws and no reference_values"):
        Nothing().reference_values(model, None, kit.context())
