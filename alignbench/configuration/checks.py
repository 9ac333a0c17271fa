"""The checks of a configuration, which speak before anything heavy loads."""

import importlib.util
from typing import Any

from omegaconf import DictConfig, OmegaConf

from alignbench.configuration.build import STAGES, build, conf_folder, has_images, resolve, trains, weights_dtype
from alignbench.configuration.launcher import engine_asked_for
from alignbench.errors import UserError, did_you_mean
from alignbench.work_share import WorkShare


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
    from hydra.utils import get_class

    _check_weights(cfg.model)
    values = resolve(cfg)
    _check_stages(values["stages"])
    WorkShare.of(values["shard"])
    if values["shard"] is not None and "train" in values["stages"] and trains(cfg):
        raise UserError("shard splits prepare, generate and score alone; take train out of stages and do it apart")
    _check_numbers(values)
    if trains(cfg):
        check_package(values["train"]["optimizer"]["_target_"])
        _check_reward_vae(values["train"]["reward_vae"], values["method"])
        if "train" in values["stages"]:
            _check_memory(values["train"], weights_dtype(values))
            _check_processes(values["train"], values["auxiliary"])
            if (kind := values["tracker"]["log_with"]) is not None:
                check_package(kind, f"tracker={kind}")
            _check_validation(values["validation"], values["evaluators"])
        _check_method(values["method"], values["data"])
        _check_sizes(values)
        _check_cuts(values)
        build(cfg.method)
        for name, term in values["auxiliary"].items():
            if not isinstance(term["weight"], int | float) or term["weight"] <= 0:
                raise UserError(f"auxiliary.{name}.weight={term['weight']} must be a number above 0")
            _check_method(term["term"], term["data"])
            build(cfg.auxiliary[name].term)
        if "train" in values["stages"]:  # a folder that is not there, an impossible rule; images are not looked at
            for data in (cfg.data, *(term.data for term in cfg.auxiliary.values())):
                build(data)
    if {"score", "report"} & set(values["stages"]):
        _check_evaluators(cfg)
    if values["stages"] == ["prepare"] and not trains(cfg):
        raise UserError("method=base does not train, so it has nothing to prepare; choose another method")
    if not set(values["stages"]) <= {"prepare", "train"}:
        prompts = build(cfg.prompts)  # a missing or empty file, a limit of nothing
        _check_sampling(cfg.model, values["sampling"])
        if cfg.sampling.control is not None:
            from alignbench.generation.control.controlnet import check_family

            pipeline_class = get_class(cfg.model.adapter._target_).pipeline_class
            check_family(pipeline_class, cfg.model.name, cfg.sampling.scheduler)
            build(cfg.sampling.control).check(pipeline_class, prompts)


def _check_dry_run(cfg: DictConfig) -> None:
    """Refuse what has no memory to estimate; weights, of a reward neither, need not be there."""
    values = resolve(cfg)
    if values["method"]["name"] == "base":
        raise UserError("dry_run estimates training, and method=base does not train; choose another method")
    _check_numbers(values)
    _check_base(values["train"])
    _check_method(values["method"], values["data"])
    _check_cuts(values)


def _check_existing(cfg: DictConfig) -> None:
    """Refuse what cannot be scored and compared of images that exist already."""
    from alignbench.data.existing_images.folders import read_compared_folders

    if OmegaConf.is_missing(cfg.model, "folders"):
        raise UserError("model.folders must be set: add model.folders=[FOLDER_A,FOLDER_B] to the command")
    stages = list(cfg.stages)
    _check_stages(stages)
    if not {"score", "report"} & set(stages):
        raise UserError("model=images has nothing to train or to generate; choose stages from score, report")
    WorkShare.of(cfg.shard)
    _check_evaluators(cfg)
    read_compared_folders(cfg.model.folders)


def _check_evaluators(cfg: DictConfig) -> None:
    if not cfg.evaluators:
        raise UserError(f"evaluators is empty, so nothing can be scored;{did_you_mean('', _choices('evaluators'))}")


def _check_stages(stages: list[str]) -> None:
    for stage in stages:
        if stage not in STAGES:
            raise UserError(f"stages={stage} is unknown;{did_you_mean(str(stage), list(STAGES))}")
    if not stages:
        raise UserError(f"stages is empty; choose from {', '.join(STAGES)}")


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
        ("train.base_bits", train["base_bits"], [None, 8, 4]),
        ("train.weight_updates", train["weight_updates"], ["nearest", "compensated", "stochastic"]),
        ("train.size_conditioning", train["size_conditioning"], ["square", "true_size"]),
        ("sampling.base_bits", sampling["base_bits"], [None, 8, 4]),
        ("sampling.noise", sampling["noise"], ["per_prompt", "constant"]),
    ):
        if value not in allowed:
            known = ["null" if one is None else str(one) for one in allowed]
            raise UserError(f"{name}={value} is unknown;{did_you_mean(str(value), known)}")
    if not isinstance(values["seed"], int):
        raise UserError(f"seed={values['seed']} must be a whole number")


