"""The evaluators of one command: whether they can work together, and whether other shards still have work to do."""

from pathlib import Path

import numpy as np
import pytest
from accelerate import Accelerator
from PIL import Image
from rich.console import Console

from alignbench.configuration.compose import composed
from alignbench.errors import UserError
from alignbench.files import write_png
from alignbench.scoring.feature_rows import feature_rows
from alignbench.scoring.session import Scoring
from alignbench.store.image_records import ImageSet, PromptRecord
from alignbench.store.manifest import Manifest
from alignbench.store.run_folder import RunFolder
from alignbench.store.scores import digest_of

CLEANLINESS = ("evaluators=none", "+evaluator@evaluators.cleanliness=shapes_oracle_cleanliness")


def scoring(tmp_path: Path, *overrides: str) -> Scoring:
    cfg = composed([*(overrides or CLEANLINESS), f"results={tmp_path}"])
    return Scoring(cfg, "test", ["a prompt"], Accelerator(cpu=True), Console(quiet=True))


def run_with_images(path: Path) -> tuple[RunFolder, ImageSet]:
    """Return a run with four images that exist already."""
    folder = RunFolder(path)
    folder.open(Manifest(run=path.name, method="base", model="test", seed=None, config_hash="0", recipe_hash="0"))
    records = [PromptRecord(f"p{i}", "a prompt", (), (f"{i}.png",)) for i in range(4)]
    for i in range(4):
        write_png(folder.images("test", "existing") / f"{i}.png", Image.new("RGB", (64, 64), (i, i, i)))
    return folder, ImageSet("test", "existing", records, size=None, generated=False)


def test_the_shard_that_ends_last_knows_it_even_if_another_was_behind_it_before(tmp_path):
    first, second = (scoring(tmp_path, *CLEANLINESS, f"shard={shard}/2") for shard in (1, 2))
    one, other = (run_with_images(tmp_path / name) for name in ("one", "other"))
    assert first.score(*one) == 2
    assert second.score(*one) == 0
    assert second.score(*other) == 2
    assert second.left() == 2
    assert first.score(*other) == 0
    assert first.left() == 0


def test_two_evaluators_of_one_name_are_refused(tmp_path):
    with pytest.raises(UserError, match="shapes_oracle_cleanliness is the name of more than one evaluator"):
        scoring(tmp_path, *CLEANLINESS, "+evaluator@evaluators.again=shapes_oracle_cleanliness")


def test_features_are_computed_where_images_are_scored(tmp_path):
    asked = scoring(tmp_path, *CLEANLINESS, "features=shapes")
    folder, images = run_with_images(tmp_path / "one")
    assert asked.score(folder, images) == 0
    [rows] = feature_rows(folder)
    assert rows.info.name == "shapes_clip"
    digest = digest_of(folder.images("test", "existing") / "2.png")
    assert np.linalg.norm(rows.read([digest])[0]) == pytest.approx(1)


def test_two_features_of_one_name_are_refused(tmp_path):
    with pytest.raises(UserError, match="shapes_clip is the name of more than one of the features"):
        scoring(tmp_path, *CLEANLINESS, "features=shapes", "+feature@features.again=shapes_clip")
