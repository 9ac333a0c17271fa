"""What two settings must agree on, checked before anything heavy loads; alignbench/settings declares each by itself."""

from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from alignbench.configuration.build import (
    build,
    check_package,
    choices,
    frames_of,
    has_images,
    is_base,
    resolve,
    run_name,
    trains,
    weights_dtype,
)
from alignbench.configuration.launcher import check_engine
from alignbench.configuration.optimizers import check_optimizer
from alignbench.configuration.precision_checks import check_gradients, check_quantised_base, check_updates
from alignbench.configuration.sections import check_settings
from alignbench.configuration.targets import target_class
from alignbench.configuration.typed.plain_values import settle_arguments
from alignbench.errors import UserError, did_you_mean
from alignbench.models.weights.missing import all_missing, going_on
from alignbench.reading import is_file_name
from alignbench.store.manifest import BASE, DATA
from alignbench.text import shortened
from alignbench.work_share import WorkShare

PEOPLE = "human"  # how tables call the votes of people, and how the names of their questions begin
LONGEST_RUN = 200  # bytes of a run's name; names of files that begin with it have some more


def check(cfg: DictConfig) -> None:
    """Refuse what cannot work, before a model or a scorer is loaded.

    Raises:
        UserError: naming the settings, the rule and the way out.
    """
    check_settings(cfg)
    settle_arguments(cfg)
    WorkShare.of(cfg.shard)
    _check_compare_settings(cfg)
    _check_stopping(cfg)
    if has_images(cfg):
        _check_existing_images(cfg)
        return
    if cfg.sampling.strength != 1 and is_base(cfg):
        raise UserError(
            f"sampling.strength={cfg.sampling.strength} has no effect on method=base without a model.policy, as there "
            "is no change to strengthen; add model.policy=PATH, choose a method, or leave it out"
        )
    if cfg.real_images is not None and frames_of(cfg.model) is not None:
        raise UserError(
            f"real_images={cfg.real_images} are pictures, and model={cfg.model.name} makes videos; leave it out"
        )
    if cfg.features and frames_of(cfg.model) is not None:
        raise UserError(
            f"features={next(iter(cfg.features))} are of images, and model={cfg.model.name} makes videos; leave it out"
        )
    _check_run_name(run_name(cfg))
    values = resolve(cfg)
    if cfg.name is not None and (is_base(cfg) or cfg.name in (BASE, DATA) or not cfg.name.strip()):
        raise UserError(
            f"name={cfg.name} cannot be shown: tables call the untouched model {BASE} and real images {DATA}, and no "
            "other run; leave name out, or give a trained run another"
        )
    if trains(cfg):
        _check_training(cfg, values)
    elif cfg.dry_run:
        raise UserError("dry_run estimates training, and method=base does not train; choose another method")
    elif values["stages"] == ["prepare"]:
        raise UserError("method=base does not train, so it has nothing to prepare; choose another method")
    if not cfg.dry_run:  # which needs no weights, of a reward neither
        with all_missing():
            _check_weights(cfg)
            if trains(cfg) and values["train"]["reward_vae"] is not None:
                with going_on():
                    _check_reward_vae(values["train"]["reward_vae"], values["method"])
            _check_objects(cfg, values)


def _check_compare_settings(cfg: DictConfig) -> None:
    """Refuse comparers without their stage, and the stage without what it needs."""
    if "compare" not in cfg.stages:
        if cfg.comparers:
            raise UserError(
                f"comparers={','.join(cfg.comparers)} compare images in the stage compare; add compare to stages, as "
                "in stages=[train,generate,score,compare,report]"
            )
        return
    if not cfg.comparers:
        raise UserError(f"comparers is empty, so nothing can be compared;{did_you_mean('', choices('comparers'))}")
    if cfg.sampling.strength != 1:
        raise UserError(
            f"sampling.strength={cfg.sampling.strength} makes images that the stage compare does not pair; take "
            "compare out of stages, or leave sampling.strength out"
        )
    if cfg.shard is not None:
        raise UserError("shard splits prepare, generate and score alone; take compare out of stages and do it apart")


