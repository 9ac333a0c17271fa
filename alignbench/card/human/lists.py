"""Test annotations that are JSON lists of groups of images: ImageReward, HPDv2 and GenAI-Bench of Li et al."""

import os
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from alignbench.card.human.records import HumanPairs, Record, files_in
from alignbench.data.sources.labels import number_or_nan
from alignbench.errors import UserError
from alignbench.reading import read_json


class RankedImages(HumanPairs):
    """A JSON list of groups of images with their ranks; 1 is best, and equal ranks are ties.

    Args:
        path: the list.
        images: folder that its image names are in.

    Attributes:
        names, ranks: keys of the images and of their ranks.
    """

    names: ClassVar[str]
    ranks: ClassVar[str]

    def __init__(self, path: str, images: str) -> None:
        self.path, self.folder = Path(path), Path(images)
        _needs_file(self.path, f"human_pairs.{self.name}.path")

    def read(self) -> list[Record]:
        found = []
        for values, where in _entries(self.path):
            names, ranks = _same_length(values, where, self.names, self.ranks)
            files = files_in(self.folder, names, f"human_pairs.{self.name}.images")
            found.append(Record(_text(values, "prompt", where), files, -ranks))
        return found


class ImageRewardTest(RankedImages):
    """The test annotations of ImageReward (Apache-2.0): 466 records of 4 to 9 images, ranked by experts.

    Source: Xu et al. 2023 (arXiv 2304.05977), data/test.json of THUDM/ImageReward.
    """

    name: ClassVar[str] = "imagereward"
    published: ClassVar[str] = "2023-04"
    own_rule: ClassVar[str] = "imagereward"
    in_domain: ClassVar[tuple[str, ...]] = ("image_reward",)
    names: ClassVar[str] = "generations"
    ranks: ClassVar[str] = "ranking"


class HPDv2Test(RankedImages):
    """The test annotations of HPDv2 (Apache-2.0): 400 prompts of 9 images, whose ranks are averaged over annotators.

    Source: Wu et al. 2023 (arXiv 2306.09341), test.json and the folder test.
    """

    name: ClassVar[str] = "hpdv2"
    published: ClassVar[str] = "2023-06"
    own_rule: ClassVar[str] = "hpsv2"
    in_domain: ClassVar[tuple[str, ...]] = ("hpsv2", "hpsv3", "sgp_hps")
    names: ClassVar[str] = "image_path"
    ranks: ClassVar[str] = "rank"


class GenAIBenchLi(HumanPairs):
    """GenAI-Bench of Li et al.: prompts with an image of each of several models, rated for alignment from 1 to 5.

    Args:
        path: genai_image.json of GenAI-Bench.
        images: folder with a folder of each model, in which files are named by the prompt's id.

    Source: Li et al. 2024 (arXiv 2406.13743).
    """

    name: ClassVar[str] = "genai_bench_li"
    published: ClassVar[str] = "2024-06"
    own_rule: ClassVar[str] = "genai_bench_li"
    has_scale: ClassVar[bool] = True

    def __init__(self, path: str, images: str) -> None:
        self.path, self.folder = Path(path), Path(images)
        _needs_file(self.path, "human_pairs.genai_bench_li.path")

    def read(self) -> list[Record]:
        entries = read_json(self.path)
        if not isinstance(entries, dict):
            raise UserError(f"{self.path} is not an object of prompts by id, as genai_image.json of GenAI-Bench is")
        found = []
        for number, values in entries.items():
            where = f"prompt {number} of {self.path}"
            models = values.get("models") if isinstance(values, dict) else None
            if not isinstance(models, dict) or not all(
                _are_numbers(ratings) and ratings for ratings in models.values()
            ):
                raise UserError(f'{where} has no lists of ratings by model in "models"')
            names = [self._file(model, number) for model in models]
            files = files_in(self.folder, names, "human_pairs.genai_bench_li.images")
            worth = np.array([np.mean(ratings) for ratings in models.values()])
            found.append(Record(_text(values, "prompt", where), files, worth))
        return found

    def _file(self, model: str, number: str) -> str:
        """Return the name of an image; releases differ in its ending."""
        names = [f"{model}/{number}{ending}" for ending in (".jpeg", ".jpg", ".png")]
        return next((name for name in names if os.path.isfile(self.folder / name)), names[0])


def _needs_file(path: Path, setting: str) -> None:
    if not path.is_file():
        raise UserError(f"{setting}={path} does not exist; docs/which_judge.md says where the annotations are")


def _entries(path: Path) -> list[tuple[dict[str, Any], str]]:
    entries = read_json(path)
    if not isinstance(entries, list) or not all(isinstance(one, dict) for one in entries):
        raise UserError(f"{path} is not a list of objects, one for each group of images")
    return [(values, f"entry {number} of {path}") for number, values in enumerate(entries, start=1)]


def _text(values: dict[str, Any], key: str, where: str) -> str:
    if not isinstance(values.get(key), str):
        raise UserError(f'{where} has no text in "{key}"')
    return values[key]


def _same_length(values: dict[str, Any], where: str, names: str, ranks: str) -> tuple[list[str], np.ndarray]:
    found, numbers = values.get(names), values.get(ranks)
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise UserError(f'{where} has no list of file names in "{names}"')
    if not isinstance(numbers, list) or not _are_numbers(numbers) or len(numbers) != len(found):
        raise UserError(f'{where} has not one number in "{ranks}" for each of its {len(found)} images')
    return found, np.array(numbers, dtype=np.float64)


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(one, int | float) and not isinstance(one, bool) and np.isfinite(number_or_nan(one)) for one in values
    )
