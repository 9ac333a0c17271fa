"""A class that moves or is renamed keeps the names and hashes of its runs, and files that name it are read."""

import pytest
from hydra.utils import get_object
from omegaconf import OmegaConf

from alignbench import former_names
from alignbench.configuration.build import recipe_hash, run_name
from alignbench.configuration.compose import composed
from alignbench.configuration.run_config import read_named_config
from alignbench.data.batches.feature_cache import Caches
from alignbench.models.tiny_random import tiny_adapter
from alignbench.train_reward.checks import recipe
from alignbench.train_reward.run import reward_model_name
from evaluators.networks.preprocess import ClipPixels, pixels_from, pixels_values


def rename(monkeypatch, renamed):
    """Note further names: the path of tomorrow, and the path of today of the same class."""
    further = {tomorrow: former_names.FORMER.get(today, today) for tomorrow, today in renamed.items()}
    monkeypatch.setattr(former_names, "FORMER", former_names.FORMER | further)


def test_each_path_of_today_exists_and_has_one_former_path_that_nothing_else_has():
    former = former_names.FORMER
    assert all(map(get_object, former))
    assert len({*former.values()}) == len(former)
    assert not former.keys() & {*former.values()}


@pytest.fixture(scope="module")
def before():
    return composed(["method=smpo", "auxiliary=denoising", "validation=shapes"])


@pytest.mark.parametrize(
    ("node", "present"),
    [
        ("method", "methods.renamed.Preference"),
        ("method.inversion", "alignbench.elsewhere.Settings"),
        ("reward", "evaluators.elsewhere.Clip"),
        ("model.adapter", "alignbench.elsewhere.Latents"),
        ("model.adapter.pipeline", "alignbench.elsewhere.load"),
        ("data", "alignbench.elsewhere.Pairs"),
        ("data.annotators", "alignbench.elsewhere.People"),
        ("auxiliary.denoising.term", "methods.renamed.Denoising"),
        ("validation.prompts", "alignbench.elsewhere.prompts"),
        ("train.optimizer", "alignbench.elsewhere.Optimizer"),
    ],
)
def test_a_run_keeps_its_name_when_a_class_of_its_configuration_moves(monkeypatch, before, node, present):
    names = run_name(before), recipe_hash(before)
    former = OmegaConf.select(before, node)._target_
    after = before.copy()
    OmegaConf.update(after, f"{node}._target_", present)
    assert run_name(after) != names[0]  # the name does depend on it
    rename(monkeypatch, {present: former})
    assert (run_name(after), recipe_hash(after)) == names


def test_a_judge_keeps_its_name_when_a_class_of_its_configuration_moves(monkeypatch):
    before = composed(["judge=head"], "train_reward")
    name = reward_model_name(before)
    after = before.copy()
    OmegaConf.update(after, "data._target_", "alignbench.elsewhere.Pairs")
    assert reward_model_name(after) != name
    rename(monkeypatch, {"alignbench.elsewhere.Pairs": before.data._target_})
    assert reward_model_name(after) == name
    assert recipe(after)


def test_the_configuration_of_a_run_is_read_with_the_classes_of_today(monkeypatch, tmp_path):
    cfg = composed(["method=smpo", "model=sd15_mini"])
    file = tmp_path / "config.yaml"
    file.write_text(OmegaConf.to_yaml(cfg, resolve=True))
    assert read_named_config(file) == cfg
    rename(monkeypatch, {"methods.renamed.Preference": "methods.smpo.SmPO"})
    found = read_named_config(file)
    assert found.method._target_ == "methods.renamed.Preference"
    assert found.model == cfg.model
    assert run_name(found) == run_name(cfg)


class RenamedPixels(ClipPixels):
    """Stands for `ClipPixels` under another name."""


def test_a_renamed_preprocessing_is_described_as_before(monkeypatch):
    described = pixels_values(ClipPixels(64))
    rename(monkeypatch, {f"{__name__}.RenamedPixels": "evaluators.networks.preprocess.ClipPixels"})
    assert pixels_values(RenamedPixels(64)) == described == {"kind": "ClipPixels", "size": 64}
    assert pixels_from(described) == ClipPixels(64)


def test_encoded_prompts_of_a_renamed_adapter_are_found(monkeypatch, tmp_path):
    model = tiny_adapter("stable_diffusion")

    def folders():
        return list(Caches.open(tmp_path, model, "mode", model.device).made_by)

    before = folders()
    former = type(model)
    model.__class__ = type("Renamed", (former,), {"__module__": "alignbench.elsewhere"})
    assert folders() != before
    path = f"{former.__module__}.{former.__qualname__}"
    rename(monkeypatch, {"alignbench.elsewhere.Renamed": path})
    assert folders() == before
