"""Export trained weights: `python -m alignbench.export RUN_OR_POLICY --format merged|lora|comfyui --out FOLDER`, or the
images of a results folder: `python -m alignbench.export RESULTS --format dataset --out FOLDER`.

- merged: the whole network as diffusers saves it, adapters added to the weights. ComfyUI reads it as a diffusion model.
- lora: adapters as diffusers saves them; of weights that were trained whole, the nearest ones of `--rank`.
- comfyui: the same adapters in one file under keys that ComfyUI reads.
- dataset: images of all runs with their prompts and scores, which `datasets.load_dataset` reads.

A run says itself what it was made of; for other weights, say it as in any command: `model=sdxl
model.pretrained_model_name_or_path=FOLDER`. Beside the files lies a README.md with scores, settings and the lines that
load them. Nothing is uploaded without `--push-to-hub owner/name`.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

from alignbench.configuration.build import build, trains
from alignbench.configuration.run_config import read_run_config
from alignbench.errors import UserError
from alignbench.exports.dataset import export_dataset
from alignbench.exports.model_card import PLACE, loading_lines, model_card
from alignbench.files import home_path, replacing_folder, write_text
from alignbench.stages.start import load_weights, start_run
from alignbench.stages.trained_weights import Source, find_source
from alignbench.terminal.endings import one_sentence

FORMATS = ("merged", "lora", "comfyui")  # of weights
DATASET = "dataset"
COMFYUI_FILE = "{name}_comfyui.safetensors"


def main() -> None:
    """Export as the command line says. See `alignbench.terminal.endings` for its exit status."""
    args = arguments()
    transformers_logging.disable_progress_bar()
    with one_sentence():
        if args.format == DATASET:
            if args.rank is not None or args.settings:
                raise UserError("--format dataset takes neither --rank nor key=value; leave them out")
            export_dataset(Path(args.source), args.out, args.push_to_hub)
        else:
            source = find_source(args.source, args.settings)
            export(source, args.format, args.out, args.rank, args.push_to_hub)
        if args.push_to_hub:
            from huggingface_hub import HfApi

            push(args.out, args.push_to_hub, HfApi(), DATASET if args.format == DATASET else "model")


def export(source: Source, kind: str, out: Path, rank: int | None = None, repository: str | None = None) -> list[str]:
    """Write the weights and their model card into a new folder; return what is said of them, one sentence a fact.

    Args:
        kind: one of FORMATS.
        rank: of adapters to extract; None for the run's own.
        repository: the hub id that the lines of the card load from; None for the folder itself.

    Raises:
        UserError: if the folder is in use, or adapters are asked for where there are none.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out} exists and is not empty; give a new folder")
    if rank is not None and (rank < 1 or kind == "merged"):
        raise UserError(
            f"--rank {rank} is for --format lora or comfyui, and at least 1; --format merged keeps everything"
        )
    if kind != "merged" and rank is None:
        _check_own_adapters(source)
    model = build(source.cfg.model.adapter)
    untouched = {} if rank is None else {key: t.clone() for key, t in model.denoiser.state_dict().items()}
    load_weights(model, source.cfg, source.run)
    facts = []
    if rank is not None:
        facts.append(_extract(model, untouched, rank))
    elif kind == "merged":
        model.fold_adapters()
        facts.append("The whole network; adapters, if there were any, are added to its weights.")
    elif not model.is_lora:
        raise UserError(
            f"{source.policy} holds no LoRA; add --rank N to extract adapters from its change of the weights"
        )
    else:
        facts.append("Adapters as they were trained.")
    file = "merged"
    with replacing_folder(out) as partial:
        if kind == "comfyui":
            file = COMFYUI_FILE.format(name=source.name)
            _save_comfyui(model, partial / file)
        else:
            from alignbench.models.weights.policy_files import LORA_FILE

            file = "merged" if kind == "merged" else LORA_FILE
            model.save_policy(partial)

        def lines(place: str) -> str:
            return loading_lines(source.cfg, model.denoiser_name, file, model.pipeline_class, place)

        write_text(
            partial / "README.md", model_card(source.cfg, source.name, lines(repository or PLACE), facts, source.run)
        )
    for fact in [*facts, f"written to {out}; load it with", *lines(repository or str(out.absolute())).splitlines()]:
        print(fact)
    return facts


def _check_own_adapters(source: Source) -> None:
    """Refuse before anything loads what the configuration of the run that trained the weights tells already."""
    cfg, run = source.cfg, source.run
    if not trains(cfg):
        run = start_run(cfg)
        if run is None:
            return
        cfg = read_run_config(run.config_file)
    assert run is not None
    if cfg.train.tuning != "lora":
        raise UserError(f"{run.path} was trained whole; add --rank N to extract adapters from its change")
    if cfg.model.policy is not None:
        raise UserError(
            f"the adapters of {run.path} belong on top of model.policy={cfg.model.policy}, not on the base model; "
            "add --rank N to extract the change of both, or take --format merged"
        )


def _extract(model: Any, untouched: dict[str, Any], rank: int) -> str:
    """Put the untouched weights back, with adapters that come near to what was trained; say how near."""
    from alignbench.models.weights.low_rank import extract
    from alignbench.models.weights.policy_files import put_adapters

    model.fold_adapters()
    state, kept = extract(model.denoiser, untouched, rank)
    model.denoiser.load_state_dict(untouched)
    put_adapters(model.denoiser, state)
    return (
        f"Adapters of rank {rank}, extracted by SVD; they keep {100 * kept:.1f} % of the squared change of all weights."
    )


def _save_comfyui(model: Any, file: Path) -> None:
    from safetensors.torch import save_file

    save_file(model.comfyui_keys(), file)


def push(folder: Path, repository: str, api: Any, kind: str) -> None:
    """Upload an exported folder to a repository of the hub, private where it is made here.

    Args:
        api: `huggingface_hub.HfApi`.
        kind: of the repository, `model` or `dataset`.
    """
    api.create_repo(repository, repo_type=kind, private=True, exist_ok=True)
    message = "Upload images and scores" if kind == DATASET else "Upload weights and model card"
    api.upload_folder(repo_id=repository, repo_type=kind, folder_path=str(folder), commit_message=message)
    print(f"uploaded to {repository}")


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read a command line, that of this process by default."""
    parser = argparse.ArgumentParser(
        prog="python -m alignbench.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "source",
        type=os.path.expanduser,
        help="a run folder, trained weights (a folder, a file or a hub id), or results",
    )
    parser.add_argument("settings", nargs="*", metavar="key=value", help="what trained weights were made of")
    parser.add_argument("--format", required=True, choices=(*FORMATS, DATASET))
    parser.add_argument("--out", required=True, type=home_path, help="the folder to make")
    parser.add_argument("--rank", type=int, help="extract adapters of this rank")
    parser.add_argument("--push-to-hub", metavar="owner/name", help="upload the folder to this repository")
    return parser.parse_intermixed_args(words)


if __name__ == "__main__":
    main()
