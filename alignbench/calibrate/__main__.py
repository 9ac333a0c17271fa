"""Do the evaluators score as they should?

    python -m alignbench.calibrate evaluators=papers evaluators.pickscore.source=FOLDER

scores a few shipped images with every evaluator whose weights are present and compares the scores with stored ones; a
run does the same before it scores. Exit status 1 means that an evaluator was refused.

    python -m alignbench.calibrate --official image_reward --reduced --out image_reward.json
    python -m alignbench.calibrate --official image_reward --weights ImageReward.pt --out image_reward.json

proves that an evaluator scores as its official package does. The package runs in an isolated environment, which is made
once. Both sides score the same images with the same weights, the package by its own calls. The result is written
whatever the difference; beyond the bound the exit status is 1.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from rich.table import Table
from transformers.utils import logging as transformers_logging

from alignbench.calibrate.environments import Requirements, environment
from alignbench.calibrate.samples import SAMPLES, write_samples
from alignbench.configuration.build import build, conf_folder
from alignbench.configuration.compose import composed
from alignbench.errors import UserError
from alignbench.files import cache_folder, home_path, sha256, write_json
from alignbench.scoring.calibration import (
    RECORD,
    Calibration,
    compare,
    largest_difference,
    read_values,
    store,
)
from alignbench.scoring.score import info
from alignbench.store.scores import ScoreInfo
from alignbench.terminal.console import open_console
from alignbench.terminal.endings import one_sentence

OURS = ("torch", "transformers")  # packages that could move our scores


@dataclass(frozen=True)
class Official:
    """An official package and what it takes to compare with it.

    Attributes:
        requirements: of its environment.
        packages: those whose versions are recorded.
        evaluator: the one that stands for it.
        reduced: arguments of the evaluator that give a small architecture, which the package can be brought to; for
            hpsv3, what differs in the config.json of its base.
        bound: largest difference of two scores.
        vocabulary: where the path of a vocabulary is kept that the package would fetch.
    """

    requirements: Requirements
    packages: tuple[str, ...]
    evaluator: str
    reduced: Mapping[str, Any]
    bound: float
    vocabulary: str | None = None


OFFICIAL = {
    "image_reward": Official(
        requirements=Requirements(
            # the newest transformers that the package runs on, and what fits it
            resolved=(
                "torchvision", "transformers==4.55.4", "diffusers==0.39.0", "accelerate==1.15.0", "datasets==5.0.1",
                "timm==1.0.31", "ftfy==6.3.1", "setuptools<82",
            ),
            alone=("image-reward==1.5", "fairscale==0.4.13", "clip-anytorch==2.6.0"),
        ),
        packages=("image-reward", "transformers", "timm", "torch", "torchvision", "pillow"),
        evaluator="image_reward",
        reduced={
            "vision": {
                "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
            },
            "text": {
                "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
            },
        },
        bound=1e-5,
        vocabulary="evaluators.image_reward.VOCABULARY",
    ),
    "hpsv2": Official(
        requirements=Requirements(
            # what the package imports when it scores; it pins an old protobuf and an old pytest without need
            resolved=(
                "torchvision", "open_clip_torch==3.3.0", "transformers==4.55.4", "timm==1.0.31", "ftfy==6.3.1", "clint",
                "requests",
            ),
            alone=("hpsv2==1.2.0",),
        ),
        packages=("hpsv2", "torch", "torchvision", "pillow"),
        evaluator="hpsv2_1",
        reduced={
            "architecture": {
                "embed_dim": 64,
                "vision_cfg": {"image_size": 224, "patch_size": 32, "width": 64, "head_width": 16, "layers": 2},
                "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2},
            },
        },
        bound=1e-6,
    ),
    "hpsv3": Official(
        requirements=Requirements(
            # what the package imports when it scores; it asks for a training framework besides
            resolved=(
                "torchvision", "transformers==4.45.2", "trl==0.11.4", "peft==0.13.2", "accelerate==1.15.0",
                "datasets==3.0.2", "pandas", "matplotlib", "tensorboard", "fire", "rich", "omegaconf", "requests",
            ),
            alone=("hpsv3==1.0.0",),
        ),
        packages=("hpsv3", "transformers", "torch", "torchvision", "pillow"),
        evaluator="hpsv3",
        reduced={
            "hidden_size": 96, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4,
            "num_key_value_heads": 2, "max_window_layers": 3,
            "rope_scaling": {"type": "mrope", "mrope_section": [4, 4, 4]},
            "vision_config": {
                "depth": 3, "embed_dim": 64, "mlp_ratio": 4, "num_heads": 4, "in_chans": 3, "hidden_size": 96,
                "patch_size": 14, "spatial_merge_size": 2, "spatial_patch_size": 14, "temporal_patch_size": 2,
            },
        },
        bound=1e-5,
    ),
}  # fmt: skip


def compare_official(
    name: str, environments: Path, out: Path, weights: Path | None = None, seed: int = 0, reduced: bool = False
) -> bool:
    """Score the samples on both sides, print and write the differences, and say whether they keep within the bound.

    Args:
        name: a key of OFFICIAL.
        environments: folder of the isolated environments.
        out: JSON file with the scores of both sides.
        weights: published weights; random ones by default.
        seed: of random weights.
        reduced: compare a small architecture, which takes seconds.

    Raises:
        UserError: the environment cannot be made, or the official package fails in it.
    """
    official = OFFICIAL[name]
    python = environment(environments / name, official.requirements)
    architecture = official.reduced if reduced else {}
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        images, prompts = write_samples(folder)
        job = {
            "official": name,
            "packages": official.packages,
            "images": images,
            "prompts": prompts,
            "weights": None if weights is None else str(weights.resolve()),
            "seed": seed,
            "architecture": architecture,
            "vocabulary": str(get_object(official.vocabulary)) if official.vocabulary else None,
        }
        theirs = run_official(python, job, folder)
        config = OmegaConf.load(conf_folder() / "evaluator" / f"{official.evaluator}.yaml")
        arguments = theirs.get("arguments", architecture)
        evaluator = instantiate(config, source=theirs["weights"], precision="float32", **arguments)
        ours = evaluator.score([Image.open(folder / image) for image in images], prompts).tolist()
        encoded = evaluator.encode_prompts(prompts) if "token_ids" in theirs else ()
        token_ids = [[int(token) for token in ids] for ids in encoded] or None

    rows = [
        {"size": size, "mode": mode, "prompt": prompt, "official": official_score, "ours": score}
        for (size, mode, prompt), official_score, score in zip(SAMPLES, theirs["scores"], ours, strict=True)
    ]
    largest = max(abs(row["official"] - row["ours"]) for row in rows)
    for number, row in enumerate(rows):
        width, height = row["size"]
        scores = f"official {row['official']:+.7f}  ours {row['ours']:+.7f}"
        print(f"{number}: {width}x{height} {row['mode']}  {scores}  difference {row['ours'] - row['official']:+.1e}")
    print(f"largest difference {largest:.1e}, bound {official.bound:.0e}")
    same_ids = theirs.get("token_ids") == token_ids
    if not same_ids:
        print("the token ids differ")
    write_json(
        out,
        {
            "official": name,
            "weights": f"random, seed {seed}" if weights is None else sha256(weights),
            "seed": seed,
            "architecture": architecture,
            "official_packages": theirs["packages"],
            "our_packages": {package: version(package) for package in OURS},
            "bound": official.bound,
            "largest_difference": largest,
            "samples": rows,
            "token_ids": theirs.get("token_ids"),
        }
        | theirs.get("recorded", {}),
    )
    return same_ids and largest <= official.bound


def run_official(python: Path, job: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Run a job of `official.py` in an isolated environment, in a folder of its own, and return what came of it.

    Raises:
        UserError: the official package fails.
    """
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    script = Path(__file__).with_name("official.py")
    # isolated from our packages; the hub is not asked, files beside the job stand in for it
    command = [str(python), "-I", str(script), "job.json"]
    settings = {"HF_HUB_OFFLINE": "1"}
    if job.get("device", "cpu") == "cpu":  # a package may choose for itself
        settings["CUDA_VISIBLE_DEVICES"] = ""
    done = subprocess.run(command, cwd=folder, env=os.environ | settings, check=False)
    if done.returncode:
        raise UserError(f"the official package {job['official']} failed; the lines above say why")
    return json.loads((folder / "official.json").read_text(encoding="utf-8"))


