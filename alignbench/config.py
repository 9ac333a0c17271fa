"""What a configuration means: its run's name, and the checks that speak before anything heavy loads."""

import hashlib
import importlib.util
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alignbench.errors import UserError, near
from alignbench.place import Place

STAGES = ("train", "generate", "score", "report")
NOT_IN_HASH = {"logging_steps", "checkpointing_steps", "dataloader_num_workers", "allow_evaluation_prompts", "offload"}


def conf_folder() -> Path:
    """Return the configuration tree: inside the package when installed, beside it in a clone."""
    package = Path(__file__).resolve().parent
    return package / "conf" if (package / "conf").is_dir() else package.parent / "conf"


# ---- the command line


def check_command_line(overrides: list[str], multirun: bool) -> int:
    """Compose and check every job of a command before the first one starts; return how many there are.

    Raises:
        UserError: naming what was typed, what was expected and what to do.
    """
    parsed = _parse(overrides)
    with _hydra():
        for override in parsed:
            _check_choice(override)
        hydra = _compose([str(one.input_line) for one in parsed if not one.is_sweep_override()], hydra=True).hydra
        if multirun or hydra.mode == RunMode.MULTIRUN:  # an experiment may ask for a sweep and say of what
            params = hydra.sweeper.get("params") or {}
            jobs = _sweep([*_parse([f"{key}={value}" for key, value in params.items()]), *parsed])
        else:
            jobs = [overrides]
        for job in jobs:
            check(_compose(job))
    return len(jobs)


def composed(overrides: list[str]) -> DictConfig:
    """Return the configuration of one command, as typed.

    Raises:
        UserError: naming what was typed, what was expected and what to do.
    """
    with _hydra():
        for override in _parse(overrides):
            _check_choice(override)
        return _compose(overrides)


def _parse(overrides: list[str]) -> list[Override]:
    try:
        return OverridesParser.create().parse_overrides(overrides)
    except OverrideParseException as error:
        raise UserError(
            f"{error.override!r} is not understood; expected key=value, as in train.max_train_steps=50"
        ) from None


@contextmanager
def _hydra() -> Iterator[None]:
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        yield
    GlobalHydra.instance().clear()


def _sweep(parsed: list[Override]) -> list[list[str]]:
    if any(override.key_or_group == "hydra/sweeper" for override in parsed):
        return [[str(override.input_line) for override in parsed if not override.is_sweep_override()]]
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    return [list(job) for job in BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]]


def _check_choice(override: Override) -> None:
    group = conf_folder() / override.key_or_group
    if not group.is_dir() or override.is_delete():
        return
    available = sorted(file.stem for file in group.glob("*.yaml"))
    value = override.value()
    if override.is_sweep_override():
        chosen: Iterable[Any] = override.sweep_string_iterator()
    else:
        chosen = value if isinstance(value, list) else [value]
    for choice in chosen:
        if choice is not None and str(choice) not in available:
            raise UserError(f"{override.key_or_group}={choice} is unknown;{near(str(choice), available)}")


def _compose(overrides: list[str], hydra: bool = False) -> DictConfig:
    try:
        return compose("config", overrides, return_hydra_config=hydra)
    except MissingConfigException as error:
        raise UserError(f"{error.missing_cfg_file} is not part of the configuration;{near('', [])}") from None
    except ConfigCompositionException as error:
        for override in overrides:
            _check_key(override)
        cause = error.__cause__ or error
        raise UserError(" ".join(str(cause).split())) from None


def _check_key(text: str) -> None:
    """Say what is wrong with one override, if its key is not in the tree."""
    override = _parse([text])[0]
    if (conf_folder() / override.key_or_group).is_dir() or override.is_add():
        return
    node: Any = compose("config")
    path: list[str] = []
    for part in override.key_or_group.split("."):
        keys = [str(key) for key in node] if isinstance(node, DictConfig) else []
        if part not in keys:
            where = ".".join(path) or "the configuration"
            raise UserError(f"{override.key_or_group} is unknown; {where} has no key {part!r};{near(part, keys)}")
        path.append(part)
        node = node._get_node(part) if OmegaConf.is_missing(node, part) else node[part]


