"""Commands of the pages that need nothing but what ships are run as they stand, only smaller."""

import re
import sys
from typing import Any

import pytest
from tests.test_docs import commands

from alignbench import cli

SMALLER = [
    "train.max_train_steps=1",
    "train.total_batch_size=4",
    "train.micro_batch_size=2",
    "data.num_pairs=12",
    "data.num_prompts=12",
    "prompts.limit=4",
    "sampling.num_inference_steps=2",
]
ONE_OF_EACH = ["seed=0", "model=sd15_mini", "method=smpo"]  # of an experiment that sweeps by itself
ELSEWHERE = (  # others' machines, weights or servers; processes of launchers, which import everything anew
    r"\b[A-Z][A-Z_]{2,}\b",  # a placeholder
    r"model=(\w+,)*(flux|sdxl|sd3|sd15)\b",
    r"hydra/launcher=",
    r"evaluators=papers|pickscore",
)


def own_commands():
    """Return the words of every command once."""
    given: dict[str, Any] = {str(one.values[0]): one.values[0] for one in commands()}
    return [words for words in given.values() if not re.search("|".join(ELSEWHERE), " ".join(words))]


def smaller(given):
    """Return a command with little to do; a sweep keeps the first two choices of its first list, and one of others."""
    lists = [word for word in given if re.fullmatch(r"[\w.]+=(range\(.*\)|[^\[\]]*,[^\[\]]*)", word)]
    cut = {word: re.sub(r"range\(0,\d+\)", "0,1", word) for word in lists[:1]}
    cut |= {word: word.replace("range(0,", "0,").split(",")[0] for word in lists[1:]}
    cut = {word: ",".join(text.split(",")[:2]) for word, text in cut.items()}
    sweeps_itself = any(word.startswith("experiment=") for word in given)
    return [*(cut.get(word, word) for word in given), *(ONE_OF_EACH if sweeps_itself else []), *SMALLER]


def test_a_sweep_is_cut_to_two_jobs():
    assert smaller(["-m", "method=sft,dpo,kto", "seed=0,1,2"])[:3] == ["-m", "method=sft,dpo", "seed=0"]
    assert smaller(["-m", "method=dpo", "seed=range(0,5)"])[:3] == ["-m", "method=dpo", "seed=0,1"]
    assert smaller(["stages=[score,report]"])[0] == "stages=[score,report]"


@pytest.mark.slow
@pytest.mark.parametrize("given", own_commands(), ids=" ".join)
def test_every_command_of_the_shapes_world_does_what_it_says(given, tmp_path, monkeypatch, capfd):
    def run(words):
        monkeypatch.setattr(sys, "argv", ["alignbench", *words])
        cli.main()

    if any(word.startswith("--") for word in given):
        run(given)
    else:
        stages = [word for word in given if word.startswith("stages=")]
        here = [*smaller(given), f"results={tmp_path}"]
        if stages and "train" not in stages[0] and "prepare" not in stages[0]:  # pages say it of what is there already
            run([word for word in here if word not in stages and not word.startswith("shard=")])
        run(here)
        if not stages or "report" in stages[0]:
            assert (tmp_path / "leaderboard.csv").stat().st_size > 0
    assert capfd.readouterr().out
