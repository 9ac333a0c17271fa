"""B6: a diffusers folder with weights of one kind, such as fp16, is read; of several kinds, the key to type is told."""

import pytest
import torch
from diffusers import StableDiffusionPipeline

from alignbench.configuration.compose import check_command_line
from alignbench.errors import UserError
from alignbench.models.tiny_random.stable_diffusion import tiny_stable_diffusion
from alignbench.models.weights.loading import check_weights, load_pipeline
from alignbench.models.weights.variants import only_variant


@pytest.fixture
def folder(tmp_path):
    tiny_stable_diffusion().to(torch.float16).save_pretrained(tmp_path, variant="fp16", max_shard_size="20KB")
    return tmp_path


def test_weights_of_half_precision_alone_are_found(folder):
    assert only_variant(folder / "unet") == "fp16"
    assert list((folder / "unet").glob("*.fp16-00001-of-*"))
    assert check_command_line(
        ["method=base", "model=sd15", f"model.pretrained_model_name_or_path={folder}", "model.resolution=32",
         "prompts=shapes", "evaluators=shapes"],
        multirun=False,
    ) == 1  # fmt: skip
    ours = load_pipeline(str(folder))
    theirs = StableDiffusionPipeline.from_pretrained(folder, variant="fp16", torch_dtype=torch.float32)
    for name in ("unet", "vae", "text_encoder"):
        state = getattr(ours, name).state_dict()
        assert next(iter(state.values())).dtype == torch.float32
        for key, tensor in getattr(theirs, name).state_dict().items():
            assert tensor.equal(state[key])


def test_plain_weights_come_before_others(folder):
    pipeline = tiny_stable_diffusion(seed=1)
    pipeline.unet.save_pretrained(folder / "unet")
    assert only_variant(folder / "unet") is None
    loaded = load_pipeline(str(folder)).unet.state_dict()
    assert all(tensor.equal(loaded[key]) for key, tensor in pipeline.unet.state_dict().items())


def test_a_missing_shard_of_half_precision_is_told(folder):
    shard = next(iter((folder / "unet").glob("*-00001-of-*")))
    shard.unlink()
    with pytest.raises(UserError, match=rf"lacks unet/ \({shard.name}\); give a whole diffusers folder"):
        check_weights(str(folder))


def test_several_kinds_without_plain_weights_need_a_word(folder):
    tiny_stable_diffusion().unet.save_pretrained(folder / "unet", variant="ema")
    with pytest.raises(UserError, match=r"unet holds weights of several kinds \(ema, fp16\) and no plain ones; add "
                       r"\+model\.adapter\.pipeline\.variant=ema"):  # fmt: skip
        check_weights(str(folder))
    check_weights(str(folder), variant="fp16")
