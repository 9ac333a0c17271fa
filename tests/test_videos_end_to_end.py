"""From videos of one's own to a table: training, generation, scores and report of a tiny random model of videos."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from alignbench.models.tiny_random.wan import tiny_wan
from alignbench.videos import write_video
from tests.program import alignbench, manifests

pytestmark = pytest.mark.matrix


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """The words of a run, but for its results."""
    weights, data = tmp_path_factory.mktemp("wan"), tmp_path_factory.mktemp("videos")
    tiny_wan().save_pretrained(weights)
    rng = np.random.default_rng(0)
    for name in "abcdefgh":
        write_video(data / f"{name}.webp", rng.integers(0, 256, (6, 40, 48, 3), dtype=np.uint8), 16)
    rows = [
        {"prompt": f"thing {w}", "image_w": f"{w}.webp", "image_l": f"{lost}.webp"}
        for w, lost in zip("abcd", "efgh", strict=True)
    ]
    (data / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return [
        "method=dpo", "model=wan_video", f"model.pretrained_model_name_or_path={weights}", "model.resolution=32",
        "model.num_frames=5", "model.adapter.max_sequence_length=32", "model.num_inference_steps=2", "data=local",
        f"data.path={data}", "prompts=shapes", "prompts.limit=4", "evaluators=shapes", "calibration=false",
        "train.max_train_steps=2", "train.total_batch_size=2", "train.micro_batch_size=2", "train.mixed_precision='no'",
    ]  # fmt: skip


def test_videos_are_trained_on_made_scored_and_shown(command, tmp_path):
    words = [*command, f"results={tmp_path}", "stages=[prepare,train,generate,score,report]"]
    alignbench(*words)
    runs = manifests(tmp_path)
    assert {manifest["method"] for manifest in runs.values()} == {"base", "dpo"}
    for name in runs:
        videos = sorted((tmp_path / name).glob("images/*/*/*-0.webp"))
        assert len(videos) == 4
        with Image.open(videos[0]) as video:
            assert (video.n_frames, video.size) == (5, (32, 32))
    leaderboard = pd.read_csv(tmp_path / "leaderboard.csv")
    assert set(leaderboard["method"]) == {"base", "dpo"}
    assert leaderboard.loc[leaderboard["method"] == "dpo", "win_rate_vs_base"].notna().all()
    assert list((tmp_path / "report" / "thumbnails").glob("*.webp"))
    assert "the score of a video is the mean over all its 5 frames" in (tmp_path / "leaderboard.md").read_text()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.webp")}
    alignbench(*words)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.webp")} == before


def test_videos_of_a_run_are_paired_by_their_scores_and_trained_on(command, tmp_path):
    base = [word for word in command if not word.startswith(("data", "train."))]
    alignbench(
        *base, "method=base", "sampling.num_images_per_prompt=2", f"results={tmp_path}", "stages=[generate,score]"
    )
    (run,) = manifests(tmp_path)
    words = [word for word in command if not word.startswith("data")]
    data = [
        "data=runs",
        f"data.path={tmp_path / run}",
        "data.evaluator=shapes_clip",
        "train.allow_evaluation_prompts=true",
    ]
    alignbench(*words, *data, f"results={tmp_path}", "stages=[train]")
    assert {manifest["method"] for manifest in manifests(tmp_path).values()} == {"base", "dpo"}
