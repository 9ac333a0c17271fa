"""Tell the page what each run is, what it cost, how it was configured and how its training went."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from alignbench.report.columns import TableRow
from alignbench.report.curves.read import Curve, read_curves, read_profile
from alignbench.report.figures import hours_text
from alignbench.report.page.hacking import validation_entry
from alignbench.report.page.store import Store
from alignbench.store.manifest import Manifest
from alignbench.store.run_folder import RunFolder
from alignbench.text import duration

MAX_POINTS = 400  # of a curve; longer ones are thinned

Facts = list[tuple[str, str]]


def run_entry(
    folder: RunFolder, store: Store, diagnostics: Sequence[TableRow] = (), label: str | None = None
) -> dict[str, Any]:
    """Return what the page knows of a run at once, and where it finds the rest.

    Args:
        label: how tables call the run; None for its method.
    """
    manifest = folder.manifest
    curves = read_curves(folder.train_log) if folder.train_log.exists() else {}
    rest = {
        "facts": [*_origin(folder), *_facts(manifest), *_profile_facts(folder)],
        "start": _texts(manifest.start_weights),
        "data": _texts(manifest.fingerprints),
        "versions": _texts(manifest.package_versions),
        "config": folder.config_file.read_text(encoding="utf-8") if folder.config_file.exists() else "",
        "curves": [{"name": name, "points": thinned(curve)} for name, curve in curves.items()],
        **validation_entry(folder, diagnostics),
    }
    return {
        "run": manifest.run,
        "method": label or manifest.method,
        "model": manifest.model,
        "seed": manifest.seed,
        "started": manifest.started,
        "command": manifest.command,
        "curves": bool(curves),
        "looks": bool(rest["validation"]),
        "file": store.script(f"run-{manifest.run}", rest),
    }


def thinned(curve: Curve, max_points: int = MAX_POINTS) -> Curve:
    """Keep the lowest and the highest point of each stretch of a curve, so that no spike is lost; and both its ends."""
    if len(curve) <= max_points:
        return curve
    num_stretches = max_points // 2 - 1
    kept = {0, len(curve) - 1}
    for number in range(num_stretches):
        stretch = range(number * len(curve) // num_stretches, (number + 1) * len(curve) // num_stretches)
        kept |= {min(stretch, key=lambda i: curve[i][1]), max(stretch, key=lambda i: curve[i][1])}
    return [curve[i] for i in sorted(kept)]


def _facts(manifest: Manifest) -> Facts:
    budget = asdict(manifest.budget)
    counts = {
        "updates": "optimizer_steps", "samples": "samples_seen", "network passes": "network_passes",
        "rollouts": "rollouts", "reward calls": "reward_calls", "trainable parameters": "trainable_parameters",
    }  # fmt: skip
    facts = [
        ("method", manifest.method),
        ("model", manifest.model),
        ("training seed", "" if manifest.seed is None else str(manifest.seed)),
        ("started", f"{manifest.started} UTC" if manifest.started else ""),
        ("command", manifest.command or ""),
        (
            "weights",
            "" if manifest.selected_step is None else f"step {manifest.selected_step}, {manifest.weights_kind}",
        ),
        ("distance of the weights", _share(manifest.weight_distance)),
        ("trained on evaluators", ", ".join(manifest.trained_on)),
        ("trained on prompt sets", ", ".join(manifest.trained_prompt_sets)),
        ("training time", duration(budget["train_seconds"]) if budget["train_seconds"] else ""),
        ("device hours", hours_text(budget["device_hours"]) if budget["device_hours"] else ""),
        ("peak memory", f"{budget['peak_memory_gib']:.2f} GiB" if budget["peak_memory_gib"] else ""),
        *((label, f"{budget[name]:,}" if budget[name] else "") for label, name in counts.items()),
        ("devices", ", ".join(manifest.devices)),
        ("commit", manifest.commit or ""),
        ("configuration hash", manifest.config_hash),
    ]
    return [(name, text) for name, text in facts if text]


def _origin(folder: RunFolder) -> Facts:
    return [("from a capsule", "with thumbnails in place of its images")] if folder.is_from_capsule else []


def _profile_facts(folder: RunFolder) -> Facts:
    """Say in a line each what `profile=true` found: of the whole update, and of its largest costs."""
    found = read_profile(folder)
    if found is None:
        return []
    costs = "; ".join(f"{one['name']} {100 * one['share']:.1f} %" for one in found["costs"])
    return [
        ("seconds an update, profiled", f"{found['seconds_per_update']:.3g}"),
        ("outside networks", f"{100 * found['outside_networks']:.1f} % of an update"),
        ("largest costs of an update", costs),
    ]


def _share(distance: float | None) -> str:
    return "" if distance is None else f"{100 * distance:.3g} % of their norm"


def _texts(values: dict[str, str]) -> Facts:
    return [(name, str(value)) for name, value in values.items()]
