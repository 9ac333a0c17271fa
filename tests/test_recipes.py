"""Values of a method on a model: which files are read, which of them wins, and what something new needs."""

import itertools
import shutil

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf

from alignbench.configuration.build import conf_folder, run_name
from alignbench.configuration.compose import check_command_line
from alignbench.errors import UserError
from alignbench.settings.train import Train
from tests.pages import README, ROOT, block_that_begins

ADDING_A_METHOD = ROOT / "docs" / "adding_a_method.md"
CONFIGURATION = ROOT / "docs" / "configuration.md"
METHODS = sorted(file.stem for file in (conf_folder() / "method").glob("*.yaml"))
MODELS = sorted(file.stem for file in (conf_folder() / "model").glob("*.yaml") if file.stem != "images")  # no model
WORLDS = sorted(file.stem for file in (conf_folder() / "world").glob("*.yaml"))


def composed(*overrides, conf=None):
    with initialize_config_dir(str(conf or conf_folder()), version_base="1.3"):
        return compose("config", list(overrides))


def files_read(method, model):
    """Return the files of the four folders that hold values of pairs, in the order they are read."""
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        found = loader.compute_defaults_list("config", [f"method={method}", f"model={model}"], RunMode.RUN).defaults
    return [entry.config_path for entry in found if entry.config_path.split("/")[0] in ("world", "recipe", "preset")]


@pytest.fixture
def conf(tmp_path, monkeypatch):
    """A copy of the tree, which tests may write in and which commands read."""
    folder = shutil.copytree(conf_folder(), tmp_path / "conf")
    monkeypatch.setattr("alignbench.configuration.compose.conf_folder", lambda: folder)
    return folder


def write(file, text):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


# ---- what is read


PAIRS = {
    "base flux": "world/none",
    "dpo flux_mini": "world/flow_mini recipe/dpo/flow_mini",
    "dpo sd15": "world/diffusion recipe/dpo/diffusion recipe/dpo/sd15",
    # a preset reads what its method reads, then what it changes itself
    "smpo_votes sdxl": "world/diffusion recipe/smpo/diffusion recipe/smpo/sdxl",
    "sdpo sdxl": "world/diffusion recipe/dpo/diffusion recipe/dpo/sdxl preset/sdpo/sdxl",
    # a file may start from another
    "kto sdxl_mini": "world/flow_mini world/diffusion_mini recipe/kto/flow_mini recipe/kto/diffusion_mini",
    "inpo_renoise sd15": "world/diffusion recipe/smpo/diffusion recipe/inpo/diffusion recipe/smpo/sd15 "
    "recipe/inpo/sd15",
    "srpo_paper sdxl": "world/diffusion recipe/srpo/any recipe/srpo/diffusion recipe/srpo/sdxl "
    "preset/srpo_paper/diffusion",
}


@pytest.mark.parametrize("pair", PAIRS)
def test_a_pair_reads_the_files_of_its_world_of_its_method_and_of_its_preset(pair):
    assert files_read(*pair.split()) == PAIRS[pair].split()


LAYERS = [
    "world/flow_mini", "recipe/dpo/flow_mini", "recipe/dpo/flux_mini", "preset/sdpo/flow_mini", "preset/sdpo/flux_mini",
    "memory/highest", "experiment/highest",
]  # fmt: skip


def test_later_files_win_and_the_command_line_wins_over_all(conf):
    command = ["method=sdpo", "model=flux_mini", "memory=highest", "experiment=highest"]
    for layer in LAYERS[-2:]:
        write(conf / f"{layer}.yaml", "# @package _global_\n{}\n")
    assert composed(*command, conf=conf).train.lora_rank == 16
    for rank, layer in enumerate(LAYERS, start=100):
        write(conf / f"{layer}.yaml", f"# @package _global_\ntrain:\n  lora_rank: {rank}\n")
        assert composed(*command, conf=conf).train.lora_rank == rank, layer
    assert composed(*command, "train.lora_rank=7", conf=conf).train.lora_rank == 7


