"""How far does a run have to be measured: its prompts in parts, until its win rate over base is significant.

The plan is stored before the first image, and each look as soon as it is taken. So a repeated command has the same
looks and the same decision, and a killed one goes on with the look that it was at.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from rich.console import Console

from alignbench.data.prompt_looks import first_prompts, look_sizes
from alignbench.data.prompts import PromptSet
from alignbench.errors import UserError, did_you_mean
from alignbench.evaluator import Evaluator
from alignbench.generation.generate import Sampling
from alignbench.settings.command import Stage
from alignbench.store.image_records import PROMPTS
from alignbench.store.look_record import Look, LookPlan, LookRecord, look_file, read_looks, store_looks
from alignbench.store.run_folder import RunFolder
from alignbench.terminal.console import print_fact

STAGES_OF_A_LOOK: tuple[Stage, ...] = ("generate", "score")


def look_plan(sampling: Sampling, whole: PromptSet, evaluators: Sequence[Evaluator]) -> LookPlan:
    """Return when a run is looked at, and by which evaluator.

    Raises:
        UserError: no evaluator of the command decides, or there are too few prompts.
    """
    names = [evaluator.name for evaluator in evaluators]
    decides = names[0] if sampling.stop_on is None and len(names) == 1 else sampling.stop_on
    if decides is None:
        raise UserError(
            f"sampling.stop={sampling.stop} needs an evaluator whose win rate decides; add sampling.stop_on=NAME, one "
            f"of {', '.join(names)}"
        )
    if decides not in names:
        raise UserError(f"sampling.stop_on={decides} is not among the evaluators;{did_you_mean(decides, names)}")
    assert sampling.stop != "none"
    sizes, version = look_sizes(whole, sampling.looks), evaluators[names.index(decides)].version
    by_spending = not isinstance(sampling.looks, int)
    return LookPlan(sampling.stop, by_spending, decides, version, whole.fingerprint, sampling.seed, tuple(sizes))


@dataclass(frozen=True)
class LookByLook:
    """Measures one run in parts.

    Attributes:
        whole: all prompts.
        own, base: the run and what it is compared with.
        sampling: of the run's images.
    """

    plan: LookPlan
    whole: PromptSet
    own: RunFolder
    base: RunFolder
    sampling: Sampling
    accelerator: Accelerator
    console: Console

    @classmethod
    def of(
        cls,
        sampling: Sampling,
        whole: PromptSet,
        evaluators: Sequence[Evaluator],
        runs: tuple[RunFolder, RunFolder],
        accelerator: Accelerator,
        console: Console,
    ) -> Self:
        """Return how a run is measured.

        Args:
            evaluators: all that score the images.
            runs: the run and that of base.

        Raises:
            UserError: there is no such plan, or `refuse_others` says so.
        """
        looks = cls(look_plan(sampling, whole, evaluators), whole, *runs, sampling, accelerator, console)
        looks.refuse_others()
        return looks

    def run(self, measure: Callable[[PromptSet], None]) -> None:
        """Measure the prompts of one look after the other, until one stops.

        Args:
            measure: generates and scores the images of some prompts, those of base included.

        Raises:
            UserError: as `refuse_others` does.
        """
        plan, record = self.plan, self._begun()
        looks = ", ".join(map(str, plan.sizes))
        told = f"{plan.rule}, by {plan.evaluator} after {looks} prompts"
        print_fact(self.console, "looks", f"{told}{', by alpha spending' if plan.by_spending else ''}")
        for number in range(len(record.looks)):
            self._tell(record, number)
        if record.is_over:
            measure(self._prompts(len(record.looks) - 1))  # other evaluators may be new
        while not record.is_over:
            number = len(record.looks)
            measure(self._prompts(number))
            record = self._from_main(lambda number=number: self._look(number))
            self._tell(record, number)

    def _prompts(self, number: int) -> PromptSet:
        return first_prompts(self.whole, self.plan.seed, self.plan.sizes[number])

    def refuse_others(self) -> None:
        """Refuse a run that was looked at by another plan, or has images that nobody planned to look at.

        Raises:
            UserError: saying so.
        """
        if not self.own.manifest_file.exists():
            return
        found = self._read()
        if found is not None and found.plan != self.plan:
            raise UserError(
                f"{self.own.path} was begun with other looks ({_described(found.plan)}; now {_described(self.plan)}); "
                "give those settings back, or set sampling.stop=none to measure all prompts"
            )
        images = self.own.images(self.whole.name, self.sampling.hash)
        if found is None and self.own.recorded(images / PROMPTS) is not None:
            raise UserError(
                f"{self.own.path} has images of this sampling already, which were made without looks; set "
                "sampling.stop=none, which measures all prompts"
            )

    def _begun(self) -> LookRecord:
        """Return the looks so far; their plan is on the disk then."""
        self.refuse_others()
        self.accelerator.wait_for_everyone()
        return self._from_main(lambda: self._read() or self._stored(LookRecord(self.plan)))

    def _look(self, number: int) -> LookRecord:
        """Take a look, unless another command has taken it meanwhile."""
        record = self._read()
        assert record is not None
        if len(record.looks) > number:
            return record
        from alignbench.stages.looks.over_base import over_base

        ids = {prompt.prompt_id for prompt in self._prompts(number)}
        by = self.plan.evaluator, self.plan.version
        hashes = self.sampling.hash, self.sampling.at_full_strength.hash
        shown = over_base((self.own, self.base), self.whole.name, hashes, by, ids)
        stops = shown.p_win_weights <= self.plan.boundaries.nominal_level(number)
        return self._stored(record.after(Look(shown.win_rate.value, shown.p_win_weights, stops)))

    def _read(self) -> LookRecord | None:
        return read_looks(self.own, self.whole.name, self.sampling.hash)

    def _stored(self, record: LookRecord) -> LookRecord:
        store_looks(self.own, look_file(self.own, self.whole.name, self.sampling.hash), record)
        return record

    def _from_main(self, make: Callable[[], LookRecord]) -> LookRecord:
        """Return what the main process makes, on all processes."""
        made: list[Any] = [make() if self.accelerator.is_main_process else None]
        return broadcast_object_list(made)[0]

    def _tell(self, record: LookRecord, number: int) -> None:
        """Print what a look has shown."""
        sizes, look = self.plan.sizes, record.looks[number]
        is_last = number == len(sizes) - 1
        end = ("reached" if look.stops else "not reached") if is_last else "stops" if look.stops else "goes on"
        self.console.print(
            f"look {number + 1} of {len(sizes)}: {sizes[number]} of {sizes[-1]} prompts, win rate over base "
            f"{100 * look.win_rate:.1f} %, p {look.p_value:.2g}, boundary "
            f"{self.plan.boundaries.nominal_level(number):.2g}: {end}"
        )


def _described(plan: LookPlan) -> str:
    sizes = ", ".join(map(str, plan.sizes))
    return f"{plan.rule}, {plan.evaluator}@{plan.version}, after {sizes} of prompts {plan.prompts[:8]}"
