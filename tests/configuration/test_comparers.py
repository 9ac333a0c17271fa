"""Comparers that cannot work are refused in one sentence, before anything loads; they change no name of a run."""

import pytest
from omegaconf import OmegaConf

from alignbench.configuration.build import config_hash, recipe_hash, run_name
from alignbench.configuration.compose import check_command_line, composed
from alignbench.errors import UserError

pytestmark = pytest.mark.matrix
STAGES = "stages=[generate,score,compare,report]"
SHAPES = ["method=base", "model=sd15_mini", "comparers=shapes", STAGES]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["comparers=shape"], "comparers=shape is unknown; did you mean shapes?"),
        (["stages=[score]"], "comparers=shapes compare images in the stage compare; add compare to stages"),
        (["comparers=none"], "comparers is empty, so nothing can be compared;"),
        (["compare.orders=one"], "compare.orders=one is unknown;"),
        (["compare.max_calls=0"], "compare.max_calls=0 must be a whole number of at least 1"),
        (["prompts.limit=6", "compare.num_prompts=7"], "compare.num_prompts=7 is more than the 6 prompts"),
        (
            ["prompts.limit=6", "sampling.num_images_per_prompt=2", "compare.max_calls=11"],
            "compare.max_calls=11 is less than the 12 calls that one order of one pair of runs takes",
        ),
        (["prompts=drawbench"], "comparers.shapes: shapes_comparer judges by prompts of the shapes world alone"),
        (["shard=1/2"], "shard splits prepare, generate and score alone; take compare out of stages"),
        (["sampling.strength=2", "method=dpo"], "sampling.strength=2 makes images that the stage"),
        (["+compare.foo=1"], "compare.foo is unknown, and nothing would read it"),
        (["comparers.shapes.position_bias=much"], "comparers.shapes.position_bias=much must be a number"),
        (["comparers=openai"], "comparers.openai.base_url must be set: add comparers.openai.base_url=VALUE"),
        (
            ["comparers=openai", "comparers.openai.name=j", "comparers.openai.base_url=https://judge.example/v1",
             "comparers.openai.model=m", "comparers.openai.key_variable=NO_KEY_IS_HERE"],
            "key_variable=NO_KEY_IS_HERE: this environment variable is not set",
        ),
        (
            ["comparers=openai", "comparers.openai.name=pickscore", "comparers.openai.base_url=http://127.0.0.1:1",
             "comparers.openai.model=m", "comparers.openai.key_variable=null"],
            "comparers.openai.name=pickscore is the name of an evaluator",
        ),
        (["comparers=qwen3_vl", "comparers.qwen3_vl.source=nowhere/at_all"], "nowhere/at_all"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused(words, told):
    with pytest.raises(UserError) as refused:
        check_command_line([*SHAPES, *words], False)
    assert told in str(refused.value)


def test_comparers_alone_may_judge():
    check_command_line([*SHAPES, "evaluators=none", "stages=[generate,compare,report]"], False)


def test_neither_comparers_nor_their_settings_change_the_name_of_a_run():
    plain = composed(["method=dpo", "model=sd15_mini"])
    words = ["comparers=shapes", STAGES, "compare.pairs=all", "compare.num_prompts=3", "compare.max_calls=100"]
    compared = composed(["method=dpo", "model=sd15_mini", *words])
    for name in (run_name, config_hash, recipe_hash):
        assert name(plain) == name(compared)
    assert OmegaConf.to_container(compared.comparers)["shapes"]["position_bias"] == 0.5


def test_one_folder_of_images_is_refused(tmp_path):
    (tmp_path / "list.csv").write_text("file,prompt\n1.png,a cat\n")
    from PIL import Image

    Image.new("RGB", (64, 64)).save(tmp_path / "1.png")
    words = ["model=images", f"model.folders=[{tmp_path}]", "evaluators=none", "comparers=shapes"]
    with pytest.raises(UserError, match="is one folder, and the stage compare needs two; add another"):
        check_command_line([*words, "stages=[compare,report]"], False)
