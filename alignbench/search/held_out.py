"""Which prompts a search may choose by: those that neither the report shows nor the training sees."""

import re
from collections.abc import Sequence

from omegaconf import DictConfig

from alignbench.configuration.build import build, choices, conf_folder, trains
from alignbench.configuration.compose import composed
from alignbench.data.prompts import PromptSet, overlap
from alignbench.errors import UserError
from alignbench.search.objectives import Objective
from alignbench.search.settings import SearchSettings
from alignbench.stages.training_terms import build_terms, evaluation_prompts_trained_on

GROUP = re.compile(r"/prompts@prompts: *(\S+)")  # the line of a file in conf/validation that chooses its prompts


def report_words(words: Sequence[str], settings: SearchSettings) -> list[str]:
    """Return the words of a command that reports on other prompts than those of the search."""
    kept = [word for word in words if not re.match(r"[+~]*prompts(\.|=|@)", word)]
    return kept if settings.report_prompts is None else [*kept, f"prompts={settings.report_prompts}"]


def check_held_out(cfg: DictConfig, words: Sequence[str], settings: SearchSettings) -> tuple[PromptSet, PromptSet]:
    """Return the prompts of a search and those of the report.

    Args:
        cfg: of the words that all trials share.
        words: these words.

    Raises:
        UserError: they have prompts in common, or training sees some of those of the search.
    """
    chosen_by, reported = build(cfg.prompts), build(composed(report_words(words, settings)).prompts)
    if shared := overlap(reported.texts, chosen_by):
        raise UserError(
            f"prompts={chosen_by.name} shares {len(shared)} prompts with prompts={reported.name}, which the report "
            f"shows, and what is chosen by them looks better than it is; add {_suggested(reported)}, or name the "
            "prompts of the report by search.report_prompts=NAME"
        )
    evaluation_prompts_trained_on(cfg, chosen_by)
    if cfg.validation.every is not None and (shared := overlap(reported.texts, build(cfg.validation.prompts))):
        raise UserError(
            f"validation.prompts={cfg.validation.prompts.name} shares {len(shared)} prompts with "
            f"prompts={reported.name}, which the report shows; choose other prompts for validation"
        )
    return chosen_by, reported


def check_objectives(cfg: DictConfig, objectives: Sequence[Objective]) -> None:
    """Refuse a search by nothing but what training follows.

    Raises:
        UserError: the configuration trains nothing, or no objective is held out.
    """
    if not trains(cfg):
        raise UserError("method=base trains nothing, so there is nothing to search; choose another method")
    followed = {name for method, _ in build_terms(cfg) for name in method.trained_on}
    if {one.evaluator for one in objectives} <= followed:
        names = ", ".join(one.evaluator for one in objectives)
        raise UserError(
            f"search.objective={names} is what training follows, so it rises even while images get worse; choose an "
            "evaluator that training does not follow, or a list with one"
        )


def _suggested(reported: PromptSet) -> str:
    """Return the words that choose prompts which are held out for such choices."""
    files = [(conf_folder() / "validation" / f"{name}.yaml").read_text() for name in choices("validation")]
    names = [found[1] for text in files if (found := GROUP.search(text)) and found[1] != reported.name]
    return " or ".join(f"prompts={name}" for name in names)
