"""Parse, compose and check a command line as a whole, before the first job starts."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alignbench.configuration.build import conf_folder
from alignbench.configuration.checks import check
from alignbench.configuration.targets import check_overrides, check_targets
from alignbench.errors import UserError, did_you_mean
from alignbench.settings.section import shown


def check_command_line(overrides: list[str], multirun: bool) -> int:
    """Compose and check every job of a command before the first one starts; return the number of jobs.

    Raises:
        UserError: the message says what was typed, what was expected and what to do.
    """
    overrides = with_reward_sums(overrides)
    parsed = _parse(overrides)
    with _hydra():
        check_overrides([override.key_or_group for override in parsed])
        for override in parsed:
            _check_choice(override)
        hydra = _compose([str(one.input_line) for one in parsed if not one.is_sweep_override()], hydra=True).hydra
        if multirun or hydra.mode == RunMode.MULTIRUN:  # an experiment may define a sweep
            params = hydra.sweeper.get("params") or {}
            jobs = _sweep([*_parse([f"{key}={value}" for key, value in params.items()]), *parsed])
        else:
            jobs = [overrides]
        for job in jobs:
            check(_compose(job))
    return len(jobs)


def composed(overrides: list[str], program: str = "config") -> DictConfig:
    """Return the configuration of one command.

    Args:
        overrides: the words of the command.
        program: name of the main configuration file; that of the main program is `config`.

    Raises:
        UserError: the message says what was typed, what was expected and what to do.
    """
    with _hydra():
        overrides = with_reward_sums(overrides)
        parsed = _parse(overrides)
        check_overrides([override.key_or_group for override in parsed])
        for override in parsed:
            _check_choice(override)
        return _compose(overrides, program=program)


def unchecked(overrides: list[str]) -> tuple[DictConfig, bool] | None:
    """Return the configuration of a command of the main program without its sweeps, and whether it is a sweep.

    Nothing that the configuration names is imported, so this takes a second. None if the command is not understood: the
    check says why.
    """
    with _hydra():
        try:
            parsed = _parse(with_reward_sums(overrides))
            words = [str(one.input_line) for one in parsed if not one.is_sweep_override()]
            cfg = compose("config", words, return_hydra_config=True)
        except (UserError, HydraException, OmegaConfBaseException):
            return None
        is_sweep = cfg.hydra.mode == RunMode.MULTIRUN or len(words) < len(parsed)
        return OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"]), is_sweep


def with_reward_sums(words: Sequence[str]) -> list[str]:
    """Return the words of a command with `reward=[NAME,NAME]` in the words that compose it: a sum of rewards.

    `reward.weights.NAME=0.5` sets the weight of one of them, 1 by default. All other words stay as they are.

    >>> with_reward_sums(["reward=[pickscore,clip_score]", "reward.weights.clip_score=0.5"])[:2]
    ['reward=several', '+reward@reward.components.pickscore=pickscore']

    Raises:
        UserError: a reward is named twice.
    """
    chosen = {word: _parse([word])[0].value() for word in words if word.startswith("reward=[")}
    lists = [value for value in chosen.values() if isinstance(value, list)]  # a sweep over lists is refused elsewhere
    names = [shown(name) for value in lists[-1:] for name in value]
    if len(names) < 2:  # Hydra takes a list of one
        return list(words)
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"reward={shown(names)} names {repeated} twice; count it twice by reward.weights.{repeated}=2")
    parts = [f"+reward@reward.components.{name}={name}" for name in names]
    weights = [f"+reward.weights.{name}=1.0" for name in names]
    # a weight of another name is refused by the sum, which knows the names
    others = [f"++{word}" if word.startswith("reward.weights.") else word for word in words if word not in chosen]
    return ["reward=several", *parts, *weights, *others]


def _parse(overrides: list[str]) -> list[Override]:
    try:
        return OverridesParser.create().parse_overrides(overrides)
    except OverrideParseException as error:
        raise UserError(
            f"{error.override!r} is not understood; expected key=value, as in train.max_train_steps=50"
        ) from None


@contextmanager
def _hydra() -> Iterator[None]:
    """Let Hydra compose from our tree; within a job, that of the job comes back afterwards."""
    state = GlobalHydra.instance()
    of_job = state.hydra
    state.clear()
    try:
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            yield
    finally:
        state.clear()
        state.hydra = of_job


def _sweep(parsed: list[Override]) -> list[list[str]]:
    if any(override.key_or_group == "hydra/sweeper" for override in parsed):
        return [[str(override.input_line) for override in parsed if not override.is_sweep_override()]]
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    return [list(job) for job in BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]]


def group_choices(group: str) -> list[str]:
    """Return the choices of a group of the tree that Hydra is composing; none if there is no such group."""
    return GlobalHydra.instance().config_loader().get_group_options(group, ObjectType.CONFIG)


def _check_choice(override: Override) -> None:
    available = group_choices(override.key_or_group)
    if not available or override.is_delete():
        return
    value = override.value()
    if override.is_sweep_override():
        chosen: Iterable[Any] = override.sweep_string_iterator()
    else:
        chosen = value if isinstance(value, list) else [value]
    for choice in chosen:
        if (name := shown(choice)) not in available:
            raise UserError(f"{override.key_or_group}={name} is unknown;{did_you_mean(name, available)}")


def _compose(overrides: list[str], hydra: bool = False, program: str = "config") -> DictConfig:
    try:
        cfg = compose(program, overrides, return_hydra_config=hydra)
        check_targets(OmegaConf.to_container(cfg))
        return cfg
    except MissingConfigException as error:
        raise UserError(f"{error.missing_cfg_file} is not part of the configuration;{did_you_mean('', [])}") from None
    except ConfigCompositionException as error:
        for override in overrides:
            _check_key(override, program)
        cause = error.__cause__ or error
        raise UserError(" ".join(str(cause).split())) from None


def _check_key(text: str, program: str) -> None:
    """Refuse an override whose key is not in the configuration."""
    override = _parse([text])[0]
    if group_choices(override.key_or_group) or override.is_add():
        return
    node: Any = compose(program)
    path: list[str] = []
    for part in override.key_or_group.split("."):
        keys = [str(key) for key in node] if isinstance(node, DictConfig) else []
        if part not in keys:
            where = ".".join(path) or "the configuration"
            raise UserError(
                f"{override.key_or_group} is unknown; {where} has no key {part!r};{did_you_mean(part, keys)}"
            )
        path.append(part)
        node = node._get_node(part) if OmegaConf.is_missing(node, part) else node[part]
