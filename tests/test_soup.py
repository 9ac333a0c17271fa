"""An average of trained policies adds the average of what they learned, and is a policy like any other."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from alignbench.configuration.build import config_hash, recipe_hash, row_name, run_name
from alignbench.configuration.compose import composed
from alignbench.errors import UserError
from alignbench.models.tiny_random import tiny_adapter
from alignbench.models.weights.average import average_adapters, average_weights
from alignbench.soup import arguments, find_parent, make_soup, read_shares
from alignbench.stages.open_run import start_weights
from alignbench.stages.start import display_name, start_data, start_run, start_trained_on
from alignbench.store.manifest import Manifest
from alignbench.store.origin.soup_record import SoupRecord, find_soup
from alignbench.store.run_folder import RunFolder
from alignbench.store.training_data import digests, write_training_data

# ---- the mathematics


def adapters(seed, rank, alpha=None, layers=("one", "two")):
    """Return random adapters of two layers, in float64: a linear one and a convolution."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    sizes = {"one": ((rank, 8), (6, rank)), "two": ((rank, 4, 3, 3), (5, rank, 1, 1))}
    return {name: (draw(*sizes[name][0]), draw(*sizes[name][1]), alpha or float(rank)) for name in layers}


def added(down, up, alpha):
    return alpha / len(down) * up.flatten(1) @ down.flatten(1)


def average_of(parents, shares):
    """Return what averaged adapters add to each layer."""
    state = average_adapters(parents, shares)
    names = {key.partition(".lora_")[0] for key in state}
    pairs = {name: (state[f"{name}.lora_A.weight"], state[f"{name}.lora_B.weight"]) for name in names}
    return {name: added(down, up, float(len(down))) for name, (down, up) in pairs.items()}


def test_products_are_averaged_whatever_rank_and_alpha_the_parents_have():
    first, second = adapters(0, 2, alpha=6.0), adapters(1, 3, alpha=1.5)
    found = average_of([first, second], [0.3, 0.7])
    for name in ("one", "two"):
        expected = 0.3 * added(*first[name]) + 0.7 * added(*second[name])
        torch.testing.assert_close(found[name], expected, rtol=0, atol=1e-12)
    state = average_adapters([first, second], [0.3, 0.7])
    assert state["two.lora_A.weight"].shape == (5, 4, 3, 3)
    assert state["two.lora_B.weight"].shape == (5, 5, 1, 1)


def test_averaged_factors_would_be_another_network():
    """Of two random adapters of rank 2, the product of averaged factors is more than half off."""
    first, second = adapters(0, 2), adapters(1, 2)
    (a, b, alpha), (c, d, _) = first["one"], second["one"]
    averaged_factors = added((a + c) / 2, (b + d) / 2, alpha)
    expected = (added(*first["one"]) + added(*second["one"])) / 2
    assert (averaged_factors - expected).norm() / expected.norm() > 0.5
    torch.testing.assert_close(average_of([first, second], [0.5, 0.5])["one"], expected, rtol=0, atol=1e-12)


def test_the_order_of_the_parents_does_not_matter_and_one_parent_is_itself():
    first, second = adapters(0, 2), adapters(1, 4)
    forth, back = average_of([first, second], [0.25, 0.75]), average_of([second, first], [0.75, 0.25])
    alone = average_of([first], [1.0])
    for name in forth:
        torch.testing.assert_close(forth[name], back[name], rtol=0, atol=1e-12)
        torch.testing.assert_close(alone[name], added(*first[name]), rtol=0, atol=1e-12)


def test_a_layer_that_one_parent_left_alone_gets_its_share_of_the_other():
    first, second = adapters(0, 2), adapters(1, 2, layers=("two",))
    found = average_of([first, second], [0.25, 0.75])
    torch.testing.assert_close(found["one"], 0.25 * added(*first["one"]), rtol=0, atol=1e-12)


def test_weights_that_all_parents_share_stay_as_they_are():
    weights = [{"a": torch.tensor([0.1, x]), "b": torch.tensor([0.7]).bfloat16()} for x in (1.0, 2.0, 6.0)]
    found = average_weights(weights, [1 / 3] * 3)
    assert found["a"].tolist() == [weights[0]["a"][0].item(), 3.0]
    assert torch.equal(found["b"], weights[0]["b"])


# ---- soups of runs


