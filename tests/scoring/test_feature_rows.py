"""Feature vectors are computed once for each image file, and belong to the file as it is."""

import numpy as np
import pytest
import torch
from PIL import Image

from alignbench.errors import UserError
from alignbench.evaluator import Features
from alignbench.files import write_png
from alignbench.scoring.feature_rows import FeatureInfo, FeatureRows, add_features, feature_rows
from alignbench.store.image_records import ImageSet, PromptRecord
from alignbench.store.manifest import Manifest
from alignbench.store.run_folder import RunFolder
from alignbench.store.scores import digest_of
from alignbench.work_share import WorkShare
from tests.scoring.test_score import Mean


class Shades(Features):
    """A unit vector whose direction tells how bright a picture is; counts what it has seen."""

    version = "1"

    def __init__(self, name="shades", weights="", preprocess=None):
        self.name, self._weights, self.preprocess, self.num_seen = name, weights, preprocess or Mean(), 0

    @property
    def weights(self):
        return self._weights

    def rows(self, inputs):
        self.num_seen += len(inputs)
        angle = inputs / 255
        return torch.stack([angle.cos(), angle.sin()], dim=1)


@pytest.fixture
def images(tmp_path):
    """A run with five images, and what is to be scored of it."""
    folder = RunFolder(tmp_path / "run")
    folder.open(Manifest("run", "base", "test", None, "0", "0"))
    for i in range(5):
        write_png(folder.images("test", "existing") / f"{i}.png", Image.new("RGB", (16, 16), (40 * i,) * 3))
    records = [PromptRecord(f"p{i}", "a prompt", (), (f"{i}.png",)) for i in range(5)]
    return folder, ImageSet("test", "existing", records, size=None, generated=False)


def file(images, number):
    return images[0].images("test", "existing") / f"{number}.png"


def vectors(images):
    [rows] = feature_rows(images[0])
    return rows.read([digest_of(file(images, i)) for i in range(5)])


def test_vectors_are_kept_by_the_content_of_the_file_and_computed_once(images):
    features = Shades()
    add_features(*images, [features], batch_size=2)
    assert features.num_seen == 5
    expected = [[np.cos(40 * i / 255), np.sin(40 * i / 255)] for i in range(5)]
    assert np.stack(vectors(images)) == pytest.approx(np.array(expected), abs=1e-6)
    add_features(*images, [features], batch_size=2)
    assert features.num_seen == 5
    write_png(file(images, 3), Image.new("RGB", (16, 16), "white"))
    add_features(*images, [features], batch_size=2)
    assert features.num_seen == 6
    assert vectors(images)[3] == pytest.approx([np.cos(1), np.sin(1)], abs=1e-6)


def test_features_that_read_alike_share_the_preprocessing_and_lie_apart(images):
    preprocess = Mean()
    add_features(*images, [Shades("one", preprocess=preprocess), Shades("two", preprocess=preprocess)], batch_size=2)
    assert sum(preprocess.read) == 5
    assert [rows.info.name for rows in feature_rows(images[0])] == ["one", "two"]


def test_each_process_computes_its_share(images):
    one, other = Shades(), Shades()
    add_features(*images, [one], batch_size=1, work_share=WorkShare(shard=1, num_shards=2))
    assert [vector is None for vector in vectors(images)] == [False, True, False, True, False]
    add_features(*images, [other], batch_size=1, work_share=WorkShare(shard=2, num_shards=2))
    assert (one.num_seen, other.num_seen) == (3, 2)
    assert all(vector is not None for vector in vectors(images))


def test_an_image_that_is_gone_is_passed_over_and_what_was_computed_stays(images):
    digests = [digest_of(file(images, i)) for i in range(5)]
    add_features(*images, [Shades()], batch_size=2)
    file(images, 0).unlink()
    features = Shades()
    add_features(*images, [features], batch_size=2)
    assert features.num_seen == 0
    [rows] = feature_rows(images[0])
    assert all(digest in rows for digest in digests)


def test_vectors_of_other_weights_are_refused_in_a_sentence(images):
    add_features(*images, [Shades(weights="a")], batch_size=2)
    with pytest.raises(UserError, match=r"shades@1 holds features of .*weights='a'.*; delete it to compute them again"):
        add_features(*images, [Shades(weights="b")], batch_size=2)


def test_a_changed_record_of_how_they_were_made_is_refused(images):
    add_features(*images, [Shades()], batch_size=2)
    record = images[0].features / "shades@1" / "features.json"
    record.write_text(record.read_text().replace("float32", "float16"))
    with pytest.raises(UserError, match=r"features\.json has changed since it was written"):
        FeatureRows.open(images[0], FeatureInfo.of(Shades()))
