"""Tell the page which images there are of each prompt, what they scored, and where their thumbnails are."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from alignbench.files import sha256
from alignbench.report.comparison import Measurement
from alignbench.report.display import TableSection
from alignbench.report.page.sprites import Jobs, ThumbnailSource, sprite_names
from alignbench.report.page.store import Store
from alignbench.report.tables import Tables
from alignbench.store.image_records import ImageKey, PromptRecord
from alignbench.store.manifest import BASE
from alignbench.store.run_folder import RunFolder

ScoresByEvaluator = dict[tuple[str, str], Measurement]  # evaluator and version -> the scores of one run
ScoresByRun = dict[tuple[str, str], ScoresByEvaluator]  # method and run -> its scores


def image_entry(tables: Tables, section: TableSection, store: Store, jobs: Jobs) -> dict[str, Any]:
    """Return where the page finds the prompts of a section, and of each run the images, scores and thumbnails.

    All of them list the images in the same order: that of the prompts of base, then what others have besides.
    """
    runs = _runs(tables, section)
    prompts: dict[str, PromptRecord] = {}
    for _, measured in sorted(runs.items(), key=lambda entry: entry[0][0] != BASE):
        for prompt_id, record in _prompts(measured).items():
            known = prompts.setdefault(prompt_id, record)
            if len(record.images) > len(known.images):
                prompts[prompt_id] = record
    images = [(prompt_id, number) for prompt_id, record in prompts.items() for number in range(len(record.images))]
    groups = sorted({group for record in prompts.values() for group in record.groups})
    stem = f"{section.model}-{section.prompt_set}"
    shown = {
        "ids": list(prompts),
        "texts": [record.prompt for record in prompts.values()],
        "groups": groups,
        "memberships": [[groups.index(group) for group in record.groups] for record in prompts.values()],
        "counts": [len(record.images) for record in prompts.values()],
    }
    return {
        "prompts": store.script(f"prompts-{stem}", shown),
        "sets": [
            {
                "run": run,
                "method": method,
                "file": store.script(f"images-{stem}-{run}", _image_set(run, measured, section, images, store, jobs)),
            }
            for (method, run), measured in runs.items()
        ],
    }


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
) -> dict[str, Any]:
    """Return one run's images: addresses, names of sprites, and scores by evaluator; null for what it lacks."""
    first = next(iter(measured.values()))
    folder = RunFolder(store.root / run).images(first.sampling.prompt_set, first.sampling_hash)
    digests: dict[ImageKey, str] = {}
    for entry in measured.values():
        keys = zip(entry.scores.prompt_id.tolist(), entry.scores.image.tolist(), strict=True)
        for image, digest in zip(keys, entry.scores.digest.tolist(), strict=True):
            digests[image] = digest or digests.get(image, "")  # not every judge notes what it was shown
    prompts = _prompts(measured)
    pictures = [_picture(folder, prompts, image, digests) for image in images]
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


def _picture(
    folder: Path, prompts: dict[str, PromptRecord], image: ImageKey, digests: dict[ImageKey, str]
) -> ThumbnailSource | None:
    """Return an image that was scored and is still there."""
    prompt_id, number = image
    if image not in digests:
        return None
    path = folder / prompts[prompt_id].images[number]  # or an absolute one, of images that existed already
    return ThumbnailSource(path, digests[image] or sha256(path)) if path.exists() else None


def _scores(measured: Measurement | None, images: Sequence[ImageKey]) -> list[float | None]:
    """Return scores as the shortest numbers that stand for the float32 on the disk, so that equal ones stay equal."""
    if measured is None:
        return []
    short = dict(zip(measured.by_image, map(float, measured.scores.score.astype(str)), strict=True))
    return [short.get(image) for image in images]
