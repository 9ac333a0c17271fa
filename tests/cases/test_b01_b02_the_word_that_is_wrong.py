"""B1, B2: a key that is unknown is named itself, in the configuration that was typed, with the key that is meant."""

import pytest
import torch
from PIL import Image

from alignbench.configuration.build import run_name
from alignbench.configuration.compose import check_command_line, composed
from alignbench.configuration.find_evaluator import build_evaluator
from alignbench.configuration.typed.plain_values import settle_arguments
from alignbench.configuration.typed.unknown_keys import unknown_key
from alignbench.data.existing_images.folders import read_compared_folders
from alignbench.errors import UserError

DPO = ["method=dpo", "model=sd15_mini", "method.beta=250"]


def refusal(*words, multirun=False):
    with pytest.raises(UserError) as refused:
        check_command_line([*words], multirun)
    told = str(refused.value)
    assert "\n" not in told
    return told


@pytest.fixture(scope="module")
def tree():
    return composed(DPO)


@pytest.mark.parametrize("words", [DPO, ["-m", "method=dpo,kto", *DPO[1:]]])
def test_a_right_key_is_not_blamed_for_a_typo_elsewhere(words):
    told = refusal(*[one for one in words if one != "-m"], "train.max_trian_steps=5", multirun="-m" in words)
    assert told.startswith("train.max_trian_steps is unknown; train has no key 'max_trian_steps'; did you mean "
                           "train.max_train_steps?")  # fmt: skip


def test_a_key_of_another_choice_names_the_choices_that_have_it():
    told = refusal("method.beta=250")
    assert told.startswith("method.beta is unknown; method=srpo has no key 'beta'; it is a key of method=")
    assert "method=dpo, " in told
    assert "prompts=shapes has no key 'path'; it is a key of prompts=file" in refusal("prompts.path=x.txt")
    told = refusal("method=dpo,sft", *DPO[1:], multirun=True)
    assert told.startswith("method.beta is unknown; method=sft has no key 'beta'")


def test_keys_of_every_method_of_a_sweep_are_right():
    assert check_command_line(["method=dpo,kto", *DPO[1:]], multirun=True) == 2


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("lr", "train.learning_rate"),
        ("learning_rate", "train.learning_rate"),
        ("max_steps", "train.max_train_steps"),
        ("batch_size", "train.total_batch_size or train.micro_batch_size or sampling.batch_size"),
        ("guidance", "model.guidance_scale or sampling.guidance_scale"),
        ("train.beta", "method.beta"),
        ("trian.max_train_steps", "train"),
        ("memroy", "memory"),
        ("output_dir", "results"),
        ("evaluators.shapes_clap", "evaluators.shapes_clip"),
        ("model.path", "model.policy"),
        ("train.lr_schedule", "train.lr_scheduler"),
    ],
)
def test_a_nested_name_and_a_foreign_one_are_understood(tree, key, meant):
    told = unknown_key(key, tree, ["memory", "optimizer"], {})
    assert told is not None
    assert f"did you mean {meant}" in told


def test_the_command_is_answered_so():
    assert "did you mean train.learning_rate?" in refusal("lr=1e-4")
    assert "did you mean evaluators.shapes_clip?" in refusal("~evaluators.shapes_clap")


def test_an_evaluator_given_as_a_list_of_them_is_told_how_to_type():
    assert "evaluators=none +evaluator@evaluators.pickscore=pickscore" in refusal("evaluators=pickscore")


# ---- one value for a list of one


def test_a_single_value_is_a_list_of_one():
    cfg = composed([*DPO, "stages=train", "model.policy_trained_on=shapes_clip", "validation.select=shapes_clip"])
    assert cfg.stages == ["train"]
    assert cfg.model.policy_trained_on == ["shapes_clip"]
    assert cfg.validation.select == ["shapes_clip"]
    assert refusal("stages=trian").startswith("stages=trian is unknown; did you mean train?")
    assert "must be a list" in refusal("stages=true")


def test_so_is_one_of_a_constructor_and_the_run_is_the_same():
    words = ["method=srpo", "model=sd15_mini"]
    assert check_command_line([*words, "method.positive_words=good"], multirun=False) == 1
    one, several = (
        settle_arguments(composed([*words, f"method.positive_words={value}"])) for value in ("good", "[good]")
    )
    assert run_name(one) == run_name(several)


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "list.csv").write_text("file_name,prompt\na.png,a cat\n")
    return tmp_path


def test_one_folder_of_images_is_a_list_of_one(folder):
    assert composed(["model=images", f"model.folders={folder}"]).model.folders == [str(folder)]
    (read,) = read_compared_folders(str(folder))
    assert read.path == folder


def test_one_image_and_one_prompt_are_scored(folder):
    evaluator = build_evaluator("shapes_clip", {})
    scores = evaluator.score(str(folder / "a.png"), "a cat")
    assert scores.shape == (1,)
    assert torch.equal(scores, evaluator.score([Image.new("RGB", (8, 8))], ["a cat"]))