def test_a_preset_has_its_methods_recipes_but_for_what_it_changes():
    for preset, method, model in (("smpo_votes", "smpo", "sd15_mini"), ("srpo_paper", "srpo", "flux")):
        pair = composed(f"method={preset}", f"model={model}", "data=shapes")
        assert pair.train == composed(f"method={method}", f"model={model}", "data=shapes").train
    assert composed("method=srpo", "model=flux_mini").method.positive_words == ["shaded"]
    assert composed("method=direct_align", "model=flux_mini").method.positive_words == []
    assert composed("method=sdpo", "model=sd15", "data=shapes").method.beta == 5000


# ---- what something new needs


def test_a_new_preset_needs_one_file(conf):
    write(conf / "method" / "dpo_soft.yaml", "defaults:\n- dpo\n- _self_\nname: dpo_soft\nlabels: soft\n")
    for model in ("sd15_mini", "flux"):
        preset = composed("method=dpo_soft", f"model={model}", "data=shapes", conf=conf)
        method = composed("method=dpo", f"model={model}", "data=shapes")
        assert preset.train == method.train
        assert preset.method == OmegaConf.merge(method.method, {"name": "dpo_soft", "labels": "soft"})


@pytest.mark.parametrize("like", ["flux", "sd15_mini"])
def test_a_new_model_needs_one_line_that_names_its_world(conf, like):
    text = (conf / "model" / f"{like}.yaml").read_text()
    write(conf / "model" / "another.yaml", text.replace(f"name: {like}\n", "name: another\n", 1))
    found = composed("method=smpo_votes", "model=another", "data=shapes", conf=conf)
    expected = composed("method=smpo_votes", f"model={like}", "data=shapes")
    assert (found.train, found.method) == (expected.train, expected.method)


def test_a_new_method_is_trained_by_the_values_of_the_models_world(conf):
    write(conf / "method" / "another.yaml", "_target_: methods.sft.SFT\nname: another\n")
    for model, keys in {
        "flux": {"tuning": "lora", "lora_rank": 32, "learning_rate": 1e-5, "mixed_precision": "bf16"},
        "sd3_mini": {"tuning": "full", "total_batch_size": 24, "ema_decay": 0.98},
        "sdxl": {"tuning": "full", "learning_rate": 1e-5, "gradient_checkpointing": True},
    }.items():
        train = composed("method=another", f"model={model}", "data=shapes", conf=conf).train
        assert {key: train[key] for key in keys} == keys, model


def test_a_new_method_reads_the_recipes_that_its_file_names(conf):
    """The files are those of the page about new methods."""
    method = conf / "method" / "likelihood_gap.yaml"
    own = block_that_begins(README, "yaml", "# conf/method/likelihood_gap.yaml")
    write(method, own + block_that_begins(ADDING_A_METHOD, "yaml", "# conf/method/likelihood_gap.yaml"))
    recipe = block_that_begins(ADDING_A_METHOD, "yaml", "# @package _global_\n# conf/recipe")
    write(conf / "recipe" / "likelihood_gap" / "flow.yaml", recipe)
    pair = ["method=likelihood_gap", "model=flux", "data=shapes"]
    cfg = composed(*pair, conf=conf)
    assert (cfg.method.margin, cfg.train.learning_rate, cfg.train.lora_rank) == (0.2, 3e-4, 32)
    write(method, method.read_text().replace("trained_as: likelihood_gap", "trained_as: mapo"))
    assert composed(*pair, conf=conf).train == composed("method=mapo", "model=flux", "data=shapes").train


def test_a_model_that_names_no_world_is_refused(conf):
    file = conf / "model" / "flux_mini.yaml"
    write(file, file.read_text().replace("  - override /world@_global_.world: flow_mini\n", ""))
    with pytest.raises(UserError, match=r"world=.*diffusion diffusion_mini flow flow_mini none") as refused:
        check_command_line(["method=dpo"], False)
    assert "\n" not in str(refused.value)


# ---- optimizers


def optimizer(*overrides, conf=None):
    return composed("data=shapes", *overrides, conf=conf).train.optimizer


ADAFACTOR = OmegaConf.load(conf_folder() / "optimizer" / "adafactor.yaml")
ADAMW = OmegaConf.load(conf_folder() / "optimizer" / "adamw.yaml")


def test_the_default_optimizer_is_adamw():
    assert optimizer("method=dpo", "model=sd15") == optimizer("method=dpo", "model=sd15", "optimizer=adamw") == ADAMW


