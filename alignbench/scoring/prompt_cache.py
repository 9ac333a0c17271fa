"""Encoded prompts on the disk: what a text network makes of a prompt is computed once, for all methods and runs."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from alignbench.evaluator import Evaluator
from alignbench.files import cache_folder, replacing


class TextCache:
    """What one evaluator's text network returned; commands may add to it at the same time.

    Every addition is a file of its own. A file that is not as it was written is deleted, and its prompts are encoded
    again.

    Args:
        evaluator: its name, version, weights and precision decide what is kept together.
        folder: of the caches of all evaluators; the user's cache folder by default.
    """

    def __init__(self, evaluator: Evaluator, folder: Path | None = None) -> None:
        key = f"{evaluator.weights} {evaluator.precision}"
        name = f"{evaluator.name}@{evaluator.version}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
        self.folder = (folder or cache_folder() / "text") / name

    def read(self, prompts: Iterable[str]) -> dict[str, Tensor]:
        """Return the rows of those prompts that are here, on the CPU."""
        wanted = set(prompts)
        found: dict[str, Tensor] = {}
        for file in sorted(self.folder.glob("*.safetensors")):
            found |= {prompt: row for prompt, row in _rows(file) if prompt in wanted}
        return found

    def add(self, prompts: Sequence[str], rows: Tensor) -> None:
        """Keep the row of each prompt; rows [N, ...]."""
        rows = rows.detach().cpu().contiguous()
        text = json.dumps(list(prompts))
        digest = _digest(text, rows)
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self.folder / f"{digest[:32]}.safetensors") as temporary:
            save_file({"rows": rows}, temporary, {"prompts": text, "sha256": digest})


def _rows(file: Path) -> list[tuple[str, Tensor]]:
    """Return the prompts of a file and their rows; nothing, and no file any more, if it is damaged."""
    try:
        with safe_open(file, "pt") as content:
            metadata, rows = content.metadata(), content.get_tensor("rows")
        whole = _digest(metadata["prompts"], rows) == metadata["sha256"]
    except FileNotFoundError:  # another command found the same damage
        return []
    except SafetensorError:
        whole = False
    if not whole:
        file.unlink(missing_ok=True)
        return []
    return list(zip(json.loads(metadata["prompts"]), rows, strict=True))


def _digest(text: str, rows: Tensor) -> str:
    digest = hashlib.sha256(text.encode())
    digest.update(rows.numpy().tobytes())
    return digest.hexdigest()
