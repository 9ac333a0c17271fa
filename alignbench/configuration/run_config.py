"""The configuration of a finished run, read as data: nothing that its file names is built.

The model is that of the shipped configuration. Only plain values are taken from the file.
"""

import inspect
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from alignbench.configuration.build import choices, conf_folder
from alignbench.configuration.compose import composed
from alignbench.configuration.targets import target_object
from alignbench.errors import UserError, did_you_mean
from alignbench.former_names import with_present_names
from alignbench.reading import read_yaml
from alignbench.store.run_folder import checked

PUT_BACK_OR_NAME = "put the right file back, or give the weights themselves, with model=NAME"


def read_run_config(file: Path) -> DictConfig:
    """Read the `config.yaml` of a run. Its `model` can be built; no other node has a `_target_`.

    Raises:
        UserError: the file is damaged, or its model is none of the shipped configuration with other plain values.
    """
    values = read_yaml(checked(file), PUT_BACK_OR_NAME)
    try:
        model = values["model"]
        targets = with_present_names(model["adapter"])["_target_"], with_present_names(model["adapter"]["pipeline"])
        pipeline_target = targets[1].get("_target_")
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{file} is not the configuration of a run; {PUT_BACK_OR_NAME}") from None
    if "${" in file.read_text(encoding="utf-8"):
        raise UserError(f"{file} refers to other values by ${{...}}, which no run writes; put the right file back")
    shipped = _shipped_model(file, model, (targets[0], pipeline_target))
    values = _without_targets(values) | {"model": _with_values(shipped, with_present_names(model), file)}
    cfg = OmegaConf.create(values)
    assert isinstance(cfg, DictConfig)
    return cfg


def read_named_config(file: Path) -> DictConfig:
    """Read the `config.yaml` of a run to measure that run. All of it decides the run's name; only its `model` is built.

    Raises:
        UserError: as `read_run_config`.
    """
    model = read_run_config(file).model
    cfg = OmegaConf.create(with_present_names(read_yaml(checked(file))))
    assert isinstance(cfg, DictConfig)
    cfg.model = model
    return cfg


def read_plain_config(file: Path) -> dict[str, Any]:
    """Read the `config.yaml` of any run as plain values, also of one without a model that can be built.

    Raises:
        UserError: the file is damaged.
    """
    return with_present_names(read_yaml(checked(file)))


def _shipped_model(file: Path, model: dict[str, Any], targets: tuple[Any, Any]) -> dict[str, Any]:
    """Return the model of the shipped configuration that a run's model is: of its name, else of its classes."""
    known = [name for name in choices("model") if name != "images"]
    name = model.get("name")
    for candidate in [name] if name in known else [one for one in known if _may_have(one, targets[0])]:
        shipped: Any = OmegaConf.to_container(composed(["method=base", f"model={candidate}"]).model, resolve=True)
        if (shipped["adapter"]["_target_"], shipped["adapter"]["pipeline"]["_target_"]) == targets:
            return shipped
    raise UserError(
        f"{file} describes model.name={name} as {' of '.join(map(str, targets))}, which is no model of this program; "
        f"give the weights themselves, with model=NAME;{did_you_mean(str(name), known)}"
    )


def _may_have(model: str, adapter: Any) -> bool:
    """Say whether a model of the shipped configuration may have an adapter: to compose all of them takes long."""
    found = OmegaConf.select(OmegaConf.load(conf_folder() / "model" / f"{model}.yaml"), "adapter._target_")
    return found is None or found == adapter


def _with_values(shipped: dict[str, Any], given: Any, file: Path, where: str = "model") -> dict[str, Any]:
    """Return a node of the shipped configuration with the plain values of a run's.

    A run may have arguments that the shipped node leaves to their default, if the constructor has them.
    """
    if not isinstance(given, dict):
        raise UserError(f"{file} has no values under {where}; put the right file back")
    parameters = inspect.signature(target_object(shipped["_target_"])).parameters if "_target_" in shipped else {}
    values = dict(shipped)
    for key, value in given.items():
        if isinstance(shipped.get(key), dict):
            values[key] = _with_values(shipped[key], value, file, f"{where}.{key}")
        elif key == "_target_":
            if value != shipped.get(key):
                raise UserError(
                    f"{file} names {where}._target_={value} where this program has {shipped.get(key)}; nothing was run"
                )
        elif not _is_plain(value):
            raise UserError(f"{file} has {where}.{key} that is no plain value; put the right file back")
        elif key in shipped or key in parameters:
            values[key] = value
    return values


def _is_plain(value: Any) -> bool:
    entries = value if isinstance(value, list) else [value]
    return all(entry is None or isinstance(entry, str | int | float | bool) for entry in entries)


def _without_targets(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _without_targets(value) for key, value in values.items() if key != "_target_"}
    return [_without_targets(value) for value in values] if isinstance(values, list) else values
