"""How images and scores that were made again differ from those of a capsule, and whether they may."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from alignbench.capsule.thumbnails import difference, encoded
from alignbench.evaluator import Evaluator
from alignbench.scoring.calibration import allowed_difference
from alignbench.store.image_records import ImageKey
from alignbench.store.run_folder import RunFolder
from alignbench.store.scores import Scores, digest_of
from alignbench.videos import read_still

MAX_LEVELS = 1.0  # mean difference of two thumbnails, of 255: what another device or another batch may change
OTHER_BITS = 10  # how many times the tolerance of an evaluator the score of an image of other bits may differ


@dataclass
class Repeated:
    """What came of making a share of a run again.

    Attributes:
        told: what was checked and what was not, a line each.
        faults: what contradicts the capsule, a sentence each.
        num_images: that were made again.
    """

    told: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    num_images: int = 0


def compare_images(
    run: RunFolder, files: Mapping[ImageKey, Path], scores: Iterable[Scores], found: Repeated
) -> set[ImageKey]:
    """Say how images that were made again differ from those of a capsule; return those with the same bits.

    Args:
        run: of the capsule, with the thumbnails of its images.
        files: the images that were made again.
        scores: of the same prompt set and sampling, which have the digests of the capsule's images.
    """
    digests: dict[ImageKey, set[str]] = {}
    for one in scores:
        for key, digest in zip(_keys(one), one.digest.tolist(), strict=True):
            digests.setdefault(key, set()).add(digest)
    same, levels, unknown = set(), {}, 0
    for key, file in files.items():
        if digest_of(file) in digests.get(key, ()):
            same.add(key)
        elif small := [path for digest in digests.get(key, ()) if (path := run.thumbnail(digest)).exists()]:
            levels[key] = min(difference(path.read_bytes(), encoded(read_still(file))) for path in small)
        else:
            unknown += 1
    told = f"{len(files)} images made again: {len(same)} have the same bits"
    if levels:
        largest = f"at most {max(levels.values()):.2g} of 255 levels on average ({MAX_LEVELS:g} may)"
        told += f", thumbnails of {len(levels)} differ by {largest}"
    found.told.append(told + (f", {unknown} have no thumbnail to compare with" if unknown else ""))
    found.num_images += len(files)
    worse = {key: value for key, value in levels.items() if not value <= MAX_LEVELS}
    if worse:
        prompt_id, number = max(worse, key=lambda key: worse[key])
        found.faults.append(
            f"{len(worse)} of {len(files)} images of {run.name} come out otherwise, such as image {number} of prompt "
            f"{prompt_id} by {worse[prompt_id, number]:.3g} levels on average"
        )
    return same


def compare_scores(
    run: str, evaluator: Evaluator, scores: tuple[Scores, Scores], same_bits: set[ImageKey], found: Repeated
) -> None:
    """Say how scores that were made again differ from those of a capsule.

    Args:
        run: its name.
        scores: of the capsule, and made again.
        same_bits: images that are the same to the last bit.
    """
    before, now = (dict(zip(_keys(one), one.score.tolist(), strict=True)) for one in scores)
    off = {key: evaluator.display_scale * abs(now[key] - before[key]) for key in now if key in before}
    allowed, parts = allowed_difference(evaluator), []
    for bits, keys, bound in (
        ("the same bits", off.keys() & same_bits, allowed),
        ("other bits", off.keys() - same_bits, OTHER_BITS * allowed),
    ):
        if not keys:
            continue
        worst = max(sorted(keys), key=lambda key: off[key])
        parts.append(f"{off[worst]:.2g} on {len(keys)} images of {bits} ({bound:g} may)")
        if num_worse := sum(not off[key] <= bound for key in keys):
            found.faults.append(
                f"{num_worse} of {len(keys)} scores of {run} by {evaluator.name} come out otherwise, such as that of "
                f"image {worst[1]} of prompt {worst[0]} by {off[worst]:.3g}"
            )
    told = f"differ by at most {', '.join(parts)}" if parts else "are none of these images"
    found.told.append(f"scores by {evaluator.name} {told}")


def _keys(scores: Scores) -> list[ImageKey]:
    return list(zip(scores.prompt_id.tolist(), scores.image.tolist(), strict=True))
