"""Which class declares which section of the configuration: Hydra takes the defaults from it, a command its checks."""

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alignbench.errors import UserError, did_you_mean
from alignbench.settings.auxiliary import AuxiliaryLoss
from alignbench.settings.card import CardCommand, Exploit
from alignbench.settings.command import Command
from alignbench.settings.compare import Compare
from alignbench.settings.data import DataSettings, HubSettings, LabelSettings, PairSettings, RowSettings, VideoSettings
from alignbench.settings.model import SHARED, Model
from alignbench.settings.reward_training import RewardCommand, RewardTrain
from alignbench.settings.sampling import Sampling
from alignbench.settings.section import Section, shown
from alignbench.settings.tracker import Tracker
from alignbench.settings.train import Train
from alignbench.settings.validation import Validation

# of the main program, by their keys; the root has none
SECTIONS: Mapping[str, type[Section]] = {
    "": Command,
    "train": Train,
    "sampling": Sampling,
    "validation": Validation,
    "compare": Compare,
    "tracker": Tracker,
    "model": Model,
    "data": DataSettings,
}
# of train_reward
REWARD_SECTIONS: Mapping[str, type[Section]] = {"": RewardCommand, "train": RewardTrain, "data": DataSettings}
# of card
CARD_SECTIONS: Mapping[str, type[Section]] = {"": CardCommand, "exploit": Exploit}
# by the name of the main configuration file
PROGRAMS = {"config": SECTIONS, "train_reward": REWARD_SECTIONS, "card": CARD_SECTIONS}
# what is at the root beside the settings declared for it
NODES: Mapping[type[Section], Sequence[str]] = {
    Command: ("auxiliary", "train", "sampling", "validation", "compare", "tracker", "data", "prompts", "reward",
              "evaluators", "comparers", "features", "model", "method"),
    RewardCommand: ("train", "data", "judge"),
    CardCommand: ("exploit", "human_pairs", "evaluators", "comparers"),
}  # fmt: skip
# what else is built from settings, where it is there
REWARDS = ("method.reward", "method.scorer")  # without a target where none is chosen
OPTIONAL = ("sampling.control", *REWARDS)  # null where nobody asks for them
OBJECTS = ("train.optimizer", "model.adapter", "model.adapter.pipeline", *OPTIONAL)
NAMED = ("method", "model", "data", "prompts")  # by which files and tables call them
BUILT = ("method", "data", "prompts")  # from the settings under them, some of which are `NODES`
WHOLE = ("train", "sampling", "validation", "compare", "exploit")  # sections that have all that is declared
OPEN = (Model, DataSettings)  # constructors check the other keys that are beside these settings


def offer_defaults() -> None:
    """Make the defaults of the declarations known to Hydra, as choices beside those that are files of conf."""
    model = Model.defaults()
    for group, name, defaults in (
        (None, "command", Command.defaults()),
        (None, "train_reward_defaults", RewardCommand.defaults() | {"train": RewardTrain.defaults()}),
        (None, "card_defaults", CardCommand.defaults() | {"exploit": Exploit.defaults()}),
        ("train", "default", Train.defaults()),
        ("sampling", "default", Sampling.defaults()),
        ("validation", "none", Validation.defaults()),
        ("compare", "default", Compare.defaults()),
        ("model/options", "shared", {key: model[key] for key in SHARED}),
        ("data/options", "rules", RowSettings.defaults()),
        ("data/options", "labels", LabelSettings.defaults()),
        ("data/options", "pairs", PairSettings.defaults()),
        ("data/options", "hub", HubSettings.defaults()),
        ("data/options", "videos", VideoSettings.defaults()),
    ):
        ConfigStore.instance().store(name, defaults, group)


def check_settings(cfg: DictConfig, sections: Mapping[str, type[Section]] = SECTIONS) -> None:
    """Refuse settings that are not declared, as `+train.foo=3` adds, and values that a declaration does not allow.

    Raises:
        UserError: one line for each wrong setting.
    """
    _refuse_undeclared(cfg, sections)
    typed, followed = [], []
    terms = {f"auxiliary.{name}": AuxiliaryLoss for name in cfg.get("auxiliary", ())}
    for key, section in {**sections, **terms}.items():
        node = OmegaConf.select(cfg, key) if key else cfg
        for name, sentence in section.wrong(_plain(node, section), key).items():
            (followed if OmegaConf.is_interpolation(node, name) else typed).append(sentence)
    if wrong := typed or followed:  # a setting that follows another is not to blame for it
        raise UserError("\n".join(wrong))


