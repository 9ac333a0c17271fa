"""A study on the disk: other images or another version are no part of it."""

from dataclasses import asdict, replace

import pytest
from PIL import Image

from alignbench.files import write_json
from alignbench.store.manifest import ResultsError
from alignbench.votes.record import StudyFolder


def test_images_made_anew_stop_a_study(world):
    folder = world.study("base", "dpo")
    folder.check_images()
    image = folder.image(folder.study.runs[1], "p2")
    Image.new("RGB", (64, 64)).save(image)
    with pytest.raises(ResultsError, match=r"images of dpo-.* have changed since"):
        StudyFolder(folder.path).check_images()
    image.unlink()
    with pytest.raises(ResultsError, match="is missing; make it again"):
        StudyFolder(folder.path).check_images()


def test_a_study_of_another_version_is_refused(world):
    folder = world.study("base", "dpo")
    write_json(folder.file, asdict(replace(folder.study, schema_version=99)))
    with pytest.raises(ResultsError, match="another version of alignbench"):
        assert StudyFolder(folder.path).study
    with pytest.raises(ResultsError, match="is not a study"):
        assert StudyFolder(world.root).study
