"""Sources of training data as their configuration files build them, and images to put into them."""

import io

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image

from alignbench.configuration.build import conf_folder


@pytest.fixture
def source():
    """Build `data=NAME` with some of its keys set."""

    def build(name, **values):
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            node = compose(f"data/{name}").data
        return instantiate(node, **values)

    return build


@pytest.fixture
def encoded():
    """Return the bytes of an image of one colour; equal arguments give equal bytes."""

    def encode(colour, size=(8, 8), kind="JPEG"):
        file = io.BytesIO()
        Image.fromarray(np.full((*size[::-1], 3), colour, np.uint8)).save(file, kind)
        return file.getvalue()

    return encode