@pytest.fixture
def make_run(tmp_path):
    """Return a function that makes a run of a tiny model as training would leave it."""

    def make(seed, tuning: Any = "lora", family="flux", start=None, base="base", rank=2, **manifest: Any):
        model, name = tiny_adapter(family), {"flux": "flux", "stable_diffusion": "sd15"}[family]
        if not (tmp_path / base).exists():
            model.pipeline.save_pretrained(tmp_path / base)
        cfg = composed([
            "method=dpo", f"model={name}", "data=shapes", f"model.pretrained_model_name_or_path={tmp_path / base}",
            "model.resolution=32", "model.adapter.pipeline.torch_dtype=float32", f"train.tuning={tuning}",
            f"seed={seed}", *([f"model.policy={start}"] if start else []),
        ])  # fmt: skip
        run = RunFolder(tmp_path / "results" / run_name(cfg))
        hashes = (config_hash(cfg), recipe_hash(cfg))
        run.open(Manifest(run.name, row_name(cfg), name, seed, *hashes, start_weights=start_weights(cfg), **manifest))
        run.config_file.write_text(OmegaConf.to_yaml(cfg, resolve=True))
        if start:
            model.load_policy(start)
        model.prepare_training(tuning, rank=rank, alpha=6)
        generator = torch.Generator().manual_seed(seed)
        for parameter in (p for p in model.denoiser.parameters() if p.requires_grad):
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
        model.save_policy(run.policy)
        run.complete("train", files=[run.policy])
        model.fold_adapters()
        return run, {key: tensor.clone() for key, tensor in model.denoiser.state_dict().items()}

    return make


def soup_of(runs, shares, to):
    return make_soup([find_parent(str(run.path)) for run in runs], shares, to)


def loaded(folder, family="flux"):
    """Return the weights of a tiny model with a policy in it."""
    model = tiny_adapter(family)
    model.load_policy(folder)
    model.fold_adapters()
    return model.denoiser.state_dict()


def check_average(found, parents, shares, atol):
    for key in found:
        expected = sum(share * parent[key].double() for share, parent in zip(shares, parents, strict=True))
        torch.testing.assert_close(found[key].double(), expected, rtol=0, atol=atol, msg=key)


def test_a_soup_of_adapters_is_loaded_as_adapters_that_add_the_average(make_run, tmp_path):
    (one, a), (two, b) = make_run(0, rank=2), make_run(1, rank=3)
    record = soup_of([one, two], [0.3, 0.7], tmp_path / "soup")
    assert sorted(file.name for file in (tmp_path / "soup").iterdir()) == [
        "pytorch_lora_weights.safetensors", "soup.json", "training_data.npy",
    ]  # fmt: skip
    check_average(loaded(tmp_path / "soup"), [a, b], [0.3, 0.7], 1e-5)
    told = json.loads((tmp_path / "soup" / "soup.json").read_text())["parents"]
    assert [(parent["run"], parent["weight"]) for parent in told] == [(one.name, 0.3), (two.name, 0.7)]
    assert all(len(parent["digest"]) == 64 for parent in told)
    assert record.label == "soup(dpo,dpo)"
    alone = soup_of([one], [1.0], tmp_path / "alone")
    assert len(alone.parents) == 1
    check_average(loaded(tmp_path / "alone"), [a], [1.0], 1e-6)


def test_a_soup_with_a_policy_that_was_trained_whole_is_a_whole_network(make_run, tmp_path):
    (one, a), (two, b) = make_run(0), make_run(1, tuning="full")
    soup_of([one, two], [0.5, 0.5], tmp_path / "soup")
    assert (tmp_path / "soup" / "transformer" / "config.json").is_file()
    check_average(loaded(tmp_path / "soup"), [a, b], [0.5, 0.5], 1e-6)
    soup_of([two], [1.0], tmp_path / "alone")
    found = loaded(tmp_path / "alone")
    assert all(torch.equal(found[key], b[key]) for key in b)


def test_adapters_on_top_of_a_policy_become_a_whole_network_that_has_it_inside(make_run, tmp_path):
    """On the base model alone they would be something else."""
    first, _ = make_run(0)
    (one, a), (two, b) = (make_run(seed, start=first.path) for seed in (1, 2))
    soup_of([one, two], [0.5, 0.5], tmp_path / "soup")
    check_average(loaded(tmp_path / "soup"), [a, b], [0.5, 0.5], 1e-5)


