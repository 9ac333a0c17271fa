"""The file of one evaluator's scores on one image folder, and what decides them besides image and prompt."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from alignbench.files import replacing
from alignbench.reading import check_record, parse_json, read_parquet
from alignbench.store.manifest import ResultsError
from alignbench.store.run_folder import checked

if TYPE_CHECKING:
    import numpy as np

Summary = Literal["median", "mean"]
COLUMNS = {"prompt_id": "string", "image": "int64", "score": "float", "digest": "string"}  # and their Arrow types
NUMPY_TYPES = {"prompt_id": "object", "image": "int64", "score": "float32", "digest": "object"}
SCORE_AGAIN = "delete it and score again"


@dataclass(frozen=True)
class ScoreInfo:
    """What decides a score besides image and prompt; scores that differ here never meet in a table.

    Attributes:
        preprocess: name of the preprocessing, as text.
        weights: digest of the weights; empty where the version alone decides.
        precision: name of the precision policy of the scoring network.
        higher_is_better: direction.
        display_scale: factor in displays (100 for cosines); files keep the published scale.
        summary, overall: which figure of many images is shown, and what a mean is over: see `Evaluator`.
    """

    evaluator: str
    version: str
    preprocess: str = ""
    precision: str = "float32"
    higher_is_better: bool = True
    display_scale: float = 1.0
    weights: str = ""
    summary: Summary = "median"
    overall: Literal["images", "groups"] = "images"

    def record(self) -> dict[str, Any]:
        """Return the values as files hold them: those that came later only where they are not the usual ones."""
        later = {one.name: one.default for one in fields(self) if one.name in ("summary", "overall")}
        return {name: value for name, value in asdict(self).items() if later.get(name) != value}


@dataclass(frozen=True)
class Scores:
    """The scores of one evaluator on one image folder, sorted by prompt id and image number.

    Attributes:
        prompt_id: [N], text.   image: number of the image within its prompt, [N], int64.   score: [N], float32.
        digest: of the image file that was scored, [N], text.
    """

    info: ScoreInfo
    prompt_id: "np.ndarray"
    image: "np.ndarray"
    score: "np.ndarray"
    digest: "np.ndarray"

    @classmethod
    def of(
        cls, info: ScoreInfo, prompt_id: Sequence[str], image: Sequence[int], score: Any, digest: Sequence[str]
    ) -> Self:
        """Sort and check rows given in any order.

        Raises:
            ResultsError: for a score that is not finite, or two scores of one image.
        """
        import numpy as np

        ids, images = np.asarray(prompt_id, dtype=object), np.asarray(image, dtype=np.int64)
        values = np.asarray(score, dtype=np.float32)
        order = np.array(sorted(range(len(ids)), key=lambda i: (ids[i], images[i])), dtype=np.intp)
        if not np.isfinite(values).all():
            bad = int((~np.isfinite(values)).sum())
            raise ResultsError(f"{info.evaluator} gave {bad} of {len(values)} scores that are not finite numbers")
        keys = list(zip(ids[order], images[order], strict=True))
        if len(set(keys)) != len(keys):
            double = next(a for a, b in pairwise(keys) if a == b)
            raise ResultsError(f"{info.evaluator} scored image {double[1]} of prompt {double[0]} more than once")
        return cls(info, ids[order], images[order], values[order], np.asarray(digest, dtype=object)[order])

    def write(self, path: Path) -> None:
        """Write parquet atomically, with `info` in the file's metadata."""
        import pyarrow
        from pyarrow import parquet

        columns = {
            "prompt_id": list(self.prompt_id),
            "image": self.image,
            "score": self.score,
            "digest": list(self.digest),
        }
        table = pyarrow.table(columns).replace_schema_metadata({"alignbench": json.dumps(self.info.record())})
        with replacing(path) as temporary:
            parquet.write_table(table, temporary)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` wrote.

        Raises:
            ResultsError: the file is not as its run wrote it, or lacks something, as those of earlier versions do.
        """
        import numpy as np

        table = read_parquet(checked(path), COLUMNS, SCORE_AGAIN)
        metadata = (table.schema.metadata or {}).get(b"alignbench")
        if metadata is None or any(table.column(name).null_count for name in COLUMNS):
            raise ResultsError(f"{path} does not say how or of what it was scored; {SCORE_AGAIN}")
        info = parse_json(metadata, f"what {path} says of its scores", SCORE_AGAIN)
        check_record(ScoreInfo, info, str(path), SCORE_AGAIN)
        # `to_numpy` would import pandas
        columns = [np.array(table.column(name).to_pylist(), dtype=kind) for name, kind in NUMPY_TYPES.items()]
        return cls(ScoreInfo(**info), *columns)


def digest_of(path: Path) -> str:
    """Return the digest of an image file as the tables have it."""
    return digest_of_content(path.read_bytes())


def digest_of_content(content: bytes) -> str:
    """Return the same, given what the file holds."""
    return hashlib.sha256(content).hexdigest()[:32]
