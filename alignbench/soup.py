"""Average trained policies: `python -m alignbench.soup RUN RUN ... --weights 0.5,0.5 --to FOLDER`.

The policies must have started from the same weights. What they learned is averaged: start + sum of weight * change. Of
adapters the products are averaged, not their factors, which would give another network; the result has the sum of their
ranks. If a policy was trained whole, or on top of another policy, the result is a whole network.

The folder can be used wherever a policy can: `python -m alignbench method=base model=NAME model.policy=FOLDER` measures
it. Its soup.json lists the parents, their digests and weights.
"""

import argparse
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alignbench.configuration.build import build
from alignbench.errors import UserError
from alignbench.files import home_path, replacing_folder
from alignbench.models.weights.find_policy import find_policy
from alignbench.stages.start import load_start
from alignbench.stages.trained_weights import Source, find_source
from alignbench.store.origin.soup_record import Parent, SoupRecord
from alignbench.store.training_data import data_of_run, union
from alignbench.terminal.endings import one_sentence

OF_POLICY = ("policy", "policy_revision", "policy_sha256")  # what a manifest says of `model.policy`
NOT_COMPARED = {"torch_dtype"}  # weights are the same in any


def main() -> None:
    """Average as the command line says. See `alignbench.terminal.endings` for its exit status."""
    args = arguments()
    with one_sentence():
        shares = read_shares(args.weights, len(args.runs))
        sources = [find_parent(run) for run in args.runs]
        make_soup(sources, shares, args.to)


def read_shares(text: str | None, num_parents: int) -> list[float]:
    """Return how much each parent counts; all the same without a text.

    Args:
        text: numbers above 0 with commas between, that sum to 1.

    Raises:
        UserError: it is something else, or of another number of parents.
    """
    if text is None:
        return [1 / num_parents] * num_parents
    try:
        shares = [float(word) for word in text.split(",")]
    except ValueError:
        raise UserError(f"--weights {text} is not understood; expected numbers, as in 0.5,0.5") from None
    if len(shares) != num_parents:
        raise UserError(f"--weights {text} has {len(shares)} weights for {num_parents} runs; give one for each")
    if not all(0 < share < math.inf for share in shares):
        raise UserError(f"--weights {text} must be numbers above 0; leave out a run that should not count")
    if not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise UserError(
            f"--weights {text} sum to {sum(shares):g}, and an average needs 1; to go further than the average, set "
            "sampling.strength when it is measured"
        )
    return shares


def find_parent(path: str) -> Source:
    """Return the trained weights of a run.

    Raises:
        UserError: it is not a run, or has no trained weights.
    """
    if not (Path(path) / "manifest.json").is_file():
        raise UserError(
            f"{path} is not a run, so nothing says what it started from; give run folders, and measure other weights "
            "first: python -m alignbench method=base model=NAME model.policy=POLICY"
        )
    return find_source(path, [])


def make_soup(sources: Sequence[Source], shares: Sequence[float], to: Path) -> SoupRecord:
    """Write the average of trained policies into a new folder.

    Args:
        sources: runs, as `find_parent` returns them.
        shares: how much each counts; they sum to 1.

    Raises:
        UserError: the folder is in use, or the policies did not start from the same weights.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UserError(f"--to {to} exists and is not empty; give a new folder")
    check_same_start(sources)
    first = sources[0]
    model = build(first.cfg.model.adapter)
    if first.start is not None:
        assert first.run is not None
        load_start(model, first.cfg, first.run.manifest.start_weights)
        model.fold_adapters()
    kind = _average(model, sources, shares, on_base=first.start is None)
    record = _record(model, sources, shares)
    with replacing_folder(to) as partial:
        model.save_policy(partial)
        record.write(partial)
    for share, source in zip(shares, sources, strict=True):
        print(f"{share:g} of {source.name}")
    print(f"{kind}, written to {to}; measure it with method=base model={first.cfg.model.name} model.policy={to}")
    return record


def check_same_start(sources: Sequence[Source]) -> None:
    """Refuse policies that did not start from the same weights: their changes cannot be added.

    Raises:
        UserError: naming two of them and what differs.
    """
    first, *others = sources
    for other in others:
        one, two = _start_of(first), _start_of(other)
        for key in sorted(one.keys() | two.keys()):
            if one.get(key) != two.get(key):
                raise UserError(
                    f"{first.name} and {other.name} did not start from the same weights ({key}: {one.get(key)} and "
                    f"{two.get(key)}), so what they learned cannot be averaged; give runs of one start"
                )


def _start_of(source: Source) -> dict[str, Any]:
    """Return what a run says of the weights that it started from: files by their digests, folders by their places."""
    assert source.run is not None
    found: dict[str, Any] = {"architecture": source.cfg.model.adapter._target_, **source.run.manifest.start_weights}
    unused = OF_POLICY if source.start is None else ["policy"] if "policy_sha256" in found else []
    kept = {key: value for key, value in found.items() if key not in {*unused, *NOT_COMPARED}}
    return {key: str(Path(value).resolve()) if Path(value).exists() else value for key, value in kept.items()}


def _average(model: Any, sources: Sequence[Source], shares: Sequence[float], on_base: bool) -> str:
    """Put the average into a model that holds the start; return what it is.

    Args:
        on_base: whether the start is the model that `model.policy` is loaded on, so that adapters can stay adapters.
    """
    from alignbench.models.weights.average import average_adapters, average_weights
    from alignbench.models.weights.low_rank import adapters_of
    from alignbench.models.weights.policy_files import put_adapters, read_policy

    saved = [read_policy(model.denoiser_name, source.policy, source.revision) for source in sources]
    if on_base and all(weights.is_lora for weights in saved):
        adapters = []
        for source in sources:
            model.load_policy(source.policy, source.revision)
            adapters.append(adapters_of(model.denoiser))
        model.denoiser.unload_lora()
        put_adapters(model.denoiser, average_adapters(adapters, shares))
        return "adapters"
    start = _copy(model.denoiser.state_dict())
    whole = []
    for source in sources:
        model.denoiser.load_state_dict(start)  # adapters of the last parent became part of it
        model.load_policy(source.policy, source.revision)
        model.fold_adapters()
        whole.append(_copy(model.denoiser.state_dict()))
    model.denoiser.load_state_dict(average_weights(whole, shares))
    return "a whole network"


def _copy(state: dict[str, Any]) -> dict[str, Any]:
    return {name: tensor.clone() for name, tensor in state.items()}


def _record(model: Any, sources: Sequence[Source], shares: Sequence[float]) -> SoupRecord:
    parents, trained_on, data = [], [], []
    for source, share in zip(sources, shares, strict=True):
        assert source.run is not None
        manifest = source.run.manifest
        origin = find_policy(source.policy, model.denoiser_name, source.revision).origin
        digest = origin["policy_sha256"] if "policy_sha256" in origin else origin["policy_revision"]
        method = manifest.display_name or manifest.method
        parents.append(Parent(manifest.run, method, float(share), source.policy, digest))
        trained_on += manifest.trained_on
        data.append(data_of_run(source.run))
    return SoupRecord(parents, list(dict.fromkeys(trained_on)), union(data))


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read a command line, that of this process by default."""
    parser = argparse.ArgumentParser(
        prog="python -m alignbench.soup", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "runs", nargs="+", type=os.path.expanduser, metavar="RUN", help="a run folder with trained weights"
    )
    parser.add_argument("--weights", help="the share of each run, as in 0.5,0.5; all the same by default")
    parser.add_argument("--to", required=True, type=home_path, help="the folder to make")
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