def _check_stopping(cfg: DictConfig) -> None:
    """Refuse looks at the win rate that nobody could take."""
    sampling, stages = cfg.sampling, set(cfg.stages)
    if sampling.stop == "none":
        if sampling.stop_on is not None:
            raise UserError(
                f"sampling.stop_on={sampling.stop_on} decides when to stop, and sampling.stop is none; add "
                "sampling.stop=obrien_fleming, or leave it out"
            )
        return
    asked = f"sampling.stop={sampling.stop}"
    if has_images(cfg):
        raise UserError(
            f"{asked} is for images that are generated, and model=images has its images already; leave it out"
        )
    if is_base(cfg):
        raise UserError(f"{asked} goes by the win rate over base, and this command measures base itself; leave it out")
    if cfg.shard is not None:
        raise UserError(
            f"{asked} decides after each part, and shards do not wait for each other; leave shard or it out"
        )
    if cfg.real_images is not None:
        raise UserError(f"{asked} does not know which real images it will need; leave real_images or it out")
    if stages & {"generate", "score", "compare"} and not stages >= {"generate", "score"}:
        raise UserError(f"{asked} generates and scores in turn; add generate and score to stages, or leave it out")
    looks = sampling.looks
    if not isinstance(looks, int) and list(looks) != sorted(set(looks)):
        raise UserError(f"sampling.looks=[{','.join(f'{share:g}' for share in looks)}] must be shares that rise")


def _check_comparers(cfg: DictConfig, prompts: Sequence[str], num_images: int) -> None:
    """Build the comparers, which loads nothing, and refuse limits with which no pair of runs could be compared.

    Args:
        prompts: texts of the prompts of which two runs have images.
        num_images: of each.
    """
    for key, node in cfg.comparers.items():
        with going_on():
            comparer = build(node)
            if comparer.name in choices("evaluator") or comparer.name.partition("_")[0] == PEOPLE:
                raise UserError(
                    f"comparers.{key}.name={comparer.name} is the name of an evaluator, and tables tell both apart by "
                    "their names; give another"
                )
            if refusal := comparer.supports(prompts):
                raise UserError(f"comparers.{key}: {refusal}")
    wanted, limit = cfg.compare.num_prompts, cfg.compare.max_calls
    if wanted is not None and wanted > len(prompts):
        raise UserError(f"compare.num_prompts={wanted} is more than the {len(prompts)} prompts that there are")
    needed = (wanted or len(prompts)) * num_images
    if limit is not None and limit < needed:
        raise UserError(
            f"compare.max_calls={limit} is less than the {needed} calls that one order of one pair of runs takes; "
            "raise it, or lower compare.num_prompts"
        )


def _check_existing_images(cfg: DictConfig) -> None:
    from alignbench.data.existing_images.folders import read_compared_folders

    if OmegaConf.is_missing(cfg.model, "folders"):
        raise UserError("model.folders must be set: add model.folders=[FOLDER_A,FOLDER_B] to the command")
    if not {"score", "compare", "report"} & set(cfg.stages):
        raise UserError("model=images has nothing to train or to generate; choose stages from score, compare, report")
    if cfg.name is not None:
        raise UserError(
            f"name={cfg.name} is for a run of a model, and model=images calls folders as they are named; rename the "
            "folder, or give model.name=NAME to name the comparison"
        )
    if cfg.sampling.strength != 1:
        raise UserError(
            f"sampling.strength={cfg.sampling.strength} is for images that a policy makes, and model=images has its "
            "images already; leave it out"
        )
    if cfg.real_images is not None:
        raise UserError(
            f"real_images={cfg.real_images} is for the evaluation of a model; with model=images give the folder among "
            "model.folders"
        )
    with all_missing():
        _check_evaluators(cfg)
    folders = read_compared_folders(cfg.model.folders)
    if "compare" not in cfg.stages:
        return
    if len(folders) < 2:
        raise UserError(f"model.folders={folders[0].path} is one folder, and the stage compare needs two; add another")
    if folders[0].sampling.frames is not None:
        raise UserError(f"{folders[0].path} holds videos, and comparers see images; take compare out of stages")
    records = folders[0].records
    _check_comparers(cfg, [one.prompt for one in records], max(len(one.images) for one in records))


