"""Which runs can stand in one table: a model has one base run, and a recipe one run for each training seed."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from alignbench.report.conflicts.differences import differences
from alignbench.report.labels import settings
from alignbench.store.manifest import BASE, Manifest
from alignbench.store.run_folder import RunFolder

MOVE = "into another results folder"


def comparable_runs(folders: Iterable[RunFolder]) -> tuple[list[RunFolder], dict[str, str]]:
    """Return the runs that tables can show beside each other, and why others are left out.

    Of runs of one recipe and training seed, such as a folder and its copy, the one with the most files of scores is
    kept, then the one whose folder has the name of the run. Of the base runs of a model, the one is kept that has the
    start weights and the resolution of the most runs, then the one that shares prompts, sampling and evaluators with
    the most runs. A run that has those of another base run alone is left out with that one, because its gain over the
    kept base run would not be that of its training. The order of the folders changes nothing.

    Returns:
        The runs that are kept, in the order given; and a sentence for each other run, by the name of its folder.
    """
    folders = list(folders)
    manifests = {folder.name: folder.manifest for folder in folders}
    left_out = _repeated(manifests)
    by_model: dict[str, dict[RunFolder, Manifest]] = defaultdict(dict)
    for folder in sorted(folders, key=lambda folder: folder.name):
        if folder.name not in left_out:
            by_model[manifests[folder.name].model][folder] = manifests[folder.name]
    for of_model in by_model.values():
        left_out |= _of_other_bases(of_model)
    return [folder for folder in folders if folder.name not in left_out], dict(sorted(left_out.items()))


def _repeated(manifests: Mapping[str, Manifest]) -> dict[str, str]:
    """Return why runs are left out that repeat the recipe and the seed of another."""
    repetitions: dict[tuple[str, str, int | None], list[str]] = defaultdict(list)
    for name, one in manifests.items():
        repetitions[one.model, one.recipe_hash, one.seed].append(name)

    def order(name: str) -> tuple:
        one = manifests[name]
        return one.method != BASE, -len(_scored(one)), name != one.run, name

    left_out = {}
    for names in repetitions.values():
        kept, *others = sorted(names, key=order)
        for name in others:
            left_out[name] = (
                f"it has the same recipe and training seed as {kept}, which is shown, and would count as another seed; "
                f"delete the one of the two folders that you do not want, or move it {MOVE}"
            )
    return left_out


def _of_other_bases(runs: Mapping[RunFolder, Manifest]) -> dict[str, str]:
    """Return why base runs of a model but one are left out, and why the runs that belong to them are."""
    bases = {folder.name: one for folder, one in runs.items() if one.method == BASE}
    if len(bases) < 2:
        return {}
    starts = {folder.name: _start(folder, one) for folder, one in runs.items()}
    others = {folder.name: one for folder, one in runs.items() if one.method != BASE}

    def order(name: str) -> tuple:
        num_alike = sum(_agree(starts[name], starts[other]) for other in others)
        num_shared = sum(not _scored(bases[name]).isdisjoint(_scored(one)) for one in others.values())
        return -num_alike, -num_shared, -len(_scored(bases[name])), name

    kept, *left = sorted(bases, key=order)
    model, left_out = bases[kept].model, {}
    for name in left:
        told = differences(starts[name], starts[kept])
        differs = f", and the two differ in {told}" if told else ""
        left_out[name] = (
            f"{model} has another base run, {kept}, that its methods are compared with{differs}; delete the one of the "
            f"two folders that you do not want, or move it, with the runs that started from it, {MOVE}"
        )
    for name in others:
        own = next((one for one in left if _agree(starts[one], starts[name])), None)
        if own is not None and not _agree(starts[kept], starts[name]):
            left_out[name] = (
                f"it started from the model of the base run {own}, and the methods of {model} are compared with "
                f"{kept}; move this run and {own} {MOVE}"
            )
    return left_out


def _start(folder: RunFolder, manifest: Manifest) -> dict[str, Any]:
    """Return what a run started from, and the resolution of its images, as far as they are known."""
    resolution = settings(folder).get("model.resolution")
    return manifest.start_weights | ({} if resolution is None else {"resolution": resolution})


def _agree(base: Mapping[str, Any], start: Mapping[str, Any]) -> bool:
    """Say whether a run started from a base run's model, as far as both are known."""
    return all(start[key] == value for key, value in base.items() if key in start)


def _scored(manifest: Manifest) -> set[str]:
    """Return the finished files of scores, by their path in the run folder: prompt set, sampling and evaluator."""
    return {name for name in manifest.files if name.startswith("scores/")}
