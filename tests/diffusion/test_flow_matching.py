"""Whatever flow sampler weights come with, Euler takes its steps on the same flow, or they are refused by name."""

from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from alignbench.diffusion.flow_matching import as_flow_euler
from alignbench.errors import UserError
from alignbench.models.schedulers import FLOW, make_scheduler

SOLVERS = [DPMSolverMultistepScheduler, UniPCMultistepScheduler]
SETTINGS: dict[str, Any] = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}


@pytest.mark.parametrize("solver", SOLVERS)
def test_euler_has_the_shift_of_the_solver(solver):
    euler = as_flow_euler(solver(**SETTINGS))
    assert isinstance(euler, FlowMatchEulerDiscreteScheduler)
    expected = FlowMatchEulerDiscreteScheduler(shift=3.0)
    for scheduler in (euler, expected):
        scheduler.set_timesteps(7)
    assert torch.equal(torch.as_tensor(euler.sigmas), torch.as_tensor(expected.sigmas))


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_solver_can_be_made_again_of_euler_with_all_of_its_settings(solver):
    published = solver(**SETTINGS, solver_order=3, lower_order_final=False)
    again = make_scheduler(solver.__name__.removesuffix("Scheduler"), as_flow_euler(published), FLOW)
    settings = (
        {k: v for k, v in one.config.items() if k in published.config and k[0] != "_"} for one in (again, published)
    )
    assert next(settings) == next(settings)


def test_euler_itself_stays_as_it_is():
    euler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    assert as_flow_euler(euler) is euler
    with pytest.raises(UserError, match="stochastic_sampling, which is not supported"):
        as_flow_euler(FlowMatchEulerDiscreteScheduler(stochastic_sampling=True))


@pytest.mark.parametrize("change", [{"use_flow_sigmas": False}, {"prediction_type": "epsilon"}])
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_solver_of_another_noise_process_is_refused(solver, change):
    told = f"{solver.__name__} without use_flow_sigmas and prediction_type=flow_prediction"
    with pytest.raises(UserError, match=told):
        as_flow_euler(solver(**SETTINGS | change))
