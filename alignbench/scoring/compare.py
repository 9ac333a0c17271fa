"""The comparers of one command: what they are asked, what is kept of it, and how far the position decided."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console
from tqdm.auto import tqdm

from alignbench.configuration.build import build
from alignbench.errors import UserError
from alignbench.images import opened
from alignbench.pairwise.comparer import Comparer, Verdict
from alignbench.pairwise.orders import MAX_FAILED, position_bias
from alignbench.scoring.changed_comparer import refuse_another_model, refuse_other_answers
from alignbench.scoring.pairs import Call, opponents, planned_calls
from alignbench.store.run_folder import RunFolder
from alignbench.store.verdicts import CallKey, Judged, VerdictFile, comparison_folder, judged_pairs
from alignbench.terminal.console import print_fact
from alignbench.text import duration
from alignbench.work_share import WorkShare

BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} calls [{elapsed}<{remaining}{postfix}]"
SAME_IMAGE = "both are the same image, which was not shown"


def refuse_no_opponent(base: RunFolder, prompt_set: str, sampling_hash: str) -> None:
    """Refuse to begin where there is nothing to compare base with; in a sweep, other jobs come later.

    Raises:
        UserError: saying so.
    """
    if opponents(base, prompt_set, sampling_hash, "all"):
        return
    if not (HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN):
        raise UserError(
            f"{base.path.parent} has no second run to compare {base.short_name} with, of the same model with images of "
            "the same prompts and sampling; take compare out of stages, or choose a method that trains"
        )


class Comparing:
    """Compares images of several runs by the same comparers; nothing that is known is asked again.

    Args:
        cfg: the configuration, of which comparers, the section compare and the results folder are read.
        prompt_set, sampling_hash: which images of the runs.

    Raises:
        UserError: two comparers have one name.
    """

    def __init__(
        self, cfg: DictConfig, prompt_set: str, sampling_hash: str, accelerator: Accelerator, console: Console
    ) -> None:
        self.root, self.settings, self.images = Path(cfg.results), cfg.compare, (prompt_set, sampling_hash)
        self.accelerator, self.console = accelerator, console
        self.work_share = WorkShare(accelerator.process_index, accelerator.num_processes)
        self.comparers: list[Comparer] = list(build(cfg.comparers).values())
        self.num_calls = 0  # of this command
        self._unchanged: set[str] = set()  # comparers that have answered the canary pairs as before
        repeated = [name for name, count in Counter(one.name for one in self.comparers).items() if count > 1]
        if repeated:
            raise UserError(
                f"{repeated[0]} is the name of more than one comparer, and verdicts are kept by name; leave one out, "
                "or set comparers.KEY.name=NAME"
            )

    @property
    def folder(self) -> Path:
        """Where the verdicts are."""
        return comparison_folder(self.root, *self.images)

    def compare(self, own: RunFolder) -> None:
        """Ask for what is not known yet, and print what the comparers say of a run altogether.

        Raises:
            UserError: `compare.max_calls` are made and others are left; an image is missing; a comparer cannot answer.
        """
        others = opponents(own, *self.images, self.settings.pairs)
        calls = planned_calls(own, others, *self.images, self.settings.num_prompts, self.settings.orders)
        if not calls:
            self.console.print(f"compare: {own.short_name} has no second run to be compared with yet")
            return
        left = 0
        for comparer in self.comparers:
            file = VerdictFile.of(self.root, *self.images, comparer.name, comparer.version)
            left += self._ask(comparer, calls, file)
            self.accelerator.wait_for_everyone()
            if self.accelerator.is_main_process:
                self._tell(file, own, len(others))
        if left:
            raise UserError(
                f"compare.max_calls={self.settings.max_calls} calls are made, and {left} are left; all verdicts are "
                "kept, and the same command goes on"
            )

    def _ask(self, comparer: Comparer, calls: Sequence[Call], file: VerdictFile) -> int:
        """Ask a comparer, as far as the limit allows; return how many calls are left."""
        identity, lines = comparer.identity, file.read()
        known = {one.call: one.verdict for one in lines if one.identity == identity}
        noted = _noted(lines, identity)
        todo: dict[CallKey, list[Call]] = defaultdict(list)
        free = []
        for call in calls:
            if call.digest_a == call.digest_b:
                known[call.key] = Verdict(None, 0.5, raw=SAME_IMAGE)
            if noted.get(call.place) == call.key:
                continue
            if call.key in known:  # of images that other runs have, too, or that were judged before others were
                free.append(call.judged(identity, _without_cost(known[call.key])))
            else:
                todo[call.key].append(call)
        self.accelerator.wait_for_everyone()  # all have read what is known
        if free and self.work_share.is_main:
            file.add(free)
        limit = self.settings.max_calls
        allowed = len(todo) if limit is None else min(len(todo), limit - self.num_calls)
        self.num_calls += allowed
        answered_by = next((one.answered_by for one in known.values() if one.answered_by), "")
        if comparer.can_change and allowed and comparer.name not in self._unchanged:
            self._unchanged.add(comparer.name)
            if self.work_share.is_main:
                path, is_known = file.canary_answers(identity), any(one.identity == identity for one in lines)
                refuse_other_answers(comparer, answered_by, path, is_known, _keep_apart(file))
            self.accelerator.wait_for_everyone()
        self._ask_in_batches(comparer, list(todo.values())[:allowed], file, answered_by)
        return len(todo) - allowed

    def _ask_in_batches(
        self, comparer: Comparer, todo: Sequence[Sequence[Call]], file: VerdictFile, answered_by: str
    ) -> None:
        """Ask this process's share of calls; each entry holds the calls that one verdict answers."""
        starts = range(0, len(todo), comparer.batch_size)
        share = self.work_share.share([todo[start : start + comparer.batch_size] for start in starts])
        total, tokens, identity = sum(map(len, share)), 0, comparer.identity
        if not share:
            return
        comparer.to(self.accelerator.device)
        with tqdm(total=total, desc=f"compare {comparer.name}", bar_format=BAR, dynamic_ncols=True, leave=None,
                  disable=not self.work_share.is_main) as bar:  # fmt: skip
            for batch in share:
                verdicts = _compare(comparer, [same[0] for same in batch])
                answered_by = refuse_another_model(comparer, verdicts, answered_by, _keep_apart(file))
                file.add(
                    call.judged(identity, verdict if call is same[0] else _without_cost(verdict))
                    for same, verdict in zip(batch, verdicts, strict=True)
                    for call in same
                )
                tokens += sum(sum(one.tokens) for one in verdicts)
                bar.update(len(batch))
                bar.set_postfix_str(f"{total - bar.n} left, {tokens:,} tokens")
        comparer.release()

    def _tell(self, file: VerdictFile, own: RunFolder, num_others: int) -> None:
        """Print what a comparer says of a run, and how far it can be trusted."""
        bias = position_bias(judged_pairs(file.read_latest(), own.name).values())
        read, written = bias.tokens
        told = f"{file.path.stem} on {own.short_name} and {num_others} other run{'s' * (num_others > 1)}: {bias}"
        print_fact(
            self.console, "compared", f"{told}; {read:,} tokens read, {written:,} written, {duration(bias.seconds)}"
        )
        if bias.warning:
            self.console.print(f"  {file.comparer}: {bias.warning}")
        if bias.fails_often:
            limit = f"more than {100 * MAX_FAILED:g} % of the pairs"
            self.console.print(f"  {file.comparer} failed on {limit}, so no table has its figures")