def calibrate_all(overrides: list[str], precision: str | None, keep: bool) -> bool:
    """Calibrate all evaluators of a configuration whose weights are present; print and return whether all passed.

    Args:
        overrides: as on the main command line, such as evaluators=papers.
        precision: also say how far the scores in this precision are from those in float32.
        keep: store the scores with the program, as what later ones are compared with.

    Raises:
        UserError: the configuration cannot be composed, or no evaluator's weights are present.
    """
    cfg = composed(overrides)
    record = read_values(Path(cfg.results) / RECORD)
    found: dict[str, tuple[ScoreInfo, Calibration]] = {}
    rows, passed = Table("evaluator", "outcome", "largest difference", "scores"), True
    for name, node in cfg.evaluators.items():
        try:
            evaluator = build(node)
        except UserError as error:
            rows.add_row(str(name), "absent", "", str(error))
            continue
        key = f"{evaluator.name}@{evaluator.version}"
        before = record.get(key)
        same = before is not None and before["info"] == info(evaluator).record()
        try:
            calibration = compare(evaluator, before["values"] if before is not None and same else None)
        except UserError as error:
            rows.add_row(key, "refused", "", str(error))
            passed = False
            continue
        found[key] = info(evaluator), calibration
        scores = [evaluator.display_scale * value for value in calibration.values]
        difference = calibration.largest_difference
        rows.add_row(key, calibration.outcome, "" if difference is None else f"{difference:.1e}", _listed(scores))
        if precision is not None and "precision" in node:
            evaluator.release()
            faster = build(DictConfig({**node, "precision": precision}))
            moved = largest_difference(evaluator, compare(faster, None).values, calibration.values)
            rows.add_row(f"{key} in {precision}", f"against {evaluator.precision}", f"{moved:.1e}", "")
            faster.release()
        evaluator.release()
    open_console(file_width=160).print(rows)
    if not found and passed:
        raise UserError("no evaluator has its weights here; give their folders, as in evaluators.pickscore.source=DIR")
    if keep:
        store(found)
    return passed


