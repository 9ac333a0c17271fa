"""What an image has to show for each prompt, looked up by the text of the prompt."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import alignbench
from alignbench.errors import UserError
from alignbench.reading import read_json_lines

SHIPPED = Path(alignbench.__file__).parent / "data" / "prompt_sets"


class PromptTable(Mapping[str, Any]):
    """What is known of each prompt, by its text.

    Args:
        file: that it is from, for messages.
        entries: by prompt, of values that JSON can hold, and of dataclasses.

    Attributes:
        digest: of all prompts and entries; part of `Evaluator.weights`, as it decides the scores.
    """

    def __init__(self, file: Path, entries: Mapping[str, Any]) -> None:
        self.file, self._entries = file, entries
        content = json.dumps(entries, sort_keys=True, default=asdict)
        self.digest = hashlib.sha256(content.encode()).hexdigest()[:16]

    def __getitem__(self, prompt: str) -> Any:
        return self._entries[prompt]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def lacking(self, prompts: Sequence[str]) -> str | None:
        """Return None if all prompts are annotated, otherwise what is said of those that are not."""
        without = [prompt for prompt in prompts if prompt not in self]
        if not without:
            return None
        return (
            f"{len(without)} of {len(prompts)} prompts have no annotation in {self.file.name}, such as {without[0]!r}"
        )


class Annotations(PromptTable):
    """A table of annotations by prompt.

    Args:
        source: name of a shipped prompt set that has annotations, such as `geneval`; or a .jsonl file, one object a
            prompt.
        key: where an object has the text of its prompt.

    Raises:
        UserError: the file is missing or damaged, a line has no prompt, or a prompt has two different annotations.
    """

    def __init__(self, source: str | Path, key: str = "prompt") -> None:
        file = Path(source) if Path(source).suffix == ".jsonl" else SHIPPED / f"{source}.jsonl"
        entries: dict[str, dict[str, Any]] = {}
        for number, entry in enumerate(read_json_lines(file), start=1):
            if not isinstance(prompt := entry.get(key), str):
                raise UserError(f'line {number} of {file} has no text in "{key}"')
            if entries.setdefault(prompt, entry) != entry:
                raise UserError(f"line {number} of {file} is a second annotation of {prompt!r}; keep one of the two")
        super().__init__(file, entries)
