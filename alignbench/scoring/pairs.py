"""Which pairs of images are compared: of which runs, prompts and image numbers, and in which order they are shown."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from alignbench.errors import UserError
from alignbench.pairwise.comparer import Verdict
from alignbench.settings.compare import Orders, RunPairs
from alignbench.store.image_records import drawn_prompts, read_prompts
from alignbench.store.manifest import BASE, DATA, ResultsError
from alignbench.store.run_folder import RunFolder, readable_manifests
from alignbench.store.scores import digest_of
from alignbench.store.verdicts import CallKey, Judged, PairKey, call_key
from alignbench.text import keyed

BOTH_UP_TO = 2000  # prompts; with more of them, one random order on all is the better use of as many calls


@dataclass(frozen=True)
class ImagePair:
    """The images of one number that two runs, a and b, have of a prompt; where one of them is base, it is a."""

    prompt_id: str
    prompt: str
    image: int
    a: str
    b: str
    file_a: Path
    file_b: Path


@dataclass(frozen=True)
class Call:
    """Two images in the order in which a comparer is to see them.

    Attributes:
        digest_a, digest_b: of the files.
        a_first: whether a's image comes first.
    """

    pair: ImagePair
    digest_a: str
    digest_b: str
    a_first: bool

    @property
    def files(self) -> tuple[Path, Path]:
        """The images as they are shown."""
        file_a, file_b = self.pair.file_a, self.pair.file_b
        return (file_a, file_b) if self.a_first else (file_b, file_a)

    @property
    def place(self) -> tuple[PairKey, bool]:
        """Where tables look for the verdict."""
        pair = self.pair
        return (pair.a, pair.b, pair.prompt_id, pair.image), self.a_first

    @property
    def key(self) -> CallKey:
        """What the verdict holds for, whatever the runs are called."""
        return call_key(self.digest_a, self.digest_b, self.a_first, self.pair.prompt)

    def judged(self, identity: str, verdict: Verdict) -> Judged:
        """Return what is kept of the call."""
        pair = self.pair
        about = (pair.prompt_id, pair.prompt, pair.image, pair.a, pair.b, self.digest_a, self.digest_b, self.a_first)
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
    pairs = _image_pairs(own, others, prompt_set, sampling_hash, num_prompts)
    digests = _digests(list(dict.fromkeys(file for pair in pairs for file in (pair.file_a, pair.file_b))))
    if orders is None:
        orders = "both" if len({pair.prompt_id for pair in pairs}) <= BOTH_UP_TO else "random"
    calls = []
    for pair in pairs:
        shown = digests[pair.file_a], digests[pair.file_b]
        first = _a_is_first(pair.prompt, *shown)
        calls += [Call(pair, *shown, a_first) for a_first in ((first, not first) if orders == "both" else (first,))]
    return calls


def _image_pairs(
    own: RunFolder, others: Sequence[RunFolder], prompt_set: str, sampling_hash: str, num_prompts: int | None
) -> list[ImagePair]:
    """Return the pairs of images, prompt by prompt."""
    folders = {run.name: run.images(prompt_set, sampling_hash) for run in (own, *others)}
    records = {name: {one.prompt_id: one for one in read_prompts(folder)} for name, folder in folders.items()}
    of_others = {prompt_id for run in others for prompt_id in records[run.name]}
    shared = {prompt_id: one for prompt_id, one in records[own.name].items() if prompt_id in of_others}
    if others and num_prompts is not None and num_prompts > len(shared):
        raise UserError(
            f"compare.num_prompts={num_prompts} is more than the {len(shared)} prompts that {own.path} has in common "
            "with others"
        )
    drawn = drawn_prompts(shared, num_prompts or len(shared), seed=0)
    is_base = {run.name: run.manifest.method == BASE for run in (own, *others)}
    pairs = []
    for prompt_id in sorted(drawn, key=lambda prompt_id: keyed("comparisons", prompt_id)):
        for other in (run.name for run in others if prompt_id in records[run.name]):
            a, b = sorted((own.name, other), key=lambda name: (not is_base[name], name))
            in_a, in_b = records[a][prompt_id], records[b][prompt_id]
            if in_a.prompt != in_b.prompt:
                raise ResultsError(
                    f"prompt {prompt_id} reads differently in {a} and {b}; generate both from one prompt set"
                )
            for number, (name_a, name_b) in enumerate(zip(in_a.images, in_b.images, strict=False)):
                files = folders[a] / name_a, folders[b] / name_b  # a path that is absolute stays as it is
                pairs.append(ImagePair(prompt_id, in_a.prompt, number, a, b, *files))
    return pairs


def _digests(files: Sequence[Path]) -> dict[Path, str]:
    missing = [file for file in files if not file.is_file()]
    if missing:
        remedy = "add generate to stages to make them, or put them back"
        if RunFolder(missing[0].parents[3]).is_from_capsule:
            remedy = "its run came from a capsule, which holds thumbnails alone: compare images where they were made"
        raise UserError(f"{len(missing)} of {len(files)} images are missing, such as {missing[0]}; {remedy}")
    with ThreadPoolExecutor() as pool:
        return dict(zip(files, pool.map(digest_of, files), strict=True))


def _a_is_first(prompt: str, digest_a: str, digest_b: str) -> bool:
    """Draw the order of two images: the same for the same images, whatever the runs are called."""
    smaller_first = keyed("order", prompt, *sorted((digest_a, digest_b)))[0] % 2 == 0
    return smaller_first == (digest_a <= digest_b)
