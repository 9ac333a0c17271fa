"""Where inversions stop on their way, and what the network is told there."""

from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler
from hydra.utils import instantiate
from omegaconf import OmegaConf

from alignbench.configuration.build import conf_folder
from alignbench.context import Context
from alignbench.diffusion.schedule import NoiseSchedule
from alignbench.objectives.inversion_path import InversionSettings, fresh_noise_std, inversion_path, paths_through

EXACT: InversionSettings = instantiate(OmegaConf.load(conf_folder() / "method" / "smpo.yaml").inversion)
CONTEXT = Context(step=0, seed=0, micro_batch_size=4)
SCHEDULER = DDIMScheduler(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", set_alpha_to_one=False, steps_offset=1
)
SCHEDULE = NoiseSchedule.from_scheduler(SCHEDULER)
FLOW = NoiseSchedule("velocity")


class LongerElsewhere(Context):
    """A process of a run in which another one has a path of eight steps."""

    def maximum(self, value, device):
        return max(value, 8)


@pytest.mark.parametrize(
    ("mode", "timestep", "stops"),
    [
        ("exact", 0, [0]),
        ("exact", 101, [101]),
        ("exact", 102, [101, 102]),
        ("exact", 350, [101, 201, 301, 350]),
        ("upstream_020", 1, [1]),
        ("upstream_020", 2, [1, 101]),
        ("upstream_020", 999, [1, 101, 201, 301, 401, 501, 601, 701, 801, 901]),
        ("upstream_022", 1, []),
        ("upstream_022", 2, [1]),
        ("upstream_022", 350, [1, 101, 201, 301]),
    ],
)
def test_the_stops_of_ten_steps(mode, timestep, stops):
    assert replace(EXACT, mode=mode).stops(timestep) == stops


@pytest.mark.parametrize(
    ("mode", "num_steps", "expected"),
    [
        ("upstream_020", 3, 2.663),
        ("upstream_020", 5, 3.792),
        ("upstream_020", 10, 6.382),
        ("upstream_020", 20, 11.412),
        ("upstream_022", 10, 5.480),
        ("exact", 10, 5.482),
    ],
)
def test_the_mean_number_of_steps_over_all_timesteps(mode, num_steps, expected):
    settings = replace(EXACT, mode=mode, num_steps=num_steps)
    assert sum(len(settings.stops(timestep)) for timestep in range(1000)) / 1000 == pytest.approx(expected, abs=1e-9)


def test_rows_with_fewer_steps_set_out_later_and_all_arrive_together():
    path = inversion_path(SCHEDULE, torch.tensor([350.0, 40.0, 150.0]), EXACT, CONTEXT)
    assert path.num_steps.tolist() == [4, 1, 2]
    assert [path.step(number).rows.tolist() for number in range(4)] == [[0], [0], [0, 2], [0, 1, 2]]
    assert path.level.sigma[:4, 1].tolist() == [0, 0, 0, 0]
    torch.testing.assert_close(path.level.sigma[-1], SCHEDULE.level(torch.tensor([350, 40, 150])).sigma)
    step = path.step(2)
    assert step.stops.tolist() == step.labels.tolist() == [301, 101]
    expected = SCHEDULE.level(torch.tensor([301, 101])).alpha
    assert torch.equal(step.landing.alpha, expected)
    assert torch.equal(step.network_level.alpha, expected)


def test_the_old_code_asks_with_the_timestep_it_climbs_from_and_begins_at_the_level_of_timestep_0():
    path = inversion_path(SCHEDULE, torch.tensor([250.0, 2.0]), replace(EXACT, mode="upstream_020"), CONTEXT)
    assert path.stops[:, 0].tolist() == [1, 101, 201, 301]
    assert path.labels[:, 0].tolist() == [-99, 1, 101, 201]
    assert torch.equal(path.level.alpha[0, 0], SCHEDULE.level(torch.tensor(0)).alpha)
    assert torch.equal(path.network_level.alpha[0, 0], SCHEDULE.level(torch.tensor(0)).alpha)
    assert path.step(2).labels.tolist() == [101, -99]


def test_flow_models_climb_the_same_grid_to_a_fraction():
    path = inversion_path(FLOW, torch.tensor([222.25]), EXACT, CONTEXT)
    assert path.stops.flatten().tolist() == [101, 201, 222.25]
    assert path.level.sigma.flatten().tolist() == pytest.approx([0, 0.101, 0.201, 0.22225])


@pytest.mark.parametrize(
    ("timesteps", "stops"),
    [
        # steps of 200: a step to each where they are about so far apart, several where they are further
        ([150, 350, 550], [[150], [150, 350], [150, 350, 550]]),
        ([90, 390, 399], [[90], [90, 240, 390], [90, 240, 390, 399]]),
        ([500, 999], [[250, 500], [250, 500, 750, 999]]),
        ([0, 299], [[0], [0, 299]]),
    ],
)
def test_the_stops_of_a_path_through_several_timesteps(timesteps, stops):
    settings = replace(EXACT, num_steps=5)
    assert [[round(stop) for stop in one] for one in settings.stops_through(timesteps)] == stops


def test_the_beginnings_of_a_path_through_several_timesteps_lead_to_them_row_by_row():
    timesteps = torch.tensor([[90.0, 390.0], [150.0, 850.0]])
    first, whole = paths_through(SCHEDULE, timesteps, replace(EXACT, num_steps=5), CONTEXT)
    assert first.num_steps.tolist() == [1, 1]
    assert whole.num_steps.tolist() == [3, 5]
    assert whole.stops[:, 0].tolist() == [0, 0, 90, 240, 390]
    for path, ends in ((first, timesteps[:, 0]), (whole, timesteps[:, 1])):
        assert torch.equal(path.stops[-1], ends)
        assert torch.equal(path.level[-1].sigma, SCHEDULE.level(ends).sigma)
        assert (path.level.sigma[len(path) - path.num_steps, torch.arange(2)] == 0).all()


def test_a_process_waits_as_long_as_the_longest_path_of_all():
    path = inversion_path(SCHEDULE, torch.tensor([350.0]), EXACT, LongerElsewhere(0, 0, 4, num_processes=2))
    assert len(path) == 8
    assert [len(path.step(number).rows) for number in range(8)] == [0] * 4 + [1] * 4


@pytest.mark.parametrize(("start", "end"), [(1, 101), (301, 401), (0, 1)])
def test_the_fresh_noise_is_that_of_stochastic_ddim(start, end):
    level, landing = (SCHEDULE.level(torch.tensor(timestep)) for timestep in (start, end))
    expected = SCHEDULER._get_variance(end, start).double()
    torch.testing.assert_close(fresh_noise_std(SCHEDULE, level, landing) ** 2, expected, rtol=1e-3, atol=0)


def test_the_fresh_noise_of_flow_accounts_for_the_growth_of_the_variance():
    level, landing = (FLOW.level(torch.tensor(timestep)) for timestep in (300.0, 500.0))
    assert fresh_noise_std(FLOW, level, landing).item() == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "precise"}, "method.inversion.mode=precise is unknown; available: exact, upstream_020, upstream_022"),
        ({"renoise_at": "first"}, "available: every, last"),
        ({"inverter": "ema"}, "available: policy, reference"),
        ({"num_steps": 0}, "method.inversion.num_steps=0 must be at least 1"),
        ({"num_renoise": -1}, "num_renoise=-1 must be at least 0"),
        ({"eta": -0.1}, "eta=-0.1 must be at least 0"),
    ],
)
def test_impossible_settings_are_refused_with_their_name(change, message):
    with pytest.raises(ValueError, match=message):
        replace(EXACT, **change)
