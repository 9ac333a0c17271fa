"""Training on images of several sizes: every family, every kind of batch, resumed, and on two processes as on one."""

import json

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from hydra import compose, initialize_config_dir
from PIL import Image

from alignbench.configuration.build import build, conf_folder
from alignbench.models.tiny_random import RESOLUTION, tiny_adapter
from alignbench.store.run_folder import RunFolder
from alignbench.training.train import train
from tests.families import EVERY
from tests.processes import FSDP2, together
from tests.tiny_runs import DiesAt, Interrupted, files_of, log_of, settings

METHODS = {"pairs": "dpo", "labels": "kto", "winners": "sft"}
SHAPES = [(36, 60), (60, 36), (32, 32)]  # height and width of the images, in turn
BUCKETS = {"aspect_ratio_buckets": "auto", "size_conditioning": "true_size", "crop": "random", "random_flip": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve pairs of data=local, winner and loser of one shape."""
    folder, rng, rows = tmp_path_factory.mktemp("pairs"), np.random.default_rng(0), []
    for number in range(12):
        height, width = SHAPES[number % 3]
        names = [f"{number}{side}.png" for side in "wl"]
        for name in names:
            Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / name)
        rows.append({"prompt": f"prompt {number}", "image_w": names[0], "image_l": names[1]})
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def configuration(folder, method, **changes):
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        cfg = compose("config", [f"method={method}", "model=sd15_mini", "data=local", f"data.path={folder}"])
    small = {"max_train_steps": 2, "total_batch_size": 8, "micro_batch_size": 2, "checkpointing_steps": 1}
    cfg.train = settings(**small | BUCKETS | changes).train
    return cfg


def trained(folder, path, method="dpo", family="flux", step=None, **changes):
    """Train a tiny model; return its weights and the sizes of the latents that its network met."""
    cfg, model, met = configuration(folder, method, **changes), tiny_adapter(family), []
    cfg.data.posterior = cfg.data.posterior if model.has_posterior else "mode"
    model.resolution *= max(1, model.side_multiple // 8)  # as many sizes for larger tokens
    forward = model.forward

    def watched(noisy_latents, *others):
        met.append(tuple(noisy_latents.shape[2:]))
        return forward(noisy_latents, *others)

    model.forward = watched
    the_method = build(cfg.method)
    the_method = the_method if step is None else DiesAt(the_method, step)
    train(cfg, model, the_method, build(cfg.data), RunFolder(path), Accelerator(cpu=True))
    return {k: v.clone() for k, v in model.denoiser.state_dict().items()}, met


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("family", EVERY)
def test_every_family_trains_on_every_kind_of_batch_in_buckets(folder, tmp_path, family, kind):
    model = tiny_adapter(family)
    start, side = model.denoiser.state_dict(), RESOLUTION * max(1, model.side_multiple // 8) // model.latent_factor
    weights, met = trained(folder, tmp_path, METHODS[kind], family)
    assert len(set(met)) == 3
    assert {(width, height) for height, width in met} == set(met)
    assert all(height * width <= side**2 for height, width in met)
    assert all(np.isfinite(line["loss"]) for line in log_of(tmp_path))
    assert any(not torch.equal(weights[name], start[name]) for name in weights)


def test_a_killed_run_in_buckets_ends_byte_for_byte_like_one_that_was_never_killed(folder, tmp_path):
    trained(folder, tmp_path / "whole", max_train_steps=4)
    with pytest.raises(Interrupted):
        trained(folder, tmp_path / "killed", step=2, max_train_steps=4)
    trained(folder, tmp_path / "killed", max_train_steps=4)
    assert files_of(tmp_path / "whole" / "policy") == files_of(tmp_path / "killed" / "policy")


@pytest.mark.parametrize("crops", [{"crop": "random"}, {"random_flip": True}, {"crop": "random", "crops_per_image": 3}])
def test_crops_do_not_depend_on_the_micro_batches_of_an_update(folder, tmp_path, crops):
    plain = {"aspect_ratio_buckets": None, "random_flip": False, "crop": "centre", "size_conditioning": "square"}
    one, many = (trained(folder, tmp_path / str(size), micro_batch_size=size, **plain | crops)[0] for size in (8, 1))
    centre, _ = trained(folder, tmp_path / "centre", micro_batch_size=8, **plain)
    moved = torch.cat([(one[name] - many[name]).flatten() for name in one]).norm()
    apart = torch.cat([(one[name] - centre[name]).flatten() for name in one]).norm()
    assert moved < 0.02 * apart


@pytest.mark.parametrize("engine", [{}, FSDP2], ids=["ddp", "fsdp2"])
def test_two_processes_make_the_updates_of_one_in_buckets(folder, tmp_path, engine):
    def job(rank, path):
        cfg = configuration(folder, "dpo", learning_rate=1.0, max_grad_norm=1e9, random_flip=True)
        cfg.train.optimizer = {"_target_": "torch.optim.SGD", "_partial_": True}  # the update is the gradient
        train(cfg, tiny_adapter("flux"), build(cfg.method), build(cfg.data), RunFolder(path), Accelerator(cpu=True))

    def policy(path):
        model = tiny_adapter("flux")
        if path is not None:
            model.load_policy(RunFolder(path).policy)
        return torch.cat([value.flatten() for _, value in sorted(model.denoiser.state_dict().items())])

    job(0, tmp_path / "one")
    together(job, tmp_path / "two", environment=engine)
    start, one, two = (policy(path) for path in (None, tmp_path / "one", tmp_path / "two"))
    assert (one - start).norm() > 0
    assert (two - one).norm() < 1e-4 * (one - start).norm()
