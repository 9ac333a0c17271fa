"""Tell the page which images there are of each prompt, what they scored, and where their thumbnails are.

The Overview shows the images with the largest gains and losses; see `gallery`.
"""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from alignbench.files import sha256
from alignbench.report.contenders import Measurement
from alignbench.report.display import TableSection, ranking_evaluators
from alignbench.report.figures import listed
from alignbench.report.page.sprites import COLUMNS, ROWS, Jobs, ThumbnailSource, sprite_names
from alignbench.report.page.store import PageData, Store
from alignbench.report.polls.comparers import PAIRS
from alignbench.report.polls.human import of_people
from alignbench.report.tables import Tables
from alignbench.scoring.evidence import read_evidence
from alignbench.store.image_records import ImageKey, PromptRecord
from alignbench.store.manifest import BASE
from alignbench.store.run_folder import RunFolder
from alignbench.videos import FrameSpec

NUM_EXTREMES = 3  # images with the largest gains, and as many with the largest losses
MAX_TEXT = 200  # characters of a prompt on the Overview

ScoresByEvaluator = dict[tuple[str, str], Measurement]  # evaluator and version -> the scores of one run
ScoresByRun = dict[tuple[str, str], ScoresByEvaluator]  # method and run -> its scores


@dataclass(frozen=True)
class SectionImages:
    """The images of a section: all runs list them in the same order, that of base's prompts, then what others have.

    Attributes:
        runs: the scores of each run.
        prompts: all prompts, by their id.
        keys: the images.
        sets: what the page loads of each run: addresses, names of sprites, and scores by evaluator.
    """

    runs: ScoresByRun
    prompts: dict[str, PromptRecord]
    keys: list[ImageKey]
    sets: dict[tuple[str, str], PageData]


def section_images(tables: Tables, section: TableSection, store: Store, jobs: Jobs) -> SectionImages:
    """Gather the images of a section, and note in `jobs` the thumbnails that are yet to be drawn."""
    runs = _runs(tables, section)
    prompts: dict[str, PromptRecord] = {}
    for _, measured in sorted(runs.items(), key=lambda entry: entry[0][0] != BASE):
        for prompt_id, record in _prompts(measured).items():
            known = prompts.setdefault(prompt_id, record)
            if len(record.images) > len(known.images):
                prompts[prompt_id] = record
    keys = [(prompt_id, number) for prompt_id, record in prompts.items() for number in range(len(record.images))]
    sets = {key: _image_set(key[1], measured, section, keys, store, jobs) for key, measured in runs.items()}
    return SectionImages(runs, prompts, keys, sets)


def image_entry(section: TableSection, images: SectionImages, store: Store) -> PageData:
    """Return where the page finds the prompts of a section, and of each run the images, scores and thumbnails."""
    records = images.prompts.values()
    groups = sorted({group for record in records for group in record.groups})
    stem = f"{section.model}-{section.prompt_set}"
    shown = {
        "ids": list(images.prompts),
        "texts": [record.prompt for record in records],
        "groups": groups,
        "memberships": [[groups.index(group) for group in record.groups] for record in records],
        "counts": [len(record.images) for record in records],
    }
    return {
        "prompts": store.script(f"prompts-{stem}", shown),
        "sets": [
            {
                "run": run,
                "method": method,
                "file": store.script(f"images-{stem}-{run}", one),
                "evidence": _evidence(images, (method, run), section, store, f"evidence-{stem}-{run}"),
            }
            for (method, run), one in images.sets.items()
        ],
    }


