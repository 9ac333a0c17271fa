"""Which key was meant by one that is not in the configuration."""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from alignbench.configuration.build import choices, conf_folder

# what other trainers call a setting, where no rule below finds it
ELSEWHERE: Mapping[str, tuple[str, ...]] = {
    "lr": ("train.learning_rate",),
    "bs": ("train.total_batch_size", "train.micro_batch_size"),
    "batch_size": ("train.total_batch_size", "train.micro_batch_size", "sampling.batch_size"),
    "output_dir": ("results",),
    "save_dir": ("results",),
    "epochs": ("train.max_train_steps",),
    "num_train_epochs": ("train.max_train_steps",),
    "gradient_accumulation_steps": ("train.micro_batch_size",),
    "cfg": ("sampling.guidance_scale",),
    "cfg_scale": ("sampling.guidance_scale",),
    "precision": ("train.mixed_precision",),
    "dtype": ("train.weights_dtype",),
    "dataset": ("data",),
    "model.path": ("model.pretrained_model_name_or_path", "model.policy"),
}
MOST = 3  # keys that a message names
CLOSE, ALIKE = 0.6, 0.8  # of 1, how near two spellings are
LONG = 6  # letters of which a word may stand for the keys that hold it


def unknown_key(key: str, tree: DictConfig, groups: Sequence[str], chosen: Mapping[str, str]) -> str | None:
    """Return a sentence about a key that the configuration has not; None where it has it.

    Args:
        key: as typed, with dots.
        tree: the configuration that the other words of the command choose.
        groups: what can be chosen at the root, as in `memory=offload`.
        chosen: the choice of each group, by its key in the tree.
    """
    node: Any = tree
    path: list[str] = []
    for part in key.split("."):
        keys = _keys(node)
        if part not in keys:
            return _sentence(key, part, ".".join(path), tree, keys, () if path else groups, chosen)
        path.append(part)
        node = None if OmegaConf.is_missing(node, part) or OmegaConf.is_interpolation(node, part) else node[part]
    return None


def _sentence(
    key: str,
    part: str,
    where: str,
    tree: DictConfig,
    siblings: Sequence[str],
    groups: Sequence[str],
    chosen: Mapping[str, str],
) -> str:
    choice = chosen.get(where, "default")
    owner = where or "the configuration"
    told = f"{key} is unknown; {owner if choice in ('default', 'none') else f'{where}={choice}'} has no key {part!r};"
    if others := _choices_with(where, part):
        told += f" it is a key of {', '.join(f'{where}={name}' for name in others)};"
    elif meant := _meant(key, part, where, tree, [*siblings, *groups]):
        told += f" did you mean {' or '.join(meant)}?"
    available = [name for name in siblings if not name.startswith("_")]
    return f"{told} available: {', '.join(available) or 'none'}"


def _choices_with(group: str, key: str) -> list[str]:
    """Return the choices of a group whose files have a key."""
    files = {name: conf_folder() / group / f"{name}.yaml" for name in choices(group)} if group else {}
    return [name for name, file in files.items() if key in list(OmegaConf.load(file))]


def _meant(key: str, part: str, where: str, tree: DictConfig, siblings: Sequence[str]) -> list[str]:
    """Return the keys that may be meant, by the first of these rules that finds some."""
    beside = {name: f"{where}.{name}".lstrip(".") for name in siblings if not name.startswith("_")}
    last = {one: one.rpartition(".")[2] for one in _every_key(tree)}
    words = set(re.split(r"[._]", key))
    rules = (
        [beside[name] for name in difflib.get_close_matches(part, beside, MOST, ALIKE)],
        [one for one in ELSEWHERE.get(key, ELSEWHERE.get(part, ())) if one in last],
        [one for one in last if last[one] == part],
        sorted((one for one in last if len(key) >= LONG and words <= set(re.split(r"[._]", one))), key=len),
        [beside[name] for name in difflib.get_close_matches(part, beside, MOST, CLOSE)],
        [
            one
            for name in difflib.get_close_matches(part, last.values(), MOST, ALIKE)
            for one in last
            if last[one] == name
        ],
    )
    return list(dict.fromkeys(next(filter(None, rules), [])))[:MOST]


def _keys(node: Any) -> list[str]:
    return [str(key) for key in node] if isinstance(node, DictConfig) else []


def _every_key(node: DictConfig, prefix: str = "") -> Iterator[str]:
    """Yield every key that can be typed, those of the root first."""
    names = [name for name in _keys(node) if not name.startswith("_")]
    yield from (f"{prefix}{name}" for name in names)
    for name in names:
        child = node._get_node(name)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_missing():
            yield from _every_key(child, f"{prefix}{name}.")
