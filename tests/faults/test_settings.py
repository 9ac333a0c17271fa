"""F18: a setting with an odd value is accepted or refused in sentences, before anything loads; see benchmarks/fuzz."""

import pytest

from alignbench.errors import UserError
from benchmarks.fuzz.configurations import check_words, configuration
from benchmarks.fuzz.worker import FAILED, outcome

ODD = {
    "train.base_bits=${nope}": "train.base_bits=${nope} refers to nope",
    "calibration=${oc.env:NOPE}": "calibration=${oc.env:NOPE} cannot be resolved",
    "stages=true": "stages=true must be a list",
    "tracker=null": "tracker=null is unknown",
    "model.policy=nan": "model.policy=nan must be",
    "model.policy_trained_on=nan": "model.policy_trained_on=nan must be",
    "sampling.scheduler=5": "sampling.scheduler=5 must be",
    "results=1e400": "results=inf must be",
    "method=5": "method=5 is unknown",
    "train.optimizer=5": "train.optimizer=5 must be a mapping of names to values",
    "train.optimizer._target_=[[]]": "_target_=[[]] must be text",
    "train.optimizer.betas=[]": "train.optimizer=torch.optim.AdamW refuses its arguments: list index out of range",
    "train.optimizer._partial_=0x10": "train.optimizer._partial_=0x10 must be true or false",
    "data.annotators=a": "data.annotators=a must be settings by name, as in data.annotators.NAME=VALUE",
    "data.annotators=null": "data.annotators=null must be settings by name, as in data.annotators.NAME=VALUE",
    "evaluators.shapes_clip=' '": "evaluators.shapes_clip=  must be a mapping of names to values",
    "data.annotators._target_=null": "data.annotators._target_=null must be the name of a class or function",
    "data._target_=null": "data._target_=null must be the name of a class or function",
    "evaluators.shapes_clip=${oc.env:NOPE}": "evaluators.shapes_clip cannot be resolved",
    "data._target_=${nope}": "data._target_ cannot be resolved",
    "model.adapter.pipeline._target_=${nope}": "model.adapter.pipeline._target_ cannot be resolved",
    "~model.adapter.pipeline._target_": "model.adapter.pipeline._target_ is missing",
    "method.name=a/b": "'a/b-sd15_mini-",
    f"model.name={'x' * 300}": "'dpo-xxx",
    f"prompts.name={'x' * 300}": "prompts.name has 300 bytes; at most 200 can name a folder",
    "model.adapter.pipeline=null": "model.adapter.pipeline=null must be a mapping of names to values",
    "~method._target_": "method._target_ is missing",
    "~data._target_": "data._target_ is missing",
    "~prompts._target_": "prompts._target_ is missing",
    "~prompts": "prompts is missing",
    "~results": "results is missing",
    "~model.name": "model.name is missing",
    "model.resolution=???": "model.resolution must be set",
    "~model=[[]]": "the command is not understood",
}
QUICK = ("train.base_bits=${nope}", "results=1e400", "train.optimizer=5", "data.annotators=a", "~prompts")
STARTS_OF_REFUSALS = [
    pytest.param(word, told, marks=() if word in QUICK else pytest.mark.matrix) for word, told in ODD.items()
]


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.mark.parametrize(("word", "told"), STARTS_OF_REFUSALS)
def test_an_odd_value_is_refused_in_one_sentence(word, told):
    with pytest.raises(UserError) as error:
        check_words(["method=dpo", "model=sd15_mini", word])
    assert str(error.value).startswith(told)
    assert "\n" not in str(error.value)


def test_a_single_value_is_no_reward():
    with pytest.raises(UserError, match=r"method\.reward=a must be a mapping of names to values"):
        check_words(["method=grpo", "model=sd15_mini", "method.reward=a"])


@pytest.mark.matrix
def test_random_commands_are_accepted_or_refused_in_sentences():
    attempt = configuration(seed=7)
    told = {number: outcome(attempt(number), lines=4) for number in range(100)}
    assert {number: text for number, (result, text) in told.items() if result == FAILED} == {}
