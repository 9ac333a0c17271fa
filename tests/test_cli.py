import sys

import pytest
from hydra._internal.utils import get_args_parser

from alignbench.cli import _rewrite_words, _time_left
from alignbench.errors import UserError
from alignbench.terminal import endings
from alignbench.terminal.endings import stop


def test_the_time_left_of_a_sweep_follows_its_last_jobs():
    assert _time_left([0.0], 12) == ""
    done_before = [0.0, 1.0, 2.0, 3.0]
    assert _time_left(done_before, 12) == ", 3 s so far, about 9 s left"
    slow = [3.0 + 60.0 * number for number in range(1, 5)]
    assert _time_left([*done_before, *slow], 12) == ", 4 min 03 s so far, about 5 min 00 s left"


@pytest.mark.parametrize(("rank", "said"), [("0", "alignbench: a fault\n"), ("1", "alignbench: process 1: a fault\n")])
def test_what_one_process_finds_wrong_is_told_by_it_if_the_main_one_does_not(monkeypatch, capsys, rank, said):
    pauses = []
    monkeypatch.setattr(endings.time, "sleep", pauses.append)
    monkeypatch.setenv("RANK", rank)
    with pytest.raises(SystemExit) as ended:
        stop(UserError("a fault"))
    assert ended.value.code == 2
    assert capsys.readouterr().err == said
    assert bool(pauses) == (rank != "0")


def test_hydra_reads_a_sum_of_rewards_in_the_words_that_compose_it(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["alignbench", "-m", "method=nft,awm", "reward=[clip_score,hpsv3]", "seed=1"])
    args = get_args_parser().parse_args()
    _rewrite_words(args)
    again = get_args_parser().parse_args()
    assert again.multirun
    assert again.overrides == args.overrides
    assert again.overrides == [
        "reward=several", "+reward@reward.components.clip_score=clip_score", "+reward@reward.components.hpsv3=hpsv3",
        "+reward.weights.clip_score=1.0", "+reward.weights.hpsv3=1.0", "method=nft,awm", "seed=1",
    ]  # fmt: skip


def test_a_command_without_a_sum_is_left_as_it_was_typed(monkeypatch):
    words = ["alignbench", "--cfg", "job", "reward=clip_score", "memory=[offload,checkpointing]"]
    monkeypatch.setattr(sys, "argv", list(words))
    _rewrite_words(get_args_parser().parse_args())
    assert sys.argv == words
