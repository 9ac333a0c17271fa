"""Which rows of a data set are kept, and why the others are not."""

import hashlib

from alignbench.data.prompts import plain


def is_held_out(prompt: str, share: float) -> bool:
    """Say whether a prompt belongs to the held-out split.

    The hash of the text decides, case and blanks aside, so a prompt is on the same side in all data sets and for ever,
    and a larger share holds out all that a smaller one does.
    """
    return int.from_bytes(hashlib.sha256(plain(prompt).encode()).digest()[:8]) < share * 2**64
