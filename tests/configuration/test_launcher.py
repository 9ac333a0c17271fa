"""What the launcher asks for, and what of it is refused before anything loads."""

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

from alignbench.configuration import launcher
from alignbench.configuration.build import conf_folder
from alignbench.configuration.launcher import engine_asked_for
from alignbench.errors import UserError
from tests.processes import DEEPSPEED, FSDP2

TWO = {"WORLD_SIZE": "2"}


@pytest.fixture
def deepspeed_is_there(monkeypatch):
    monkeypatch.setattr(launcher, "find_spec", lambda name: True)


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "deepspeed"])
def test_the_shipped_files_ask_for_what_they_are_called(name, deepspeed_is_there):
    file = conf_folder() / "accelerate" / f"{name}.yaml"
    given = launch_command_parser().parse_args(["--config_file", str(file), "--num_processes", "2", "train.py"])
    arguments, _, _ = _validate_launch_command(given)
    assert arguments.num_processes == 2
    arguments.deepspeed_fields_from_accelerate_config = ""  # which launching itself would fill
    environment = prepare_deepspeed_cmd_env(arguments)[1] if name == "deepspeed" else prepare_multi_gpu_env(arguments)
    assert engine_asked_for(environment | TWO) == name


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"ACCELERATE_USE_FSDP": "true"}, "fsdp_version: 2"),
        ({**FSDP2, "FSDP_ACTIVATION_CHECKPOINTING": "true"}, "memory=checkpointing"),
        ({**FSDP2, "WORLD_SIZE": "1"}, "asks for FSDP, but there is only one process"),
        ({**DEEPSPEED, "WORLD_SIZE": "1"}, "asks for DeepSpeed, but there is only one process"),
        ({**DEEPSPEED, "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, "zero_stage 1 or 2"),
        ({**DEEPSPEED, "ACCELERATE_DEEPSPEED_CONFIG_FILE": "ds.json"}, "deepspeed_config_file is not read"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "Megatron-LM"),
        ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, "tensor, context or sequence parallelism"),
    ],
)
def test_what_the_program_cannot_do_is_refused(environment, message, deepspeed_is_there):
    with pytest.raises(UserError, match=message):
        engine_asked_for(TWO | environment)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(launcher, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"""pip install "alignbench\[gpu\]\""""):
        engine_asked_for(TWO | DEEPSPEED)


def test_nothing_asked_for_is_ddp():
    assert engine_asked_for({"ACCELERATE_USE_FSDP": "false"}) == "ddp"
