"""Evaluation images depend on prompt, number and seed, and on nothing else."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from alignbench.data.prompt_looks import first_prompts
from alignbench.data.prompts import Prompt, PromptSet
from alignbench.diffusion.initial_noise import initial_noise
from alignbench.errors import UserError
from alignbench.generation.generate import Sampling, generate, generated, image_set
from alignbench.models.tiny_random import tiny_adapter
from alignbench.store.image_records import read_prompts, read_sampling
from alignbench.store.manifest import Manifest
from alignbench.store.run_folder import RunFolder
from alignbench.work_share import WorkShare
from tests.families import EVERY

SHAPE = (4, 8, 8)


class PaintedSampling(Sampling):
    """A sampling in which a painter is its own sampler."""

    def sampler(self, model, cache):
        return model if isinstance(model, Painter) else super().sampler(model, cache)


SAMPLING = PaintedSampling(num_inference_steps=2, guidance_scale=3.5, batch_size=4)


class Painter:
    """A model that paints its noise, and in a corner what it was asked together; and remembers what it was asked."""

    latent_shape = (3, 4, 4)
    passes_per_image = 2
    samples_alone = False

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.noise: dict[str, torch.Tensor] = {}
        self.fail_after: int | None = None

    def __call__(self, keys, prompts, noise) -> list[np.ndarray]:
        if self.fail_after is not None and len(self.asked) >= self.fail_after:
            raise KeyboardInterrupt
        self.asked += prompts
        self.noise |= dict(zip(prompts, noise, strict=True))
        pictures = (noise.permute(0, 2, 3, 1) * 40 + 128).clamp(1, 255).byte().numpy()
        pictures[:, 0, 0] = sum(map(ord, "".join(prompts))) % 256  # as rounding depends on the whole batch
        return list(pictures)


def painter() -> Any:
    return Painter()


def prompt_set(num: int, full_size: int = 32) -> PromptSet:
    return PromptSet(
        "test", tuple(Prompt(f"p{i:02d}", f"prompt {i}", ("even", "odd")[i % 2 :][:1]) for i in range(num)), full_size
    )


def run_folder(path: Path) -> RunFolder:
    folder = RunFolder(path / "base-test-0")
    folder.open(Manifest(run="base-test-0", method="base", model="test", seed=None, config_hash="0", recipe_hash="0"))
    return folder


def bytes_of(folder: RunFolder) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.images("test", SAMPLING.hash).glob("*.png"))}


# ---- noise


def test_noise_depends_on_prompt_number_and_seed_alone():
    noise = initial_noise("p00", 0, 0, SHAPE)
    assert noise.shape == SHAPE
    assert noise.dtype == torch.float32
    torch.manual_seed(123)  # the global state is no part of it
    assert torch.equal(noise, initial_noise("p00", 0, 0, SHAPE))
    others = [initial_noise("p01", 0, 0, SHAPE), initial_noise("p00", 1, 0, SHAPE), initial_noise("p00", 0, 1, SHAPE)]
    assert all(not torch.equal(noise, other) for other in others)


def test_constant_noise_is_the_same_for_every_prompt_and_that_of_the_papers():
    noise = initial_noise("p00", 0, 0, SHAPE, "constant")
    assert torch.equal(noise, initial_noise("p01", 0, 0, SHAPE, "constant"))
    assert torch.equal(noise, torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)))


def test_constant_noise_of_several_images_is_what_diffusers_draws_for_them():
    together = torch.randn((3, *SHAPE), generator=torch.Generator().manual_seed(7))
    for number in range(3):
        assert torch.equal(initial_noise("p00", number, 7, SHAPE, "constant"), together[number])


def test_a_quantised_network_has_images_of_its_own_and_others_stay_where_they_were():
    assert SAMPLING.hash == "cda68fdef8"  # as before there was a choice
    assert len({replace(SAMPLING, base_bits=bits).hash for bits in (None, 8, 4)}) == 3


def test_noise_is_a_unit_gaussian():
    noise = torch.stack([initial_noise(f"p{i}", 0, 0, SHAPE) for i in range(400)])
    assert noise.mean().abs() < 0.01
    assert (noise.std() - 1).abs() < 0.01
    assert np.abs(np.corrcoef(noise.flatten(1).numpy()) - np.eye(400)).max() < 0.4


def test_noise_is_equal_bit_for_bit_whatever_batch_order_or_number_of_processes(tmp_path):
    whole = prompt_set(32)
    reversed_set = PromptSet("test", whole.prompts[::-1], 32)
    layouts = [(whole, 1, 1), (whole, 16, 1), (reversed_set, 5, 1), (whole, 4, 3)]
    seen = []
    for number, (prompts, batch_size, num_processes) in enumerate(layouts):
        model, folder = painter(), run_folder(tmp_path / str(number))
        for rank in reversed(range(num_processes)):
            generate(
                model,
                prompts,
                replace(SAMPLING, batch_size=batch_size),
                folder,
                WorkShare(rank, num_processes),
                progress=False,
            )
        seen.append(model.noise)
    for noise in seen[1:]:
        assert noise.keys() == seen[0].keys()
        assert all(torch.equal(noise[prompt], seen[0][prompt]) for prompt in noise)


# ---- images


@pytest.mark.parametrize("family", EVERY)
def test_images_agree_within_one_level_whatever_the_batch(tmp_path, family: str):
    model = tiny_adapter(family)
    folders = []
    for batch_size in (1, 4):
        folders.append(run_folder(tmp_path / str(batch_size)))
        generate(model, prompt_set(4), replace(SAMPLING, batch_size=batch_size), folders[-1], progress=False)
    one, four = (
        np.stack([np.array(Image.open(file)) for file in sorted(folder.images("test", SAMPLING.hash).glob("*.png"))])
        for folder in folders
    )
    difference = np.abs(one.astype(int) - four.astype(int))
    assert (difference > 1).mean() <= 0.001
    assert one.std() > 1
    assert (np.abs(np.diff(one.astype(int), axis=0)) > 1).mean() > 0.1  # different prompts, different images


class SizePainter(Painter):
    """A painter whose rounding depends on how many images it makes together."""

    def __call__(self, keys, prompts, noise) -> list[np.ndarray]:
        pictures = super().__call__(keys, prompts, noise)
        for picture in pictures:
            picture[0, 0] = len(prompts)
        return pictures


@pytest.mark.parametrize("num_processes", [1, 2])
def test_images_that_are_made_look_by_look_are_the_same_bit_for_bit(tmp_path, num_processes):
    """30 images in batches of 4: whatever the looks are, the last two of the set are made together."""
    whole, at_once, by_looks = prompt_set(30), run_folder(tmp_path / "at_once"), run_folder(tmp_path / "by_looks")

    def make(prompts, folder):
        model: Any = SizePainter()
        for rank in reversed(range(num_processes)):
            generate(model, prompts, SAMPLING, folder, WorkShare(rank, num_processes), progress=False)
        return len(model.asked)

    make(whole, at_once)
    counts = [0]
    for num in (7, 15, 21, 30):
        look = first_prompts(whole, SAMPLING.seed, num)
        assert not generated(by_looks, look, SAMPLING)
        counts.append(counts[-1] + make(look, by_looks))
        assert num <= counts[-1] <= num + 4 + 2  # a batch that two looks share, and the last of the set
        assert generated(by_looks, look, SAMPLING)
        assert {record.prompt_id for record in read_prompts(by_looks.images("test", SAMPLING.hash))} == {
            prompt.prompt_id for prompt in look
        }
    assert counts[-1] == 30
    assert bytes_of(by_looks) == bytes_of(at_once)


def test_the_folder_says_what_it_holds(tmp_path):
    folder = run_folder(tmp_path)
    sampling = replace(SAMPLING, num_images_per_prompt=2)
    assert not generated(folder, prompt_set(3), sampling)
    generate(painter(), prompt_set(3), sampling, folder, progress=False)
    assert generated(folder, prompt_set(3), sampling)
    images = folder.images("test", sampling.hash)
    records = read_prompts(images)
    assert [record.prompt for record in records] == ["prompt 0", "prompt 1", "prompt 2"]
    assert records[1].images == ("p01-0.png", "p01-1.png")
    assert records[1].groups == ("odd",)
    sample = read_sampling(images)
    assert (sample.num_images_per_prompt, sample.full_size, sample.subset) == (2, 32, True)
    assert {path.name for path in images.iterdir()} == {
        *(f"p{i:02d}-{k}.png" for i in range(3) for k in range(2)), "prompts.jsonl", "sampling.json",
    }  # fmt: skip


def test_the_hash_covers_what_changes_an_image_and_nothing_else():
    changes: list[dict[str, Any]] = [
        {"num_inference_steps": 3}, {"guidance_scale": 4.0}, {"noise": "constant"}, {"seed": 1}, {"scheduler": "PNDM"},
        {"negative_prompt": "blurry"}, {"negative_prompt": ""}, {"true_cfg_scale": 2}, {"resolution": 64},
    ]  # fmt: skip
    hashes = {replace(SAMPLING, **change).hash for change in changes} | {SAMPLING.hash}
    assert len(hashes) == 10
    assert replace(SAMPLING, batch_size=1, num_images_per_prompt=8).hash == SAMPLING.hash
    assert replace(SAMPLING, guidance_scale=4).hash == replace(SAMPLING, guidance_scale=4.0).hash


def test_what_older_folders_are_called_stays():
    """Images and scores of older runs lie under these hashes, which samplings as they were have to find."""
    assert Sampling(16, 3.5).hash == "90e16e8d3d"
    assert Sampling(50, 7.5, noise="constant", seed=1).hash == "1fa7952409"


def test_what_departs_from_the_model_is_noted_and_nothing_else(tmp_path):
    plain, changed = run_folder(tmp_path / "a"), run_folder(tmp_path / "b")
    sampling = replace(SAMPLING, negative_prompt="blurry", resolution=64)
    generate(painter(), prompt_set(1), SAMPLING, plain, progress=False)
    generate(painter(), prompt_set(1), sampling, changed, progress=False)
    notes = [
        json.loads((folder.images("test", one.hash) / "sampling.json").read_bytes())
        for folder, one in ((plain, SAMPLING), (changed, sampling))
    ]
    assert notes[1] == notes[0] | {"negative_prompt": "blurry", "resolution": 64}
    assert read_sampling(plain.images("test", SAMPLING.hash)).negative_prompt is None
    assert image_set(prompt_set(1), sampling, 32).size == (64, 64)
    assert image_set(prompt_set(1), SAMPLING, 32).size == (32, 32)


# ---- repeated, resumed, enlarged


def test_a_second_call_makes_nothing(tmp_path):
    folder, model = run_folder(tmp_path), painter()
    generate(model, prompt_set(6), SAMPLING, folder, progress=False)
    before = bytes_of(folder)
    model.asked.clear()
    generate(model, prompt_set(6), SAMPLING, folder, progress=False)
    assert model.asked == []
    assert bytes_of(folder) == before


def test_a_killed_call_is_resumed_where_it_stopped_with_the_same_images(tmp_path):
    expected, killed = run_folder(tmp_path / "a"), run_folder(tmp_path / "b")
    generate(painter(), prompt_set(10), SAMPLING, expected, progress=False)
    model = painter()
    model.fail_after = 8
    with pytest.raises(KeyboardInterrupt):
        generate(model, prompt_set(10), SAMPLING, killed, progress=False)
    assert not generated(killed, prompt_set(10), SAMPLING)
    model = painter()
    generate(model, prompt_set(10), SAMPLING, killed, progress=False)
    assert model.asked == ["prompt 8", "prompt 9"]
    assert bytes_of(killed) == bytes_of(expected)
    assert generated(killed, prompt_set(10), SAMPLING)


def test_missing_and_cut_images_are_made_again_with_those_they_were_made_with(tmp_path):
    folder = run_folder(tmp_path)
    generate(painter(), prompt_set(10), SAMPLING, folder, progress=False)
    before = bytes_of(folder)
    images = folder.images("test", SAMPLING.hash)
    (images / "p01-0.png").unlink()
    (images / "p03-0.png").write_bytes(before["p03-0.png"][:-20])
    (images / "p08-0.png").write_bytes(b"")
    untouched = {
        file: file.stat().st_mtime_ns for file in images.glob("*.png") if file.name[:3] not in ("p01", "p03", "p08")
    }
    assert not generated(folder, prompt_set(10), SAMPLING)
    model = painter()
    generate(model, prompt_set(10), SAMPLING, folder, progress=False)
    assert model.asked == [f"prompt {number}" for number in (0, 1, 2, 3, 8, 9)]
    assert bytes_of(folder) == before
    assert all(file.stat().st_mtime_ns == made for file, made in untouched.items())


def test_a_model_that_samples_alone_makes_what_is_missing_and_no_others(tmp_path):
    folder, model = run_folder(tmp_path), painter()
    model.samples_alone = True
    generate(model, prompt_set(6), SAMPLING, folder, progress=False)
    before = bytes_of(folder)
    (folder.images("test", SAMPLING.hash) / "p03-0.png").unlink()
    model.asked.clear()
    generate(model, prompt_set(6), SAMPLING, folder, progress=False)
    assert model.asked == ["prompt 3"]
    assert bytes_of(folder) == before


def test_few_images_are_spread_over_all_processes(tmp_path):
    folder, asked = run_folder(tmp_path), []
    for rank in (1, 0):
        model = painter()
        generate(model, prompt_set(6), replace(SAMPLING, batch_size=16), folder, WorkShare(rank, 2), progress=False)
        asked.append(model.asked)
    assert [len(prompts) for prompts in asked] == [3, 3]
    assert not set(asked[0]) & set(asked[1])


def test_more_prompts_and_more_images_a_prompt_only_add_files(tmp_path):
    folder = run_folder(tmp_path)
    generate(painter(), prompt_set(4), SAMPLING, folder, progress=False)
    before = bytes_of(folder)
    assert not generated(folder, prompt_set(6), SAMPLING)
    model = painter()
    generate(model, prompt_set(6), replace(SAMPLING, num_images_per_prompt=2), folder, progress=False)
    assert before.items() < bytes_of(folder).items()
    assert len(bytes_of(folder)) == 12
    # a smaller request finds its own and takes nothing from the record
    model.asked.clear()
    assert generated(folder, prompt_set(2), SAMPLING)
    generate(model, prompt_set(2), SAMPLING, folder, progress=False)
    assert model.asked == []
    assert [len(record.images) for record in read_prompts(folder.images("test", SAMPLING.hash))] == [2] * 6


# ---- refusals


def test_an_image_is_never_taken_for_that_of_another_text(tmp_path):
    folder = run_folder(tmp_path)
    generate(painter(), prompt_set(2), SAMPLING, folder, progress=False)
    changed = PromptSet("test", (Prompt("p00", "prompt 0"), Prompt("p01", "something else")), 2)
    with pytest.raises(UserError, match="holds the image of 'prompt 1' as p01, but the prompt is now 'something else'"):
        generate(painter(), changed, SAMPLING, folder, progress=False)


def test_an_entirely_black_image_is_refused(tmp_path, monkeypatch):
    model = painter()
    black = np.zeros((8, 8, 3), np.uint8)
    monkeypatch.setattr(Painter, "__call__", lambda self, keys, prompts, noise: [black] * len(keys))
    with pytest.raises(UserError, match="p00 is entirely black"):
        generate(model, prompt_set(2), SAMPLING, run_folder(tmp_path), progress=False)
