"""Runs with images, and studies of them, whose server runs in a process of its own so that it can be killed."""

import os
import re
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from alignbench.store.image_records import PromptRecord, SamplingRecord, image_name, write_prompts, write_sampling
from alignbench.store.manifest import Manifest
from alignbench.store.run_folder import RunFolder
from alignbench.store.scores import ScoreInfo, Scores
from alignbench.study.begin import open_study
from alignbench.votes.ballots import Ballots, Vote
from alignbench.votes.record import StudyFolder

ROOT = Path(__file__).resolve().parents[1]
PROMPTS = {"p0": "a red circle", "p1": "a blue cross", "p2": "a green square", "p3": "a yellow cross"}
SAMPLING = "1a2b"


@dataclass
class World:
    """A results root with runs of one model."""

    root: Path

    def run(self, method, prompts=PROMPTS, *, model="sd15_mini", recipe=None, groups=None, size=(64, 64), seed=0):
        """Add a run; its images differ from those of all other methods and carry its name in their metadata."""
        recipe = recipe or method
        folder = RunFolder(self.root / f"{method}-{model}-{recipe}{seed}")
        training_seed = None if method == "base" else seed
        folder.open(Manifest(folder.name, method, model, training_seed, f"{recipe}{seed}", recipe))
        images = folder.images("shapes", SAMPLING)
        records = [
            PromptRecord(key, text, (groups or {}).get(key, ()), (image_name(key, 0),)) for key, text in prompts.items()
        ]
        write_prompts(images, records)
        write_sampling(images, SamplingRecord("shapes", 20, 4.0, "per_prompt", 0, 1, len(prompts), subset=False))
        note = PngImagePlugin.PngInfo()
        note.add_text("Software", f"made by {method}")
        for record in records:
            colours = np.random.default_rng([*method.encode(), *record.prompt_id.encode()])
            picture = Image.fromarray(colours.integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
            picture.save(images / record.images[0], pnginfo=note, icc_profile=f"made by {method}".encode())
        folder.complete("generate", f"shapes/{SAMPLING}", [images / "prompts.jsonl", images / "sampling.json"])
        return folder.path

    def score(self, run, scores, evaluator="clip", **info):
        """Add an evaluator's scores of a run's images, in the order of their prompts."""
        folder = RunFolder(run)
        ids = [Path(name).stem[:-2] for name in sorted(os.listdir(folder.images("shapes", SAMPLING))) if "png" in name]
        file = folder.score_file("shapes", SAMPLING, evaluator, "1")
        Scores.of(ScoreInfo(evaluator, "1", **info), ids, [0] * len(ids), scores, [""] * len(ids)).write(file)
        folder.complete("score", f"shapes/{SAMPLING}/{evaluator}@1", [file])

    def study(self, *methods, preset="smpo", **settings) -> StudyFolder:
        """Begin a study of these methods, whose runs are made where there are none."""
        names = {path.name.split("-")[0]: path for path in self.root.glob("*-*") if path.is_dir()}
        return open_study([names.get(method) or self.run(method) for method in methods], preset, **settings)


@pytest.fixture
def no_wait_for_the_disk(monkeypatch):
    """Whether files survive a power cut is no question here."""
    monkeypatch.setattr("os.fsync", lambda _: None)


@pytest.fixture
def world(tmp_path, no_wait_for_the_disk):
    return World(tmp_path / "results")


def cast(folder, rater, prompt_id, left, right, answer, *, question="overall", task=None, check=None, passed=None):
    """Put a vote straight into the file, as if a rater of this number had given it."""
    ballots = Ballots(folder.ballots)
    while len(ballots.raters()) <= rater:
        ballots.join(f"rater {len(ballots.raters())}")
    if task is None:
        task = 1 + max((vote.task for vote in ballots.votes() if vote.rater == rater), default=-1)
    ballots.cast(Vote(rater, task, question, prompt_id, left, right, check, passed, answer))
    ballots.close()


@contextmanager
def serving(folder, *options, port=0):
    """Yield the process that serves a study and its address; the process is killed at the end."""
    study = folder.study
    command = [sys.executable, "-m", "alignbench.study", "vote", *(str(folder.root / run) for run in study.runs)]
    command += ["--preset", study.preset, "--name", study.name, "--seed", str(study.seed)]
    command += ["--num-prompts", str(len(study.prompts)), "--checks-per-rater", str(study.checks_per_rater)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [*command, "--port", str(port), *options], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        said = ""
        while "serving" not in said:
            line = process.stdout.readline()
            assert line, f"the server ended with {process.wait()}: {said}"
            said += line
        yield process, re.search(r"serving (\S+)", said)[1]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
