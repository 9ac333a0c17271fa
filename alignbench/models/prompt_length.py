"""How many prompts are longer than the text encoders read."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class CutPrompts:
    """Prompts that are longer than a text encoder reads.

    Attributes:
        cut: number of prompts that are cut.
        prompts: number of all prompts.
        limit: tokens that are read, those that mark begin and end included.
        longest: tokens of the longest prompt.
    """

    cut: int
    prompts: int
    limit: int
    longest: int

    def told(self, kind: str, of: str) -> str:
        """Return one line for the head of a run."""
        return (
            f"cut         {self.cut} of {self.prompts} prompts of {of} are longer than the {self.limit} tokens that "
            f"{kind} reads; the longest has {self.longest}"
        )


def count_cut(prompts: Sequence[str], tokenizers: Iterable[tuple[Any, int]]) -> dict[str, CutPrompts]:
    """Return how prompts are cut, by the kind of the tokenizers that cut any, such as CLIP.

    Args:
        tokenizers: each with the number of tokens of a prompt that are read.
    """
    found = {}
    for tokenizer, limit in tokenizers:
        lengths = [len(tokens) for tokens in tokenizer(list(prompts), truncation=False, verbose=False)["input_ids"]]
        cut = sum(length > limit for length in lengths)
        if cut:
            found[type(tokenizer).__name__.partition("Tokenizer")[0]] = CutPrompts(
                cut, len(lengths), limit, max(lengths)
            )
    return found


def template_tokens(tokenizer: Any, **settings: Any) -> int:
    """Return how many tokens a chat template adds to a prompt.

    Args:
        settings: what the template is told besides.
    """
    messages = [{"role": "user", "content": ""}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **settings)
    return len(tokenizer(text)["input_ids"])
