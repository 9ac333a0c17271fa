"""Pick-a-Pic, v1 and v2: users of a web application chose between two images for their own prompts.

Source: Kirstain et al. 2023 (arXiv 2305.01569). The columns are those of the dataset cards of yuvalkirstain/pickapic_v1
and pickapic_v2: jpg_0 and jpg_1 (bytes), label_0 (1 first preferred, 0 second, 0.5 tie), has_label, caption,
image_0_uid and image_1_uid, and others that training does not use. Diffusion-DPO keeps the rows whose label_0 is 0 or
1: 851,293 of the 959,040 of v2's train split.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import numpy as np

from alignbench.data.sources.pair_table_source import PairOptions, PairTableSource
from alignbench.data.sources.sample_table import SampleTable
from alignbench.data.sources.table_source import Contents
from alignbench.data.storage.parquet_images import (
    CellStore,
    check_texts,
    column_names,
    distinct_texts,
    find_tables,
    read_columns,
    read_numbers,
)
from alignbench.errors import UserError

if TYPE_CHECKING:
    import pyarrow

IMAGES = ("jpg_0", "jpg_1")
NEEDED = (*IMAGES, "caption", "label_0")
UIDS = ("image_0_uid", "image_1_uid")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class PickAPic(PairTableSource):
    """Pick-a-Pic, or any table with its columns; jpg_0, jpg_1, caption and label_0 are required.

    Images with the same uid are one image. Rows whose has_label is false have no label.

    Args:
        name: as typed in `data=`.
        path: a folder of .parquet files, a folder of .arrow files as `datasets` writes them, a single file, or a hub
            id. The .parquet files of a hub id are downloaded into the cache of huggingface_hub.
        part: see `alignbench.data.storage.parquet_images.find_tables`.
        revision: commit, branch or tag of a hub id.
        window_mib: see `alignbench.data.storage.parquet_images.CellStore`; .arrow files do not use it.
        options: see `alignbench.settings.data.PairSettings`.
    """

    def __init__(
        self,
        name: str,
        path: str,
        part: str | None,
        revision: str | None,
        window_mib: int | None,
        **options: Unpack[PairOptions],
    ) -> None:
        super().__init__(name, options)
        self.path, self.part, self.revision = path, part, revision
        if window_mib is not None and window_mib < 1:
            raise UserError(f"data.window_mib={window_mib} must be at least 1, or null")
        self.window_bytes = None if window_mib is None else window_mib * 2**20
        if not Path(path).exists() and not HUB_ID.fullmatch(path):
            raise UserError(f"data.path={path} does not exist, and is not a hub id")

    def read(self) -> Contents:
        folder = Path(self.path) if Path(self.path).exists() else fetch(self.path, self.revision, self.part)
        files = find_tables(folder, self.part)
        names = column_names(files[0])
        if missing := [name for name in NEEDED if name not in names]:
            raise UserError(f"{files[0]} lacks the columns {', '.join(missing)}; its columns are {', '.join(names)}")
        light = [name for name in ("caption", "label_0", "has_label", *UIDS) if name in names]
        columns = read_columns(files, light)
        store = CellStore(files, folder, IMAGES, self.window_bytes)

        check_texts(columns, [name for name in ("caption", *UIDS) if name in light], files[0])
        texts, prompt = distinct_texts(columns["caption"])
        label = read_numbers(columns, "label_0", files[0])
        if "has_label" in light:
            label = np.where(read_numbers(columns, "has_label", files[0]) == 1, label, np.nan)
        images = np.arange(len(store), dtype=np.int64).reshape(-1, 2)
        if set(UIDS) <= set(light):
            images = _first_with_uid([columns[name] for name in UIDS])
        return Contents(SampleTable(texts, prompt, images, label), store)


def _first_with_uid(columns: "list[pyarrow.ChunkedArray]") -> np.ndarray:
    """Return, for each image, the number of the first image with the same uid, [N, 2], int64; its own without one."""
    import pyarrow

    _, codes = distinct_texts(pyarrow.chunked_array([chunk for column in columns for chunk in column.chunks]))
    absent = np.concatenate([column.is_null().to_numpy() for column in columns])
    codes = np.where(absent, -1 - np.arange(len(codes)), codes)
    codes = codes.reshape(2, -1).T  # in the order of image numbers: by row, then by column
    _, first, group = np.unique(codes, return_index=True, return_inverse=True)
    return first[group.reshape(-1)].reshape(-1, 2).astype(np.int64)


def fetch(hub_id: str, revision: str | None, part: str | None) -> Path:
    """Return the folder of the tables of a data set on the hub, after downloading those that are missing.

    Raises:
        UserError: the tables are not in the cache and cannot be downloaded.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = [f"*{part}-*.parquet", f"*{part}/*.parquet", f"*{part}.parquet"] if part else ["*.parquet"]
    try:
        return Path(snapshot_download(hub_id, repo_type="dataset", revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"data.path={hub_id} is not a folder, and could not be downloaded from the hub: {reason}"
        ) from None
