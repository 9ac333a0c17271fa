"""Commands of the pages that need nothing but what ships are run as they stand, only smaller, and leave what they say.

By default the short ones of the README, one for each setting that it shows; with `-m matrix` all the others.
"""

import math
import re
import shutil
import subprocess
import sys

import pytest
import yaml

from alignbench.configuration.compose import composed
from tests.docs.test_docs import ROOT, commands
from tests.program import alignbench, manifests, rows

SMALLER = [
    "train.max_train_steps=1",
    "train.total_batch_size=4",
    "train.micro_batch_size=2",
    "data.num_pairs=12",
    "data.num_prompts=12",
    "prompts.limit=4",
    "sampling.num_inference_steps=2",
]
GROUPS = {"group_size": 2, "updates_per_round": 1}  # of methods that compare images of one prompt
ONE_OF_EACH = ["seed=0", "model=sd15_mini", "method=smpo"]  # of an experiment that sweeps by itself
ELSEWHERE = (  # others' machines, weights or servers; processes of launchers, which import everything anew
    r"\b[A-Z][A-Z_]{2,}\b",  # a placeholder
    r"model=(\w+,)*(flux|sdxl|sd3|sd15)\b",
    r"hydra/launcher=",
    r"evaluators=papers|pickscore",
    r"comparers=openai",
)
SHAPES = {
    "shapes_clip", "shapes_preference", "shapes_annotators",
    "shapes_oracle_agreement", "shapes_oracle_realism", "shapes_oracle_cleanliness",
}  # fmt: skip
STAGES = {"train", "generate", "score", "report"}


def own_commands():
    """Yield every command; those that set only what earlier ones set are marked."""
    shown: set[str] = set()
    for words, page in ((one.values[0], str(one.id).partition(":")[0]) for one in commands()):
        if not re.search("|".join(ELSEWHERE), " ".join(words)):
            sets = {word if word.startswith("stages=") else word.split("=")[0] for word in words}
            sets = {"method." if key.startswith("method.") else key for key in sets}  # of one method or another
            sweeps = {"-m", "experiment"}  # of which one is enough
            seen = words and (sets <= shown or (sets & sweeps and shown & sweeps))
            is_short = page == "README.md" and len(words) <= 2
            marks = [] if is_short and not seen else [pytest.mark.matrix]
            yield pytest.param(words, id=" ".join(words), marks=marks)
            shown |= sets


def smaller(given):
    """Return a command with little to do; a sweep keeps the first two choices of its first list, and one of others."""
    lists = [word for word in given if re.fullmatch(r"[\w.]+=(range\(.*\)|[^\[\]]*,[^\[\]]*)", word)]
    cut = {word: re.sub(r"range\(0,\d+\)", "0,1", word) for word in lists[:1]}
    cut |= {word: word.replace("range(0,", "0,").split(",")[0] for word in lists[1:]}
    cut = {word: ",".join(text.split(",")[:2]) for word, text in cut.items()}
    sweeps_itself = any(word.startswith("experiment=") for word in given)
    evaluated = ["validation.prompts.limit=4"] if "validation=shapes" in given else []
    if any(word.startswith("sampling.stop=") for word in given) and "sampling.looks" not in " ".join(given):
        evaluated.append("sampling.looks=2")
    words = [cut.get(word, word) for word in given]
    method = next((word for word in words if word.startswith("method=")), "method=srpo")
    keys = composed([method.split(",")[0], "reward=shapes_clip"]).method
    groups = [f"method.{key}={value}" for key, value in GROUPS.items() if key in keys]
    if "," in method and groups:  # Hydra takes no keys of methods that are swept over
        groups = ["train.total_batch_size=16"]
    return [*words, *(ONE_OF_EACH if sweeps_itself else []), *SMALLER, *groups, *evaluated]