def _listed(scores: Sequence[float]) -> str:
    return " ".join(f"{score:.4f}" for score in scores)


def main() -> None:
    """Calibrate or compare as the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m alignbench.calibrate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", help="as of the main program: evaluators=papers results=DIR ...")
    parser.add_argument("--precision", help="also tell how far bfloat16 or float16 is from the configured precision")
    parser.add_argument("--store", action="store_true", help="store the scores with the program")
    group = parser.add_argument_group("comparison with an official package")
    group.add_argument("--official", choices=[*OFFICIAL], help="the package to compare with")
    group.add_argument("--out", type=home_path, help="JSON file for the scores of both sides")
    group.add_argument("--weights", type=home_path, help="published weights; random ones by default")
    group.add_argument("--seed", type=int, default=0, help="of random weights")
    group.add_argument("--reduced", action="store_true", help="a small architecture with random weights, in seconds")
    group.add_argument("--environments", type=home_path, help="folder of the isolated environments")
    arguments = parser.parse_args()
    if arguments.official is not None and arguments.out is None:
        parser.error("--official needs --out, where the scores of both sides go")
    if arguments.official is not None and arguments.overrides:
        parser.error(f"--official compares one package; {arguments.overrides[0]} has no part in it")
    if arguments.reduced and arguments.weights is not None:
        parser.error("--reduced is for random weights; published ones have the published architecture")
    transformers_logging.disable_progress_bar()
    with one_sentence():
        if arguments.official is None:
            passed = calibrate_all(arguments.overrides, arguments.precision, arguments.store)
        else:
            environments = arguments.environments or cache_folder() / "environments"
            passed = compare_official(
                arguments.official, environments, arguments.out, arguments.weights, arguments.seed, arguments.reduced
            )
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
