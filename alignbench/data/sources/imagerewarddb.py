"""ImageRewardDB: images of DiffusionDB that experts ranked and rated, several for each prompt.

Source: Xu et al. 2023 (arXiv 2304.05977). Columns and layout are those of the dataset card of THUDM/ImageRewardDB:
metadata-train.parquet (-validation, -test) has image_path, prompt_id, prompt, rank (1 is best) and three ratings; the
images are published as zip files, to be unpacked into images/train/train_1/ and so on.
"""

from collections import defaultdict
from pathlib import Path
from typing import Any, Literal, Unpack

from alignbench.data.sources.labels import number_or_nan
from alignbench.data.sources.local import ranked
from alignbench.data.sources.pair_table_source import PairOptions, PairTableSource
from alignbench.data.sources.row_filters import check_choice
from alignbench.data.sources.sample_table import SampleTableBuilder
from alignbench.data.sources.table_source import Contents
from alignbench.data.storage.image_store import Files
from alignbench.data.storage.parquet_images import check_texts, column_names, read_columns
from alignbench.errors import UserError

Grade = Literal["rank", "overall_rating", "image_text_alignment_rating", "fidelity_rating"]
GRADES = ("rank", "overall_rating", "image_text_alignment_rating", "fidelity_rating")


class ImageRewardDB(PairTableSource):
    """All pairs of images of a prompt; the image with the better grade is preferred, and equal grades are ties.

    Args:
        name: as typed in `data=`.
        path: the folder that holds metadata-train.parquet and images/.
        part: `train`, `validation` or `test`.
        grade: the column that decides: `rank` (low is best), or one of the ratings (high is best).
        options: see `alignbench.settings.data.PairSettings`.
    """

    def __init__(self, name: str, path: str, part: str, grade: Grade, **options: Unpack[PairOptions]) -> None:
        super().__init__(name, options)
        check_choice("grade", grade, GRADES)
        self.folder, self.grade = Path(path), grade
        self.list = self.folder / f"metadata-{part}.parquet"
        if not self.list.is_file():
            raise UserError(f"data.path={path} holds no metadata-{part}.parquet, the annotations of ImageRewardDB")

    def read(self) -> Contents:
        needed = ["image_path", "prompt_id", "prompt", self.grade]
        if missing := [name for name in needed if name not in column_names(self.list)]:
            raise UserError(f"{self.list} lacks the columns {', '.join(missing)}")
        table = read_columns([self.list], needed)
        check_texts(table, ["image_path", "prompt_id", "prompt"], self.list)
        columns = table.to_pydict()
        of_prompt: dict[str, list[int]] = defaultdict(list)
        for row, prompt_id in enumerate(columns["prompt_id"]):
            of_prompt[prompt_id].append(row)
        store, rows = Files(self.folder), SampleTableBuilder(2)
        for of_one in of_prompt.values():
            grades = [self._grade(columns, row) for row in of_one]
            for pair, label in ranked(of_one, grades, low_is_best=self.grade == "rank"):
                images = (store.add(str(columns["image_path"][row] or "")) for row in pair)
                rows.add(str(columns["prompt"][pair[0]] or ""), images, label)
        return Contents(rows.table(), store)

    def _grade(self, columns: dict[str, list[Any]], row: int) -> float:
        try:
            return number_or_nan(columns[self.grade][row])
        except (ValueError, TypeError) as error:
            raise UserError(f"row {row + 1} of {self.list} has no number in column {self.grade}: {error}") from None
