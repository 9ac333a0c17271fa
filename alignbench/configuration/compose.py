"""Parse, compose and check a command line as a whole, before the first job starts."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from alignbench.configuration.build import choices, conf_folder
from alignbench.configuration.checks import check
from alignbench.configuration.sections import (
    PROGRAMS,
    check_settings,
    refuse_lost_nodes,
    refuse_undeclared_root,
)
from alignbench.configuration.targets import check_overrides, check_targets
from alignbench.configuration.typed.plain_values import settle
from alignbench.configuration.typed.reward_sums import with_reward_sums
from alignbench.configuration.typed.unknown_keys import unknown_key
from alignbench.configuration.typed.words import needs_multirun, parse_words, swept_values, with_home
from alignbench.errors import UserError, did_you_mean
from alignbench.settings.section import shown

SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"  # every combination of lists, and no other
ONE_RUN = "hydra.mode=RUN"


@dataclass(frozen=True)
class CheckedJob:
    """One job of a command that was checked.

    Attributes:
        told: the words by which it differs from the others; empty if there is only one.
        words: those of a command that does it alone.
        cfg: its configuration.
    """

    told: str
    words: list[str]
    cfg: DictConfig


@dataclass(frozen=True)
class Unchecked:
    """A command of the main program before its check.

    Attributes:
        cfg: its configuration without its sweeps.
        is_sweep: whether it is a sweep.
        tree: what Hydra composed of it, which has Hydra's own settings, too. Nobody changes it.
    """

    cfg: DictConfig
    is_sweep: bool
    tree: DictConfig


def check_command_line(overrides: list[str], multirun: bool) -> int:
    """Compose and check every job of a command before the first one starts; return the number of jobs.

    Raises:
        UserError: the message says what was typed, what was expected and what to do.
    """
    return len(checked_jobs(overrides, multirun))


def checked_jobs(overrides: list[str], multirun: bool, tree: DictConfig | None = None) -> list[CheckedJob]:
    """Compose and check every job of a command before the first one starts, and return them.

    Args:
        tree: `Unchecked.tree` of the same words, so that a command that is no sweep is composed once.

    Raises:
        UserError: the message says what was typed, what was expected and what to do.
    """
    overrides = as_composed(overrides)
    with in_hydra():
        parsed = _parse(overrides)
        check_overrides([override.key_or_group for override in parsed])
        for override in parsed:
            if override.key_or_group == "hydra/sweeper" and override.value() != "basic":
                raise _searches(shown(override.value()))
            _check_choice(override)
        _check_additions(parsed)
        jobs = _jobs(parsed, multirun)
        if jobs is not None:
            tree = None
        else:
            for override in parsed:
                if override.is_sweep_override():
                    raise needs_multirun(override, bool(group_choices(override.key_or_group)))
            jobs = [overrides]
        composed_jobs = []
        for job in jobs:
            cfg = _compose(job, tree=tree)
            check(cfg)
            composed_jobs.append(cfg)
    in_all = set.intersection(*map(set, jobs))
    return [
        CheckedJob(" ".join(word for word in job if word not in in_all), _alone(job), cfg)
        for job, cfg in zip(jobs, composed_jobs, strict=True)
    ]


def _alone(job: Sequence[str]) -> list[str]:
    """Return the words of a job without those about the sweep; an experiment must not sweep again."""
    words = [word for word in job if not word.lstrip("+~").startswith(("hydra.", "hydra/"))]
    return [*words, ONE_RUN] if any(word.startswith("experiment=") for word in words) else words


def launcher_of(overrides: list[str], tree: DictConfig | None = None) -> tuple[str, dict[str, Any]]:
    """Return who runs the jobs of a command, and the settings of that launcher.

    Args:
        tree: see `checked_jobs`; None for a sweep, whose settings may be those of one job only.

    Raises:
        UserError: a setting refers to what is not there.
    """
    with in_hydra():
        if tree is None:
            parsed = [one for one in _parse(overrides) if not one.is_sweep_override()]
            words = [str(one.input_line) for one in parsed if _is_about_jobs(one.key_or_group)]
            tree = _compose(words, hydra=True)
        hydra = tree.hydra
        try:
            settings = OmegaConf.to_container(hydra.launcher, resolve=True)
        except OmegaConfBaseException as error:
            raise UserError(f"hydra.launcher cannot be read: {' '.join(str(error).split())}") from None
    assert isinstance(settings, dict)
    return hydra.runtime.choices["hydra/launcher"], {str(key): value for key, value in settings.items()}


def _jobs(parsed: list[Override], multirun: bool) -> list[list[str]] | None:
    """Return the words of each job of a sweep in its order; None if the command is no sweep."""
    params, is_sweep = _sweep_of_experiment(parsed)
    if not (multirun or is_sweep):
        return None
    return _sweep([*_parse([f"{key}={value}" for key, value in params.items()]), *parsed])


def as_composed(words: Sequence[str]) -> list[str]:
    """Return the words of a command as Hydra has to read them: sums of rewards, and `~` for the home folder.

    Raises:
        UserError: as `with_reward_sums`.
    """
    return with_reward_sums(with_home(words))


def for_sweep(words: Sequence[str], multirun: bool) -> list[str]:
    """Return the words of a sweep so that `method.beta=100` is read with each job's method, not with the default one.

    Hydra first composes the words that are the same in all jobs, without those that differ. A word `KEY=choice(VALUE)`
    is one of those that differ, with one value. Words of a command that is no sweep stay as they are.

    Raises:
        UserError: a word is not understood.
    """
    with in_hydra():
        parsed = _parse(words)
        if not (multirun or _sweep_of_experiment(parsed)[1]):
            return list(words)
        return [_as_choice(override) for override in parsed]


def _as_choice(override: Override) -> str:
    word, key = str(override.input_line), override.key_or_group
    _, _, value = word.partition("=")
    is_addition = override.is_add() or override.is_force_add()
    is_same_for_all = not (is_addition or override.is_delete() or override.is_sweep_override())
    is_setting = "." in key and not key.startswith("hydra.") and not group_choices(key)
    if not (is_same_for_all and is_setting and value) or "=" in value:  # choice(a=b) would name an argument
        return word
    return f"{key}=choice({value})"


def composed(overrides: list[str], program: str = "config") -> DictConfig:
    """Return the configuration of one command.

    Args:
        overrides: the words of the command.
        program: name of the main configuration file; that of the main program is `config`.

    Raises:
        UserError: the message says what was typed, what was expected and what to do.
    """
    with in_hydra():
        overrides = as_composed(overrides)
        parsed = _parse(overrides)
        check_overrides([override.key_or_group for override in parsed])
        for override in parsed:
            _check_choice(override)
        _check_additions(parsed, program)
        return _compose(overrides, program=program)


def unchecked(overrides: list[str]) -> Unchecked | None:
    """Return the configuration of a command of the main program without its sweeps, and whether it is a sweep.

    Nothing that the configuration names is imported, so this takes a second. None if the command is not understood: the
    check says why.
    """
    with in_hydra():
        try:
            parsed = _parse(as_composed(overrides))
            words = [str(one.input_line) for one in parsed if not one.is_sweep_override()]
            tree = compose("config", words, return_hydra_config=True)
        except (UserError, HydraException, OmegaConfBaseException, ValueError, TypeError, AttributeError):
            return None
        is_sweep = tree.hydra.mode == RunMode.MULTIRUN or len(words) < len(parsed)
        return Unchecked(_without_hydra(tree), is_sweep, tree)


def is_plausible(cfg: DictConfig) -> bool:
    """Say whether a configuration of `unchecked` is one that a run may have had; the check says why it is not."""
    try:
        check_targets(OmegaConf.to_container(cfg))
        refuse_lost_nodes(cfg, PROGRAMS["config"][""])
        check_settings(settle(cfg))
        return not OmegaConf.missing_keys(cfg)
    except (UserError, OmegaConfBaseException):
        return False


def _parse(overrides: Sequence[str]) -> list[Override]:
    return parse_words(overrides, GlobalHydra.instance().config_loader())


def _sweep_of_experiment(parsed: Sequence[Override]) -> tuple[Mapping[str, Any], bool]:
    """Return what an experiment sweeps over, and whether it does so without `-m`."""
    words = [str(one.input_line) for one in parsed if not one.is_sweep_override() and _is_about_jobs(one.key_or_group)]
    if not words:
        return {}, False
    hydra = _compose(words, hydra=True).hydra
    if hydra.sweeper._target_ != SWEEPER:
        raise _searches(hydra.runtime.choices["hydra/sweeper"])
    return hydra.sweeper.get("params") or {}, hydra.mode == RunMode.MULTIRUN


def _searches(sweeper: str) -> UserError:
    """Return the sentence about a sweeper of a plugin, which would find out after all trials that it cannot search."""
    return UserError(
        f"hydra/sweeper={sweeper} searches by the value that a job returns, and jobs return none; leave it out, and "
        "list the values to compare, as in train.learning_rate=1e-5,5e-5, or use python -m alignbench.search"
    )


def _is_about_jobs(key: str) -> bool:
    """Say whether a key may change how many jobs there are and how they are run."""
    return key in ("hydra", "experiment") or key.startswith(("hydra.", "hydra/"))


@contextmanager
def in_hydra() -> Iterator[None]:
    """Let Hydra compose from our tree; within a job, that of the job comes back afterwards."""
    state = GlobalHydra.instance()
    of_job = state.hydra
    state.clear()
    try:
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            _forget_launchers_of_plugins()
            yield
    finally:
        state.clear()
        state.hydra = of_job


def _forget_launchers_of_plugins() -> None:
    """Let our files say which settings a launcher has, where a plugin of Hydra declares one of the same name."""
    declared: Any = ConfigStore.instance().repo["hydra"].get("launcher", {})
    for name in choices("hydra/launcher"):
        declared.pop(f"{name}.yaml", None)


def _sweep(parsed: list[Override]) -> list[list[str]]:
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    for override in parsed:
        if override.is_sweep_override():
            swept_values(override)
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
        chosen = swept_values(override)
    else:
        chosen = [shown(choice) for choice in (value if isinstance(value, list) else [value])]
    for name in chosen:
        if name not in available:
            raise UserError(
                f"{override.key_or_group}={name} is unknown;{did_you_mean(name, available)}"
                + _added(override.key_or_group, name)
            )


def _check_additions(parsed: Sequence[Override], program: str = "config") -> None:
    if any(override.key_or_group == "experiment" for override in parsed):  # which may have keys of its own at the root
        return
    adding = [one.key_or_group for one in parsed if one.is_add() or one.is_force_add()]
    settings = [key for key in adding if not (group_choices(key) or key.startswith(("hydra.", "hydra/")))]
    refuse_undeclared_root(settings, PROGRAMS[program][""])


def _added(group: str, name: str) -> str:
    """Return how one evaluator is chosen, or the features of one network, where its name was given as that of a set."""
    one = {"evaluators": "evaluator", "features": "feature"}.get(group)
    if one is None or name not in group_choices(one):
        return ""
    return f"; to measure by {name} alone, type {group}=none +{one}@{group}.{name}={name}"


def _compose(
    overrides: Sequence[str], hydra: bool = False, program: str = "config", tree: DictConfig | None = None
) -> DictConfig:
    try:
        cfg = compose(program, list(overrides), return_hydra_config=hydra) if tree is None else job_of(tree)
    except (ValueError, TypeError, AttributeError) as error:  # of a value that Hydra takes for that of another kind
        raise UserError(
            f"the command is not understood: {' '.join(str(error).split())}; leave out its odd words"
        ) from None
    except MissingConfigException as error:
        raise UserError(f"{error.missing_cfg_file} is not part of the configuration;{did_you_mean('', [])}") from None
    except ConfigCompositionException as error:
        _refuse_unknown_keys(overrides, program)
        cause = error.__cause__ or error
        raise UserError(" ".join(str(cause).split())) from None
    check_targets(OmegaConf.to_container(cfg))
    if hydra:
        return cfg
    sections = PROGRAMS[program]
    refuse_lost_nodes(cfg, sections[""])
    return settle(cfg, sections)


def _refuse_unknown_keys(overrides: Sequence[str], program: str) -> None:
    """Refuse an override whose key is not in the configuration that the others choose."""
    parsed = _parse(overrides)
    chooses = [one for one in parsed if (one.is_add() or group_choices(one.key_or_group)) and not one.is_delete()]
    groups = [one for one in chooses if group_choices(one.key_or_group)]
    tree = None
    for words in (chooses, groups):  # a word that adds may itself be the one that cannot be composed
        try:
            tree = compose(program, [str(one.input_line) for one in words], return_hydra_config=True)
        except HydraException:
            continue
        break
    if tree is None:
        return
    chosen = {str(key).partition("@")[2] or str(key): str(name) for key, name in tree.hydra.runtime.choices.items()}
    names = GlobalHydra.instance().config_loader().get_group_options("", ObjectType.GROUP)
    for override in parsed:
        key = override.key_or_group
        if override.is_add() or group_choices(key) or key.partition(".")[0] == "hydra":
            continue
        if told := unknown_key(key, _without_hydra(tree), names, chosen):
            raise UserError(told)


def job_of(tree: DictConfig) -> DictConfig:
    """Return a copy of what Hydra composed, without its own settings: the configuration of a job as Hydra gives it."""
    cfg = deepcopy(tree)
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg


def _without_hydra(tree: DictConfig) -> DictConfig:
    return OmegaConf.masked_copy(tree, [str(key) for key in tree if key != "hydra"])