def test_a_sweep_is_cut_to_two_jobs():
    assert smaller(["-m", "method=sft,dpo,kto", "seed=0,1,2"])[:3] == ["-m", "method=sft,dpo", "seed=0"]
    assert smaller(["-m", "method=dpo", "seed=range(0,5)"])[:3] == ["-m", "method=dpo", "seed=0,1"]
    assert smaller(["stages=[score,report]"])[0] == "stages=[score,report]"


@pytest.fixture(scope="session")
def with_base_run(tmp_path_factory):
    """Return a function that gives a results folder the base run of a model, which the commands would make first."""
    root, made = tmp_path_factory.mktemp("base"), set()

    def copy(model, results):
        if model not in made:
            alignbench("method=base", f"model={model}", "stages=[generate,score]", *SMALLER, f"results={root / model}")
            made.add(model)
        shutil.copytree(root / model, results, dirs_exist_ok=True)

    return copy


@pytest.mark.slow
@pytest.mark.parametrize("given", list(own_commands()))
def test_every_command_of_the_shapes_world_does_what_it_says(given, tmp_path, with_base_run):
    if "--cfg" in given:
        shown = yaml.safe_load(alignbench(*given).stdout)
        chosen = dict(word.split("=") for word in given if "=" in word)
        assert (shown["method"]["name"], shown["model"]["name"]) == (
            chosen.get("method", "srpo"),
            chosen.get("model", "flux_mini"),
        )
        return
    if "--info" in given:  # which Hydra logs, and logging is off in a process that has run a job
        command = [sys.executable, "-m", "alignbench", *given]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for file in ("world/diffusion_mini", "recipe/srpo/diffusion_mini", "preset/srpo_paper/diffusion_mini"):
            assert f"| {file} " in listed
        return

    here = [*smaller(given), f"results={tmp_path}"]
    chosen = {key: text.split(",") for key, text in (word.split("=", 1) for word in here if "=" in word)}
    methods, models = chosen.get("method", ["srpo"]), chosen.get("model", ["flux_mini"])
    stages = set(yaml.safe_load(",".join(chosen["stages"]))) if "stages" in chosen else STAGES
    for model in [] if methods == ["base"] and "shard" in chosen else models:  # a part of the base run itself
        with_base_run(model, tmp_path)
    if not stages & {"train", "prepare"} and methods != ["base"]:  # pages say it of what is there already
        alignbench(*(word for word in here if not word.startswith(("stages=", "shard="))))
    alignbench(*here)

    runs = manifests(tmp_path)
    trained = {name: run for name, run in runs.items() if run["method"] != "base"}
    if "prepare" in stages:
        assert list((tmp_path / "cache").rglob("*.safetensors"))
    if methods == ["base"] or not stages - {"prepare"}:
        assert not any((tmp_path / name / "policy").exists() for name in runs)
    else:
        assert {(run["method"], run["model"]) for run in trained.values()} == {(a, b) for a in methods for b in models}
        apart = {key: texts for key, texts in chosen.items() if "[" not in texts[0] and not key.startswith("sampling.")}
        assert len(trained) == math.prod(map(len, apart.values()))
        assert {run["budget"]["optimizer_steps"] for run in trained.values()} == {1}
        assert all((tmp_path / name / "policy").is_dir() for name in trained)
    if "generate" in stages:
        part, parts = map(int, chosen.get("shard", ["1/1"])[0].split("/"))
        each = int(chosen.get("sampling.num_images_per_prompt", ["1"])[0])
        for name in trained or runs:
            newest = max((tmp_path / name).glob("images/*/*"), key=lambda folder: folder.stat().st_mtime_ns)
            assert len(list(newest.glob("*.png"))) == 4 * each // parts + (part <= 4 * each % parts)
    if "report" in stages and "shard" not in chosen:
        table = rows(tmp_path / "leaderboard.csv")
        assert {name for row in table for name in row["run"].split()} == set(runs)
        assert {row["evaluator"] for row in table} == SHAPES | {
            f"{one}_comparer" for one in chosen.get("comparers", ())
        }
        assert all(math.isfinite(float(row["median"])) for row in table)
        assert (tmp_path / "index.html").stat().st_size > 0
