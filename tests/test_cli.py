import io
import subprocess
import sys

import pytest
from hydra._internal.utils import get_args_parser

from alignbench.cli import _rewrite_words, _time_left, make_folder, read_flags
from alignbench.configuration.compose import as_composed, for_sweep
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
    _rewrite_words(args, as_composed(args.overrides))
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
    args = get_args_parser().parse_args()
    _rewrite_words(args, as_composed(args.overrides))
    assert sys.argv == words


def test_what_all_jobs_of_a_sweep_have_in_common_is_read_with_the_method_of_each():
    words = ["method=nft,awm", "method.group_size=4", "train.optimizer={lr:[1,2]}", "results=a/b", "+method.x=1"]
    assert for_sweep(words, multirun=True) == [
        "method=nft,awm", "method.group_size=choice(4)", "train.optimizer=choice({lr:[1,2]})", "results=a/b",
        "+method.x=1",
    ]  # fmt: skip
    assert for_sweep(words, multirun=False) == words
    assert for_sweep(["experiment=mini_table", "train.ema_decay=null"], multirun=False)[1].endswith("=choice(null)")


@pytest.mark.parametrize(
    ("word", "hint"),
    [("--method=dpo", "method=dpo?"), ("--method", "method=VALUE?"), ("--hlep", "did you mean --help?")],
)
def test_a_flag_that_is_none_is_refused_in_a_sentence(word, hint):
    with pytest.raises(UserError, match="is no flag") as refused:
        read_flags([word, "model=sd15_mini"])
    assert hint in str(refused.value)
    with pytest.raises(UserError, match="--cfg"):
        read_flags(["--cfg", "everything"])


def test_a_results_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "results"):
        with pytest.raises(UserError, match=f"^results={folder} cannot be made"):
            make_folder(folder)


def test_a_sign_that_the_locale_has_not_is_replaced(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    with endings.one_sentence():
        print("shapes_clip \N{UPWARDS ARROW} b", flush=True)
    assert written.getvalue() == b"shapes_clip ? b\n"


HEAVY = {"torch", "numpy", "pandas", "scipy", "diffusers", "transformers", "accelerate", "peft", "bitsandbytes"}


@pytest.mark.parametrize("words", [["--help"], ["method=dpo", "model=sd15_mini", "--cfg", "job"]])
def test_what_only_prints_text_imports_no_heavy_package(words):
    code = f"import sys; from alignbench import cli; cli.main(); sys.exit(' '.join({HEAVY} & {{*sys.modules}}) or 0)"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "method" in done.stdout
