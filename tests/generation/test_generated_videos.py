"""A generated video is one file of exact frames. It is found and made again as images are, and scored by its mean."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from alignbench.data.prompts import Prompt, PromptSet
from alignbench.errors import UserError
from alignbench.evaluator import Evaluator, Preprocess
from alignbench.generation.generate import Sampling, generate, generated, image_set
from alignbench.generation.pipeline_sampler import Sampler
from alignbench.models.tiny_random import RESOLUTION
from alignbench.scoring.score import score
from alignbench.store.image_records import read_sampling
from alignbench.store.manifest import Manifest
from alignbench.store.run_folder import RunFolder
from alignbench.store.scores import Scores
from alignbench.videos import FrameSpec, read_frames
from tests.videos import NUM_FRAMES, tiny_video_model

FRAMES = FrameSpec(NUM_FRAMES, 16.0)
SAMPLING = Sampling(num_inference_steps=2, guidance_scale=4.0, batch_size=2, frames=FRAMES)
PROMPTS = PromptSet("test", tuple(Prompt(f"p{n}", f"prompt {n}", ()) for n in range(3)), 3)


@pytest.fixture(scope="module")
def model():
    return tiny_video_model()


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    """A run folder with three videos."""
    folder = new_run(tmp_path_factory.mktemp("videos"))
    assert generate(model, PROMPTS, SAMPLING, folder, progress=False) == 0
    return folder


def new_run(path):
    folder = RunFolder(path / "base-test-0")
    folder.open(Manifest(run="base-test-0", method="base", model="test", seed=None, config_hash="0", recipe_hash="0"))
    return folder


def files_of(folder):
    return sorted(folder.images("test", SAMPLING.hash).glob("p?-*"))


def frames_in(file):
    return frames_of(file.read_bytes())


def frames_of(content):
    return np.stack([np.asarray(frame) for frame in read_frames(content, FRAMES)])


def test_a_sampler_makes_frames_and_a_batch_makes_what_its_videos_are_alone(model):
    noise = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    keys, prompts, sampler = [("a", 0), ("b", 0)], ["a circle", "a square"], Sampler(model, 2, 4.0)
    together = np.stack(sampler(keys, prompts, noise))
    assert together.shape == (2, NUM_FRAMES, RESOLUTION, RESOLUTION, 3)
    alone = [sampler(keys[row:], prompts[row : row + 1], noise[row : row + 1])[0] for row in range(2)]
    assert abs(together.astype(int) - np.stack(alone)).max() <= 1  # rounding to a level


def test_a_prompt_has_one_file_with_its_frames_and_the_record_says_so(run):
    assert [file.name for file in files_of(run)] == ["p0-0.webp", "p1-0.webp", "p2-0.webp"]
    sampling = read_sampling(files_of(run)[0].parent)
    assert (sampling.num_frames, sampling.fps, sampling.frames) == (NUM_FRAMES, 16.0, FRAMES)
    pixels = frames_in(files_of(run)[0])
    assert pixels.shape == (NUM_FRAMES, RESOLUTION, RESOLUTION, 3)
    assert (pixels != frames_in(files_of(run)[1])).any()


def test_images_and_their_names_and_hashes_are_as_they_were(run):
    image = replace(SAMPLING, frames=None)
    assert image.file_name("p0", 0) == "p0-0.png"
    assert len({image.hash, SAMPLING.hash, replace(SAMPLING, frames=FrameSpec(5, 16.0)).hash}) == 3
    assert "frames" not in image.overrides
    assert str(SAMPLING) == "2 steps, guidance 4, 9 frames at 16 a second"


def test_only_damaged_and_missing_videos_are_made_again(run, model, tmp_path):
    assert generated(run, PROMPTS, SAMPLING)
    whole = {file: file.read_bytes() for file in files_of(run)}
    first, second, third = whole
    kept = third.stat().st_mtime_ns
    first.write_bytes(whole[first][:-10])
    second.unlink()
    assert not generated(run, PROMPTS, SAMPLING)
    assert generate(model, PROMPTS, SAMPLING, run, progress=False) == 0
    # alone, and not with others in a batch: exact to a level
    assert abs(frames_in(first).astype(int) - frames_of(whole[first])).max() <= 1
    assert second.exists()
    assert third.stat().st_mtime_ns == kept
    assert generated(run, PROMPTS, SAMPLING)


class Means(Preprocess):
    key = "means"  # pyright: ignore[reportAssignmentType]

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        return torch.tensor([np.asarray(image, np.float64).mean() for image in images])


class Brightness(Evaluator):
    """The mean of a picture plus the length of its prompt."""

    version, preprocess = "1", Means()

    def __init__(self, name="brightness"):
        self.name, self.batches = name, []

    def encode_prompts(self, prompts):
        return torch.tensor([float(len(prompt)) for prompt in prompts])

    def score_features(self, features, encoded):
        self.batches.append(len(features))
        return features + encoded


@pytest.mark.parametrize("batch_size", [4, 16])
def test_the_score_of_a_video_is_the_mean_over_all_its_frames_whatever_the_batch(run, batch_size):
    evaluator = Brightness(f"brightness_{batch_size}")
    images = image_set(PROMPTS, SAMPLING, RESOLUTION)
    assert score(run, images, [evaluator], batch_size, progress=False) == 0
    scores = Scores.read(run.score_file("test", SAMPLING.hash, evaluator.name, "1"))
    expected = [frames_in(file).mean() + len("prompt 0") for file in files_of(run)]
    np.testing.assert_allclose(scores.score, expected, rtol=1e-6)
    assert sum(evaluator.batches) == 3 * NUM_FRAMES
    assert max(evaluator.batches) <= batch_size


def test_a_video_of_another_size_or_length_is_not_scored(run):
    images = image_set(PROMPTS, SAMPLING, RESOLUTION)
    with pytest.raises(UserError, match=r"3 of 3 images cannot be scored, .*is 32 x 32 pixels, where 64 x 64"):
        score(run, replace(images, size=(64, 64)), [Brightness("a")], 4, progress=False)
    longer = replace(images, frames=FrameSpec(NUM_FRAMES + 4, 16.0))
    with pytest.raises(UserError, match=r"p0-0\.webp is too short for 13 frames at 16 a second"):
        score(run, longer, [Brightness("b")], 4, progress=False)
