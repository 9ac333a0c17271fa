"""Whether a command in a results folder was typed by this user: commands in folders of other people are never run."""

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from alignbench.files import cache_folder

KEY_FILE = "sweeps.key"


def signature(command: Sequence[str], folder: str) -> str:
    """Return what only this user can write beside a command: its HMAC by a key that lies in the user's own folder.

    Args:
        command: the words as typed.
        folder: where they were typed.
    """
    text = json.dumps([list(command), folder]).encode()
    return hmac.new(_key(), text, hashlib.sha256).hexdigest()


def is_own(command: Sequence[str], folder: str, signed: str) -> bool:
    """Whether this user typed a command, on a machine with the same home folder."""
    return (cache_folder() / KEY_FILE).exists() and hmac.compare_digest(
        signature(command, folder).encode(), signed.encode()
    )


def _key() -> bytes:
    """Return the user's key, made at its first use; of several commands that make it at once, one wins."""
    file = cache_folder() / KEY_FILE
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        mine = Path(f"{file}.{os.getpid()}")
        mine.touch(mode=0o600)
        mine.write_text(secrets.token_hex(32))
        with suppress(FileExistsError):
            os.link(mine, file)
        mine.unlink()
    return file.read_bytes()
