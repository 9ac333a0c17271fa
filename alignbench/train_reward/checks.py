"""The checks of a judge's configuration, which speak before anything heavy loads."""

from typing import Any

from hydra.utils import get_class
from omegaconf import DictConfig

from alignbench.configuration.build import build, resolve_all
from alignbench.configuration.checks import check_package
from alignbench.configuration.find_evaluator import evaluator_names
from alignbench.configuration.launcher import engine_asked_for
from alignbench.data.source import DataSource, PairSource
from alignbench.errors import UserError, did_you_mean
from alignbench.reward_model import RewardModelRecipe
from alignbench.serve.protocol import is_name


def check(cfg: DictConfig) -> None:
    """Refuse what cannot work; no weights and no pairs are read.

    Raises:
        UserError: naming the field, the rule and the way out.
    """
    values = resolve_all(cfg)
    _check_name(values["name"])
    _check_shares(values)
    _check_train(values["train"])
    if not isinstance(values["seed"], int):
        raise UserError(f"seed={values['seed']} must be a whole number")
    if (engine := engine_asked_for()) != "ddp":
        raise UserError(
            f"a judge is whole on every process, and the launcher asks for {engine}; use conf/accelerate/ddp.yaml"
        )
    source = get_class(values["data"]["_target_"])
    if not issubclass(source, PairSource):
        kinds = ", ".join(sorted(source.provides)) if issubclass(source, DataSource) else "no samples"
        raise UserError(f"a judge learns from pairs, and data={values['data']['name']} has only {kinds}")
    recipe(cfg)
    build(cfg.data)


def recipe(cfg: DictConfig) -> RewardModelRecipe:
    """Build what the judge is made from; no weights are read."""
    return build(cfg.judge)


def _check_name(name: Any) -> None:
    if name is None:
        return
    if not is_name(name):
        raise UserError(f"name={name} must consist of letters, digits and _ . + -")
    if name in evaluator_names():
        raise UserError(f"name={name} is an evaluator's already, and scores are kept by name; choose another")


def _check_shares(values: dict[str, Any]) -> None:
    for key in ("heldout_share", "validation_share"):
        if isinstance(values[key], bool) or not isinstance(values[key], int | float) or not 0 < values[key] < 1:
            raise UserError(f"{key}={values[key]} must lie between 0 and 1")
    if values["heldout_share"] + values["validation_share"] >= 1:
        raise UserError(
            f"heldout_share={values['heldout_share']} and validation_share={values['validation_share']} leave nothing "
            "to train on; their sum must be below 1"
        )


def _check_train(train: dict[str, Any]) -> None:
    counts = [key for key in train if key.endswith(("_steps", "_batch_size"))]
    for key in counts:
        value, least = train[key], 0 if key == "lr_warmup_steps" else 1
        if key == "patience_steps" and value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UserError(f"train.{key}={value} must be a whole number of at least {least}")
    for key in ("learning_rate", "max_grad_norm"):
        if not isinstance(train[key], int | float) or train[key] <= 0:
            raise UserError(f"train.{key}={train[key]} must be a number above 0")
    if train["mixed_precision"] not in ("no", "fp16", "bf16"):
        known = did_you_mean(str(train["mixed_precision"]), ["no", "fp16", "bf16"])
        raise UserError(f"train.mixed_precision={train['mixed_precision']} is unknown;{known}")
    check_package(train["optimizer"]["_target_"])
