"""Encoded prompts on the disk: what a text network makes of a prompt is computed once, for all methods and runs."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from torch import Tensor

from alignbench.data.storage.tensor_store import TensorStore, key_of
from alignbench.evaluator import Evaluator
from alignbench.files import cache_folder


class TextCache:
    """What one evaluator's text network returned, in a `TensorStore`; commands may add to it at the same time.

    Args:
        evaluator: its name, version, weights and precision decide what is kept together.
        folder: of the caches of all evaluators; one in the user's cache folder by default.
    """

    def __init__(self, evaluator: Evaluator, folder: Path | None = None) -> None:
        key = f"{evaluator.weights} {evaluator.precision}"
        name = f"{evaluator.name}@{evaluator.version}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
        self.folder = (folder or cache_folder() / "prompts") / name

    def read(self, prompts: Iterable[str]) -> dict[str, Tensor]:
        """Return the rows of those prompts that are here, on the CPU."""
        wanted = list(dict.fromkeys(prompts))
        found = TensorStore(self.folder).read([key_of(prompt) for prompt in wanted])
        return {prompt: entry["row"] for prompt, entry in zip(wanted, found, strict=True) if entry is not None}

    def add(self, prompts: Sequence[str], rows: Tensor) -> None:
        """Keep the row of each prompt; rows [N, ...]."""
        entries = zip(prompts, rows.detach().cpu(), strict=True)
        TensorStore(self.folder).add({key_of(prompt): {"row": row} for prompt, row in entries})
