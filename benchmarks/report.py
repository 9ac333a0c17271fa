"""Time the whole report: base and six methods on HPDv2 and Parti (4,832 prompts), five evaluators, 10,000 resamples.

    python benchmarks/report.py [--methods 6] [--seeds 1] [--resamples 10000] [--keep FOLDER] [--profile]

The scores are made up and written as the score stage writes them; the time is that of making tables and pictures from
them. Nothing is downloaded and no network runs.
"""

import argparse
import cProfile
import pstats
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from alignbench.report.write import write_report
from alignbench.store.image_records import PromptRecord, SamplingRecord, image_name, write_prompts, write_sampling
from alignbench.store.manifest import Manifest
from alignbench.store.run_folder import RunFolder
from alignbench.store.scores import ScoreInfo, Scores

METHODS = (
    "sft", "dpo", "kto", "mapo", "smpo", "srpo", "inpo", "refl", "draft", "grpo", "nft", "ddpo", "dpok", "d3po", "spo",
    "pepg",
)  # fmt: skip
# (name, version, display scale, centre, spread of prompts, spread of images, one method's usual gain)
EVALUATORS = (
    ("pickscore", "1", 100.0, 0.21, 0.010, 0.006, 0.001),
    ("hpsv2_1", "1", 100.0, 0.26, 0.020, 0.012, 0.003),
    ("image_reward", "1", 1.0, 0.20, 0.70, 0.60, 0.08),
    ("aesthetic", "1", 1.0, 5.40, 0.35, 0.30, 0.03),
    ("clip_score", "1", 100.0, 0.34, 0.040, 0.025, 0.001),
)
SAMPLING_HASH = "0123456789"

EvaluatorRow = tuple[str, str, float, float, float, float, float]


def prompt_sets() -> dict[str, list[PromptRecord]]:
    """HPDv2: 3,200 prompts in 4 styles, 28 of them repeats. Parti: 1,632 prompts, a category and a challenge each."""
    styles = ("anime", "concept-art", "paintings", "photo")
    hpdv2 = [(f"{styles[i // 800]}-{i % 800:05d}", f"prompt {i if i < 3172 else i - 3172}", (styles[i // 800],))
             for i in range(3200)]  # fmt: skip
    parti = [
        (f"parti-{i:05d}", f"parti prompt {i}", (f"category {i % 12}", f"challenge {i % 11}")) for i in range(1632)
    ]
    return {
        name: [PromptRecord(key, text, groups, (image_name(key, 0),)) for key, text, groups in rows]
        for name, rows in (("hpdv2", hpdv2), ("parti", parti))
    }


def write_runs(
    root: Path,
    num_methods: int,
    num_seeds: int = 1,
    sets: Mapping[str, Sequence[PromptRecord]] | None = None,
    evaluators: Sequence[EvaluatorRow] = EVALUATORS,
) -> None:
    """Write run folders of base and `num_methods` methods, the latter with `num_seeds` training seeds each.

    Args:
        sets: prompt sets by name; HPDv2 and Parti by default.
    """
    rng = np.random.default_rng(0)
    sets = prompt_sets() if sets is None else sets
    difficulty = {
        (name, evaluator[0]): rng.normal(size=len(rows)) for name, rows in sets.items() for evaluator in evaluators
    }
    for place, method in enumerate(("base", *METHODS[:num_methods])):
        for seed in range(num_seeds) if method != "base" else (None,):
            folder = RunFolder(root / f"{method}-sd15-{seed}")
            folder.open(Manifest(folder.name, method, "sd15", seed, f"{method}{seed}", method))
            for name, rows in sets.items():
                images = folder.images(name, SAMPLING_HASH)
                write_prompts(images, rows)
                write_sampling(images, SamplingRecord(name, 50, 7.5, "constant", 0, 1, len(rows), subset=False))
                folder.complete("generate", name, [images / "prompts.jsonl", images / "sampling.json"])
                files = []
                for evaluator, version, scale, centre, prompt_sd, image_sd, gain in evaluators:
                    shift = gain * place * (1 + 0.1 * rng.normal())
                    score = (
                        centre + shift + prompt_sd * difficulty[name, evaluator] + image_sd * rng.normal(size=len(rows))
                    )
                    info = ScoreInfo(evaluator, version, display_scale=scale)
                    files.append(folder.score_file(name, SAMPLING_HASH, evaluator, version))
                    Scores.of(info, [row.prompt_id for row in rows], [0] * len(rows), score, [""] * len(rows)).write(
                        files[-1]
                    )
                folder.complete("score", name, files)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--methods", type=int, default=6, help=f"besides base, at most {len(METHODS)}")
    parser.add_argument("--seeds", type=int, default=1, help="training seeds of each method")
    parser.add_argument("--resamples", type=int, default=10_000)
    parser.add_argument("--keep", type=Path, help="results root to write to and leave; otherwise a temporary folder")
    parser.add_argument("--profile", action="store_true", help="say where the time went; profiling itself takes some")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = arguments.keep or Path(temporary)
        write_runs(root, arguments.methods, arguments.seeds)
        profile = cProfile.Profile()
        if arguments.profile:
            profile.enable()
        wall, cpu = time.perf_counter(), time.process_time()
        tables = write_report(root, num_resamples=arguments.resamples)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        profile.disable()
    counts = {name: len(getattr(tables, name)) for name in ("leaderboard", "win_rates", "ranking")}
    print(", ".join(f"{count} rows of {name}" for name, count in counts.items()))
    print(f"wall {wall:.1f} s, CPU {cpu:.1f} s")
    if arguments.profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    main()
