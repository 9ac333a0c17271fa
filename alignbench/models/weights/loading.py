"""Where the weights of a model come from, and a check within seconds that they are there."""

import inspect
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download, snapshot_download, try_to_load_from_cache
from huggingface_hub.utils import HFValidationError

from alignbench.errors import UserError
from alignbench.models.weights.hub import ask_hub
from alignbench.models.weights.missing import MissingWeightsError
from alignbench.models.weights.state_dicts import check_pickles, check_whole, safetensors_header
from alignbench.models.weights.variants import missing_shards, only_variant, variants
from alignbench.reading import read_json_object

INDEX = "model_index.json"
UNUSED_PARTS = {"safety_checker", "feature_extractor", "image_encoder"}  # of the pipelines that generate from text
LIBRARIES = {"diffusers", "transformers"}  # that parts of a pipeline may be classes of
CONFIG_FILES = ["*.json", "*.txt", "*.model"]  # of a repository: what its parts are, and its tokenizers


def load_pipeline(
    pretrained_model_name_or_path: str,
    pipeline_class: str = "auto",
    revision: str | None = None,
    torch_dtype: str = "float32",
    variant: str | None = None,
    config: str | None = None,
    without: Collection[str] = (),
) -> Any:
    """Load a diffusers pipeline from a folder, the local hub cache, the hub, or a single file of the original layout.

    Args:
        pretrained_model_name_or_path: a diffusers folder, a hub id, or a safetensors file.
        pipeline_class: the class it must be of, as in model_index.json; `auto` takes whichever it is.
        revision: commit, branch or tag on the hub.
        torch_dtype: what the networks compute in; the adapters keep the VAE in a dtype of its own.
        variant: suffix of the weight files, such as `fp16`.
        config: for a single file: a diffusers folder or a hub id of the same family, which says what the parts are and
            has those that the file lacks, tokenizers and the scheduler always among them.
        without: networks whose weights are not loaded, see `alignbench.models.weights.without_weights`.

    Raises:
        UserError: as `check_weights` does.
    """
    index = check_weights(pretrained_model_name_or_path, revision, pipeline_class, config, variant)
    import diffusers
    import torch

    from alignbench.models.weights.without_weights import note_files

    # diffusers wants to be told of the parts that the index lists as absent, as a text encoder may be.
    absent: dict[str, Any] = {name: None for name, part in index.items() if isinstance(part, list) and part[0] is None}
    # A score needs pictures, not a filter that blackens some of them.
    without_filter = {"safety_checker": None, "requires_safety_checker": False} if "safety_checker" in index else {}
    named: Any = getattr(diffusers, index["_class_name"], None)
    kind, dtype = named, getattr(torch, torch_dtype)
    if not (inspect.isclass(named) and issubclass(named, diffusers.DiffusionPipeline)):
        raise UserError(
            f"model.pretrained_model_name_or_path={pretrained_model_name_or_path} holds a {index['_class_name']}, "
            "which is no pipeline of diffusers; give another folder"
        )
    file = Path(pretrained_model_name_or_path)
    if not file.is_file():
        networks = _networks(index)
        folder = _complete_folder(pretrained_model_name_or_path, revision, networks - set(without))
        left_out = {
            name: _without_weights(folder or pretrained_model_name_or_path, revision, name, index[name][1], dtype)
            for name in networks & set(without)
        }
        if folder is not None:
            for name in networks - set(without):
                check_pickles(_files(folder / name, variant))
                if variant is None and (own := only_variant(folder / name)) is not None:  # diffusers asks to be told
                    left_out[name] = _network(folder / name, index[name], dtype, own)
        pipeline = kind.from_pretrained(
            folder or pretrained_model_name_or_path,
            revision=revision,
            torch_dtype=dtype,
            variant=variant,
            **absent | without_filter | left_out,
        )
        folder = _complete_folder(pretrained_model_name_or_path, revision, networks - set(without))
        for name in networks:
            if folder is not None and (files := _files(folder / name, variant)):
                note_files(getattr(pipeline, name), files)
        return pipeline
    assert config is not None
    lacking = _lacking(file, index)
    folder = _complete_folder(config, None, lacking) or Path(
        snapshot_download(config, allow_patterns=[*CONFIG_FILES, *(f"{part}/*" for part in lacking)])
    )
    # from_single_file looks for weights beside `config` under the names of diffusers alone, not of transformers
    for part in lacking:
        if part not in without:
            check_pickles(_files(folder / part, None))
            absent[part] = _network(folder / part, index[part], dtype, only_variant(folder / part))
    for name in _networks(index) & set(without):
        absent[name] = _without_weights(folder, None, name, index[name][1], dtype)
    unused = dict.fromkeys(UNUSED_PARTS & index.keys())
    pipeline = kind.from_single_file(
        str(file), config=str(folder), torch_dtype=dtype, local_files_only=True, **unused | absent | without_filter
    )
    for name in _networks(index):
        own = _files(folder / name, None) if name in lacking else [folder / name / "config.json", file]
        note_files(getattr(pipeline, name), own)
    return pipeline