# ---- the meaning of a configuration


def build(node: DictConfig) -> Any:
    """Build the object that a node describes by its `_target_`.

    Raises:
        UserError: if the object refuses its values; Hydra would wrap the sentence in a stack trace.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    try:
        return instantiate(node)
    except InstantiationException as error:
        if isinstance(error.__cause__, ValueError):
            raise UserError(str(error.__cause__)) from None
        raise


def resolve(cfg: DictConfig) -> dict[str, Any]:
    """Return the configuration as plain values.

    Raises:
        UserError: if a required value is missing.
    """
    if not trains(cfg):  # trains on nothing, so it needs no data
        cfg = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "data"])
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise UserError(f"{missing[0]} must be set: add {missing[0]}=VALUE to the command")
    try:
        resolved = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(" ".join(str(error).split())) from None
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def config_hash(cfg: DictConfig) -> str:
    """Return the fingerprint of all that changes the weights; a run that trains nothing depends on its model alone."""
    return _fingerprint(_recipe(cfg) | ({"seed": cfg.seed} if trains(cfg) else {}))


def recipe_hash(cfg: DictConfig) -> str:
    """Return the same without the training seed: runs that share it are repetitions of each other."""
    return _fingerprint(_recipe(cfg))


def _recipe(cfg: DictConfig) -> dict[str, Any]:
    values = resolve(cfg)
    # how the model is sampled does not change it, nor does what is known of its past
    beside = ("num_inference_steps", "guidance_scale", "policy_trained_on")
    model = {key: value for key, value in values["model"].items() if key not in beside}
    if cfg.model.policy is None:
        model.pop("policy_revision", None)
    if not trains(cfg):
        return {"method": values["method"], "model": model}
    train = {key: value for key, value in values["train"].items() if key not in NOT_IN_HASH}
    recipe = {"method": values["method"], "model": model, "data": values["data"], "train": train}
    return recipe | ({"auxiliary": values["auxiliary"]} if values["auxiliary"] else {})


def _fingerprint(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:10]


def run_name(cfg: DictConfig) -> str:
    """Return the folder name of a run: the same for the same command, on every process."""
    return f"{row_name(cfg)}-{cfg.model.name}-{config_hash(cfg)}"


def row_name(cfg: DictConfig) -> str:
    """Return how tables call a run: its method, or the published policy that `method=base model.policy=X` measures."""
    if trains(cfg) or cfg.model.policy is None:
        return cfg.method.name
    from alignbench.models.policies import policy_label

    return policy_label(cfg.model.policy)


def trains(cfg: DictConfig) -> bool:
    """Say whether a run makes weights of its own; `method=base` measures those that it is given."""
    return cfg.method.name != "base"


def is_base(cfg: DictConfig) -> bool:
    """Say whether this is the untouched model that all else is compared with."""
    return not trains(cfg) and cfg.model.policy is None


def base_of(cfg: DictConfig) -> DictConfig:
    """Return the configuration of the untouched model that `cfg` is compared with."""
    base = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))  # values may follow the method's name
    assert isinstance(base, DictConfig)
    base.method = OmegaConf.load(conf_folder() / "method" / "base.yaml")
    base.model.policy = None
    base.model.policy_revision = None
    base.model.policy_trained_on = []
    return base


def check(cfg: DictConfig) -> None:
    """Refuse what cannot work, before a model or a scorer is loaded.

    Raises:
        UserError: naming the field, the rule and the way out.
    """
    if has_images(cfg):
        _check_existing(cfg)
        return
    if cfg.dry_run:
        _check_dry_run(cfg)
        return
    _check_weights(cfg.model)
    values = resolve(cfg)
    _check_stages(values["stages"])
    Place.of(values["shard"])
    if values["shard"] is not None and "train" in values["stages"] and trains(cfg):
        raise UserError("shard splits generate and score alone; train first, and then take train out of stages")
    _check_numbers(values)
    if trains(cfg):
        _check_package(values["train"]["optimizer"]["_target_"])
        if "train" in values["stages"]:
            _check_memory(values["train"], weights_dtype(values))
        _check_method(values["method"], values["data"])
        build(cfg.method)
        for name, term in values["auxiliary"].items():
            if not isinstance(term["weight"], int | float) or term["weight"] <= 0:
                raise UserError(f"auxiliary.{name}.weight={term['weight']} must be a number above 0")
            _check_method(term["term"], term["data"])
            build(cfg.auxiliary[name].term)
    if {"score", "report"} & set(values["stages"]):
        _check_evaluators(cfg)
    if set(values["stages"]) != {"train"}:
        build(cfg.prompts)  # a missing or empty file, a limit of nothing


def _check_dry_run(cfg: DictConfig) -> None:
    """Refuse what has no memory to estimate; weights, of a reward neither, need not be there."""
    values = resolve(cfg)
    if values["method"]["name"] == "base":
        raise UserError("dry_run estimates training, and method=base does not train; choose another method")
    _check_numbers(values)
    _check_method(values["method"], values["data"])


def has_images(cfg: DictConfig) -> bool:
    """Say whether the images of this configuration exist already, so that no model is needed."""
    return "folders" in list(cfg.model)  # where its value is missing, too


def _check_existing(cfg: DictConfig) -> None:
    """Refuse what cannot be scored and compared of images that exist already."""
    from alignbench.existing import read_folders

    if OmegaConf.is_missing(cfg.model, "folders"):
        raise UserError("model.folders must be set: add model.folders=[FOLDER_A,FOLDER_B] to the command")
    stages = list(cfg.stages)
    _check_stages(stages)
    if not {"score", "report"} & set(stages):
        raise UserError("model=images has nothing to train or to generate; choose stages from score, report")
    Place.of(cfg.shard)
    _check_evaluators(cfg)
    read_folders(cfg)


def _check_evaluators(cfg: DictConfig) -> None:
    if not cfg.evaluators:
        raise UserError(f"evaluators is empty, so nothing can be scored;{near('', _choices('evaluators'))}")


def _check_stages(stages: list[str]) -> None:
    for stage in stages:
        if stage not in STAGES:
            raise UserError(f"stages={stage} is unknown;{near(str(stage), list(STAGES))}")
    if not stages:
        raise UserError(f"stages is empty; choose from {', '.join(STAGES)}")


def _choices(group: str) -> list[str]:
    return sorted(file.stem for file in (conf_folder() / group).glob("*.yaml") if file.stem != "none")


def _check_numbers(values: dict[str, Any]) -> None:
    train, sampling = values["train"], values["sampling"]
    counts = {f"train.{name}": train[name] for name in train if name.endswith(("_steps", "_batch_size"))}
    del counts["train.lr_warmup_steps"]
    for name in ("num_inference_steps", "num_images_per_prompt", "batch_size"):
        counts[f"sampling.{name}"] = sampling[name]
    for name, value in counts.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"{name}={value} must be a whole number of at least 1")
    passes = train["max_network_passes"]
    if passes is not None and (not isinstance(passes, int) or isinstance(passes, bool) or passes < 1):
        raise UserError(f"train.max_network_passes={passes} must be a whole number of at least 1, or null")
    for name in ("learning_rate", "max_grad_norm"):
        if not isinstance(train[name], int | float) or train[name] <= 0:
            raise UserError(f"train.{name}={train[name]} must be a number above 0")
    if train["max_grad_value"] is not None and not train["max_grad_value"] > 0:
        raise UserError(f"train.max_grad_value={train['max_grad_value']} must be a number above 0, or null")
    if not isinstance(train["weight_distance"], int | float) or train["weight_distance"] < 0:
        raise UserError(f"train.weight_distance={train['weight_distance']} must be a number of at least 0")
    for name, off in (("max_grad_value", None), ("weight_distance", 0)):
        if train["mixed_precision"] == "fp16" and train[name] != off:
            raise UserError(
                f"train.{name} and train.mixed_precision=fp16, which scales gradients, exclude each other; use bf16"
            )
    if train["ema_decay"] is not None and not 0 < train["ema_decay"] < 1:
        raise UserError(f"train.ema_decay={train['ema_decay']} must lie between 0 and 1, or be null")
    for name, value, allowed in (
        ("train.tuning", train["tuning"], ["full", "lora"]),
        ("train.mixed_precision", train["mixed_precision"], ["no", "fp16", "bf16"]),
        ("train.weights_dtype", train["weights_dtype"], [None, "float32", "bfloat16"]),
        ("train.weight_updates", train["weight_updates"], ["nearest", "compensated", "stochastic"]),
        ("sampling.noise", sampling["noise"], ["per_prompt", "constant"]),
    ):
        if value not in allowed:
            known = ["null" if one is None else one for one in allowed]
            raise UserError(f"{name}={value} is unknown;{near(str(value), known)}")
    if not isinstance(values["seed"], int):
        raise UserError(f"seed={values['seed']} must be a whole number")


def weights_dtype(values: dict[str, Any]) -> str:
    """Return the name of the dtype that the denoiser is trained in; `values` as `resolve` gives them."""
    loaded = values["model"]["adapter"]["pipeline"].get("torch_dtype", "float32")  # the miniatures have no choice
    return values["train"]["weights_dtype"] or loaded


def _check_memory(train: dict[str, Any], dtype: str) -> None:
    """Refuse updates of half-precision weights that would be lost or cannot be made."""
    if train["tuning"] == "lora" or dtype == "float32":
        return
    if train["mixed_precision"] == "fp16":
        raise UserError(f"train.mixed_precision=fp16 cannot scale gradients of {dtype} weights; use bf16")
    if dtype != "bfloat16" or train["weight_updates"] == "nearest":
        raise UserError(
            f"train.tuning=full on {dtype} weights would lose most updates in rounding; add memory=bf16_compensated or "
            "memory=bf16_stochastic, or train.weights_dtype=float32 where memory allows"
        )
    if train["optimizer"]["_target_"].startswith("prodigyopt"):
        raise UserError(
            f"optimizer=prodigy looks at all weights at once, and train.weight_updates={train['weight_updates']} shows "
            "it some at a time; choose another optimizer, or train.weights_dtype=float32"
        )


def _check_package(target: str) -> None:
    package = target.split(".")[0]
    if importlib.util.find_spec(package) is None:
        raise UserError(f"train.optimizer needs the package {package}, which is not installed: pip install {package}")


def _check_method(method: dict[str, Any], data: dict[str, Any]) -> None:
    from hydra.utils import get_class

    for key, use in (("reward", "trains on a reward"), ("scorer", "reads a reward's scores")):
        if key in method and method[key] is not None and not method[key].get("_target_"):
            raise UserError(f"method={method['name']} {use}; add reward=NAME;{near('', _choices('reward'))}")
    needed = get_class(method["_target_"]).batch_type
    provided = get_class(data["_target_"]).provides
    kind = {"PromptBatch": "prompts", "ImageBatch": "images", "LabelledBatch": "labels", "PairBatch": "pairs"}[
        needed.__name__
    ]
    if kind not in provided:
        able = [name for name in _choices("data") if kind in _provides(name)]
        raise UserError(
            f"method={method['name']} needs {kind}, and data={data['name']} has only "
            f"{', '.join(sorted(provided))}; add data={' or data='.join(able)}"
        )


def _provides(data: str) -> frozenset[str]:
    from hydra.utils import get_class

    target = OmegaConf.select(OmegaConf.load(conf_folder() / "data" / f"{data}.yaml"), "_target_")
    return get_class(target).provides


def _check_weights(model: DictConfig) -> None:
    if "pretrained_model_name_or_path" in model:
        from alignbench.models.loading import check_weights

        pipeline = model.adapter.pipeline
        check_weights(model.pretrained_model_name_or_path, model.revision, pipeline.pipeline_class, model.config)
    known = _choices("evaluator")
    for name in model.policy_trained_on:
        if model.policy is None:
            raise UserError(f"model.policy_trained_on={name} belongs to a model.policy; give one, or leave it out")
        if name not in known:
            raise UserError(f"model.policy_trained_on names {name}, which is unknown;{near(name, known)}")
    if model.policy is not None:
        from hydra.utils import get_class

        from alignbench.models.policies import check_policy

        check_policy(model.policy, get_class(model.adapter._target_).denoiser_name, model.policy_revision)
