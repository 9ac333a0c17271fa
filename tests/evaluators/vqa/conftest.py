"""What tests of evaluators that ask have in common: a tiny vision-language model that answers in words."""

from pathlib import Path

import pytest

from evaluators.vqa.geneval2 import NUMBERS
from tests.evaluators.tiny_qwen import write_tiny_qwen

WORDS = f"Yes yes No no A B C D cat dog one image in the are there how many {' '.join(NUMBERS)} "


@pytest.fixture(scope="session")
def vlm(tmp_path_factory) -> Path:
    """A folder as from_pretrained reads it."""
    folder = tmp_path_factory.mktemp("vlm") / "qwen"
    write_tiny_qwen(folder, WORDS + WORDS.title())
    return folder


@pytest.fixture
def settings(vlm) -> dict:
    """Arguments that evaluators with a vision-language model have in common."""
    return {
        "vlm": "tiny", "source": str(vlm), "revision": None, "precision": "float32", "max_side": None, "batch_size": 4,
    }  # fmt: skip


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> Path:
    """A cache folder for each test, so that nothing is known before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "alignbench"