def gallery(section: TableSection, images: SectionImages) -> PageData:
    """Return of each method the images that gain and lose most over base, with where their thumbnails are, and by whom.

    The first training seed of a method stands for all. The gain of an image is the difference of its score from that of
    base's image, in standard deviations of the scores of both, averaged over the evaluators that may rank the methods.
    Votes of people and verdicts of comparers are left out: an image has few.
    """
    evaluators = [
        one for one in ranking_evaluators(section) if not (of_people(one[0]) or section.infos[one].preprocess == PAIRS)
    ]
    places = {image: place for place, image in enumerate(images.keys)}
    first_runs = {method: (method, run) for method, run in reversed(images.runs)}
    base = first_runs.get(BASE)
    found = []
    for method in section.methods:
        if base is None:
            break  # there is nothing to gain over
        key = first_runs[method]
        pair = [images.sets[one] for one in (base, key)]
        gains = {
            image: gain
            for image, gain in _gains(section, images.runs[base], images.runs[key], evaluators).items()
            if all(one["files"][places[image]] for one in pair)
        }
        shown = [
            {
                "key": f"{image[0]}-{image[1]}",
                "text": _cut(images.prompts[image[0]].prompt),
                "gain": gains[image],
                "place": places[image],
                "sprites": [one["sprites"][places[image] // (COLUMNS * ROWS)] for one in pair],
            }
            for image in _extremes(gains)
        ]
        if shown:
            found.append({"method": method, "run": key[1], "images": shown})
    return {"by": listed([name for name, _ in evaluators] or ["none"]), "methods": found}


def _gains(
    section: TableSection,
    base: ScoresByEvaluator,
    other: ScoresByEvaluator,
    evaluators: Sequence[tuple[str, str]],
) -> dict[ImageKey, float]:
    """Return the gain of each image that all of these evaluators have scored of both runs."""
    gains: dict[ImageKey, list[float]] = defaultdict(list)
    units = {}
    for evaluator in evaluators:
        if evaluator in base and evaluator in other:
            spread = float(np.concatenate([one[evaluator].scores.score for one in (base, other)]).std())
            units[evaluator] = spread if section.infos[evaluator].higher_is_better else -spread
    units = {evaluator: unit for evaluator, unit in units.items() if unit}  # of equal scores none gains
    for evaluator, unit in units.items():
        of_base = base[evaluator].by_image
        for image, score in other[evaluator].by_image.items():
            if image in of_base:
                gains[image].append((score - of_base[image]) / unit)
    return {image: sum(each) / len(each) for image, each in gains.items() if len(each) == len(units)}


def _extremes(gains: Mapping[ImageKey, float]) -> list[ImageKey]:
    """Return the images with the largest gains, then those with the largest losses, no prompt twice."""
    chosen: list[ImageKey] = []
    for sign in (1, -1):
        ordered = sorted((image for image in gains if sign * gains[image] > 0), key=lambda one: -sign * gains[one])
        first_of = {image[0]: image for image in reversed(ordered)}  # of several images of a prompt the first counts
        taken = {prompt_id for prompt_id, _ in chosen}
        chosen += [image for image in ordered if first_of[image[0]] == image and image[0] not in taken][:NUM_EXTREMES]
    return chosen


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"


def _runs(tables: Tables, section: TableSection) -> ScoresByRun:
    """Gather the scores of each run, in the order of the section's methods and of the training seeds."""
    runs: ScoresByRun = {}
    for method in section.methods:
        for evaluator in section.evaluators:
            for contender in tables.contenders[section.model, section.prompt_set, *evaluator]:
                for measured in contender.runs if contender.label == method else ():
                    runs.setdefault((method, measured.manifest.run), {})[evaluator] = measured
    return runs


def _prompts(measured: ScoresByEvaluator) -> dict[str, PromptRecord]:
    """Join the prompts of all evaluators; some score only a part."""
    return {prompt_id: record for entry in measured.values() for prompt_id, record in entry.prompts.items()}


def _image_set(
    run: str,
    measured: ScoresByEvaluator,
    section: TableSection,
    images: Sequence[ImageKey],
    store: Store,
    jobs: Jobs,
) -> PageData:
    """Return one run's images: addresses, names of sprites, and scores by evaluator; null for what it lacks."""
    first = next(iter(measured.values()))
    run_folder = RunFolder(store.root / run)
    folder = run_folder.images(first.sampling.prompt_set, first.sampling_hash)
    digests: dict[ImageKey, str] = {}
    for entry in measured.values():
        for image, digest in zip(entry.keys, entry.scores.digest.tolist(), strict=True):
            digests[image] = digest or digests.get(image, "")  # not every judge notes what it was shown
    prompts = _prompts(measured)
    frames = first.sampling.frames
    pictures = [
        _picture(run_folder, os.path.join(folder, prompts[image[0]].images[image[1]]), digests[image], frames)
        if image in digests
        else None
        for image in images
    ]
    inside = all(picture is None or picture.path.parent == folder for picture in pictures)
    return {
        "folder": f"{quote(folder.relative_to(store.root).as_posix())}/" if inside else "",
        "files": [
            picture and quote(picture.path.name if inside else _address(picture.path, store)) for picture in pictures
        ],
        "sprites": sprite_names(store, pictures, jobs),
        "scores": [_scores(measured.get(evaluator), images) for evaluator in section.evaluators],
    }


def _address(path: Path, store: Store) -> str:
    """Return the address of a file that lies anywhere, from the page."""
    return Path(os.path.relpath(path, store.root)).as_posix()


def _picture(run: RunFolder, path: str, digest: str, frames: FrameSpec | None) -> ThumbnailSource | None:
    """Return an image that was scored and is still there, or the small picture that came in its place.

    Args:
        path: as text, since a `Path` takes ten times as long and there may be a hundred thousand.
        digest: of the image as it was scored; empty where nobody noted it.
    """
    if os.path.exists(path):
        return ThumbnailSource(Path(path), digest or sha256(Path(path)), frames)
    small = run.thumbnail(digest) if digest else None  # small pictures are named by digests
    return ThumbnailSource(small, digest) if small is not None and small.exists() else None


def _evidence(
    images: SectionImages, key: tuple[str, str], section: TableSection, store: Store, stem: str
) -> list[str | None]:
    """Return where the page finds what the scores of one run's images were made of: a file for those of each sprite.

    A file has, by the number of an evaluator and the place of an image, a list: one object, or one for each frame.
    """
    parts: dict[int, dict[int, dict[int, Any]]] = defaultdict(lambda: defaultdict(dict))
    for number, evaluator in enumerate(section.evaluators):
        measured = images.runs[key].get(evaluator)
        if measured is None:
            continue
        sampling = measured.sampling
        file = RunFolder(store.root / key[1]).score_file(sampling.prompt_set, measured.sampling_hash, *evaluator)
        known = read_evidence(file, measured.scores, sampling.num_frames)
        for place, image in enumerate(images.keys):
            if image in known:
                parts[place // (COLUMNS * ROWS)][number][place] = known[image]
    num_parts = max(parts, default=-1) + 1
    return [store.script(f"{stem}-{part}", parts[part]) if part in parts else None for part in range(num_parts)]


def _scores(measured: Measurement | None, images: Sequence[ImageKey]) -> list[float | None]:
    """Return scores as the shortest numbers that stand for the float32 on the disk, so that equal ones stay equal."""
    if measured is None:
        return []
    short = dict(zip(measured.by_image, map(float, measured.scores.score.astype(str)), strict=True))
    return [short.get(image) for image in images]