def read_index(file: Path) -> dict[str, Any]:
    """Return a model_index.json that names nothing but classes of diffusers and transformers.

    diffusers would import any module that an index names, and run code that lies in the folder.

    Raises:
        UserError: it names other code, or is no index.
    """
    index = read_json_object(file, "give another folder or fetch it again")
    foreign = [name for name, value in index.items() if not _is_known_code(name, value)]
    if foreign or not isinstance(index.get("_class_name"), str):
        name = foreign[0] if foreign else "_class_name"
        raise UserError(
            f"{file} names {index.get(name)} as {name}, which is code from elsewhere than diffusers and transformers "
            "and is not run; give a folder without it"
        )
    return index


def _is_known_code(name: str, value: Any) -> bool:
    """Say whether an entry of an index is plain values, an absent part, or a class of a library that we know.

    Classes that read from the folder which class they are, such as AutoModel, are not known.
    """
    if not isinstance(value, list) or name == "_class_name":
        return isinstance(value, str | int | float | bool | None)
    if value == [None, None] or all(isinstance(one, int | float) for one in value):  # or noise levels
        return True
    known = LIBRARIES | ({"stable_diffusion"} if name == "safety_checker" else set())  # a filter that is left out
    known_library = len(value) == 2 and isinstance(value[0], str) and value[0] in known
    return known_library and re.fullmatch(r"(?!Auto[A-Z])[A-Z]\w*", str(value[1])) is not None


def used_parts(index: dict[str, Any]) -> dict[str, list[str]]:
    """Return library and class of each part of a pipeline that is there and used."""
    return {
        name: part
        for name, part in index.items()
        if isinstance(part, list) and part and isinstance(part[0], str) and name not in UNUSED_PARTS
    }


def _networks(index: dict[str, Any]) -> set[str]:
    """Return the parts of a pipeline that are networks and are used."""
    return {name for name, (_, kind) in used_parts(index).items() if is_network(kind)}


def is_network(class_name: str) -> bool:
    """Say whether a part of a pipeline is a network, by its class."""
    return not any(kind in class_name for kind in ("Tokenizer", "Processor", "Scheduler"))


def _network(folder: Path, entry: Sequence[str], dtype: Any, variant: str | None) -> Any:
    """Return a network of a pipeline from its own folder.

    Args:
        entry: library and class, as model_index.json has them.
        variant: of its weight files.
    """
    import diffusers
    import transformers

    library, name = entry
    arguments = {"torch_dtype" if library == "diffusers" else "dtype": dtype}
    kind = getattr({"diffusers": diffusers, "transformers": transformers}[library], name)
    return kind.from_pretrained(folder, variant=variant, **arguments)


