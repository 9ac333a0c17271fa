"""C1: the lines that a run prints and keeps put its trained weights into a pipeline of diffusers, whole or adapters."""

import re
from pathlib import Path

import pytest
import torch

from alignbench import run
from alignbench.configuration.compose import composed
from alignbench.models.weights.policy_files import LORA_FILE
from alignbench.stages.loading import policy_lines
from alignbench.store.run_folder import RunFolder
from tests.pages import README, blocks
from tests.program import SMALL_RUN

WORDS = ["method=sft", "train.learning_rate=1e-2", "stages=[train]", *SMALL_RUN]


@pytest.mark.parametrize(
    ("model", "tuning", "network"), [("sd15_mini", "full", "unet"), ("flux_mini", "lora", "transformer")]
)
def test_the_lines_of_a_run_load_its_policy(tmp_path, model, tuning, network):
    done = run(*WORDS, f"model={model}", f"train.tuning={tuning}", f"results={tmp_path}")
    text = (done.folder / "README.md").read_text()
    (lines,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    loaded = {}
    exec(lines, loaded)
    found = getattr(loaded["pipeline"], network)
    if tuning == "lora":
        found.fuse_lora()
        found.unload_lora()
    expected = getattr(done.pipeline(), network).state_dict()
    assert found.state_dict().keys() == expected.keys()
    for name, weight in found.state_dict().items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-5, atol=1e-6)


def test_adapters_on_top_of_another_policy_are_merged_with_it_first(tmp_path):
    cfg = composed(["method=sft", "model=sd15_mini", "train.tuning=lora", f"model.policy={tmp_path}"])
    told = policy_lines(cfg, RunFolder(tmp_path / "run"))
    assert f"python -m alignbench.export {tmp_path / 'run'} --format merged --out FOLDER" in told


OF_FLUX = ["model=flux", "model.pretrained_model_name_or_path=BASE", "reward=hpsv2_1", "data=shapes"]


@pytest.mark.parametrize("words", [[], OF_FLUX], ids=["the default run", "adapters of FLUX"])
def test_the_first_page_shows_the_lines_of_both(words):
    run_folder = RunFolder(Path("RUN"))
    told = policy_lines(composed(words), run_folder).replace(str(run_folder.policy.absolute()), "RUN/policy")
    told = told.replace(f', weight_name="{LORA_FILE}"', "")  # diffusers finds it by itself
    assert f"{told}\n" in blocks(README, "python")