def _check_run_name(name: str) -> None:
    if len(name.encode()) > LONGEST_RUN or not is_file_name(name):
        raise UserError(
            f"{shortened(name, 60)!r} cannot be the folder of this run; give method and model short names without /"
        )


def _check_training(cfg: DictConfig, values: dict[str, Any]) -> None:
    from alignbench.configuration.data_checks import (
        check_crop_settings,
        check_rewarded_videos,
        check_rewards,
        check_samples,
        check_videos,
    )

    train, auxiliary = values["train"], values["auxiliary"]
    check_gradients(train)
    check_quantised_base(train)
    for term in ({"term": values["method"], "data": values["data"]}, *auxiliary.values()):
        check_rewards(term["term"])
        check_rewarded_videos(term["term"], cfg.model.name, frames_of(cfg.model))
        if not cfg.dry_run:  # an estimate reads no data
            check_samples(term["term"], term["data"])
            check_videos(term["term"], term["data"], cfg.model.name, frames_of(cfg.model))
    check_crop_settings(values)
    if cfg.dry_run:
        return
    if values["shard"] is not None and "train" in values["stages"]:
        raise UserError("shard splits prepare, generate and score alone; take train out of stages and do it apart")
    check_optimizer(train["optimizer"])
    if "train" in values["stages"]:
        check_updates(train, weights_dtype(values))
        check_engine(train, auxiliary)
        if (kind := values["tracker"]["log_with"]) is not None:
            check_package(kind, f"tracker={kind}")
        if values["validation"]["every"] is not None:
            _check_validation(values["validation"], list(values["evaluators"]))


def _check_objects(cfg: DictConfig, values: dict[str, Any]) -> None:
    """Build what costs nothing to build, which refuses what it cannot be: a missing folder, an impossible rule."""
    stages = set(values["stages"])
    if trains(cfg):
        from alignbench.configuration.data_checks import check_batch, check_control_words, check_generated_pairs

        method, *others = (build(node) for node in (cfg.method, *(term.term for term in cfg.auxiliary.values())))
        for one in (method, *others):
            check_batch(one, cfg.train.total_batch_size)
        check_control_words(cfg.method)
        if "train" in stages:
            data, *_ = [build(node) for node in (cfg.data, *(term.data for term in cfg.auxiliary.values()))]
            check_generated_pairs(method, data, cfg.model)
        if "train" in stages and cfg.validation.every is not None:
            build(cfg.validation.prompts)
    if {"score", "report"} & stages or (trains(cfg) and "train" in stages and cfg.validation.every is not None):
        _check_evaluators(cfg)
    if stages <= {"prepare", "train"}:
        return
    from alignbench.generation.control.controlnet import check_family
    from alignbench.generation.guidance import check_guidance
    from alignbench.models.schedulers import check_scheduler

    family, prompts = target_class(cfg.model.adapter._target_), build(cfg.prompts)
    if "compare" in stages:
        if frames_of(cfg.model) is not None:
            raise UserError(
                f"model={cfg.model.name} makes videos, and comparers see images; take compare out of stages"
            )
        _check_comparers(cfg, prompts.texts, cfg.sampling.num_images_per_prompt)
    if cfg.sampling.scheduler is not None:
        check_scheduler(cfg.sampling.scheduler, family.schedulers, cfg.model.name)
    distilled = cfg.model.adapter.get("train_guidance_scale") is not None
    check_guidance(cfg.model.name, family, distilled, values["sampling"])
    if cfg.sampling.control is not None:
        check_family(family, cfg.model.name, cfg.sampling.scheduler)
        build(cfg.sampling.control).check(family, prompts)


