"""Which class declares which section of the configuration: Hydra takes the defaults from it, a command its checks."""

from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alignbench.errors import UserError
from alignbench.settings.section import Section
from alignbench.settings.train import Train

SECTIONS: dict[str, type[Section]] = {"train": Train}
# the choices of Hydra's groups that hold the defaults of a section, beside the files of conf
CHOICES: dict[tuple[str | None, str], type[Section]] = {("train", "default"): Train}


def offer_defaults() -> None:
    """Make the defaults of the declarations known to Hydra."""
    for (group, name), section in CHOICES.items():
        ConfigStore.instance().store(name, section.defaults(), group)


def check_settings(cfg: DictConfig) -> None:
    """Refuse values of declared settings that their declaration does not allow.

    Raises:
        UserError: one line for each wrong setting.
    """
    typed, followed = [], []
    for key, section in SECTIONS.items():
        node = cfg[key] if key else cfg
        for name, sentence in section.wrong(_plain(node, section), key).items():
            (followed if OmegaConf.is_interpolation(node, name) else typed).append(sentence)
    if wrong := typed or followed:  # a setting that follows another is not to blame for it
        raise UserError("\n".join(wrong))


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