@pytest.mark.parametrize("file", ["recipe/dpo/sd15", "recipe/dpo/diffusion", "preset/sdpo/sd15"])
def test_a_recipe_chooses_its_optimizer(conf, file):
    old = (conf / f"{file}.yaml").read_text() if (conf / f"{file}.yaml").exists() else ""
    write(conf / f"{file}.yaml", block_that_begins(CONFIGURATION, "yaml", "# @package _global_\n# conf/recipe") + old)
    pair = ["method=sdpo", "model=sd15"]
    assert optimizer(*pair, conf=conf) == ADAFACTOR
    assert optimizer(*pair, "optimizer=adamw", conf=conf) == ADAMW
    assert optimizer(*pair, "train.optimizer.weight_decay=0.5", conf=conf).weight_decay == 0.5
    assert optimizer("method=sft", "model=sd15", conf=conf) == ADAMW
    assert composed(*pair, "data=shapes", conf=conf).train.total_batch_size == 2048
    override = "defaults:\n  - override /optimizer@_global_.optimizer: adamw\n"
    write(conf / "experiment" / "plain.yaml", f"# @package _global_\n{override}")
    assert optimizer(*pair, "experiment=plain", conf=conf) == ADAMW


def test_a_preset_chooses_its_optimizer_on_any_model(conf):
    defaults = block_that_begins(CONFIGURATION, "yaml", "# conf/method/<preset>.yaml")
    write(conf / "method" / "dpo_adafactor.yaml", f"{defaults}name: dpo_adafactor\n")
    for model in ("sd15_mini", "flux"):
        pair = ["method=dpo_adafactor", f"model={model}"]
        assert optimizer(*pair, conf=conf) == ADAFACTOR
        assert optimizer(*pair, "optimizer=adamw", conf=conf) == ADAMW


# ---- the tree


def folders(group):
    return {folder.name: sorted(folder.glob("*.yaml")) for folder in (conf_folder() / group).iterdir()}


def test_every_file_of_a_recipe_is_read():
    """A file is read for a world or a model, or because another file of the folder starts from it."""
    for group in ("recipe", "preset"):
        for name, files in folders(group).items():
            started_from = {entry for file in files for entry in OmegaConf.load(file).get("defaults", [])}
            for file in files:
                assert file.stem in {*WORLDS, *MODELS} or f"/{group}/{name}/{file.stem}" in started_from, file


def test_every_file_says_where_its_values_belong():
    """Hydra looks for that in the first line alone, and would put them into a key of the folder's name."""
    for group, package in (("world", "train"), ("recipe", "_global_"), ("preset", "_global_")):
        for file in (conf_folder() / group).rglob("*.yaml"):
            assert file.read_text().startswith(f"# @package {package}\n"), file


def test_recipes_belong_to_methods_and_exceptions_to_presets():
    for name in folders("recipe"):
        defaults = OmegaConf.load(conf_folder() / "method" / f"{name}.yaml").defaults
        assert {"override /trained_as@_global_.trained_as": name} in defaults
    for name in folders("preset"):
        start = OmegaConf.load(conf_folder() / "method" / f"{name}.yaml").defaults[0]
        assert start in folders("recipe"), f"{name} is no preset of a method with recipes"


@pytest.mark.parametrize("method", METHODS)
def test_every_method_composes(method):
    model = MODELS[METHODS.index(method) % len(MODELS)]
    cfg = composed(f"method={method}", f"model={model}", "data=shapes", "reward=shapes_clip")
    assert run_name(cfg).startswith(f"{method}-{model}-")


@pytest.mark.matrix
@pytest.mark.parametrize(("method", "model"), list(itertools.product(METHODS, MODELS)))
def test_every_method_composes_with_every_model(method, model):
    """No recipe adds a key that the method or the loop does not have."""
    cfg = composed(f"method={method}", f"model={model}", "data=shapes", "reward=shapes_clip")
    own = composed(f"method={method}", "model=images").method
    assert run_name(cfg).startswith(f"{method}-{model}-")
    assert set(cfg.train) == set(Train.model_fields)
    assert cfg.method.keys() == own.keys()