def _check_weights(cfg: DictConfig) -> None:
    model = cfg.model
    if "pretrained_model_name_or_path" in model:
        with going_on():
            _check_pretrained(cfg)
    for name in model.policy_trained_on:
        if model.policy is None:
            raise UserError(f"model.policy_trained_on={name} belongs to a model.policy; give one, or leave it out")
        if name not in (known := choices("evaluator")):
            raise UserError(f"model.policy_trained_on={name} is unknown;{did_you_mean(name, known)}")
    with going_on():
        check_start(model)


def _check_pretrained(cfg: DictConfig) -> None:
    """Refuse weights that are not at hand, and a scheduler that they cannot be sampled with."""
    from alignbench.models.schedulers import FEW_STEP, check_few_step, check_published, scheduler_name
    from alignbench.models.weights.loading import check_weights

    model = cfg.model
    pipeline = model.adapter.pipeline
    index = check_weights(
        model.pretrained_model_name_or_path,
        model.revision,
        pipeline.pipeline_class,
        model.config,
        pipeline.get("variant"),
    )
    published, family = scheduler_name(index["scheduler"][1]), target_class(model.adapter._target_)
    check_published(published, family.published_schedulers, family.pipeline_class)
    if "generate" in cfg.stages:
        chosen = cfg.sampling.scheduler
        if OmegaConf.is_interpolation(cfg.sampling, "scheduler") and chosen not in FEW_STEP:
            chosen = None  # the model's file chose it, for other weights
        check_few_step(published, chosen)


def check_start(model: DictConfig) -> None:
    """Refuse trained weights that are not at hand; no tensor is read.

    Args:
        model: the node `model` of a configuration.

    Raises:
        UserError: saying what was found, what was expected and what to do.
    """
    if model.policy is None:
        if model.policy_step is not None:
            raise UserError("model.policy_step=last is of a run that was stopped; add model.policy=RUN")
    elif model.policy_step is not None:
        from alignbench.store.stopped_run import StoppedRun

        StoppedRun.find(model.policy)
    else:
        from alignbench.models.weights.find_policy import check_policy

        check_policy(model.policy, target_class(model.adapter._target_).denoiser_name, model.policy_revision)


def _check_evaluators(cfg: DictConfig) -> None:
    if not cfg.evaluators and "compare" in cfg.stages and "score" not in cfg.stages:
        return  # comparers judge alone
    if not cfg.evaluators:
        raise UserError(f"evaluators is empty, so nothing can be scored;{did_you_mean('', choices('evaluators'))}")
    for node in (*cfg.evaluators.values(), *cfg.features.values()):
        with going_on():
            build(node)


def _check_validation(validation: dict[str, Any], evaluators: list[str]) -> None:
    if validation["prompts"] is None:
        raise UserError("validation.every needs prompts; add validation=shapes or another of conf/validation")
    if not evaluators:
        raise UserError("validation scores images, and evaluators is empty; add evaluators=NAME")
    for name in validation["select"] or ():
        if name not in evaluators:
            raise UserError(f"validation.select={name} is not among evaluators;{did_you_mean(name, evaluators)}")
    if validation["patience"] is not None and not validation["select"]:
        raise UserError("validation.patience waits for a better win rate; add validation.select=[EVALUATOR]")


def _check_reward_vae(path: str, method: dict[str, Any]) -> None:
    from alignbench.models.reward_vae import check_reward_vae

    if method.get("reward") is None:
        raise UserError(
            f"train.reward_vae={path} decodes for losses that read pixels, and method={method['name']} reads none; "
            "leave it out"
        )
    check_reward_vae(path)
