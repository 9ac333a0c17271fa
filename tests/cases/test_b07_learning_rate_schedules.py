"""B7: a schedule that needs more than diffusers' name is refused before loading; every name that is offered works."""

from typing import get_args

import pytest
import torch
from diffusers.optimization import SchedulerType, get_scheduler

from alignbench.configuration.compose import check_command_line
from alignbench.errors import UserError
from alignbench.settings.train import Schedule

OFFERED = get_args(Schedule)


@pytest.mark.parametrize("name", [*sorted({kind.value for kind in SchedulerType} - set(OFFERED)),
                                  "cosine_with_min_lr", "inverse_sqrt"])  # fmt: skip
def test_others_are_refused_with_the_names_that_work(name):
    with pytest.raises(UserError) as refused:
        check_command_line(["method=sft", "model=sd15_mini", f"train.lr_scheduler={name}"], multirun=False)
    assert str(refused.value).startswith(f"train.lr_scheduler={name} is unknown;")
    assert str(refused.value).endswith(f"available: {', '.join(OFFERED)}")


@pytest.mark.parametrize("name", OFFERED)
def test_a_schedule_is_made_of_its_name_alone(name):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = get_scheduler(name, optimizer, num_warmup_steps=2, num_training_steps=4)
    for _ in range(4):
        optimizer.step()
        schedule.step()
    assert 0 <= schedule.get_last_lr()[0] <= 1