def _check_memory(train: dict[str, Any], dtype: str) -> None:
    """Refuse updates of half-precision weights that would be lost or cannot be made, and those of a frozen base."""
    _check_base(train)
    if train["tuning"] == "lora" or dtype == "float32":
        return
    if train["mixed_precision"] == "fp16":
        raise UserError(f"train.mixed_precision=fp16 cannot scale gradients of {dtype} weights; use bf16")
    if engine_asked_for() == "deepspeed" and dtype == "bfloat16":
        return  # it keeps float32 copies
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


def _check_processes(train: dict[str, Any], auxiliary: dict[str, Any]) -> None:
    """Refuse what cannot be done with parts of weights or of gradients."""
    engine = engine_asked_for()
    if engine == "ddp":
        return
    if (target := train["optimizer"]["_target_"]).startswith(("prodigyopt", "transformers")):
        raise UserError(
            f"train.optimizer={target} looks at whole weights, and under {engine} a process has parts of them; choose "
            "optimizer=adamw or optimizer=adamw8bit"
        )
    if train["mixed_precision"] == "fp16":
        raise UserError(f"train.mixed_precision=fp16 scales gradients, which {engine} does not do here; use bf16")
    if engine == "fsdp2":
        return
    for name, found, off in (
        ("mixed_precision", train["mixed_precision"], "no"),
        ("weight_updates", train["weight_updates"], "nearest"),
        ("max_grad_value", train["max_grad_value"], None),
        ("weight_distance", train["weight_distance"], 0),
    ):
        if found != off:
            none = "null" if off is None else off
            raise UserError(
                f"train.{name}={found} needs what DeepSpeed keeps to itself; set it to {none} (bfloat16 weights get "
                "float32 copies there), or use conf/accelerate/fsdp2.yaml"
            )
    if auxiliary:
        raise UserError("auxiliary losses need what DeepSpeed keeps to itself; use conf/accelerate/fsdp2.yaml")


def _check_validation(validation: dict[str, Any], evaluators: dict[str, Any]) -> None:
    if validation["every"] is None:
        return
    for name in ("every", "num_inference_steps", "batch_size", "patience"):
        value = validation[name]
        if not (name == "patience" and value is None) and (not isinstance(value, int) or value < 1):
            raise UserError(f"validation.{name}={value} must be a whole number of at least 1")
    if validation["prompts"] is None:
        raise UserError(
            "validation.every needs prompts to look at; add validation=shapes or another of conf/validation"
        )
    if not evaluators:
        raise UserError("validation scores images, and evaluators is empty; add evaluators=NAME")
    for name in validation["select"] or ():
        if name not in evaluators:
            raise UserError(f"validation.select={name} is not among evaluators;{did_you_mean(name, list(evaluators))}")
    if validation["patience"] is not None and not validation["select"]:
        raise UserError("validation.patience waits for a better look, and without validation.select none is better")


def _check_base(train: dict[str, Any]) -> None:
    """Refuse to train weights that are held in too few bits to be trained."""
    bits, updates = train["base_bits"], train["weight_updates"]
    if bits is None:
        return
    if train["tuning"] == "full":
        raise UserError(
            f"train.base_bits={bits} freezes the denoiser, and train.tuning=full is to train it; "
            f"add train.tuning=lora, or leave memory=base_{bits}bit out"
        )
    if updates != "nearest":
        raise UserError(
            f"train.weight_updates={updates} is for training bfloat16 weights, of which train.base_bits={bits} leaves "
            f"none; choose memory=base_{bits}bit without memory=bf16_{updates}"
        )


def _check_sampling(model: DictConfig, sampling: dict[str, Any]) -> None:
    """Refuse what the family's pipeline cannot do, or would silently leave undone."""
    from hydra.utils import get_class

    from alignbench.models.schedulers import check_scheduler

    guidance, negative, true_cfg = (sampling[key] for key in ("guidance_scale", "negative_prompt", "true_cfg_scale"))
    if not isinstance(guidance, int | float) or guidance < 0:
        raise UserError(f"sampling.guidance_scale={guidance} must be a number of at least 0")
    if true_cfg is not None and not isinstance(true_cfg, int | float):
        raise UserError(f"sampling.true_cfg_scale={true_cfg} must be a number above 1, or null")
    side = sampling["resolution"]
    if side is not None and (not isinstance(side, int) or side < 1):
        raise UserError(f"sampling.resolution={side} must be a whole number of pixels, or null")
    if sampling["scheduler"] is not None:
        check_scheduler(sampling["scheduler"], get_class(model.adapter._target_).schedulers, model.name)
    if negative is not None and not isinstance(negative, str):
        raise UserError(f"sampling.negative_prompt={negative} must be text, or null")
    distilled = model.adapter.get("train_guidance_scale") is not None
    if true_cfg is not None and (not distilled or true_cfg <= 1):
        why = f"must be above 1, or null, not {true_cfg}" if distilled else f"is not for model={model.name}"
        raise UserError(f"sampling.true_cfg_scale {why}; sampling.guidance_scale guides every model")
    if negative is not None and distilled and true_cfg is None:
        raise UserError(
            f"sampling.negative_prompt has no effect on model={model.name}, whose guidance is an input of its network; "
            "add sampling.true_cfg_scale=VALUE above 1, which doubles the time of an image, or leave it out"
        )
    if negative is not None and not distilled and guidance <= 1:
        raise UserError(f"sampling.negative_prompt has no effect at sampling.guidance_scale={guidance}; set it above 1")