def _keep_apart(file: VerdictFile) -> str:
    """Return what to do where another model answers than the one whose verdicts are in a file."""
    return f"set comparers.KEY.name=NAME to keep both apart, or delete {file.path}"


def _noted(lines: Sequence[Judged], identity: str) -> Mapping[Any, CallKey]:
    """Return which images the tables would show a verdict on, by pair and order.

    Tables show the comparer that was asked last, so lines before those of another count no more.
    """
    last_other = max((number for number, one in enumerate(lines) if one.identity != identity), default=-1)
    return {(one.pair, one.a_first): one.call for one in lines[last_other + 1 :]}


def _without_cost(verdict: Verdict) -> Verdict:
    """Return a verdict as one that was not asked for."""
    return replace(verdict, tokens=(0, 0), seconds=0.0)


def _compare(comparer: Comparer, calls: Sequence[Call]) -> list[Verdict]:
    """Ask about some calls; an image that several of them show is prepared once."""
    files = list(dict.fromkeys(file for call in calls for file in call.files))
    inputs = dict(zip(files, comparer.preprocess([opened(file) for file in files]), strict=True))
    first, second = zip(*(call.files for call in calls), strict=True)
    return comparer.compare(
        [inputs[file] for file in first], [inputs[file] for file in second], [call.pair.prompt for call in calls]
    )
