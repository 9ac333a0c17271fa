"""The published architectures of the large models: what their config.json files say, without the weights."""

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


def published(hub_id: str) -> dict[str, Any] | None:
    """Return pipeline class and parts of a model published under that id; None if it is not among them.

    Weights that differ little from others name their file in `like`, and hold what differs.
    """
    for file in sorted(FOLDER.glob("*.json")):
        architecture = json.loads(file.read_text())
        if architecture["hub_id"] == hub_id:
            if "like" not in architecture:
                return architecture
            other = json.loads((FOLDER / f"{architecture['like']}.json").read_text())
            parts = {name: part | architecture["parts"].get(name, {}) for name, part in other["parts"].items()}
            return other | architecture | {"parts": parts}
    return None
