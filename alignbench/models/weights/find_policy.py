"""Where trained weights are and in which layout, found by looking; whether they are there is said within seconds.

A policy is given as a folder, a file, a run of this program, or a hub id, with a path inside it where it holds more
than one. The layouts are those that aligned models were published in: see docs/models.md.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

from huggingface_hub import HfApi, errors, hf_hub_download, snapshot_download
from huggingface_hub.utils import HFValidationError

from alignbench.errors import UserError
from alignbench.files import file_digest
from alignbench.models.weights.hub import TIMEOUT_SECONDS, hub_answer
from alignbench.models.weights.state_dicts import SHARD_INDEX, TENSOR_FILES, check_whole, listed_shards

DenoiserName = Literal["unet", "transformer"]  # attribute of a diffusers pipeline

LORA_FILES = ("pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin")  # the names that diffusers looks for
PEFT_CONFIG = "adapter_config.json"
PEFT_FILES = ("adapter_model.safetensors", "adapter_model.bin")
NETWORK = "diffusion_pytorch_model"
NETWORK_FILES = (f"{NETWORK}.safetensors", f"{NETWORK}.safetensors{SHARD_INDEX}", f"{NETWORK}.bin",
                 f"{NETWORK}.bin{SHARD_INDEX}")  # fmt: skip
UNNAMED = {"policy", *get_args(DenoiserName), "adapter_model", "pytorch_lora_weights", NETWORK}  # say nothing of it


@dataclass(frozen=True)
class Choice:
    """What to read among the files of a folder or repository.

    Attributes:
        file: of tensors, or the one index of their shards; a relative name.
        peft_config: the configuration that PEFT saved beside its adapters.
    """

    file: str
    peft_config: str | None = None


@dataclass(frozen=True)
class Policy:
    """Trained weights that are here.

    Attributes:
        path: as it was given.
        files: of tensors, more than one where they are sharded.
        peft_config: the configuration that PEFT saved beside its adapters.
        commit: of the hub, where they come from there.
    """

    path: str
    files: tuple[Path, ...]
    peft_config: Path | None = None
    commit: str | None = None

    @property
    def origin(self) -> dict[str, str]:
        """What a manifest says of them: where they were found, and which bytes they are."""
        if self.commit is not None:
            return {"policy": self.path, "policy_revision": self.commit}
        digests = [file_digest(file) for file in (*self.files, *([self.peft_config] if self.peft_config else []))]
        whole = digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()
        return {"policy": self.path, "policy_sha256": whole}


def policy_label(path: str) -> str:
    """Return how tables call a published policy: the last part of its path that says something.

    >>> policy_label("mhdang/dpo-sd1.5-text2image-v1"), policy_label("SmPO/unet/diffusion_pytorch_model.safetensors")
    ('published_dpo-sd1.5-text2image-v1', 'published_SmPO')
    """
    parts = list(PurePosixPath(Path(path).as_posix()).parts)
    if parts[-1].endswith(TENSOR_FILES):
        parts[-1] = PurePosixPath(parts[-1]).stem
    telling = [part for part in parts if part not in UNNAMED and any(c.isalnum() for c in part)] or parts
    return "published_" + "".join(c if c.isalnum() or c in "-_." else "_" for c in telling[-1])


def check_policy(path: str, denoiser: DenoiserName, revision: str | None = None) -> None:
    """Make sure that `find_policy` will find trained weights; nothing is fetched and no tensor is read.

    Args:
        path: a folder, a file, or a hub id with a path inside the repository where needed.
        denoiser: what the family calls its network.
        revision: commit, branch or tag on the hub.

    Raises:
        UserError: saying what was found, what was expected and what to do.
    """
    policy = _here(path, denoiser, revision)
    if policy is None:
        _ask(path, denoiser, revision)
    else:
        for file in policy.files:
            check_whole(file)


def find_policy(path: str, denoiser: DenoiserName, revision: str | None = None) -> Policy:
    """Return trained weights, fetched from the hub if they are not here; arguments and errors as for `check_policy`."""
    policy = _here(path, denoiser, revision)
    if policy is not None:
        return policy
    choice, _ = _ask(path, denoiser, revision)
    repository, _ = _repository(path)
    names = [choice.file, *([choice.peft_config] if choice.peft_config else [])]
    if choice.file.endswith(SHARD_INDEX):
        index = Path(hf_hub_download(repository, choice.file, revision=revision))
        names += [str(PurePosixPath(choice.file).with_name(shard)) for shard in listed_shards(index)]
    snapshot_download(repository, revision=revision, allow_patterns=names)
    policy = _here(path, denoiser, revision)
    assert policy is not None
    return policy


def _here(path: str, denoiser: str, revision: str | None) -> Policy | None:
    """Return the policy if it is on this machine whole, given or in the hub's cache; None if it could be on the hub."""
    named = f"model.policy={path}"
    given = Path(path)
    _refuse_checkpoint(given, named)
    if given.is_file():
        if not given.name.endswith((*TENSOR_FILES, SHARD_INDEX)):
            raise UserError(f"{named} is a file of another kind; expected one of {', '.join(TENSOR_FILES)}")
        return Policy(path, _whole(given, named))
    if given.is_dir():
        names = {file.relative_to(given).as_posix() for file in _files_near(given)}
        return _policy(path, given, _choose(names, denoiser, named), named, None)
    try:
        repository, inside = _repository(path)
        snapshot = Path(snapshot_download(repository, revision=revision, local_files_only=True))
        names = {file.relative_to(snapshot).as_posix() for file in snapshot.rglob("*") if file.is_file()}
        return _policy(path, snapshot, _choose(names, denoiser, named, inside), named, snapshot.name)
    except (HFValidationError, errors.LocalEntryNotFoundError, UserError):
        return None  # nothing of it was fetched yet, or not all: the hub knows what there is


