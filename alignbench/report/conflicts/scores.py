"""Which scores can stand in one comparison: those made in one way, of images of the same prompts.

An evaluator with other weights, another preprocessing or another precision is another evaluator, whatever its name and
version. Of each comparison those scores are kept that were made as base's were, because methods are compared with base.
Where base has none, those of most runs are kept.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from alignbench.report.conflicts.differences import differences
from alignbench.report.contenders import Measurement
from alignbench.store.image_records import PromptRecord
from alignbench.store.manifest import BASE
from alignbench.store.run_folder import RunFolder
from alignbench.store.scores import ScoreInfo

ImagesOfRun = tuple[str, str, str]  # run, prompt set and hash of the sampling
IsBase = Callable[[Measurement], bool]
ScoresOfRun = tuple[str, str, str, str, str]  # the same, evaluator and version
SCORE_AGAIN = (
    "delete the file of scores of the run whose scores you do not want, and repeat its command to score it again"
)


@dataclass(frozen=True)
class Conflicts:
    """What contradicts other scores, and why.

    Attributes:
        images: image folders with prompts that read differently elsewhere.
        scores: scores that were made in another way.
    """

    images: dict[ImagesOfRun, str] = field(default_factory=dict)
    scores: dict[ScoresOfRun, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.images or self.scores)

    def __contains__(self, entry: Measurement) -> bool:
        return _images_of(entry) in self.images or _scores_of(entry) in self.scores

    def left_out(self, within: str = "") -> dict[str, str]:
        """Return a sentence for each folder of images and file of scores, by its path in the results.

        Args:
            within: path of the folder that the runs are in, for looks at a run; ends in `/`.
        """
        images = {RunFolder(Path(run)).images(*of): told for (run, *of), told in self.images.items()}
        scores = {RunFolder(Path(run)).score_file(*of): told for (run, *of), told in self.scores.items()}
        return {f"{within}{path.as_posix()}": told for path, told in sorted((images | scores).items())}


def conflicts(entries: Iterable[Measurement]) -> Conflicts:
    """Return what cannot be compared with the other scores of its model, prompts, sampling and evaluator."""
    of_images: dict[tuple[str, str, str], list[Measurement]] = defaultdict(list)
    for entry in entries:
        of_images[entry.manifest.model, entry.sampling.prompt_set, entry.compared_sampling].append(entry)
    found = Conflicts()
    for of in of_images.values():
        within = conflicts_within(of, lambda entry: entry.manifest.method == BASE)
        found.images.update(within.images)
        found.scores.update(within.scores)
    return found


def conflicts_within(entries: Iterable[Measurement], is_base: IsBase, remedy: str = SCORE_AGAIN) -> Conflicts:
    """Return which of some scores cannot be compared with the others.

    Args:
        is_base: says which scores others are compared with.
        remedy: what to do about scores that were made in two ways.
    """
    entries = list(entries)
    images = _other_prompts(entries, is_base)
    of_evaluator: dict[tuple[str, str], list[Measurement]] = defaultdict(list)
    for entry in entries:
        if _images_of(entry) not in images:
            of_evaluator[entry.scores.info.evaluator, entry.scores.info.version].append(entry)
    scores: dict[ScoresOfRun, str] = {}
    for scored in of_evaluator.values():
        scores |= _other_ways(scored, is_base, remedy)
    return Conflicts(images, scores)


def _images_of(entry: Measurement) -> ImagesOfRun:
    """Return which images were scored."""
    return entry.manifest.run, entry.sampling.prompt_set, entry.sampling_hash


def _scores_of(entry: Measurement) -> ScoresOfRun:
    return *_images_of(entry), entry.scores.info.evaluator, entry.scores.info.version


def _other_prompts(entries: Sequence[Measurement], is_base: IsBase) -> dict[ImagesOfRun, str]:
    """Return why images cannot be compared whose prompts read differently than those of base, or of most runs."""
    lists: dict[int, dict[str, PromptRecord]] = {}  # runs share one list where theirs are equal
    users: dict[int, set[ImagesOfRun]] = defaultdict(set)
    has_base = set()
    for entry in entries:
        lists[id(entry.prompts)] = entry.prompts
        users[id(entry.prompts)].add(_images_of(entry))
        if is_base(entry):
            has_base.add(id(entry.prompts))
    found: dict[ImagesOfRun, str] = {}
    texts: dict[str, tuple[str, str]] = {}  # prompt id -> text, and the run that it is of
    for key in sorted(lists, key=lambda key: (key not in has_base, -len(users[key]), min(users[key]))):
        run = min(users[key])[0]
        own = {prompt_id: (record.prompt, run) for prompt_id, record in lists[key].items()}
        unlike = (one for one, (text, _) in own.items() if texts.get(one, (text, run))[0] != text)
        if (prompt_id := next(unlike, None)) is None:
            texts = own | texts
            continue
        text, other = texts[prompt_id]
        told = (
            f"prompt {prompt_id} reads {own[prompt_id][0]!r} there and {text!r} in {other}; generate both from the "
            "same prompt set"
        )
        found |= dict.fromkeys(users[key], told)
    return found


def _other_ways(entries: Sequence[Measurement], is_base: IsBase, remedy: str) -> dict[ScoresOfRun, str]:
    """Return why scores cannot be compared that one evaluator gave in another way than to base, or to most runs."""
    ways: dict[ScoreInfo, list[Measurement]] = defaultdict(list)
    for entry in entries:
        ways[entry.scores.info].append(entry)
    if len(ways) == 1:
        return {}

    def order(way: ScoreInfo) -> tuple:
        return any(map(is_base, ways[way])), len(ways[way]), str(way)

    kept = max(ways, key=order)
    other = min(ways[kept], key=lambda one: (not is_base(one), one.manifest.run)).manifest.run
    return {
        _scores_of(entry): f"{scored_otherwise(way, kept, other)}; {remedy}"
        for way in ways
        for entry in ways[way]
        if way != kept
    }


def scored_otherwise(own: ScoreInfo, its: ScoreInfo, other: str) -> str:
    """Say in what the scores of a run by an evaluator differ from those of another run.

    Args:
        own, its: how both were made.
        other: name of the other run.
    """
    told = differences(asdict(own), asdict(its))
    return f"{own.evaluator} scored these images and those of {other} with different {told}"