def _check_reward_vae(path: str | None, method: dict[str, Any]) -> None:
    if path is None:
        return
    if method.get("reward") is None:
        raise UserError(
            f"train.reward_vae={path} decodes for losses that read pixels, and method={method['name']} reads none; "
            "leave it out"
        )
    from alignbench.models.reward_vae import check_reward_vae

    check_reward_vae(path)


def check_package(target: str, needed_by: str = "train.optimizer") -> None:
    """Refuse what needs a package that is not installed."""
    package = target.split(".")[0]
    if importlib.util.find_spec(package) is None:
        raise UserError(f"{needed_by} needs the package {package}, which is not installed: pip install {package}")


def _check_method(method: dict[str, Any], data: dict[str, Any]) -> None:
    from hydra.utils import get_class

    for key, use in (("reward", "trains on a reward"), ("scorer", "reads a reward's scores")):
        if key in method and method[key] is not None and not method[key].get("_target_"):
            raise UserError(f"method={method['name']} {use}; add reward=NAME;{did_you_mean('', _choices('reward'))}")
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
    _check_ties(method, data, kind)


def _check_ties(method: dict[str, Any], data: dict[str, Any], kind: str) -> None:
    """Refuse pairs without a winner where a method would take the first image for it."""
    if kind == "pairs" and data.get("ties") == "half" and method.get("labels", "hard") == "hard":
        raise UserError(
            f"data.ties=half keeps pairs that nobody won, and method={method['name']} would make up one; add "
            "data.ties=drop, or choose one that reads soft labels, as method=dpo method.labels=soft does"
        )


def _check_sizes(values: dict[str, Any]) -> None:
    from hydra.utils import get_class

    model, told = values["model"], values["train"]["size_conditioning"]
    if told != "square" and not get_class(model["adapter"]["_target_"]).is_told_sizes:
        raise UserError(
            f"train.size_conditioning={told} is for SDXL, and model={model['name']} is told nothing of sizes; "
            "set train.size_conditioning=square"
        )


def _check_cuts(values: dict[str, Any]) -> None:
    """Refuse ways to cut training images that mean nothing, or that no image is cut in."""
    from alignbench.data.batches.crops import check_crops

    train = values["train"]
    check_crops(train)
    if train["aspect_ratio_buckets"] is not None and values["data"].get("window_mib") is not None:
        raise UserError(
            "train.aspect_ratio_buckets has an order of its own, in which every image of a .parquet file would cost "
            "reading a row group; set data.window_mib=null, and prepare latents first unless the files are .arrow"
        )
    off = {"crop": "centre", "random_flip": False, "aspect_ratio_buckets": None}
    asked_for = [name for name, value in off.items() if train[name] != value]
    terms = [values["method"], *(term["term"] for term in values["auxiliary"].values())]
    if asked_for and not any(_reads_images(term) for term in terms):
        raise UserError(
            f"train.{asked_for[0]} is about training images, and method={values['method']['name']} reads prompts "
            "alone; leave it out"
        )


def _reads_images(method: dict[str, Any]) -> bool:
    from hydra.utils import get_class

    return get_class(method["_target_"]).batch_type.__name__ != "PromptBatch"


def _provides(data: str) -> frozenset[str]:
    from hydra.utils import get_class

    target = OmegaConf.select(OmegaConf.load(conf_folder() / "data" / f"{data}.yaml"), "_target_")
    return get_class(target).provides


def _check_weights(model: DictConfig) -> None:
    if "pretrained_model_name_or_path" in model:
        from alignbench.models.weights.loading import check_weights

        pipeline = model.adapter.pipeline
        check_weights(model.pretrained_model_name_or_path, model.revision, pipeline.pipeline_class, model.config)
    known = _choices("evaluator")
    for name in model.policy_trained_on:
        if model.policy is None:
            raise UserError(f"model.policy_trained_on={name} belongs to a model.policy; give one, or leave it out")
        if name not in known:
            raise UserError(f"model.policy_trained_on names {name}, which is unknown;{did_you_mean(name, known)}")
    if model.policy is not None:
        from hydra.utils import get_class

        from alignbench.models.weights.find_policy import check_policy

        check_policy(model.policy, get_class(model.adapter._target_).denoiser_name, model.policy_revision)


def _choices(group: str) -> list[str]:
    return sorted(file.stem for file in (conf_folder() / group).glob("*.yaml") if file.stem != "none")
