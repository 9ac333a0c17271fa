"""Which data a method can learn from, and which ways to crop its images go together."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from alignbench.configuration.build import choices, conf_folder
from alignbench.configuration.targets import target_class
from alignbench.data.batches.crops import check_crops
from alignbench.data.source import DataSource, kind_of
from alignbench.data.sources.runs import ScoredRuns
from alignbench.errors import UserError, did_you_mean
from alignbench.evaluator import Reward
from alignbench.method import Method
from alignbench.models.schedulers import FLOW
from alignbench.store.reward_model_folder import RewardModelRecord
from alignbench.videos import FrameSpec, frame_spec

REWARD_MODEL = "evaluators.judge.TrainedRewardModel"  # what train_reward makes; see conf/evaluator/judge.yaml


def check_rewards(method: dict[str, Any]) -> None:
    """Refuse a method without the reward that it needs, or with one that it cannot follow."""
    name = f"method={method['name']}"
    for key, use in (("reward", "trains on a reward"), ("scorer", "reads a reward's scores")):
        if method.get(key) is not None and not method[key].get("_target_"):
            raise UserError(f"{name} {use}; add reward=NAME;{did_you_mean('', choices('reward'))}")
    _check_group_reward(method)
    _check_reward(method)


def check_samples(method: dict[str, Any], data: dict[str, Any]) -> None:
    """Refuse data that lack what a method trains on; pairs that nobody won, where it would make up a winner."""
    name = f"method={method['name']}"
    kind, provided = kind_of(target_class(method["_target_"]).batch_type), target_class(data["_target_"]).provides
    if kind not in provided:
        able = " or ".join(f"data={source}" for source in choices("data") if kind in _provides(source))
        has = f"data={data['name']} has only {', '.join(sorted(provided))}"
        raise UserError(f"{name} needs {kind}, and {has}; add {able}")
    if kind in ("pairs", "generated_pairs") and data.get("ties") == "half" and method.get("labels", "hard") == "hard":
        raise UserError(
            f"data.ties=half keeps pairs that nobody won, and {name} would make up one; add data.ties=drop, or choose "
            "one that reads soft labels, as method=dpo method.labels=soft does"
        )


def check_videos(method: dict[str, Any], data: dict[str, Any], model: str, frames: FrameSpec | None) -> None:
    """Refuse pictures for a model of videos, and videos for a model of pictures.

    Args:
        model: its name.
        frames: of its videos; None for a model of images.
    """
    if kind_of(target_class(method["_target_"]).batch_type) == "prompts":
        return
    read = frame_spec(data["num_frames"], data["fps"]) if "num_frames" in data else None
    if read == frames:
        return
    if "num_frames" in data:
        raise UserError(
            f"data.num_frames and data.fps are those of the model, which has {frames or 'images'}; leave them out, or "
            "set model.num_frames and model.fps"
        )
    able = " or ".join(f"data={name}" for name in choices("data") if _holds_videos(name))
    raise UserError(
        f"model={model} is trained on videos, and data={data['name']} has pictures; add {able} with videos, or "
        "model.num_frames=1 to train on pictures"
    )


def _holds_videos(data: str) -> bool:
    return "num_frames" in inspect.signature(target_class(_target(data))).parameters


def check_generated_pairs(method: Method, data: DataSource, model: DictConfig) -> None:
    """Refuse to mix images with their initial noise where such mixtures do not lie near the path between the two."""
    if kind_of(method.batch_type) != "generated_pairs":
        return
    if target_class(model.adapter._target_).schedulers is not FLOW:
        raise UserError(
            f"method={method.name} needs nearly straight paths from noise to image, and those of model={model.name}, "
            "which is no flow model, are curved; choose another model, or method=dpo"
        )
    assert isinstance(data, ScoredRuns)  # alone provides generated pairs; see `check_samples`
    data.check_noise(model.name)


def reward_parts(reward: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the rewards that one consists of, as their nodes in the configuration: itself alone, or those of a sum."""
    return list(reward["components"].values()) if "components" in reward else [reward]


def check_rewarded_videos(method: dict[str, Any], model: str, frames: FrameSpec | None) -> None:
    """Refuse rewards that compare images where a model makes videos."""
    if frames is not None and _sees_group(method.get("reward")):
        raise UserError(
            f"model={model} makes videos, and reward=comparer compares images; choose another reward, or "
            "model.num_frames=1"
        )


def _sees_group(reward: Mapping[str, Any] | None) -> bool:
    parts = reward_parts(reward) if reward else []
    return any(target_class(part["_target_"]).sees_group for part in parts if part.get("_target_"))