def test_a_soup_tells_what_its_parents_were_trained_on_and_how_tables_call_it(make_run, tmp_path):
    one, _ = make_run(0, trained_on=["clip_score"])
    two, _ = make_run(1, trained_on=["pickscore", "clip_score"], display_name="mine")
    for run, name in ((one, "a"), (two, "b")):
        write_training_data(run, digests([name]))
    soup_of([one, two], [0.5, 0.5], tmp_path / "soup")
    base = [f"model.pretrained_model_name_or_path={tmp_path / 'base'}", "model=flux"]
    cfg = composed(["method=base", *base, f"model.policy={tmp_path / 'soup'}", "model.policy_trained_on=[hpsv2_1]"])
    assert start_run(cfg) is None
    assert start_trained_on(cfg, None) == ["hpsv2_1", "clip_score", "pickscore"]
    assert np.array_equal(start_data(cfg, None), digests(["a", "b"]))
    assert display_name(cfg) == "soup(dpo,mine)"


def test_parents_of_different_starts_or_architectures_are_refused(make_run, tmp_path):
    one, _ = make_run(0)
    others = {
        "pretrained_model_name_or_path: .*base and .*other": make_run(1, base="other"),
        r"architecture: .*Flux and .*StableDiffusion\)": make_run(1, family="stable_diffusion", base="sd"),
        "policy_sha256: None and ": make_run(1, start=one.path),
    }
    for sentence, (other, _) in others.items():
        with pytest.raises(UserError, match=f"did not start from the same weights .*{sentence}"):
            soup_of([one, other], [0.5, 0.5], tmp_path / "soup")
    assert not (tmp_path / "soup").exists()


def test_what_is_no_run_or_has_no_place_is_refused(make_run, tmp_path):
    one, _ = make_run(0)
    with pytest.raises(UserError, match=r"is not a run, .*method=base model=NAME model.policy=POLICY"):
        find_parent(str(one.policy))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UserError, match=r"--to .*full exists and is not empty"):
        soup_of([one], [1.0], tmp_path / "full")
    file = one.policy / "pytorch_lora_weights.safetensors"
    file.write_bytes(file.read_bytes() + b"0")
    with pytest.raises(UserError, match="has changed since it was written"):
        find_parent(str(one.path))


# ---- the command


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a,b", "is not understood; expected numbers"),
        ("1", "has 1 weights for 2 runs"),
        ("1.5,-0.5", "must be numbers above 0"),
        ("nan,1", "must be numbers above 0"),
        ("0.5,0.4", r"sum to 0.9, .*set sampling.strength"),
    ],
)
def test_shares_that_make_no_average_are_refused(text, sentence):
    with pytest.raises(UserError, match=sentence):
        read_shares(text, 2)


def test_shares_are_read_and_all_the_same_without_any():
    args = arguments(["A", "B", "--weights", "0.25,0.75", "--to", "C"])
    assert (args.runs, read_shares(args.weights, 2), args.to) == (["A", "B"], [0.25, 0.75], Path("C"))
    assert read_shares(None, 4) == [0.25] * 4


# ---- a folder of somebody else


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"parents": []},
        {"parents": [{"run": "r"}]},
        {"parents": [{"run": "r", "method": "m", "weight": "1", "policy": "p", "digest": "d"}]},
        {"parents": [{"run": ["r"], "method": "m", "weight": 1.0, "policy": "p", "digest": "d"}]},
        {"trained_on": "clip_score"},
    ],
    ids=str,
)
def test_a_damaged_record_is_refused_by_name(tmp_path, change):
    parent = {"run": "r", "method": "m", "weight": 1.0, "policy": "p", "digest": "d"}
    whole = {"format": 1, "parents": [parent], "trained_on": []}
    np.save(tmp_path / "training_data.npy", digests(["a"]))
    (tmp_path / "soup.json").write_text(json.dumps(whole))
    assert SoupRecord.read(tmp_path).label == "soup(m)"
    (tmp_path / "soup.json").write_text(json.dumps(whole | change))
    with pytest.raises(UserError, match=r"soup\.json is not what `python -m alignbench.soup` writes"):
        find_soup(str(tmp_path))


def test_training_data_that_would_run_code_is_refused(tmp_path):
    parent = {"run": "r", "method": "m", "weight": 1.0, "policy": "p", "digest": "d"}
    (tmp_path / "soup.json").write_text(json.dumps({"format": 1, "parents": [parent], "trained_on": []}))
    np.save(tmp_path / "training_data.npy", np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"training_data\.npy holds no list of uint64"):
        find_soup(str(tmp_path))
