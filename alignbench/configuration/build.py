"""What a configuration means: what it builds, its run's name, and what kind of run it is."""

import hashlib
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from alignbench.errors import UserError
from alignbench.former_names import with_former_names
from alignbench.videos import FrameSpec, frame_spec

NOT_IN_HASH = {"logging_steps", "checkpointing_steps", "checkpointing_minutes", "checkpoints_in_background",
               "dataloader_num_workers", "allow_evaluation_prompts", "offload"}  # fmt: skip
# how the model is sampled does not change it, nor does what is known of its past
MODEL_NOT_IN_HASH = {"steps", "num_inference_steps", "guidance_scale", "scheduler", "sampling_resolution",
                     "controlnets", "policy_trained_on"}  # fmt: skip

# settings of each section that results have been made without, and the value that is the same as not to have them
LATER_IN_HASH: dict[str, dict[str, Any]] = {
    "train": {
        "max_train_minutes": None,
        "base_bits": None,
        "size_conditioning": "square",
        "reward_vae": None,
        "crop": "centre",
        "random_flip": False,
        "crops_per_image": None,
        "aspect_ratio_buckets": None,
    },
    "method": {"rollout_shift": None, "num_draws": None, "points_per_inversion": 1},
    "validation": {"every_unit": "updates"},
    # the second is of FLUX.2-klein, which had one scale; that of evaluation images is not in the hash either
    "model": {"policy_step": None, "guidance": {"default": 4.0, "few": 1.0}},
}

# keys of a model of videos, and of the data that it is trained on; with one frame it is a model of images, as it was
# before it had them
FRAMES = {"num_frames", "fps"}

# the extra of pyproject.toml that has a package
EXTRAS = {"bitsandbytes": "gpu", "prodigyopt": "gpu", "deepspeed": "gpu", "wandb": "tracking", "optuna": "search",
          "joblib": "cluster", "submitit": "cluster", "ray": "ray"}  # fmt: skip


def conf_folder() -> Path:
    """Return the configuration tree: inside the package when installed, beside it in a clone."""
    package = Path(__file__).resolve().parents[1]
    return package / "conf" if (package / "conf").is_dir() else package.parent / "conf"


def choices(group: str) -> list[str]:
    """Return the names that a group of the configuration offers, in alphabetical order."""
    return sorted(file.stem for file in (conf_folder() / group).glob("*.yaml") if file.stem != "none")


