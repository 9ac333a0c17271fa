"""Which pairs of images are compared: of which runs, prompts and image numbers, and in which order they are shown."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from alignbench.errors import UserError
from alignbench.pairwise.comparer import Verdict
from alignbench.settings.compare import Orders, RunPairs
from alignbench.store.image_records import PromptRecord, drawn_prompts, read_prompts
from alignbench.store.manifest import BASE, DATA, ResultsError
from alignbench.store.run_folder import RunFolder, readable_manifests
from alignbench.store.scores import digest_of
from alignbench.store.verdicts import CallKey, Judged, PairKey
from alignbench.text import keyed

BOTH_UP_TO = 2000  # prompts; with more of them, one random order on all is the better use of as many calls


@dataclass(frozen=True)
class Call:
    """Two images of a prompt in the order in which a comparer is to see them.

    Attributes:
        a, b: names of the runs, base first.
        file_a, file_b: their images.
    """

    prompt_id: str
    prompt: str
    image: int
    a: str
    b: str
    file_a: Path
    file_b: Path
    digest_a: str
    digest_b: str
    a_first: bool

    @property
    def files(self) -> tuple[Path, Path]:
        """The images as they are shown."""
        return (self.file_a, self.file_b) if self.a_first else (self.file_b, self.file_a)

    @property
    def key(self) -> CallKey:
        digests = (self.digest_a, self.digest_b)
        return (*(digests if self.a_first else digests[::-1]), self.prompt)

    @property
    def place(self) -> tuple[PairKey, bool]:
        """Where tables look for the verdict."""
        return (self.a, self.b, self.prompt_id, self.image), self.a_first

    def judged(self, identity: str, verdict: Verdict) -> Judged:
        """Return what is kept of the call."""
        about = (self.prompt_id, self.prompt, self.image, self.a, self.b, self.digest_a, self.digest_b, self.a_first)
        return Judged(*about, identity, verdict)


def opponents(own: RunFolder, prompt_set: str, sampling_hash: str, pairs: RunPairs) -> list[RunFolder]:
    """Return the runs whose images are compared with those of `own`: of its model, on the same prompts and sampling.

    Other seeds of its recipe, and real images, are none.
    """
    of_own, found = own.manifest, []
    for folder, manifest in readable_manifests(own.path.parent):
        is_other = manifest.recipe_hash != of_own.recipe_hash and manifest.method != DATA
        is_asked = pairs == "all" or BASE in (manifest.method, of_own.method)
        has_images = f"{prompt_set}/{sampling_hash}" in manifest.completed.get("generate", [])
        if manifest.model == of_own.model and is_other and is_asked and has_images:
            found.append(folder)
    return found


def planned_calls(
    own: RunFolder,
    others: Sequence[RunFolder],
    prompt_set: str,
    sampling_hash: str,
    num_prompts: int | None = None,
    orders: Orders | None = None,
) -> list[Call]:
    """Return the calls that compare a run with others, prompt by prompt in an order drawn at random.

    So the first calls are about a random part of the prompts, wherever a command is stopped. Both orders of a pair
    follow each other, and which of them is the first is drawn, too.

    Args:
        num_prompts, orders: see `alignbench.settings.compare.Compare`.

    Raises:
        UserError: there are not so many prompts, or an image is gone.
        ResultsError: a prompt reads differently in two runs.
    """
    if not others:
        return []
    folders = {run.name: run.images(prompt_set, sampling_hash) for run in (own, *others)}
    records = {name: {one.prompt_id: one for one in read_prompts(folder)} for name, folder in folders.items()}
    of_others = set().union(*(records[run.name] for run in others))
    prompts = {prompt_id: one for prompt_id, one in records[own.name].items() if prompt_id in of_others}
    if num_prompts is not None and num_prompts > len(prompts):
        raise UserError(
            f"compare.num_prompts={num_prompts} is more than the {len(prompts)} prompts that {own.path} has in "
            "common with others"
        )
    drawn = drawn_prompts(prompts, num_prompts or len(prompts), seed=0)
    orders = orders or ("both" if len(drawn) <= BOTH_UP_TO else "random")
    pairs = [sorted((own, other), key=lambda run: (run.manifest.method != BASE, run.name)) for other in others]
    wanted = [
        (records[a.name][prompt_id], records[b.name][prompt_id], a.name, b.name)
        for prompt_id in sorted(drawn, key=lambda prompt_id: keyed("comparisons", prompt_id))
        for a, b in pairs
        if prompt_id in records[a.name].keys() & records[b.name].keys()
    ]
    for in_a, in_b, a, b in wanted:
        if in_a.prompt != in_b.prompt:
            raise ResultsError(
                f"prompt {in_a.prompt_id} reads differently in {a} and {b}; generate both from one prompt set"
            )
    files = dict.fromkeys(file for row in wanted for pair in _images(*row, folders) for file in pair)
    digests = _digests(list(files))
    calls = []
    for in_a, in_b, a, b in wanted:
        for number, (file_a, file_b) in enumerate(_images(in_a, in_b, a, b, folders)):
            about = (in_a.prompt_id, in_a.prompt, number, a, b, file_a, file_b, digests[file_a], digests[file_b])
            first = _a_is_first(in_a.prompt, digests[file_a], digests[file_b])
            calls += [Call(*about, a_first) for a_first in ((first, not first) if orders == "both" else (first,))]
    return calls


def _images(
    in_a: PromptRecord, in_b: PromptRecord, a: str, b: str, folders: dict[str, Path]
) -> Iterator[tuple[Path, Path]]:
    """Yield the images of a prompt that both runs have, number by number; absolute paths stay as they are."""
    for name_a, name_b in zip(in_a.images, in_b.images, strict=False):
        yield folders[a] / name_a, folders[b] / name_b


def _digests(files: Sequence[Path]) -> dict[Path, str]:
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(files)} images are missing, such as {missing[0]}; add generate to stages to make "
            "them, or put them back"
        )
    with ThreadPoolExecutor() as pool:
        return dict(zip(files, pool.map(digest_of, files), strict=True))


def _a_is_first(prompt: str, digest_a: str, digest_b: str) -> bool:
    """Draw the order of two images: the same for the same images, whatever the runs are called."""
    smaller_first = keyed("order", prompt, *sorted((digest_a, digest_b)))[0] % 2 == 0
    return smaller_first == (digest_a <= digest_b)
