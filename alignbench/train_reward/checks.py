"""The checks of a judge's configuration, which speak before anything heavy loads."""

from typing import Any

from hydra.utils import get_class
from omegaconf import DictConfig

from alignbench.configuration.build import build, resolve_all
from alignbench.configuration.find_evaluator import evaluator_names
from alignbench.configuration.launcher import engine_asked_for
from alignbench.configuration.optimizers import check_optimizer
from alignbench.configuration.sections import REWARD_SECTIONS, check_settings
from alignbench.data.source import DataSource, PairSource
from alignbench.errors import UserError
from alignbench.reward_model import RewardModelRecipe
from alignbench.serve.protocol import is_name


def check(cfg: DictConfig) -> None:
    """Refuse what cannot work; no weights and no pairs are read.

    Raises:
        UserError: naming the field, the rule and the way out.
    """
    check_settings(cfg, REWARD_SECTIONS)
    values = resolve_all(cfg)
    _check_name(values["name"])
    if values["heldout_share"] + values["validation_share"] >= 1:
        raise UserError(
            f"heldout_share={values['heldout_share']} and validation_share={values['validation_share']} leave nothing "
            "to train on; their sum must be below 1"
        )
    check_optimizer(values["train"]["optimizer"])
    if (engine := engine_asked_for()) != "ddp":
        raise UserError(
            f"a judge is whole on every process, and the launcher asks for {engine}; use conf/accelerate/ddp.yaml"
        )
    source = get_class(values["data"]["_target_"])
    if not issubclass(source, PairSource):
        kinds = ", ".join(sorted(source.provides)) if issubclass(source, DataSource) else "no samples"
        raise UserError(f"a judge learns from pairs, and data={values['data']['name']} has only {kinds}")
    if values["data"].get("num_frames", 1) != 1:
        raise UserError("a judge learns from pictures; leave data.num_frames out")
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
