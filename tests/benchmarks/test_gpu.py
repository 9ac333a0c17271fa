"""The GPU benchmark measures what it has time for, survives parts that fail, and runs whole on a CPU at tiny scale."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.gpu.runner import MACHINE, RESERVE_SECONDS, Part, Runner
from benchmarks.gpu.table import markdown

ROOT = Path(__file__).resolve().parents[2]
TRAINING = {
    "seconds": {"rollout": 0.0, "forward": 2.0, "backward": 4.0, "other": 2.0},
    "samples_an_update": 4,
    "seconds_a_sample": 2.0,
    "share_outside_networks": 0.25,
    "share_of_matmul_rate": 0.5,
    "tflop": {"forward": 100.0},
    "peak_memory_gib": 12.34,
    "stated_gib": 20.2,
}


def figures(name, scale):
    """Measure parts that are made up."""
    if name == MACHINE:
        return {"device": "a device", "versions": {"torch": "2.11"}}
    if name == "breaks":
        raise ValueError("out of memory")
    if name == "dies":
        os._exit(9)
    if name == "hangs":
        time.sleep(600)
    print(f"{name} at {scale} scale")
    return TRAINING if name == "training" else {"found": name}


def run(folder, parts, seconds=60.0, scale="full"):
    return Runner(figures, folder, scale, time.monotonic() + seconds).run(parts)


def part(name, seconds=1.0, needs_gpu=False):
    return Part(name, seconds, lambda scale: pytest.fail("it is measured by its name, in another process"), needs_gpu)


def test_parts_that_fail_take_nothing_from_the_others(tmp_path):
    done = run(tmp_path, [part("breaks"), part("dies"), part("training")])
    assert [entry["status"] for entry in done] == ["failed", "failed", "measured"]
    assert done[0]["reason"] == "exit status 1: ValueError: out of memory"
    assert done[1]["reason"].startswith("exit status 9")
    assert done[2]["figures"] == TRAINING
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert (found["scale"], found["machine"]["device"], found["parts"]) == ("full", "a device", done)
    assert "training at full scale" in (tmp_path / "gpu.log").read_text()


def test_what_does_not_fit_into_the_time_is_skipped(tmp_path):
    done = run(tmp_path, [part("large", 100), part("small", 1)])
    assert [entry["status"] for entry in done] == ["skipped", "measured"]
    assert done[0]["reason"].endswith("s were left, 100 are expected")


def test_what_takes_too_long_is_ended(tmp_path):
    entry = Runner(figures, tmp_path, "full", time.monotonic() + RESERVE_SECONDS + 0.2)._in_process("hangs")
    assert entry["status"] == "ended"
    assert 0.1 < entry["took_seconds"] < 60


def test_at_tiny_scale_estimates_do_not_count_and_parts_for_gpus_are_left_out(tmp_path):
    done = run(tmp_path, [part("large", 1000), part("attention", needs_gpu=True)], scale="tiny")
    assert [entry["status"] for entry in done] == ["measured", "skipped"]


def test_nothing_is_measured_on_a_machine_that_cannot_say_what_it_is(tmp_path):
    def broken(name, scale):
        raise RuntimeError("no CUDA")

    with pytest.raises(RuntimeError, match="nothing can be measured: exit status 1: RuntimeError: no CUDA"):
        Runner(broken, tmp_path, "full", time.monotonic() + 60).run([part("small")])


def test_the_table_has_a_row_for_each_training_and_a_line_for_all_else():
    rates = {"matmul_tflops": {"bfloat16": 788.4}, "copy_gb_per_second": 4300.0}
    scores = {"evaluator": "pickscore", "way": "singly", "images_per_second": 40.0, "network_share": 0.5}
    parts = [
        {"name": "flux_dpo", "status": "measured", "figures": TRAINING},
        {"name": "rates", "status": "measured", "figures": rates},
        {"name": "scoring", "status": "measured", "figures": {"measured": [scores | {"ratios": {"images": 12.5}}]}},
        {"name": "cuda_tests", "status": "measured", "figures": {"exit_status": 0, "passed": 9}},
        {"name": "late", "status": "skipped", "reason": "3 s were left, 45 are expected"},
    ]
    machine = {"device": "H200", "versions": {"torch": "2.11", "peft": "0.21"}}
    text = markdown({"scale": "full", "seconds": 123.4, "machine": machine, "parts": parts})
    assert (
        text
        == """H200; torch 2.11, peft 0.21; 123 s at full scale.

| part | seconds a sample | by phase | outside networks | of the matmul rate | peak memory, GiB |
|---|---|---|---|---|---|
| `flux_dpo` | 2 | forward 0.5, backward 1, other 0.5 | 25.0% | 50% | 12.3 (20.2 stated) |

- `rates`: bfloat16 788 TFLOP/s in matrix products; copies at 4.3e+03 GB/s
- `scoring`: pickscore singly 40 images/s, 50% in networks, 12.5 times as long
- `cuda_tests`: exit_status 0, passed 9
- `late` skipped: 3 s were left, 45 are expected
"""
    )


@pytest.mark.matrix
def test_it_runs_whole_on_a_cpu_at_tiny_scale(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu", "--scale", "tiny", "--minutes", "15", "--out", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True)
    found = json.loads((tmp_path / "gpu.json").read_text())
    status = {entry["name"]: entry["status"] for entry in found["parts"]}
    assert len(status) == len(found["parts"]) > 15
    failed = [entry for entry in found["parts"] if entry["status"] == "failed"]
    assert not failed, (tmp_path / "gpu.log").read_text()[-4000:]
    of_gpus = {name for name, how in status.items() if how == "skipped"}
    assert of_gpus == {"flux_dpo_cudnn_attention", "sdxl_dpo_compiled", "flux_dpo_flash_attention"}
    (tests,) = [entry["figures"] for entry in found["parts"] if entry["name"] == "cuda_tests"]
    assert "failed" not in tests
    assert (tmp_path / "gpu.md").read_text() == markdown(found)
