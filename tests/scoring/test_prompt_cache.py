"""Encoded prompts are kept on the disk, and damaged files are made again."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from alignbench.data.storage.tensor_store import key_of
from alignbench.evaluator import Evaluator
from alignbench.scoring.prompt_cache import TextCache

PROMPTS = ["a", 'it\u2019s\n"quoted"', "", "a" * 10_000, "\u05d0\u05d1 \U0001f98a"]


class Scorer(Evaluator):
    name, version = "scorer", "1"

    def __init__(self, weights: str = "f00d", precision: str = "float32") -> None:
        self._weights, self.precision = weights, precision

    @property
    def weights(self) -> str:
        return self._weights

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        raise AssertionError

    def score_features(self, features: Tensor, encoded: Tensor) -> Tensor:
        raise AssertionError


def test_rows_come_back_as_they_were(tmp_path):
    cache, rows = TextCache(Scorer(), tmp_path), torch.randn(5, 2, 7)
    cache.add(PROMPTS[:2], rows[:2])
    cache.add(PROMPTS[2:], rows[2:])
    found = TextCache(Scorer(), tmp_path).read([*PROMPTS, "unknown"])
    assert found.keys() == set(PROMPTS)
    assert torch.equal(torch.stack([found[prompt] for prompt in PROMPTS]), rows)
    assert cache.read(["unknown"]) == {}


def test_other_weights_and_precisions_have_rows_of_their_own(tmp_path):
    TextCache(Scorer(), tmp_path).add(["a"], torch.ones(1, 3))
    for other in (Scorer(weights="beef"), Scorer(precision="bfloat16")):
        assert TextCache(other, tmp_path).read(["a"]) == {}


@pytest.mark.parametrize("place", [3, 200, -5])
def test_a_damaged_file_is_deleted_and_its_prompts_are_unknown(tmp_path, place):
    cache = TextCache(Scorer(), tmp_path)
    cache.add(["a", "b"], torch.ones(2, 30))
    cache.add(["c"], torch.ones(1, 30))
    file = next(file for file in cache.folder.glob("*.safetensors") if key_of("a") in file.read_bytes())
    content = bytearray(file.read_bytes())
    content[place] ^= 0xFF
    file.write_bytes(content)
    with pytest.warns(RuntimeWarning, match="damaged"):
        assert cache.read(["a", "b", "c"]).keys() == {"c"}
    assert not file.exists()
    assert cache.read(["a", "b", "c"]).keys() == {"c"}