def _check_group_reward(method: dict[str, Any]) -> None:
    """Refuse rewards that compare images of a prompt where a method looks at each image alone."""
    name = f"method={method['name']}"
    if _sees_group(method.get("scorer")):
        raise UserError(
            f"{name} reads a score of each training image, and reward=comparer compares images that a method makes; "
            "choose another reward"
        )
    if not _sees_group(method.get("reward")):
        return
    if target_class(method["_target_"]).differentiates_pixels:
        raise UserError(
            f"{name} follows the gradient of its reward, and reward=comparer has none; choose another reward, or a "
            f"method that compares images: {', '.join(one for one in choices('method') if _reads_scores_alone(one))}"
        )
    if method["group_size"] < 2:
        raise UserError(
            f"method.group_size={method['group_size']} leaves nothing to compare an image with, which reward=comparer "
            "does; set it to 2 or more"
        )


def _check_reward(method: dict[str, Any]) -> None:
    """Refuse rewards without a gradient where a method follows one, and scores that it would read upside down."""
    name = f"method={method['name']}"
    if target_class(method["_target_"]).differentiates_pixels:
        if "reward" not in method:
            raise UserError(f"method.reward is missing, and {name} follows it; leave out ~method.reward")
        for part in reward_parts(method["reward"]):
            if not issubclass(target_class(part["_target_"]), Reward):
                others = ", ".join(one for one in choices("method") if _reads_scores_alone(one))
                raise UserError(
                    f"{name} follows the gradient of its reward, and {part.get('name') or part['_target_']} gives "
                    f"scores alone; choose another reward, or a method that needs no gradient: {others}"
                )
    if (method.get("scorer") or {}).get("higher_is_better") is False:
        raise UserError(
            f"{name} takes the image with the higher score for the better one, and the scorer says that lower is "
            "better; let it return the negative score"
        )


def _reads_scores_alone(method: str) -> bool:
    """Say whether a file of conf/method is that of a method with a reward of which no gradient is needed."""
    node = OmegaConf.load(conf_folder() / "method" / f"{method}.yaml")
    target = OmegaConf.select(node, "_target_")  # a preset has that of the method that it starts from
    if target is None:
        return False
    kind = target_class(target)
    return "reward" in inspect.signature(kind).parameters and not kind.differentiates_pixels


def check_batch(method: Method, total_batch_size: int) -> None:
    """Refuse a batch that cannot be cut into what a method makes updates of."""
    multiple = method.batch_multiple
    if total_batch_size % multiple:
        larger = (total_batch_size // multiple + 1) * multiple
        raise UserError(
            f"train.total_batch_size={total_batch_size} must be a multiple of {multiple} for method={method.name}, "
            f"whose groups of images it would cut apart; {larger} is the next"
        )


def check_control_words(method: DictConfig) -> None:
    """Refuse control words that nobody typed where the reward learned from pairs of another world than theirs."""
    if method.get("reward") is None or "negative_words" not in method:
        return
    untyped = [key for key in ("positive_words", "negative_words") if OmegaConf.is_interpolation(method, key)]
    for reward in (part for part in reward_parts(method.reward) if part["_target_"] == REWARD_MODEL):
        record = RewardModelRecord.read(Path(reward["path"]))
        if untyped and record.data["name"] != "shapes":
            words = " and ".join(f"method.{key}={','.join(method[key])}" for key in untyped)
            raise UserError(
                f"reward=judge: {record.name} learned from data={record.data['name']}, for which the control words of "
                f"method={method.name} were not chosen ({words}); add method.positive_words=[WANTED] "
                "method.negative_words=[UNWANTED], or choose method=direct_align, which needs no words"
            )


def check_crop_settings(values: dict[str, Any]) -> None:
    """Refuse ways to crop training images that contradict each other, or that no image is cropped in."""
    train, model, told = values["train"], values["model"], values["train"]["size_conditioning"]
    if told != "square" and not target_class(model["adapter"]["_target_"]).is_told_sizes:
        raise UserError(
            f"train.size_conditioning={told} gives the network the sizes of training images, and "
            f"model={model['name']} takes none; leave it out"
        )
    check_crops(train)
    if train["aspect_ratio_buckets"] is not None and values["data"].get("window_mib") is not None:
        raise UserError(
            "train.aspect_ratio_buckets has an order of its own, in which every image of a .parquet file would cost "
            "reading a row group; set data.window_mib=null, and prepare latents first unless the files are .arrow"
        )
    terms = [values["method"], *(term["term"] for term in values["auxiliary"].values())]
    kinds, name = {kind_of(target_class(term["_target_"]).batch_type) for term in terms}, values["method"]["name"]
    for key, off in (("crop", "centre"), ("random_flip", False), ("aspect_ratio_buckets", None)):
        if train[key] != off and kinds == {"prompts"}:
            raise UserError(
                f"train.{key} is about training images, and method={name} reads prompts alone; leave it out"
            )
        if train[key] != off and "generated_pairs" in kinds:
            raise UserError(
                f"train.{key} changes images, but not the noise that they were made from, and method={name} trains on "
                "both together; leave it out"
            )


def _provides(data: str) -> frozenset[str]:
    return target_class(_target(data)).provides


def _target(data: str) -> str:
    return OmegaConf.select(OmegaConf.load(conf_folder() / "data" / f"{data}.yaml"), "_target_")