def _without_weights(source: Path | str, revision: str | None, part: str, class_name: str, dtype: Any) -> Any:
    """Return a network of a pipeline, of which only the configuration was read."""
    from alignbench.models.weights.without_weights import drop, on_meta

    return drop(on_meta(class_name, part_config(str(source), part, revision), dtype))


def _files(folder: Path, variant: str | None) -> list[Path]:
    """Return the files that a network is loaded from: its configuration and weights; nothing where these are absent."""
    found = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    chosen = [file for file in found if variant is not None and f".{variant}." in file.name.replace("-", ".")]
    return [folder / "config.json", *(chosen or found)] if found else []


def part_config(path: str, part: str, revision: str | None = None, config: str | None = None) -> dict[str, Any]:
    """Return the configuration of a part of a model that `check_weights` found.

    Args:
        path, revision, config: as for `load_pipeline`.
        part: name of a network in the pipeline, or `scheduler`.
    """
    name = f"{part}/scheduler_config.json" if part == "scheduler" else f"{part}/config.json"
    return read_json_object(_config_file(path, name, revision, config), "fetch it again")


def pipeline_index(path: str, revision: str | None = None, config: str | None = None) -> dict[str, Any]:
    """Return the model_index.json of a model that `check_weights` found; arguments as for `load_pipeline`."""
    return read_index(_config_file(path, INDEX, revision, config))


def _config_file(path: str, name: str, revision: str | None, config: str | None) -> Path:
    """Return a file of a model's folder, or of the folder that belongs to a single file."""
    if Path(path).is_file():
        assert config is not None
        path, revision = config, None
    local = Path(path) / name
    return local if local.is_file() else Path(hf_hub_download(path, name, revision=revision))


def is_here(path: str, revision: str | None) -> bool:
    """Say whether the whole model is on this machine."""
    return Path(path).is_file() or _complete_folder(path, revision) is not None


def check_weights(
    path: str,
    revision: str | None = None,
    pipeline_class: str = "auto",
    config: str | None = None,
    variant: str | None = None,
) -> dict[str, Any]:
    """Return the model_index.json of a model whose weights are at hand or can be fetched; nothing heavy is loaded.

    Raises:
        UserError: if the folder, the file or the cached copy is incomplete and the hub cannot help, or if the pipeline
            is of another class.
    """
    named, file = f"model.pretrained_model_name_or_path={path}", Path(path)
    if file.is_file():
        named, index = f"model.config={config}", _index_beside(file, named, config)
    else:
        index = _index(path, revision, named)
    if pipeline_class not in ("auto", index["_class_name"]):
        raise UserError(
            f"{named} holds a {index['_class_name']}, but this model needs a {pipeline_class}; "
            "choose the `model` of that family or other weights"
        )
    parts = _networks(index)
    if file.is_file():
        assert config is not None
        check_whole(file)
        path, revision, parts = config, None, _lacking(file, index)
        _index(path, revision, f"{named}, which has to have what {file.name} lacks,", parts=parts)
    if (folder := _complete_folder(path, revision, parts)) is not None:
        _check_files(folder, parts, variant)
    return index


def _check_files(folder: Path, parts: Collection[str], variant: str | None) -> None:
    """Refuse weights that are cut, and several kinds of them of which none is asked for."""
    for name in parts:
        for weights in _files(folder / name, variant):
            check_whole(weights)
        if variant is None:
            only_variant(folder / name)


def _index(path: str, revision: str | None, named: str, parts: Collection[str] | None = None) -> dict[str, Any]:
    """Return the model_index.json of a diffusers folder or a hub id that has the weights of these parts (default: all).

    Raises:
        UserError: if it has not.
    """
    folder = _complete_folder(path, revision, parts)
    if folder is not None:
        return read_index(folder / INDEX)
    if Path(path).is_dir():
        lacks = ", ".join(_missing(Path(path), parts))
        raise MissingWeightsError(f"{named} lacks {lacks}; give a whole diffusers folder or a hub id")
    return _index_from_hub(path, revision, named)