def _refuse_checkpoint(given: Path, named: str) -> None:
    """Refuse a part of a run's checkpoint: alone, adapters would lack their scale and weights their average."""
    folder = given if given.is_dir() else given.parent
    run = folder.parent.parent
    if folder.parent.name == "checkpoints" and (run / "manifest.json").is_file():
        raise UserError(
            f"{named} is of a checkpoint, which is read with its run alone; give model.policy={run} "
            "model.policy_step=last"
        )


def _files_near(folder: Path) -> Iterable[Path]:
    """Return the files of a folder down to where a layout can have them: RUN/policy/unet/FILE."""
    for depth in range(1, 4):
        yield from (file for file in folder.glob("/".join("*" * depth)) if file.is_file())


def _ask(path: str, denoiser: str, revision: str | None) -> tuple[Choice, set[str]]:
    """Ask the hub what a repository holds: one request with a short timeout."""
    named, expected = f"model.policy={path}", "a folder or a file that holds trained weights"
    repository, inside = _repository(path)

    def ask() -> set[str]:
        siblings = HfApi().model_info(repository, revision=revision, timeout=TIMEOUT_SECONDS).siblings
        return {file.rfilename for file in siblings or []}

    names = hub_answer(ask, repository, revision, named, expected, download=repository)
    return _choose(names, denoiser, named, inside), names


def _repository(path: str) -> tuple[str, str]:
    """Return a hub id and what follows it, such as `owner/name/inside/it`."""
    parts = path.split("/")
    return "/".join(parts[:2]), "/".join(parts[2:])


def _choose(names: set[str], denoiser: str, named: str, inside: str = "") -> Choice:
    """Return what to read among the files of a folder or repository.

    Args:
        names: all of them, relative, with forward slashes.
        inside: a folder or file among them that is meant.

    Raises:
        UserError: if there is nothing to read, or more than one thing.
    """
    if inside in names:
        return Choice(inside)
    root = f"{inside}/" if inside else ""
    run = root
    if f"{run}manifest.json" in names:  # of this program
        root += "policy/"
    here = {name for name in names if name.startswith(root) and "/" not in name[len(root) :]}
    network = _network(names, f"{root}{denoiser}/") or _network(names, root)
    adapters = next((root + file for file in LORA_FILES if root + file in here), None)
    peft = next((root + file for file in PEFT_FILES if root + file in here), None)
    found = [Choice(file) for file in (network, adapters) if file]
    if peft and root + PEFT_CONFIG in here:
        found.append(Choice(peft, root + PEFT_CONFIG))
    if not found:
        shards = {name for name in here if name.endswith(SHARD_INDEX)}
        found = [Choice(name) for name in sorted(shards or {n for n in here if n.endswith(TENSOR_FILES)})]
    if len(found) > 1:
        told = ", ".join(one.file for one in found[:4])
        raise UserError(
            f"{named} holds more than one set of weights ({told}); give the one that is meant, as PATH/FILE"
        )
    if not found:
        for other in get_args(DenoiserName):
            if _network(names, f"{root}{other}/"):
                raise UserError(
                    f"{named} holds a {other}, but this model has a {denoiser}; choose the `model` of its family"
                )
        if any(name.startswith(f"{run}checkpoints/step-") for name in names):
            raise UserError(
                f"{named} is a run that was stopped before its end; add model.policy_step=last to take its last "
                "checkpoint, or repeat its command to finish it"
            )
        raise UserError(
            f"{named} holds no trained weights; expected {root}{denoiser}/ or {NETWORK}.safetensors as diffusers saves "
            f"them, {LORA_FILES[0]}, {PEFT_CONFIG} beside {PEFT_FILES[0]}, or one file of tensors"
        )
    return found[0]


def _network(names: set[str], folder: str) -> str | None:
    """Return the weights that diffusers would read in a folder: the plain ones before half precision and the like."""
    plain = next((folder + file for file in NETWORK_FILES if folder + file in names), None)
    variants = (name for name in sorted(names) if name.startswith(f"{folder}{NETWORK}.") and "-of-" not in name)
    return plain or next((name for name in variants if name.endswith(TENSOR_FILES)), None)


def _policy(path: str, root: Path, choice: Choice, named: str, commit: str | None) -> Policy:
    config = root / choice.peft_config if choice.peft_config else None
    return Policy(path, _whole(root / choice.file, named), config, commit)


def _whole(file: Path, named: str) -> tuple[Path, ...]:
    """Return the files behind one: itself, or the shards that it lists."""
    if not file.name.endswith(SHARD_INDEX):
        return (file,)
    shards = [file.with_name(name) for name in listed_shards(file)]
    if missing := [shard.name for shard in shards if not shard.is_file()]:
        raise UserError(f"{named} lacks {', '.join(missing)}, which {file.name} lists; fetch all of it")
    return tuple(shards)
