"""Whether the numbers of a run from a capsule are of its images, so that tables can be made of them."""

import re

import numpy as np

from alignbench.errors import UserError
from alignbench.report.contenders import Measurement
from alignbench.report.image_measures.taken import Taken
from alignbench.statistics.image_statistics import THUMBNAIL
from alignbench.store.run_folder import RunFolder
from alignbench.text import printable

_DIGEST = re.compile(r"[0-9a-f]{32}")
THUMBNAIL_BYTES = 3 * THUMBNAIL**2  # of the small image that diversity is computed from


def check_scores(run: RunFolder, entry: Measurement) -> None:
    """Refuse scores that are no numbers, or not of the images of their prompts.

    Raises:
        UserError: naming evaluator and image.
    """
    scores = entry.scores
    named = f"{run.name} has scores by {scores.info.evaluator}"
    if not (np.isfinite(scores.score).all() and 0 < scores.info.display_scale < np.inf):
        raise UserError(f"{named} that are not finite numbers")
    file = run.score_file(entry.sampling.prompt_set, entry.sampling_hash, scores.info.evaluator, scores.info.version)
    if run.recorded(file) is None:
        raise UserError(f"{run.name} has scores by {printable(scores.info.evaluator)} in a file of another name")
    if len(set(entry.keys)) != len(entry.keys):
        raise UserError(f"{named} that score an image twice")
    for (prompt_id, number), digest in zip(entry.keys, scores.digest.tolist(), strict=True):
        if not 0 <= number < len(entry.prompts[prompt_id].images):
            raise UserError(f"{named} of image {number} of prompt {prompt_id}, which has no such image")
        if not _DIGEST.fullmatch(digest):
            raise UserError(f"{named} of image {number} of prompt {prompt_id} without a digest of it")


def check_taken(taken: Taken) -> None:
    """Refuse statistics and features that do not fit each other.

    Raises:
        UserError: they do not.
    """
    if any(one.thumbnail.size != THUMBNAIL_BYTES for one in taken.statistics.values()):
        raise UserError(f"{taken.folder.name} has image statistics of another size")
    for info, vectors in taken.features.items():
        shapes = {vector.shape for vector in vectors.values()}
        if len(shapes) > 1 or any(len(shape) != 1 for shape in shapes):
            raise UserError(f"{taken.folder.name} has {info.name} features of different sizes")
        if not all(np.isfinite(vector).all() for vector in vectors.values()):
            raise UserError(f"{taken.folder.name} has {info.name} features that are not finite numbers")
