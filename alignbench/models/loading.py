"""Where the weights of a model come from, and a check within seconds that they are there."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import constants, errors, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.utils import HFValidationError

from alignbench.errors import UserError

INDEX = "model_index.json"
UNUSED_PARTS = {"safety_checker", "feature_extractor", "image_encoder"}  # of the pipelines that generate from text
TIMEOUT_SECONDS = 5.0


def load_pipeline(
    pretrained_model_name_or_path: str,
    pipeline_class: str = "auto",
    revision: str | None = None,
    torch_dtype: str = "float32",
    variant: str | None = None,
) -> Any:
    """Load a diffusers pipeline from a folder, the local hub cache, or the hub.

    Args:
        pretrained_model_name_or_path: a diffusers folder or a hub id.
        pipeline_class: the class it must be of, as in model_index.json; `auto` takes whichever it is.
        revision: commit, branch or tag on the hub.
        torch_dtype: what the networks compute in; the adapters keep the VAE in a dtype of its own.
        variant: suffix of the weight files, such as `fp16`.

    Raises:
        UserError: as `check_weights` does.
    """
    index = check_weights(pretrained_model_name_or_path, revision, pipeline_class)
    import diffusers
    import torch

    # diffusers wants to be told of the parts that the index lists as absent, as T5 may be of Stable Diffusion 3.
    absent = {name: None for name, part in index.items() if isinstance(part, list) and part[0] is None}
    # A score needs pictures, not a filter that blackens some of them.
    without_filter = {"safety_checker": None, "requires_safety_checker": False} if "safety_checker" in index else {}
    return getattr(diffusers, index["_class_name"]).from_pretrained(
        _complete_folder(pretrained_model_name_or_path, revision) or pretrained_model_name_or_path,
        revision=revision,
        torch_dtype=getattr(torch, torch_dtype),
        variant=variant,
        **absent | without_filter,
    )


def check_weights(path: str, revision: str | None = None, pipeline_class: str = "auto") -> dict[str, Any]:
    """Return the model_index.json of a model whose weights are at hand or can be fetched; nothing heavy is loaded.

    Raises:
        UserError: if the folder or the cached copy is incomplete and the hub cannot help, or if the pipeline is of
            another class.
    """
    named = f"model.pretrained_model_name_or_path={path}"
    folder = _complete_folder(path, revision)
    if folder is not None:
        index = json.loads((folder / INDEX).read_text())
    elif Path(path).is_dir():
        raise UserError(f"{named} lacks {', '.join(_missing(Path(path)))}; give a whole diffusers folder or a hub id")
    else:
        index = _index_from_hub(path, revision, named)
    if pipeline_class not in ("auto", index["_class_name"]):
        raise UserError(
            f"{named} holds a {index['_class_name']}, but this model needs a {pipeline_class}; "
            "choose the `model` of that family or other weights"
        )
    return index


def _complete_folder(path: str, revision: str | None) -> Path | None:
    """Return the folder, given or cached from the hub, that holds every part of the pipeline; None if there is none."""
    folder = Path(path)
    if not folder.is_dir():
        try:
            cached = try_to_load_from_cache(path, INDEX, revision=revision)
        except HFValidationError:
            return None
        if not isinstance(cached, str):
            return None
        folder = Path(cached).parent
    return None if _missing(folder) else folder


def _missing(folder: Path) -> list[str]:
    """Return what a diffusers folder lacks: its index, the weights of a network, the files of another part."""
    if not (folder / INDEX).is_file():
        return [INDEX]
    index = json.loads((folder / INDEX).read_text())
    missing = []
    for name, part in index.items():
        if name in UNUSED_PARTS or not isinstance(part, list) or part[0] is None:
            continue
        files = {file.name for file in (folder / name).glob("*") if file.is_file()}
        shards = [
            shard
            for file in files
            if file.endswith(".index.json")
            for shard in json.loads((folder / name / file).read_text())["weight_map"].values()
        ]
        is_network = not any(kind in part[1] for kind in ("Tokenizer", "Scheduler"))
        if not files or not files.issuperset(shards):
            missing.append(f"{name}/")
        elif is_network and not any(file.endswith((".safetensors", ".bin")) for file in files):
            missing.append(f"the weights of {name}/")
    return missing


def _index_from_hub(path: str, revision: str | None, named: str) -> dict[str, Any]:
    ask_hub(path, INDEX, revision, named, expected="a diffusers folder", download=path)
    return json.loads(Path(hf_hub_download(path, INDEX, revision=revision)).read_text())


def ask_hub(path: str, filename: str, revision: str | None, named: str, expected: str, download: str) -> None:
    """Ask the hub for a file: one request with a short timeout says whether it and its neighbours can be fetched.

    Args:
        path: a hub id, or what was taken for one.
        filename: the file in that repository.
        revision: commit, branch or tag.
        named: how the user gave `path`.
        expected: what could be given instead, such as `a diffusers folder`.
        download: what to tell `hf download` while there is a connection.

    Raises:
        UserError: if the file cannot be fetched.
    """
    at = f" at revision {revision}" if revision else ""
    try:
        get_hf_file_metadata(hf_hub_url(path, filename, revision=revision), timeout=TIMEOUT_SECONDS)
        return
    except HFValidationError:
        reason = f"{named} is neither here nor a hub id; give {expected}, or an id such as owner/name"
    except errors.GatedRepoError:
        reason = f"{named} is gated; accept its licence at {constants.ENDPOINT}/{path}, then run `hf auth login`"
    except errors.RevisionNotFoundError:
        reason = f"{named} has no revision {revision} on the hub; check the revision"
    except errors.RepositoryNotFoundError:
        reason = f"{named} is neither here nor a model on the hub; check the spelling, or run `hf auth login`"
    except errors.EntryNotFoundError:
        reason = f"{named} has no {filename} on the hub{at}; give {expected}"
    # offline mode, no connection, a timeout, a hub in trouble; the HTTP library behind the hub's differs by version
    except (OSError, errors.HTTPError) as error:  # pyright: ignore[reportPrivateImportUsage]
        reason = (
            f"{named}{at} is neither here nor whole in the local hub cache, and the hub cannot be reached "
            f"({type(error).__name__}); run `hf download {download}` while connected, or give {expected}"
        )
    raise UserError(reason)
