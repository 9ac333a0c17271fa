"""F8: `python -m alignbench.export RUN`, and all that reads a run, builds nothing that a file of its folder names."""

import shutil
import sys
from pathlib import Path

import pytest
import yaml
from safetensors import safe_open

from alignbench import export as program
from alignbench.report.write import write_report
from alignbench.stages.trained_weights import find_source

FIXTURE = Path(__file__).parents[1] / "fixtures" / "v0_1_0" / "results"
RUN = "smpo-sd15_mini-e4ffb7e7a5"


@pytest.fixture
def run(tmp_path):
    """A run's folder with code in it that would leave a file `ran` beside the folder."""
    results = shutil.copytree(FIXTURE, tmp_path / "results")
    (results / RUN / "hubconf.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef payload(): return 'x'\n")
    return results / RUN


def hub(run, target="torch.hub.load"):
    return {"_target_": target, "repo_or_dir": str(run), "source": "local", "model": "payload"}


def change(run, *path, value):
    file = run / "config.yaml"
    values = yaml.safe_load(file.read_text())
    node = values
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    file.write_text(yaml.safe_dump(values))


def exported(run, monkeypatch, capsys):
    """Return the exit status of the program and what it said."""
    out = run.parent / "exported"
    monkeypatch.setattr(sys, "argv", ["alignbench.export", str(run), "--format", "lora", "--out", str(out)])
    try:
        program.main()
        status = 0
    except SystemExit as stopped:
        status = stopped.code
    return status, capsys.readouterr().err


ADAPTER = ("model", "adapter")
PIPELINE = ("model", "adapter", "pipeline")
VARIANTS = {
    "the adapter": (ADAPTER, hub),
    "the target of the adapter": ((*ADAPTER, "_target_"), lambda run: "torch.hub.load"),
    "an alias": ((*ADAPTER, "_target_"), lambda run: "alignbench.models.families.stable_diffusion.torch.hub.load"),
    "the pipeline": (PIPELINE, hub),
    "an argument": ((*ADAPTER, "resolution"), hub),
    "an entry of a list": ((*ADAPTER, "lora_targets"), lambda run: [hub(run)]),
    "a new argument": ((*PIPELINE, "revision"), hub),
    "an unknown model": (("model", "name"), lambda run: hub(run)),
    "an interpolation": (("model", "policy"), lambda run: "${oc.env:HOME}"),
    "no model": (("model",), lambda run: None),
}


@pytest.mark.parametrize(("path", "value"), VARIANTS.values(), ids=VARIANTS)
def test_what_a_configuration_names_is_not_built(tmp_path, run, monkeypatch, capsys, path, value):
    change(run, *path, value=value(run))
    status, said = exported(run, monkeypatch, capsys)
    assert (status, said.count("\n")) == (2, 1), said
    assert said.startswith(f"alignbench: {run}/config.yaml ")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("node", ["method", "data", "reward", "prompts"])
def test_other_nodes_are_never_built(tmp_path, run, monkeypatch, capsys, node):
    values = yaml.safe_load((run / "config.yaml").read_text())
    change(run, node, value=values.get(node, {}) | {"_target_": "torch.hub.load", "nested": hub(run)})
    assert "_target_" not in str(find_source(str(run), []).cfg[node])
    assert exported(run, monkeypatch, capsys)[0] == 0
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.mkdir", "!!python/object/new:os.mkdir", "!!python/name:"])
def test_yaml_tags_are_not_followed(tmp_path, run, monkeypatch, capsys, tag):
    file = run / "config.yaml"
    file.write_text(file.read_text() + f"\nplanted: {tag} [{tmp_path / 'ran'}]\n")
    status, said = exported(run, monkeypatch, capsys)
    assert (status, said.count("\n")) == (2, 1), said
    assert "could not determine a constructor for the tag" in said
    write_report(run.parent)  # shows the text of the file
    assert not (tmp_path / "ran").exists()


def test_reports_show_a_configuration_without_reading_it(tmp_path, run):
    change(run, *ADAPTER, value=hub(run))
    write_report(run.parent)
    assert not (tmp_path / "ran").exists()


def test_plain_values_of_the_run_are_kept(run):
    change(run, *ADAPTER, "lora_targets", value=["to_q"])
    change(run, "model", "resolution", value=32)
    cfg = find_source(str(run), []).cfg
    assert (cfg.model.adapter.lora_targets, cfg.model.resolution) == (["to_q"], 32)
    assert cfg.model.adapter._target_ == "alignbench.models.families.stable_diffusion.StableDiffusion"


def test_a_model_that_was_given_another_name_is_found_by_its_classes(run):
    change(run, "model", "name", value="mine")
    cfg = find_source(str(run), []).cfg
    assert cfg.model.name == "mine"
    assert cfg.model.adapter.pipeline.name == "sd15_mini"


def test_settings_of_an_adapter_import_nothing(tmp_path, run, monkeypatch):
    """PEFT imports the module that `megatron_core` names."""
    import json

    from safetensors.torch import load_file, save_file

    from alignbench.models.tiny_random import tiny_adapter

    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    model = tiny_adapter("stable_diffusion")
    model.prepare_training("lora", 2, 4)
    model.save_policy(tmp_path / "policy")
    (file,) = (tmp_path / "policy").glob("*.safetensors")
    with safe_open(file, "pt") as opened:
        settings = json.loads(opened.metadata()["lora_adapter_metadata"])
    settings |= {"unet.megatron_config": {}, "unet.megatron_core": "evil", "unet.lora_alpha": 4}
    save_file(load_file(file), file, {"format": "pt", "lora_adapter_metadata": json.dumps(settings)})
    tiny_adapter("stable_diffusion").load_policy(file.parent)
    assert not (tmp_path / "ran").exists()
