"""B16: an estimate of memory refuses what cannot fit, and nothing that it merely does not know."""

import pytest
from safetensors.torch import save_file

from alignbench.configuration.compose import composed
from alignbench.errors import UserError
from alignbench.models.tiny_random.stable_diffusion import tiny_stable_diffusion
from alignbench.training import memory_estimate
from alignbench.training.memory_estimate import estimate, refuse_what_cannot_fit

PLENTY = 2.0**60


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    pipeline = tiny_stable_diffusion()
    pipeline.save_pretrained(path)
    save_file({f"model.diffusion_model.{key}": value for key, value in pipeline.unet.state_dict().items()},
              path / "single.safetensors")  # fmt: skip
    return path


def training(path, *more):
    return composed([
        "method=sft", "model=sd15", f"model.pretrained_model_name_or_path={path}", "model.resolution=32",
        "data=local", "data.path=x", "memory=default", "train.micro_batch_size=1", *more,
    ])  # fmt: skip


def test_a_single_file_needs_what_its_folder_needs(folder, monkeypatch):
    monkeypatch.setattr(memory_estimate, "advice", lambda *_: "less helps")
    parts = estimate(training(folder))
    single = training(folder / "single.safetensors", f"model.config={folder}")
    assert estimate(single) == parts
    assert refuse_what_cannot_fit(single, PLENTY) == ""
    with pytest.raises(UserError, match=r"training needs about .*less helps"):
        refuse_what_cannot_fit(single, 1000.0)


@pytest.mark.parametrize("path", ["someone/unknown", "/no/such/folder"])
def test_an_architecture_that_is_not_known_refuses_nothing(path):
    told = refuse_what_cannot_fit(training(path), 1000.0)
    assert told.startswith("what training needs is unknown: model.pretrained_model_name_or_path=")


def test_adam_of_torch_keeps_what_adamw_keeps(folder):
    adam = "train.optimizer._target_=torch.optim.Adam"
    kept = [next(part for part in estimate(training(folder, *words)) if part.name == "optimizer")
            for words in ([], [adam])]  # fmt: skip
    assert kept[0] == kept[1]
    assert kept[0].num_bytes > 0
    assert refuse_what_cannot_fit(training(folder, adam), PLENTY) == ""


def test_an_optimizer_that_cannot_be_stepped_is_told_and_refuses_nothing(folder):
    told = refuse_what_cannot_fit(training(folder, "train.optimizer._target_=no_such_package.Optimizer"), 1000.0)
    assert "without optimizer, which is unknown" in told
    assert "(it is not installed)" in told