def _refuse_undeclared(cfg: DictConfig, sections: Mapping[str, type[Section]]) -> None:
    for name, term in (cfg.get("auxiliary") or {}).items():
        if not OmegaConf.is_dict(term):
            raise UserError(f"auxiliary.{name}={term} is no loss; add one by auxiliary=NAME, as auxiliary=denoising")
    for key, section in sections.items():
        if key and section not in OPEN:  # at the root, an experiment has keys of its own
            node = OmegaConf.select(cfg, key)
            for name in node:
                if name not in section.model_fields:
                    raise unread(f"{key}.{name}", list(section.model_fields))
            lacking = [name for name in section.model_fields if name not in node] if key in WHOLE else []
            if lacking:
                raise UserError(f"{key}.{lacking[0]} is missing, and is needed; leave out ~{key}.{lacking[0]}")


def refuse_lost_nodes(cfg: DictConfig, command: type[Section]) -> None:
    """Refuse single values, and nothing, in the place of many settings.

    Args:
        command: the section at the root of a program.

    Raises:
        UserError: naming the key, and how its settings are typed.
    """
    for key in (*command.model_fields, *NODES[command]):
        if key not in cfg:
            raise UserError(f"{key} is missing, and the command needs it; leave out ~{key}")
    parts = [
        f"{key}.{name}" for key in ("evaluators", "comparers", "features", "human_pairs") for name in _names(cfg, key)
    ]
    parts += [f"auxiliary.{name}.term" for name in _names(cfg, "auxiliary")]
    for key in (*NODES[command], *OBJECTS, *parts):
        above, _, name = key.rpartition(".")
        parent = OmegaConf.select(cfg, above) if above else cfg
        if not isinstance(parent, DictConfig) or name not in parent or OmegaConf.is_missing(parent, name):
            continue
        node = _resolved(parent, name, key)
        if node is None and key in OPTIONAL:
            continue
        if not isinstance(node, DictConfig):
            told = f"{key}={shown(node)} must be a mapping of names to values"
            raise UserError(f"{told}; type {key}.NAME=VALUE for one of them")
        if key in NAMED and "name" not in node:
            raise UserError(f"{key}.name is missing, and is needed; leave out ~{key}.name")
        if (key in BUILT or key not in NODES[command]) and "_target_" not in node:
            raise UserError(f"{key}._target_ is missing, which says what is built; leave out ~{key}._target_")
        target = _resolved(node, "_target_", f"{key}._target_") if "_target_" in node else ""
        if key not in ("reward", *REWARDS) and target is None:
            raise UserError(f"{key}._target_=null must be the name of a class or function")


def _resolved(node: DictConfig, name: str, key: str) -> Any:
    """Return a value of a node.

    Raises:
        UserError: it refers to what is not there; naming `key`, as typed.
    """
    try:
        return node[name]
    except OmegaConfBaseException as error:
        raise UserError(f"{key} cannot be resolved: {str(error).splitlines()[0]}") from None


def _names(cfg: DictConfig, key: str) -> list[Any]:
    """Return the names of the parts of a node; none where it is no node."""
    node = cfg.get(key)
    return list(node) if isinstance(node, DictConfig) else []


def refuse_undeclared_root(keys: Sequence[str], command: type[Section]) -> None:
    """Refuse keys that words of a command add to the root, where they mean nothing.

    Args:
        keys: as typed, with dots.
        command: the section at the root of a program.

    Raises:
        UserError: naming the key.
    """
    known = [*command.model_fields, *NODES[command]]
    for key in keys:
        if (root := key.partition(".")[0]) not in known:
            raise unread(root, known)


def unread(key: str, known: Sequence[str]) -> UserError:
    """Return the sentence about a setting that is not declared."""
    return UserError(f"{key} is unknown, and nothing would read it;{did_you_mean(key.rpartition('.')[2], known)}")


def _plain(node: DictConfig, section: type[Section]) -> dict[str, Any]:
    """Return the declared settings of a node as plain values, but for those that are missing."""
    declared = [name for name in section.model_fields if name in node and not OmegaConf.is_missing(node, name)]
    try:
        values = {name: node[name] for name in declared}
    except OmegaConfBaseException as error:
        raise UserError(" ".join(str(error).split())) from None
    return {
        name: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        for name, value in values.items()
    }
