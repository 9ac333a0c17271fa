"""How does one run compare with base on some of its prompts, by one evaluator: as the tables would say it."""

from collections.abc import Collection

from alignbench.report.contenders import Contender, with_equal_scores_of_equal_images
from alignbench.report.tables import measurements
from alignbench.statistics import intervals
from alignbench.statistics.resampling import Resampling
from alignbench.store.manifest import BASE, ResultsError
from alignbench.store.run_folder import RunFolder


def over_base(
    folders: tuple[RunFolder, RunFolder],
    prompt_set: str,
    sampling_hashes: tuple[str, str],
    evaluator: tuple[str, str],
    prompt_ids: Collection[str],
) -> intervals.Comparison:
    """Compare the images of a run with those of base.

    Args:
        folders: the run, and base.
        sampling_hashes: of the images of each.
        evaluator: name and version.
        prompt_ids: the prompts; others are passed over.

    Raises:
        ResultsError: an image of the prompts has no score.
    """
    contenders = []
    for label, folder, sampling_hash in zip(("own", BASE), folders, sampling_hashes, strict=True):
        key = (prompt_set, sampling_hash, *evaluator)
        runs = [
            one
            for one in measurements(folder)
            if (one.sampling.prompt_set, one.sampling_hash, one.scores.info.evaluator, one.scores.info.version) == key
        ]
        contenders.append(Contender(label, tuple(runs)))
    if any(not one.runs for one in contenders):
        raise ResultsError(f"{folders[0].path} or {folders[1].path} has no scores by {evaluator[0]}; score again")
    own, base = with_equal_scores_of_equal_images(contenders)
    images = sorted(image for image in own.image_set & base.image_set if image[0] in prompt_ids)
    (run,) = own.runs
    if lacking := set(prompt_ids) - {prompt_id for prompt_id, _ in images}:
        raise ResultsError(f"{len(lacking)} prompts of {folders[0].path} have no scores by {evaluator[0]}; score again")
    sign = 1 if run.scores.info.higher_is_better else -1
    resampling = Resampling(run.prompts[prompt_id].prompt for prompt_id, _ in images)
    return intervals.compare(sign * own.scores(images), sign * base.scores(images), resampling, (False, False))