def _index_beside(file: Path, named: str, config: str | None) -> dict[str, Any]:
    if file.suffix != ".safetensors":
        raise UserError(f"{named} is a file of another kind; give a .safetensors file, a diffusers folder or a hub id")
    if config is None:
        raise UserError(
            f"{named} is a single file, which says nothing of its tokenizers and its scheduler; add "
            "model.config=FOLDER, a diffusers folder or a hub id of the same family"
        )
    return _index(config, None, f"model.config={config}", parts=())


def _lacking(file: Path, index: dict[str, Any]) -> list[str]:
    """Return the networks of a pipeline that a single file lacks.

    Raises:
        UserError: if it has not even the denoiser, or the family is known in no such layout.
    """
    from alignbench.models.find_families import FAMILIES  # loads torch and diffusers, which folders are checked without

    kind = index["_class_name"]
    layouts = {family.pipeline_class: family.single_file_keys for family in FAMILIES.values()}
    if not (layout := layouts.get(kind)):
        raise UserError(f"a {kind} is not read from a single file; give model.pretrained_model_name_or_path=FOLDER")
    keys = safetensors_header(file).keys() - {"__metadata__"}
    lacking = [
        part
        for part, beginnings in layout.items()
        if index.get(part, [None])[0] is not None and not any(key.startswith(beginnings) for key in keys)
    ]
    denoiser, beginnings = next(iter(layout.items()))
    if denoiser in lacking:
        raise UserError(
            f"{file} holds no {denoiser} of a {kind} in the original layout: keys begin with "
            f"{min(keys, default='nothing')!r} instead of {beginnings[0]!r}; a network in the layout of diffusers is "
            "given as model.policy=FILE, beside the weights of the whole model"
        )
    return lacking


def _complete_folder(path: str, revision: str | None, parts: Collection[str] | None = None) -> Path | None:
    """Return the folder, given or cached from the hub, that holds the pipeline; None if there is none.

    Args:
        parts: the networks whose weights are needed; all of them by default.
    """
    folder = Path(path)
    if not folder.is_dir():
        try:
            cached = try_to_load_from_cache(path, INDEX, revision=revision)
        except HFValidationError:
            return None
        if not isinstance(cached, str):
            return None
        folder = Path(cached).parent
    return None if _missing(folder, parts) else folder


def _missing(folder: Path, parts: Collection[str] | None = None) -> list[str]:
    """Return what a diffusers folder lacks: its index, the weights of a network, the files of another part.

    Args:
        parts: the networks whose weights are needed; all of them by default.
    """
    if not (folder / INDEX).is_file():
        return [INDEX]
    index = read_index(folder / INDEX)
    missing = []
    for name, (_, kind) in used_parts(index).items():
        files = {file.name for file in (folder / name).glob("*") if file.is_file()}
        has_weights = is_network(kind) and (parts is None or name in parts)
        if not files:
            missing.append(f"{name}/")
        elif has_weights and (shards := _missing_shards(folder / name)):
            missing.append(f"{name}/ ({shards[0]}{f' and {len(shards) - 1} more' if len(shards) > 1 else ''})")
        elif has_weights and not any(file.endswith((".safetensors", ".bin")) for file in files):
            missing.append(f"the weights of {name}/")
    return missing


def _missing_shards(folder: Path) -> list[str]:
    """Return what one kind of the weights in a folder lacks; nothing if another is whole."""
    found = [missing_shards(folder, variant) for variant in (variants(folder) or [None])]
    return min(found, key=len)


def _index_from_hub(path: str, revision: str | None, named: str) -> dict[str, Any]:
    ask_hub(path, INDEX, revision, named, expected="a diffusers folder", download=path)
    return read_index(Path(hf_hub_download(path, INDEX, revision=revision)))
