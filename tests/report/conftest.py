import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from alignbench.files import append_json_lines
from alignbench.scoring.evidence import add_evidence
from alignbench.store.image_records import PromptRecord, SamplingRecord, image_name, write_prompts, write_sampling
from alignbench.store.manifest import Budget, Manifest
from alignbench.store.run_folder import RunFolder
from alignbench.store.scores import ScoreInfo, Scores

PROMPTS = {"p0": "a red circle", "p1": "a blue cross", "p2": "a green square", "p3": "a yellow cross"}
GROUPS = {"p0": ("flat",), "p1": ("flat",), "p2": ("shaded",), "p3": ("shaded",)}


def png(colour, name):
    """Return a file of one colour, unlike that of any other name."""
    text, file = PngInfo(), io.BytesIO()
    text.add_text("name", name)
    Image.new("RGB", (64, 64), colour).save(file, "PNG", pnginfo=text)
    return file.getvalue()


@dataclass
class World:
    """A results root filled with runs whose scores the test decides."""

    root: Path

    def run(
        self,
        method,
        scores,
        *,
        seed=0,
        recipe="r",
        model="sd15_mini",
        evaluator="clip",
        version="1",
        prompts=PROMPTS,
        groups=GROUPS,
        prompt_set="shapes",
        sampling_hash="1a2b",
        full_size=None,
        num_images=1,
        trained_on=(),
        picture=None,
        strength=1.0,
        guidance_scale=4.0,
        evidence=None,
        **info,
    ):
        """Add a run, or another evaluator or strength to it; scores are listed by prompt, then image.

        `evidence` is listed as scores are.
        """
        seed = None if method == "base" else seed
        folder = RunFolder(self.root / f"{method}-{model}-{recipe}{seed}")
        steps = 0 if seed is None else 60
        budget = Budget(optimizer_steps=steps, train_seconds=2.0 * steps, peak_memory_gib=steps / 40)
        folder.open(
            Manifest(
                folder.name,
                method,
                model,
                seed,
                config_hash=f"{recipe}{seed}",
                recipe_hash=f"{method}-{recipe}",
                trained_on=list(trained_on),
                selected_step=steps,
                budget=budget,
            )
        )
        scaled = {}
        if strength != 1:
            scaled = {"strength": strength, "strength_kind": "prediction", "base_sampling": sampling_hash}
            sampling_hash = f"{sampling_hash}{round(10 * strength):02d}"
        if guidance_scale != 4:
            sampling_hash = f"{sampling_hash}{round(10 * guidance_scale):03d}"
        images = folder.images(prompt_set, sampling_hash)
        names = {prompt_id: [image_name(prompt_id, k) for k in range(num_images)] for prompt_id in prompts}
        write_prompts(
            images, [PromptRecord(p, text, groups.get(p, ()), tuple(names[p])) for p, text in prompts.items()]
        )
        full = full_size or len(prompts)
        subset = len(prompts) < full
        sampling = SamplingRecord(prompt_set, 20, guidance_scale, "per_prompt", 0, num_images, full, subset, **scaled)
        write_sampling(images, sampling)
        digests = []
        for name in [name for files in names.values() for name in files]:
            content = png(picture or "white", f"{folder.name}/{name}/{guidance_scale}")
            digests.append(hashlib.sha256(content).hexdigest()[:32])
            if picture:
                (images / name).write_bytes(content)
        folder.complete("generate", f"{prompt_set}/1a2b", [images / "prompts.jsonl", images / "sampling.json"])
        ids = [prompt_id for prompt_id in prompts for _ in range(num_images)]
        numbers = [k for _ in prompts for k in range(num_images)]
        file = folder.score_file(prompt_set, sampling_hash, evaluator, version)
        Scores.of(ScoreInfo(evaluator, version, **info), ids, numbers, scores, digests).write(file)
        folder.complete("score", f"{prompt_set}/{sampling_hash}/{evaluator}@{version}", [file])
        if evidence:
            add_evidence(file, list(zip(ids, numbers, strict=True)), digests, evidence)
        if steps:
            for step in range(3):
                append_json_lines(
                    folder.train_log, [{"step": step, "train/loss": 1 / (step + 1), "train/accuracy": 0.5}]
                )
        return folder


@pytest.fixture(autouse=True)
def _no_wait_for_the_disk(monkeypatch):
    """Whether files survive a power cut is no question here."""
    monkeypatch.setattr("os.fsync", lambda _: None)


@pytest.fixture
def world(tmp_path):
    return World(tmp_path / "results")


@pytest.fixture
def small_table(world):
    return filled(world)


def filled(world):
    """Base and two methods, two evaluators, one of them the truth; sft gains a little, dpo much but not truly."""
    num = 40
    prompts = {f"p{i:02d}": f"prompt {i}" for i in range(num)}
    groups = {prompt_id: ("flat" if i % 2 else "shaded",) for i, prompt_id in enumerate(prompts)}
    base = [0.2 + 0.001 * (i * 7 % num) for i in range(num)]
    shift = {"base": 0.0, "sft": 0.002, "dpo": 0.03}
    for method, gain in shift.items():
        scores = [score + gain + 0.004 * (-1) ** (i // 2) * (method != "base") for i, score in enumerate(base)]
        options = {"prompts": prompts, "groups": groups, "trained_on": ["clip"] if method == "dpo" else []}
        world.run(method, scores, display_scale=100.0, picture="white", **options)
        truth = [score - gain for score in base]
        world.run(method, truth, evaluator="shapes_oracle_agreement", **options)
    return world
