"""The checks of a card's configuration, which speak before anything heavy loads."""

from omegaconf import DictConfig, OmegaConf

from alignbench.configuration.sections import CARD_SECTIONS, check_settings
from alignbench.errors import UserError


def check(cfg: DictConfig) -> None:
    """Refuse what cannot work; no weights, images or annotations are read.

    Raises:
        UserError: naming the key, the rule and the way out.
    """
    check_settings(cfg, CARD_SECTIONS)
    if missing := sorted(OmegaConf.missing_keys(cfg)):
        raise UserError(f"{missing[0]} must be given: {missing[0]}=VALUE")
    if not cfg.evaluators and not cfg.comparers:
        raise UserError("nobody is to be judged; choose evaluators=NAME or comparers=NAME")
    if not cfg.human_pairs and cfg.runs is None:
        raise UserError("human_pairs=none and runs=null leave nothing to measure; choose one of them")