def build(node: DictConfig | None) -> Any:
    """Build the object that a node describes by its `_target_`.

    Raises:
        UserError: if a value is not of the type that the constructor names, or the object refuses it; Hydra would wrap
            the sentence in a stack trace.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    from alignbench.configuration.arguments import check_arguments

    if node is not None:  # as of a ControlNet that nobody asks for
        check_arguments(node)
    try:
        return instantiate(node)
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        if isinstance(error.__cause__, ValueError):
            raise UserError(str(error.__cause__)) from None
        if isinstance(error.__cause__, TypeError) and "required" in str(
            error.__cause__
        ):  # a setting was deleted by `~`
            raise UserError(f"{error.__cause__}; set it, or leave out the word with ~ that deletes it") from None
        raise


def check_package(target: str, needed_by: str, instead: str = "") -> None:
    """Refuse what needs a package that is not installed.

    Args:
        target: a dotted path in that package.
        needed_by: the setting that asks for it.
        instead: what else can be typed.
    """
    package = target.split(".")[0]
    if importlib.util.find_spec(package) is None:
        raise UserError(
            f"{needed_by} needs the package {package}, which is not installed: {installation(package)}{instead}"
        )


def installation(package: str) -> str:
    """Return the command that installs a package, by the extra of pyproject.toml that has it."""
    if package not in EXTRAS:
        return f"pip install {package}"
    return f'pip install "alignbench[{EXTRAS[package]}]", or in the clone: uv sync --extra {EXTRAS[package]}'


def resolve(cfg: DictConfig) -> dict[str, Any]:
    """Return the configuration of the main program as plain values.

    Raises:
        UserError: if a required value is missing.
    """
    if not trains(cfg):  # trains on nothing, so it needs no data
        cfg = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "data"])
    return resolve_all(cfg, not_needed="data." if cfg.dry_run else "")  # an estimate reads no data


def resolve_all(cfg: DictConfig, not_needed: str = "") -> dict[str, Any]:
    """Return a configuration, of any program, as plain values.

    Args:
        not_needed: beginning of the keys that may be missing; empty if none may.

    Raises:
        UserError: if a required value is missing.
    """
    missing = sorted(key for key in _missing_keys(cfg) if not (not_needed and key.startswith(not_needed)))
    if missing:
        raise UserError(f"{missing[0]} must be set: add {missing[0]}=VALUE to the command")
    try:
        resolved = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(" ".join(str(error).split())) from None
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def _missing_keys(cfg: DictConfig) -> set[str]:
    """Return the keys of missing values; one of them where another value refers to it."""
    try:
        return OmegaConf.missing_keys(cfg)
    except InterpolationToMissingValueError as error:
        return set(re.findall(r"Missing mandatory value: (\S+)", str(error)))


def config_hash(cfg: DictConfig) -> str:
    """Return the fingerprint of all that changes the weights; a run that trains nothing depends on its model alone."""
    return _fingerprint(recipe(cfg) | ({"seed": cfg.seed} if trains(cfg) else {}))


def recipe_hash(cfg: DictConfig) -> str:
    """Return the same without the training seed: runs that share it are repetitions of each other."""
    return _fingerprint(recipe(cfg))


def recipe(cfg: DictConfig) -> dict[str, Any]:
    """Return all settings that change the weights, but for the training seed, as plain values."""
    values = resolve(cfg)
    if frames_of(cfg.model) is None:
        values = without_frames(values)
    model = {k: v for k, v in _without_later("model", values["model"]).items() if k not in MODEL_NOT_IN_HASH}
    if cfg.model.policy is None:
        model.pop("policy_revision", None)
    if not trains(cfg):
        return {"method": values["method"], "model": model}
    method = _without_later("method", values["method"])
    train = {key: value for key, value in _without_later("train", values["train"]).items() if key not in NOT_IN_HASH}
    found = {"method": method, "model": model, "data": values["data"], "train": train}
    if values["auxiliary"]:
        found["auxiliary"] = values["auxiliary"]
    if values["validation"]["every"] is not None:  # it chooses among weights
        found["validation"] = _without_later("validation", values["validation"])
    return found


def _without_later(section: str, values: dict[str, Any]) -> dict[str, Any]:
    """Return a section without the settings of `LATER_IN_HASH` that are as if they were not there.

    A section may hold others of its kind, such as the loss of `online_dpo`.
    """
    later = LATER_IN_HASH[section]
    return {
        key: _without_later(section, value) if isinstance(value, dict) else value
        for key, value in values.items()
        if not (key in later and value == later[key])
    }


def without_frames(values: Any) -> Any:
    """Return plain configuration values without the keys that only models of videos have."""
    if not isinstance(values, dict):
        return values
    return {key: without_frames(value) for key, value in values.items() if key not in FRAMES}


def _fingerprint(values: dict[str, Any]) -> str:
    text = json.dumps(with_former_names(values), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def run_name(cfg: DictConfig) -> str:
    """Return the folder name of a run: the same for the same command, on every process."""
    return f"{row_name(cfg)}-{cfg.model.name}-{config_hash(cfg)}"


def row_name(cfg: DictConfig) -> str:
    """Return how tables call a run: its method, or the published policy that `method=base model.policy=X` measures."""
    if trains(cfg) or cfg.model.policy is None:
        return cfg.method.name
    from alignbench.models.weights.find_policy import policy_label

    return policy_label(cfg.model.policy)


def trains(cfg: DictConfig) -> bool:
    """Say whether a run makes weights of its own; `method=base` measures those that it is given."""
    return cfg.method.name != "base"


def is_base(cfg: DictConfig) -> bool:
    """Say whether this is the untouched model that all else is compared with."""
    return not trains(cfg) and cfg.model.policy is None


def base_of(cfg: DictConfig) -> DictConfig:
    """Return the configuration of the untouched model that `cfg` is compared with."""
    base = start_of(cfg)
    base.model.policy = None
    base.model.policy_revision = None
    base.model.policy_step = None
    base.model.policy_trained_on = []
    return base


def start_of(cfg: DictConfig) -> DictConfig:
    """Return the configuration that measures what `cfg` starts training from."""
    base = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))  # values may follow the method's name
    assert isinstance(base, DictConfig)
    method = OmegaConf.load(conf_folder() / "method" / "base.yaml")
    base.method = {"_target_": method._target_, "name": method.name}
    base.name = None
    base.sampling.strength = 1.0  # it is what strength counts from
    return base


def has_images(cfg: DictConfig) -> bool:
    """Say whether the images of this configuration exist already, so that no model is needed."""
    return "folders" in list(cfg.model)  # where its value is missing, too


def frames_of(model: DictConfig) -> FrameSpec | None:
    """Return the frames of the videos that a model sees and makes; None for a model of images."""
    return frame_spec(model.num_frames, model.fps) if "num_frames" in model else None


def weights_dtype(values: dict[str, Any]) -> str:
    """Return the name of the dtype that the denoiser is trained in; `values` as `resolve` gives them."""
    loaded = values["model"]["adapter"]["pipeline"].get("torch_dtype", "float32")  # the miniatures have no choice
    return values["train"]["weights_dtype"] or loaded
