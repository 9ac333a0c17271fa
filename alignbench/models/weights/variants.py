"""Which weight files in a folder of diffusers are read, where there are several kinds: plain, fp16 and others."""

import re
from pathlib import Path

from alignbench.errors import UserError
from alignbench.models.weights.state_dicts import listed_shards

# diffusers and transformers: diffusion_pytorch_model.fp16.safetensors, model.fp16-00001-of-00002.safetensors
WEIGHTS = re.compile(
    r"(?P<stem>diffusion_pytorch_model|pytorch_model|model)(\.(?P<variant>[^.]+?))?(-\d{5}-of-\d{5})?"
    r"\.(?P<kind>safetensors|bin)"
)
INDEX = re.compile(r".*\.(safetensors|bin)\.index(\.(?P<variant>[^.]+))?\.json")


def only_variant(folder: Path) -> str | None:
    """Return the kind of the weights in a folder, such as `fp16`; None where there are plain ones, or none at all.

    Raises:
        UserError: there are several kinds and no plain weights, and nothing says which are meant.
    """
    found = variants(folder)
    if len(found) > 1:
        raise UserError(
            f"{folder} holds weights of several kinds ({', '.join(found)}) and no plain ones; add "
            f"+model.adapter.pipeline.variant={found[0]} to say which are meant"
        )
    return found[0] if found else None


def variants(folder: Path) -> list[str]:
    """Return the kinds of weights in a folder; none where there are plain ones, which come before all others."""
    found = [match for file in folder.glob("*") if (match := WEIGHTS.fullmatch(file.name))]
    kind = "safetensors" if any(match["kind"] == "safetensors" for match in found) else "bin"
    names = {match["variant"] for match in found if match["kind"] == kind}
    return [] if None in names else sorted(names)


def missing_shards(folder: Path, variant: str | None) -> list[str]:
    """Return the files that the index of a kind of weights lists and the folder lacks."""
    files = {file.name for file in folder.glob("*")}
    listed = [
        shard
        for name in files
        if (match := INDEX.fullmatch(name)) and match["variant"] == variant
        for shard in listed_shards(folder / name)
    ]
    return sorted({*listed} - files)
