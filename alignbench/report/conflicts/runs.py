"""Which runs can stand in one table: a model has one base run, and a recipe one run for each training seed."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from alignbench.report.conflicts.differences import differences
from alignbench.store.manifest import BASE, Manifest
from alignbench.store.run_folder import RunFolder

MOVE = "into another results folder"


def comparable_runs(folders: Iterable[RunFolder]) -> tuple[list[RunFolder], dict[str, str]]:
    """Return the runs that tables can show beside each other, and why others are left out.

    Of runs of one recipe and training seed, such as a folder and its copy, the one with the most files of scores is
    kept, then the one whose folder has the name of the run. Of the base runs of a model, the one is kept from whose
    weights the most runs started, then the one that shares prompts, sampling and evaluators with the most runs. A run
    that started from the weights of another base run is left out with that one, because its gain over the kept base run
    would be that of its start, too. The order of the folders changes nothing.

    Returns:
        The runs that are kept, in the order given; and a sentence for each other run, by the name of its folder.
    """
    folders = list(folders)
    manifests = {folder.name: folder.manifest for folder in folders}
    left_out = _repeated(manifests)
    by_model: dict[str, dict[str, Manifest]] = defaultdict(dict)
    for name, manifest in sorted(manifests.items()):
        if name not in left_out:
            by_model[manifest.model][name] = manifest
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


def _of_other_bases(manifests: Mapping[str, Manifest]) -> dict[str, str]:
    """Return why base runs of a model but one are left out, and why runs that started from their weights are."""
    bases = [name for name, one in manifests.items() if one.method == BASE]
    others = {name: one for name, one in manifests.items() if one.method != BASE}
    if len(bases) < 2:
        return {}

    def order(name: str) -> tuple:
        base = manifests[name]
        num_started = sum(_started_from(base, one) for one in others.values())
        num_shared = sum(not _scored(base).isdisjoint(_scored(one)) for one in others.values())
        return -num_started, -num_shared, -len(_scored(base)), name

    kept, *left = sorted(bases, key=order)
    left_out = {}
    for name in left:
        told = differences(manifests[name].start_weights, manifests[kept].start_weights)
        differs = f", and the weights of the two differ in {told}" if told else ""
        left_out[name] = (
            f"{manifests[kept].model} has another base run, {kept}, that its methods are compared with{differs}; "
            "delete the one of the two folders that you do not want, or move it, with the runs that started from it, "
            f"{MOVE}"
        )
    for name, one in others.items():
        if not _started_from(manifests[kept], one) and (own := _base_of(one, left, manifests)) is not None:
            left_out[name] = (
                f"it started from the weights of the base run {own}, and the methods of {one.model} are compared with "
                f"{kept}; move this run and {own} {MOVE}"
            )
    return left_out


def _base_of(run: Manifest, bases: Sequence[str], manifests: Mapping[str, Manifest]) -> str | None:
    return next((name for name in bases if _started_from(manifests[name], run)), None)


def _started_from(base: Manifest, run: Manifest) -> bool:
    """Say whether a run started from the weights of a base run, as far as both note them."""
    return all(run.start_weights.get(key) == value for key, value in base.start_weights.items())


def _scored(manifest: Manifest) -> set[str]:
    """Return the finished files of scores, by their path in the run folder: prompt set, sampling and evaluator."""
    return {name for name in manifest.files if name.startswith("scores/")}
