"""Networks that are used beside a model, each a folder or a hub id with config.json and weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.utils import HFValidationError

from alignbench.errors import UserError
from alignbench.models.weights.hub import ask_hub
from alignbench.models.weights.state_dicts import TENSOR_FILES, check_pickles, check_whole
from alignbench.reading import read_json_object

CONFIG = "config.json"


def check_part(path: str, named: str, kinds: Sequence[str], revision: str | None = None) -> dict[str, Any]:
    """Return the config.json of a network whose weights are at hand or can be fetched; nothing heavy is loaded.

    Args:
        path: a folder, or a hub id.
        named: how it was given, such as `sampling.control.controlnet=X`.
        kinds: classes that it may be of.
        revision: commit, branch or tag on the hub.

    Raises:
        UserError: if it is incomplete, cannot be reached, or is of another class.
    """
    expected = f"a folder that holds {CONFIG} and weights of the class {' or '.join(kinds)}"
    if Path(path).is_dir():
        file = Path(path) / CONFIG
        if not file.is_file() or not any(other.name.endswith(TENSOR_FILES) for other in Path(path).iterdir()):
            raise UserError(f"{named} lacks {'its weights' if file.is_file() else CONFIG}; give {expected}")
        for other in Path(path).iterdir():
            if other.name.endswith(TENSOR_FILES):
                check_whole(other)
        if not any(Path(path).glob("*.safetensors")):
            check_pickles(Path(path).iterdir())
    else:
        file = _from_hub(path, named, expected, revision)
    config = read_json_object(file, "fetch it again")
    found = config.get("_class_name") or (config.get("architectures") or ["network of unknown class"])[0]
    if found not in kinds:
        raise UserError(f"{named} holds a {found}; give {expected}")
    return config


def _from_hub(path: str, named: str, expected: str, revision: str | None) -> Path:
    try:
        cached = try_to_load_from_cache(path, CONFIG, revision=revision)
    except HFValidationError:
        cached = None  # the sentence comes from the request
    if isinstance(cached, str) and any(other.name.endswith(TENSOR_FILES) for other in Path(cached).parent.iterdir()):
        return Path(cached)
    ask_hub(path, CONFIG, revision, named, expected, download=path)
    return Path(hf_hub_download(path, CONFIG, revision=revision))
