"""How tables call a run: by its name or method, and by what differs where there are several recipes of one.

And how texts call a prompt set: a list of one's own by its file.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from alignbench.configuration.build import MODEL_NOT_IN_HASH, NOT_IN_HASH
from alignbench.data.prompts import path_safe
from alignbench.reading import read_yaml
from alignbench.store.manifest import Manifest
from alignbench.store.run_folder import RunFolder, checked
from alignbench.text import shortened

PARTS = ("train", "method", "data", "auxiliary", "validation", "model")  # of a configuration, the telling first
SHORT = {"learning_rate": "lr", "max_train_steps": "steps", "total_batch_size": "batch", "num_pairs": "pairs"}
# `model.adapter` repeats what the keys of the model say
HIDDEN = (*(f"train.{key}" for key in NOT_IN_HASH), *(f"model.{key}" for key in MODEL_NOT_IN_HASH), "model.adapter")
MAX_DIFFERENCES = 3  # of two recipes that a label shows; where there are more, the recipe's hash follows
MAX_VALUE = 24  # characters
STRENGTH = " strength="  # in a label: of images that were not made by the policy as it was trained

Recipe = tuple[str, str]  # model and hash of the recipe


def strength_label(strength: float, kind: str | None) -> str:
    """Return what follows a run's label where its images were made at another `sampling.strength` than 1.

    >>> strength_label(1.5, "prediction"), strength_label(0.5, "weights"), strength_label(1.0, None)
    (' strength=1.5', ' strength=0.5 strength_kind=weights', '')
    """
    if strength == 1:
        return ""
    return f"{STRENGTH}{setting_text(float(strength))}" + (f" strength_kind={kind}" if kind != "prediction" else "")


def recipe_labels(folders: Iterable[RunFolder]) -> dict[Recipe, str]:
    """Name each (model, recipe): by the name of its runs, else by the method.

    Recipes of one method on one model are told apart by the settings that differ, as in `dpo lr=1e-4`, and by the
    recipe's hash where these are many or unknown. A label depends on the recipes alone, not on their order.
    """
    runs: dict[Recipe, list[RunFolder]] = defaultdict(list)
    for folder in folders:
        manifest = folder.manifest
        runs[manifest.model, manifest.recipe_hash].append(folder)
    manifests = {recipe: [folder.manifest for folder in of] for recipe, of in runs.items()}
    same_name: dict[tuple[str, str], list[Recipe]] = defaultdict(list)
    for recipe, of in sorted(manifests.items()):
        same_name[recipe[0], _name(of)].append(recipe)
    labels = {}
    for (_, name), recipes in same_name.items():
        differences = _differences([runs[recipe][0] for recipe in recipes]) if len(recipes) > 1 else [""]
        for recipe, difference in zip(recipes, differences, strict=True):
            unknown = len(recipes) > 1 and differences.count(difference) > 1
            hashed = f"@{recipe[1][:8]}" if unknown or difference.endswith("...") else ""
            labels[recipe] = f"{name}{difference and ' '}{difference.removesuffix(' ...')}{hashed}"
    return labels


def _name(manifests: list[Manifest]) -> str:
    """Return the name that was given to runs of one recipe, else their method."""
    return next((one.display_name for one in manifests if one.display_name is not None), manifests[0].method)


def _differences(folders: list[RunFolder]) -> list[str]:
    """Return what differs between recipes, one text a recipe: ends in ` ...` where it is not all, empty if unknown."""
    found = [settings(folder) for folder in folders]
    told = differing(found)
    shown = told[:MAX_DIFFERENCES]
    ends = " ..." if len(told) > len(shown) else ""
    return [" ".join(_told(key, one[key]) for key in shown if key in one) + ends for one in found]


def differing(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the full keys of the settings in which recipes differ; none where those of one are unknown."""
    if not all(found):
        return []
    keys = list(dict.fromkeys(key for one in found for key in one))
    unlike = [key for key in keys if any(one.get(key) != found[0].get(key) for one in found)]
    # data of another name differ in all else, too: the name stands for all of it
    named = tuple(key.removesuffix("name") for key in unlike if key.endswith(".name"))
    return [key for key in unlike if key.removesuffix("name") in named or not key.startswith(named)]


def settings(folder: RunFolder) -> dict[str, Any]:
    """Return the settings of a run that change its weights, by their full keys; none where they are unknown."""
    if not folder.config_file.exists():
        return {}
    config = read_yaml(checked(folder.config_file))
    if "train" not in config:
        return {}  # of images that existed already
    if not (config.get("validation") or {}).get("every"):
        config["validation"] = None  # nobody looks, so nobody chooses among weights
    parts = ({part: config[part]} for part in PARTS if config.get(part))
    flat = {key: value for part in parts for key, value in _flat(part)}
    hidden = tuple(f"{key}." for key in HIDDEN)
    return {
        key: value for key, value in flat.items() if not f"{key}.".startswith(hidden) and not key.endswith("._target_")
    }


def _flat(values: Mapping[Any, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Yield the full key and the value of each leaf, the learning rate first."""
    for key, value in sorted(values.items(), key=lambda item: (item[0] != "learning_rate", str(item[0]))):
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _told(key: str, value: Any) -> str:
    """Write a setting as in `lr=1e-4`; the name of a part as in `data=local`."""
    return f"{setting_name(key)}={setting_text(value)}"


def setting_name(key: str) -> str:
    """Return the short name of a setting.

    >>> setting_name("train.learning_rate"), setting_name("method.beta"), setting_name("data.name")
    ('lr', 'beta', 'data')
    """
    *parts, last = key.split(".")
    return parts[-1] if last == "name" else SHORT.get(last, last)


def setting_text(value: Any) -> str:
    """Write a value without blanks: numbers shortest, a path by its last part."""
    if isinstance(value, bool) or value is None:
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        mantissa, _, exponent = f"{value:e}".partition("e")
        scientific = f"{float(mantissa):g}e{int(exponent)}"
        return scientific if value and not 1e-3 <= abs(value) < 1e5 else f"{value:g}"
    if isinstance(value, list):
        return ",".join(map(setting_text, value))
    return shortened(str(value).rstrip("/").rpartition("/")[2].replace(" ", "_"), MAX_VALUE)


def prompt_set_names(folders: Iterable[RunFolder], prompt_sets: Iterable[str]) -> dict[str, str]:
    """Return how texts call each prompt set: by its name, or by the file of `prompts=file`, as in `prompts.txt`.

    Such a set is stored as `prompts-a8b2dc88`, under a hash of its content. The hash is shown only where two sets come
    from files of one name.
    """
    found = {name: name for name in prompt_sets}
    hashed = {name: match for name in found if (match := re.fullmatch(r"(.+)-([0-9a-f]{8})", name))}
    files = _prompt_files(folders) if hashed else {}
    called = {name: files[match[1]] for name, match in hashed.items() if match[1] in files}
    same = Counter(called.values())
    return found | {name: file if same[file] == 1 else f"{file} ({hashed[name][2]})" for name, file in called.items()}


def _prompt_files(folders: Iterable[RunFolder]) -> dict[str, str]:
    """Return the names of the files that runs took their prompts from, by what their sets begin with."""
    files = {}
    for folder in folders:
        if folder.config_file.exists():
            prompts = read_yaml(checked(folder.config_file)).get("prompts")
            path = prompts.get("path") if isinstance(prompts, dict) else None
            if isinstance(path, str):
                files[path_safe(PurePath(path).stem)] = PurePath(path).name
    return files
