"""A share of images and scores is made again; what comes out otherwise is a contradiction, what cannot be is told."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alignbench.capsule.compared import Repeated, compare_images, compare_scores
from alignbench.capsule.contents import Contents
from alignbench.capsule.pack import pack
from alignbench.capsule.repeat import chosen, sampling_of
from alignbench.capsule.thumbnails import encoded
from alignbench.capsule.verify import find_policies, verify
from alignbench.configuration.compose import composed
from alignbench.configuration.find_evaluator import build_evaluator
from alignbench.errors import UserError
from alignbench.generation.generate import Sampling
from alignbench.store.image_records import PromptRecord, SamplingRecord
from alignbench.store.run_folder import RunFolder
from alignbench.store.scores import ScoreInfo, Scores, digest_of

RESULTS = Path(__file__).resolve().parents[1] / "fixtures" / "v0_1_0" / "results"
BASE, DPO = "base-sd15_mini-ae915fe28c", "dpo-sd15_mini-c63d6512e6"
RECORD = SamplingRecord("shapes", 2, 4.0, "per_prompt", 0, 1, 8, False)


def scores_of(values, digests, name="shapes_clip"):
    ids = [f"p{number}" for number in range(len(values))]
    return Scores.of(ScoreInfo(name, "1"), ids, [0] * len(values), values, digests)


def records(number, images=1):
    return [PromptRecord(f"p{n:03d}", "a", (), tuple(map(str, range(images)))) for n in range(number)]


# ---- which images


def test_whole_batches_are_drawn_in_the_order_of_the_prompts():
    every, sampling = records(100), Sampling(2, 4.0, batch_size=16)
    drawn = [one.prompt_id for one in chosen(every, sampling, 0.2, [7, "run"])]
    starts = [int(name[1:]) for name in drawn[::16]]
    assert all(start % 16 == 0 for start in starts)
    assert starts == sorted(starts)
    assert len(starts) == math.ceil(0.2 * 100 / 16)
    assert drawn == [f"p{n:03d}" for start in starts for n in range(start, min(start + 16, 100))]
    assert [one.prompt_id for one in chosen(every, sampling, 0.2, [8, "run"])] != drawn
    assert chosen(every, sampling, 1, [7]) == every


@pytest.mark.parametrize(("images", "width"), [(1, 16), (4, 4), (3, 16), (32, 1)])
def test_prompts_are_drawn_so_that_their_images_fill_batches(images, width):
    sampling = Sampling(2, 4.0, num_images_per_prompt=images, batch_size=16)
    drawn = chosen(records(96, images), sampling, 1 / 96, [0])
    assert len(drawn) == width
    assert int(drawn[0].prompt_id[1:]) % width == 0
    with pytest.raises(UserError, match="different numbers of images"):
        chosen([*records(4, images), *records(1, images + 1)], sampling, 1, [0])


def test_a_sampling_that_does_not_come_to_its_name_is_not_repeated():
    cfg = composed(["method=base", "model=sd15_mini", "sampling.batch_size=3"])
    name = Sampling(2, 4.0).hash
    assert sampling_of(RECORD, name, cfg) == Sampling(2, 4.0, batch_size=3)
    for changes, message in (
        ({"seed": 1}, f"does not describe the sampling {name}"),
        ({"strength": 1.5, "strength_kind": "weights"}, r"made with sampling\.strength"),
        ({"base_bits": 4}, r"made with sampling\.base_bits"),
        ({"num_inference_steps": 10**9}, "took more than 1000 steps"),
    ):
        with pytest.raises(UserError, match=message):
            sampling_of(replace(RECORD, **changes), name, cfg)
    cfg.model.resolution = 10**6
    with pytest.raises(UserError, match="8192 pixels a side"):
        sampling_of(RECORD, name, cfg)


def test_videos_of_a_million_frames_are_not_repeated():
    cfg = composed(["method=base", "model=sd15_mini"])
    record = replace(RECORD, num_frames=10**6, fps=8.0)
    with pytest.raises(UserError, match="more than 1000 frames"):
        sampling_of(record, Sampling(2, 4.0).hash, cfg)


# ---- what may differ


@pytest.fixture
def image(tmp_path):
    file = tmp_path / "again.png"
    Image.fromarray(np.random.default_rng(0).integers(60, 180, (64, 64, 3), np.uint8)).save(file)
    return file


@pytest.mark.parametrize(("shift", "is_fault"), [(0, False), (1, False), (3, True), (40, True)])
def test_an_image_of_other_bits_may_differ_by_a_level(tmp_path, image, shift, is_fault):
    run, found = RunFolder(tmp_path / "run"), Repeated()
    before = Image.fromarray(np.asarray(Image.open(image)) + np.uint8(shift))
    small = run.thumbnail("0" * 32)
    small.parent.mkdir(parents=True)
    small.write_bytes(encoded(before))
    same = compare_images(run, {("p0", 0): image}, [scores_of([1.0], ["0" * 32])], found)
    assert same == set()
    assert bool(found.faults) == is_fault
    assert "0 have the same bits, thumbnails of 1 differ" in found.told[0]


def test_an_image_of_the_same_bits_needs_no_thumbnail(tmp_path, image):
    found = Repeated()
    kept = scores_of([1.0, 2.0], [digest_of(image), "0" * 32])
    assert compare_images(RunFolder(tmp_path), {("p0", 0): image, ("p1", 0): image}, [kept], found) == {("p0", 0)}
    assert found.told == ["2 images made again: 1 have the same bits, 1 have no thumbnail to compare with"]
    assert not found.faults


@pytest.mark.parametrize(("off", "is_same", "is_fault"), [(4e-4, True, False), (6e-4, True, True), (6e-4, False, False),
                                                          (6e-3, False, True)])  # fmt: skip
def test_scores_may_differ_by_the_tolerance_of_their_evaluator(off, is_same, is_fault):
    evaluator, found = build_evaluator("shapes_preference", {}), Repeated()
    assert (evaluator.tolerance, evaluator.display_scale) == (None, 1.0)  # 0.0005 may
    pair = scores_of([0.0, 1.0], ["a", "b"]), scores_of([0.0, 1.0 + off], ["a", "b"])
    compare_scores("run", evaluator, pair, {("p0", 0), ("p1", 0)} if is_same else {("p0", 0)}, found)
    assert bool(found.faults) == is_fault
    assert "differ by at most" in found.told[0]


# ---- whole capsules


@pytest.fixture
def own(tmp_path):
    for name in (BASE, DPO):
        shutil.copytree(RESULTS / name, tmp_path / "own" / name)
    return tmp_path / "own"


@pytest.mark.matrix
def test_images_and_scores_of_base_and_of_a_policy_are_made_again(own, tmp_path, capsys):
    pack([own / DPO], tmp_path / "a.tar", with_policy=True)
    verify(tmp_path / "a.tar", 0.5, seed=3)
    told = capsys.readouterr().out
    assert "with --seed 3" in told
    assert told.count("8 images made again") == 2
    assert told.count("scores by shapes_clip differ by at most") == 2
    assert "scores by head-shapes-b8d19b53da were not made again: this program has none of that name" in told
    assert "2 of 2 runs were made again in part" in told


@pytest.mark.matrix
def test_a_policy_that_the_capsule_lacks_can_be_given(own, tmp_path, capsys):
    pack([own / DPO], tmp_path / "a.tar")
    verify(tmp_path / "a.tar", 0.5)
    assert "its policy is not in the capsule; give it by --policy PATH" in capsys.readouterr().out
    verify(tmp_path / "a.tar", 0.5, policies=[own / DPO])
    assert "2 of 2 runs were made again in part" in capsys.readouterr().out
    (own / DPO / "policy" / "pytorch_lora_weights.safetensors").write_bytes(b"other")
    with pytest.raises(UserError, match=r"is not the policy of .* \(sha256 differs\)"):
        verify(tmp_path / "a.tar", 0.5, policies=[own / DPO])
    with pytest.raises(UserError, match="does not exist; give a run"):
        find_policies([tmp_path / "none"], Contents(), tmp_path)


def rescored(run, evaluator, change):
    """Change the scores of an evaluator as a stranger would who wants a better row; all digests are right."""
    (file,) = run.path.glob(f"scores/*/*/{evaluator}@*.parquet")
    scores = Scores.read(file)
    replace(scores, score=scores.score + np.float32(change)).write(file)
    run.record(file)


@pytest.mark.matrix
def test_better_scores_than_the_images_have_are_found(own, tmp_path):
    rescored(RunFolder(own / BASE), "shapes_annotators", 0.1)
    pack([own / BASE], tmp_path / "a.tar")
    with pytest.raises(UserError, match=rf"scores of {BASE} by shapes_annotators come out otherwise.* by 0\.1"):
        verify(tmp_path / "a.tar", 1)


@pytest.mark.matrix
def test_images_of_another_policy_are_found(own, tmp_path):
    from safetensors.torch import load_file, save_file

    run = RunFolder(own / DPO)
    (file,) = run.policy.glob("*.safetensors")
    torch.manual_seed(0)
    save_file({name: torch.randn_like(tensor) for name, tensor in load_file(file).items()}, file)
    run.record(run.policy)
    pack([own / DPO], tmp_path / "a.tar", with_policy=True)
    with pytest.raises(UserError, match=rf"images of {DPO} come out otherwise, such as image 0 of prompt"):
        verify(tmp_path / "a.tar", 1)
