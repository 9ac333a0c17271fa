"""Trackers are told what the run folder keeps, under names that tell training, pace and images apart."""

import pytest
from accelerate import Accelerator
from omegaconf import OmegaConf
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from alignbench.configuration.build import conf_folder
from alignbench.models.tiny_random import tiny_adapter
from alignbench.store.run_folder import RunFolder
from alignbench.training.tracking import Tracking
from alignbench.training.train import train
from tests.tiny_runs import RandomPairs, log_of, settings, sft


def tracking(root, name="tensorboard"):
    tracker = OmegaConf.load(conf_folder() / "tracker" / f"{name}.yaml")
    cfg = OmegaConf.create({"results": str(root), "seed": 3, "tracker": tracker})
    return Tracking(cfg, "run", Accelerator(cpu=True))


def events(root):
    found = EventAccumulator(str(root / "tensorboard" / "run"))
    found.Reload()
    return found


def test_every_update_is_tracked_as_it_is_logged(tmp_path):
    tracker = tracking(tmp_path)
    cfg, folder = settings(max_train_steps=3), RunFolder(tmp_path / "run")
    train(cfg, tiny_adapter("flux"), sft(), RandomPairs(), folder, Accelerator(cpu=True), tracking=tracker)
    tracker.finish()
    found = events(tmp_path)
    for name in ("loss", "grad_norm", "lr"):
        told = [(event.step, event.value) for event in found.Scalars(f"train/{name}")]
        assert told == [(line["step"], pytest.approx(line[name])) for line in log_of(tmp_path / "run")]
    assert all(event.value > 0 for event in found.Scalars("perf/seconds_per_update"))


def test_pictures_and_tables_are_tracked(tmp_path):
    Image.new("RGBA", (8, 6), "red").save(tmp_path / "red.png")
    tracker = tracking(tmp_path)
    tracker.picture("eval/red", tmp_path / "red.png", step=2)
    tracker.table("eval/table", ["evaluator", "median"], [["pickscore", 0.21]], step=2)
    tracker.finish()
    found = events(tmp_path)
    (picture,) = found.Images("eval/red")
    assert (picture.step, picture.width, picture.height) == (2, 8, 6)
    (table,) = found.Tensors("eval/table/text_summary")
    assert table.tensor_proto.string_val[0].decode().splitlines() == [
        "| evaluator | median |", "| --- | --- |", "| pickscore | 0.21 |",
    ]  # fmt: skip


def test_without_a_tracker_nothing_is_written(tmp_path):
    tracker = tracking(tmp_path, "none")
    tracker.log({"train/loss": 1.0}, step=1)
    tracker.picture("eval/none", tmp_path / "absent.png", step=1)
    tracker.table("eval/table", ["a"], [[1]], step=1)
    tracker.finish()
    assert not list(tmp_path.iterdir())
