"""A10: prompts that are longer than the text encoders read are counted in one line, and in the manifest."""

import json

import pytest
import torch

from alignbench.models.find_families import FAMILIES
from alignbench.models.prompt_length import CutPrompts
from alignbench.models.tiny_random import tiny_adapter
from alignbench.models.tiny_random.stable_diffusion import tiny_stable_diffusion
from alignbench.store.manifest import Manifest
from tests.families import marked
from tests.program import alignbench, manifests

KINDS = {  # of tokenizers, where a family has others than CLIP's alone
    "flux": {"CLIP", "T5"},
    "flux_kontext": {"CLIP", "T5"},
    "stable_diffusion_3": {"CLIP", "T5"},
    "qwen_image_21": {"Qwen2"},
    "wan": {"T5"},
}
LONG = " ".join(["word"] * 300)
SHORT = "a red circle"


OF_CLIP = ["stable_diffusion", "stable_diffusion_xl", "stable_diffusion_3", "flux", "flux_kontext"]


@pytest.mark.parametrize("family", OF_CLIP)
def test_every_family_counts_what_each_kind_of_its_text_encoders_does_not_read(family):
    model = tiny_adapter(family)
    assert not model.cut_prompts([SHORT, ""])
    cut = model.cut_prompts([SHORT, LONG, LONG + " more"])
    assert cut.keys() == KINDS.get(family, {"CLIP"})
    for kind, one in cut.items():
        assert (one.cut, one.prompts) == (2, 3)
        assert one.limit == (77 if kind == "CLIP" else [*model.prompt_limits.values()][-1])
        assert one.longest > 300


@pytest.mark.parametrize("family", marked(sorted(FAMILIES.keys() - {*OF_CLIP})))
def test_what_a_template_adds_leaves_less_for_a_prompt(family):
    """The last letter of the longest prompt that is not cut is read: two prompts that differ there are told apart."""
    model = tiny_adapter(family)
    (limit,) = model.prompt_limits.values()
    longest = next(n for n in range(limit, 0, -1) if not model.cut_prompts(["x" * n]))

    def differ(length):
        first, second = (model.encode_prompts(["x" * (length - 1) + letter]).prompt_embeds for letter in "ab")
        return not torch.equal(first, second)

    assert differ(longest)
    assert longest > 20
    assert model.cut_prompts(["x" * (longest + 1)])


@pytest.mark.parametrize("family", OF_CLIP)
def test_a_prompt_that_just_fits_is_not_cut(family):
    model = tiny_adapter(family)
    name, limit = next(iter(model.prompt_limits.items()))
    part = getattr(model.pipeline, name)
    tokenizer = getattr(part, "tokenizer", part)
    kind = type(tokenizer).__name__.partition("Tokenizer")[0]
    prompts = ["a" * count for count in range(limit - 3, limit + 2)]  # with and without marks of begin and end
    longer = [len(tokenizer(prompt)["input_ids"]) > limit for prompt in prompts]
    assert [kind in model.cut_prompts([prompt]) for prompt in prompts] == longer
    assert set(longer) == {True, False}


def test_the_line_has_the_number_the_limit_and_the_longest():
    assert CutPrompts(12, 3200, 77, 130).told("CLIP", "hpdv2") == (
        "cut         12 of 3200 prompts of hpdv2 are longer than the 77 tokens that CLIP reads; the longest has 130"
    )


@pytest.fixture
def command(tmp_path):
    folder, prompts = tmp_path / "weights", tmp_path / "prompts.txt"
    tiny_stable_diffusion().save_pretrained(folder)
    prompts.write_text(f"{SHORT}\n{LONG}\n")
    return [
        "model=sd15", f"model.pretrained_model_name_or_path={folder}", "model.resolution=32", "prompts=file",
        f"prompts.path={prompts}", "sampling.num_inference_steps=2", "evaluators=shapes",
        f"results={tmp_path / 'results'}",
    ]  # fmt: skip


def told(done):
    return " ".join(done.stdout.split())


def test_a_run_tells_evaluation_prompts_that_are_cut_once_and_its_manifest_records_them(command, tmp_path):
    done = alignbench("method=base", "stages=[generate]", *command)
    assert told(done).count("cut 1 of 2 prompts of prompts-") == 1
    (manifest,) = manifests(tmp_path / "results").values()
    (cut,) = manifest["cut_prompts"].values()
    assert (cut["CLIP"]["cut"], cut["CLIP"]["prompts"], cut["CLIP"]["limit"]) == (1, 2, 77)


def test_a_run_tells_training_prompts_that_are_cut(command, tmp_path):
    data = tmp_path / "training.txt"
    data.write_text(f"{LONG} and more\n")
    small = ["train.max_train_steps=1", "train.total_batch_size=1", "train.micro_batch_size=1", "tracker=none"]
    small += ["train.mixed_precision=no", "method.num_rollout_steps=1", "reward=shapes_clip"]
    done = alignbench("method=direct_align", "stages=[train]", *command, "data=prompts", f"data.path={data}", *small)
    assert "1 of 1 prompts of data=prompts are longer than the 77 tokens that CLIP reads" in told(done)


def test_a_manifest_without_the_entry_is_still_read(command, tmp_path):
    alignbench("method=base", "stages=[generate]", *command)
    (file,) = (tmp_path / "results").glob("*/manifest.json")
    values = json.loads(file.read_text())
    values.pop("cut_prompts")
    values.pop("check")  # as versions had it that lacked the entry
    file.write_text(json.dumps(values))
    assert Manifest.read(file).cut_prompts == {}
