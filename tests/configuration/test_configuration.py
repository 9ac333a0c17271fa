"""Configurations: what files name exists, names follow the weights, and bad input ends in one sentence."""

import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_class
from omegaconf import OmegaConf

from alignbench.configuration.build import (
    EXTRAS,
    base_of,
    build,
    conf_folder,
    config_hash,
    installation,
    recipe_hash,
    run_name,
)
from alignbench.configuration.compose import check_command_line
from alignbench.errors import UserError
from alignbench.reproduce.rows import read_rows
from tests.processes import DEEPSPEED, FSDP2

METHODS = sorted(file.stem for file in (conf_folder() / "method").glob("*.yaml"))


def composed(*overrides):
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return compose("config", list(overrides))


def refusal(*overrides, multirun=False):
    with pytest.raises(UserError) as refused:
        check_command_line(list(overrides), multirun)
    message = str(refused.value)
    assert "\n" not in message
    return message


def targets(node):
    if isinstance(node, dict):
        if "_target_" in node:
            yield node
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from targets(child)


@pytest.mark.parametrize("path", sorted(conf_folder().rglob("*.yaml")), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_target_resolves(path):
    for node in targets(OmegaConf.to_container(OmegaConf.load(path))):
        target = node["_target_"]
        if target is not None:
            module, _, name = target.rpartition(".")
            package = module.split(".")[0]
            if path.parent.name == "optimizer" and find_spec(package) is None:
                assert f"needs the package {package}, which is not installed" in refusal(f"optimizer={path.stem}")
                continue
            assert hasattr(__import__(module, fromlist=[name]), name), target


@pytest.mark.matrix
def test_every_method_class_agrees_with_its_file_on_the_name():
    for method in METHODS:
        cfg = composed(f"method={method}")
        assert cfg.method.name == method
        assert get_class(cfg.method._target_)


# ---- names


def test_the_run_name_is_the_same_for_what_does_not_change_the_weights():
    name = run_name(composed("method=dpo"))
    for same in (
        "stages=[score]", "prompts=parti", "sampling.seed=3", "model.scheduler=PNDM", "model.sampling_resolution=32",
        "train.logging_steps=7", "results=elsewhere",
    ):  # fmt: skip
        assert run_name(composed("method=dpo", same)) == name


def test_the_run_name_differs_for_what_changes_the_weights():
    changes = ("seed=1", "train.learning_rate=1e-3", "method.beta=7", "data.num_pairs=16", "train.tuning=lora")
    names = {run_name(composed("method=dpo", change)) for change in changes}
    assert len(names | {run_name(composed("method=dpo"))}) == len(changes) + 1


def test_runs_that_differ_in_the_seed_share_their_recipe():
    first, second = composed("seed=0"), composed("seed=1")
    assert recipe_hash(first) == recipe_hash(second)
    assert config_hash(first) != config_hash(second)


def test_a_reward_counts_only_where_it_is_trained_on():
    assert run_name(composed("method=dpo")) == run_name(composed("method=dpo", "reward=shapes_preference"))
    assert run_name(composed("method=srpo")) != run_name(composed("method=srpo", "reward=shapes_preference"))


def test_the_base_run_depends_on_the_model_alone():
    names = {
        run_name(base_of(composed(*changes)))
        for changes in (["seed=3"], ["method=dpo"], ["train.learning_rate=1"], ["method=base"], ["data=local"])
    }
    assert len(names) == 1
    assert run_name(base_of(composed("model=sd15_mini"))) not in names


def test_a_published_policy_is_a_run_of_its_own_beside_the_base(tmp_path):
    torch.save({}, tmp_path / "unet.pth")
    given = ["model=sd15_mini", f"model.policy={tmp_path}/unet.pth"]
    published = composed("method=base", *given)
    assert check_command_line(["method=base", *given], False) == 1
    assert run_name(published) == f"published_{tmp_path.name}-sd15_mini-{config_hash(published)}"
    assert run_name(composed("method=base", *given, "seed=3")) == run_name(published)
    base = run_name(composed("method=base", "model=sd15_mini"))
    assert run_name(base_of(published)) == run_name(base_of(composed("method=dpo", *given))) == base
    names = {run_name(composed("method=base", *given, f"model.policy_revision={name}")) for name in ("a", "b")}
    assert len({run_name(published), *names}) == 3


def test_what_a_policy_was_trained_on_marks_rows_and_changes_no_weights():
    assert run_name(composed("model.policy_trained_on=[shapes_clip]")) == run_name(composed())
    assert "model.policy_trained_on=clip is unknown" in refusal("model.policy_trained_on=[clip]", "model.policy=FOLDER")
    assert "belongs to a model.policy" in refusal("model.policy_trained_on=[shapes_clip]")


# ---- refusals


@pytest.mark.parametrize(
    ("override", "found", "expected"),
    [
        ("method=dpoo", "method=dpoo is unknown", "did you mean dpo"),
        ("model=flux_min", "model=flux_min is unknown", "did you mean flux_mini"),
        ("prompts=hpd", "prompts=hpd is unknown", "available: drawbench"),
        ("train.learning_rat=1", "train.learning_rat is unknown", "did you mean train.learning_rate?"),
        ("methods=dpo", "methods is unknown", "did you mean method"),
        ("stages=[scor]", "stages=scor is unknown", "did you mean score"),
        ("stages=[]", "stages=[] must be a list", "one or more of prepare, train, generate, score, compare, report"),
        ("train.max_train_steps=0", "train.max_train_steps=0", "at least 1"),
        ("train.max_train_steps=many", "train.max_train_steps=many", "whole number"),
        ("train.max_network_passes=true", "train.max_network_passes=true", "at least 1, or null"),
        ("train.max_network_passes=0", "train.max_network_passes=0", "at least 1, or null"),
        ("train.learning_rate=-1", "train.learning_rate=-1", "above 0"),
        ("train.ema_decay=1.5", "train.ema_decay=1.5", "between 0 and 1"),
        ("train.tuning=lore", "train.tuning=lore is unknown", "did you mean lora"),
        ("train.max_grad_value=0", "train.max_grad_value=0", "above 0"),
        ("train.weight_distance=-1", "train.weight_distance=-1", "at least 0"),
        ("optimizer=adam", "optimizer=adam is unknown", "did you mean adamw"),
        ("optimizer=null", "optimizer=null is unknown", "available: adafactor"),
        ("train.optimizer=3", "train.optimizer=3", "a mapping of names to values"),
        ("auxiliary=denoise", "auxiliary=denoise is unknown", "did you mean denoising"),
        ("sampling.noise=same", "sampling.noise=same is unknown", "per_prompt, constant"),
        (
            "sampling.scheduler=Euler",
            "sampling.scheduler=Euler does not sample model=flux_mini",
            "FlowMatchEulerDiscrete",
        ),
        ("sampling.negative_prompt=dull", "has no effect on model=flux_mini", "add sampling.true_cfg_scale=VALUE"),
        ("sampling.true_cfg_scale=1", "sampling.true_cfg_scale=1 must be a number above 1", "or null"),
        ("sampling.guidance_scale=much", "sampling.guidance_scale=much", "number of at least 0"),
        ("sampling.resolution=0", "sampling.resolution=0", "whole number of at least 1, or null"),
        ("prompts.limit=0", "prompts.limit=0", "at least 1"),
        ("model.policy=/nowhere", "model.policy=/nowhere is neither here nor a hub id", "trained weights"),
        ("nonsense", "'nonsense' is not understood", "key=value"),
        ("reward=none", "method=srpo trains on a reward", "reward=NAME"),
        ("evaluators=none", "evaluators is empty", "available: geneval, geneval2, papers, shapes"),
        ("features=shape", "features=shape is unknown", "did you mean shapes"),
        ("features=clip_l14", "features=clip_l14 is unknown", "features=none +feature@features.clip_l14=clip_l14"),
    ],
)
def test_bad_input_is_answered_with_what_was_found_and_what_was_expected(override, found, expected):
    message = refusal(override)
    assert found in message
    assert expected in message


def test_guidance_that_would_do_nothing_is_refused_by_the_model_it_is_for():
    unet = ["model=sd15_mini", "sampling.negative_prompt=dull"]
    check_command_line(unet, False)
    check_command_line(["sampling.negative_prompt=dull", "sampling.true_cfg_scale=2"], False)
    assert "no effect at sampling.guidance_scale=1.0; set it above 1" in refusal(*unet, "sampling.guidance_scale=1.0")
    assert "true_cfg_scale is not for model=sd15_mini" in refusal("model=sd15_mini", "sampling.true_cfg_scale=2")
    assert "does not sample model=sd15_mini" in refusal("model=sd15_mini", "sampling.scheduler=FlowMatchEulerDiscrete")


@pytest.mark.parametrize("change", ["train.max_grad_value=1", "train.weight_distance=0.1"])
def test_what_reads_gradients_as_they_are_is_refused_where_they_are_scaled(change):
    assert "exclude each other; use bf16" in refusal(change, "train.mixed_precision=fp16")
    check_command_line([change, "train.mixed_precision=bf16"], False)


@pytest.mark.parametrize("mode", ["bf16_compensated", "bf16_stochastic"])
def test_updates_of_bfloat16_weights_that_would_be_lost_are_refused(mode):
    full = ["method=dpo", "model=sd15_mini", "train.tuning=full"]
    lost = refusal(*full, "train.weights_dtype=bfloat16")
    assert "would lose most updates in rounding; add memory=bf16_compensated or memory=bf16_stochastic" in lost
    assert "cannot scale gradients of bfloat16" in refusal(*full, f"memory={mode}", "train.mixed_precision=fp16")
    check_command_line([*full, f"memory={mode}"], False)
    check_command_line(["method=dpo", "model=sd15_mini", "train.tuning=lora", "train.weights_dtype=bfloat16"], False)


def test_memory_modes_are_combined_and_only_the_ones_that_change_weights_change_the_name():
    cfg = composed("method=dpo", "memory=[bf16_stochastic,checkpointing,offload]")
    assert (cfg.train.weights_dtype, cfg.train.weight_updates) == ("bfloat16", "stochastic")
    assert cfg.train.gradient_checkpointing
    assert cfg.train.offload
    assert run_name(composed("method=dpo", "memory=offload")) == run_name(composed("method=dpo"))
    assert run_name(composed("method=dpo", "memory=bf16_stochastic")) != run_name(composed("method=dpo"))
    assert "did you mean bf16_stochastic" in refusal("memory=bf16_stochastik")


@pytest.mark.parametrize("bits", [8, 4])
def test_a_quantised_base_is_for_adapters_alone(bits):
    mode = f"memory=base_{bits}bit"
    assert "add train.tuning=lora" in refusal("method=dpo", "train.tuning=full", mode)
    assert "add train.tuning=lora" in refusal("method=dpo", "train.tuning=full", mode, "dry_run=true")
    twice = refusal("method=dpo", "train.tuning=lora", f"memory=[base_{bits}bit,bf16_stochastic]")
    assert f"choose memory=base_{bits}bit without memory=bf16_stochastic" in twice
    check_command_line(["method=dpo", "train.tuning=lora", mode, f"sampling.base_bits={bits}"], False)


def test_only_widths_that_exist_are_taken():
    assert "train.base_bits=3 is unknown; available: null, 8, 4" in refusal("train.tuning=lora", "train.base_bits=3")
    assert "sampling.base_bits=16 is unknown" in refusal("sampling.base_bits=16")


def test_a_quantised_base_has_a_run_of_its_own_and_runs_without_one_keep_their_names():
    plain = composed("method=dpo", "train.tuning=lora")
    command = ["method=dpo", "train.tuning=lora"]
    names = [run_name(composed(*command, f"train.base_bits={bits}")) for bits in ("null", 8, 4)]
    assert len(set(names)) == 3
    OmegaConf.set_struct(plain, False)
    del plain.train["base_bits"], plain.train["size_conditioning"]
    assert run_name(plain) == names[0]


def test_true_sizes_are_told_to_sdxl_alone_and_change_the_run_but_not_its_base():
    told = "train.size_conditioning=true_size"
    assert "model=flux_mini takes none" in refusal("method=mapo", told)
    assert "train.size_conditioning=real is unknown" in refusal("train.size_conditioning=real")
    command = ["method=mapo", "model=sdxl_mini"]
    check_command_line([*command, told], False)
    plain, sized = composed(*command), composed(*command, told)
    assert run_name(plain) != run_name(sized)
    assert run_name(base_of(plain)) == run_name(base_of(sized))
    assert composed("method=mapo", "model=sdxl", "data=shapes").train.size_conditioning == "true_size"
    assert composed("method=dpo", "model=sdxl", "data=shapes").train.size_conditioning == "square"


CUTS = ["train.crop=random", "train.random_flip=true", "train.aspect_ratio_buckets=auto"]


@pytest.mark.parametrize("cut", CUTS)
def test_how_images_are_cut_changes_the_run_and_asks_for_images(cut):
    command = ["method=dpo", "model=sd15_mini"]
    check_command_line([*command, cut], False)
    assert run_name(composed(*command)) != run_name(composed(*command, cut))
    key = cut.split("=")[0]
    message = f"{key} is about training images, and method=srpo reads prompts alone"
    assert message in refusal("method=srpo", "model=sd15_mini", cut)
    check_command_line(["method=srpo", "model=sd15_mini", "auxiliary=denoising", cut], False)


def test_runs_without_any_choice_of_a_cut_keep_their_names():
    plain = composed("method=dpo")
    OmegaConf.set_struct(plain, False)
    for key in ("crop", "random_flip", "crops_per_image", "aspect_ratio_buckets"):
        del plain.train[key]
    assert run_name(plain) == run_name(composed("method=dpo"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["crop=left"], "train.crop=left is unknown; available: centre, random"),
        (["random_flip=1.5"], "train.random_flip=1.5 must be true or false"),
        (["crops_per_image=2"], "train.crops_per_image=2 needs train.crop=random"),
        (["crop=random", "crops_per_image=0"], "must be a whole number of at least 1, or null"),
        (["aspect_ratio_buckets=many"], "train.aspect_ratio_buckets=many must be auto, a list such as"),
        (["aspect_ratio_buckets=[]"], "must be auto, a list"),
        (["aspect_ratio_buckets=[[64],[64,48]]"], "must be auto, a list"),
        (["aspect_ratio_buckets=[[64,64],[48,48]]"], "two sizes of one aspect, [64, 64] and [48, 48]; choose one"),
        (
            ["aspect_ratio_buckets=auto", "total_batch_size=8", "micro_batch_size=3"],
            "train.micro_batch_size=3 does not divide train.total_batch_size=8",
        ),
    ],
)
def test_ways_to_cut_that_mean_nothing_are_refused(overrides, message):
    assert message in refusal("method=dpo", "model=sd15_mini", *(f"train.{one}" for one in overrides))


def test_an_experiment_may_sweep_by_itself_and_the_command_line_narrows_it():
    assert check_command_line(["experiment=mini_table", "seed=0", "model=sd15_mini"], False) == 7
    assert check_command_line(["experiment=mini_table", "method=sft,dpo", "seed=5"], False) == 2 * 2
    with pytest.raises(UserError, match=r"method=dop is unknown; did you mean dpo"):
        check_command_line(["experiment=mini_table", "method=sft,dop"], False)
    with pytest.raises(UserError, match=r"train\.learning_rate=-1"):
        check_command_line(["experiment=mini_table", "train.learning_rate=1e-5,-1"], False)


def test_a_sweep_over_methods_and_models_passes_the_checks():
    assert check_command_line(["method=sft,smpo_votes", "model=sd15_mini,sdxl_mini"], True) == 4


def test_rates_that_a_method_has_by_default_are_those_the_table_was_tuned_to():
    """srpo has a default of its own: there it trains on another reward."""
    tuned = composed("experiment=mini_table", "method=sft").tuned_learning_rate
    for model, rates in tuned.items():
        for method in rates.keys() - {"srpo"}:
            assert composed(f"method={method}", f"model={model}").train.learning_rate == rates[method], (method, model)


@pytest.mark.matrix
def test_every_experiment_passes_the_checks():
    rows = {row.experiment for row in read_rows().values()}  # one run each; tests/reproduce checks them
    sweeps = sorted({file.stem for file in (conf_folder() / "experiment").glob("*.yaml")} - rows)
    assert sweeps
    for experiment in sweeps:
        assert check_command_line([f"experiment={experiment}", "seed=0"], False) > 1


def test_a_scorer_is_asked_for_like_a_reward():
    assert "method=smpo reads a reward's scores; add reward=NAME" in refusal("method=smpo", "reward=none")


def test_an_auxiliary_loss_is_checked_as_a_method_is(tmp_path):
    message = refusal("auxiliary=denoising", "auxiliary.denoising.weight=0")
    assert "auxiliary.denoising.weight=0 must be a number above 0" in message
    message = refusal("method=srpo", "auxiliary=denoising", "data=prompts", f"data.path={tmp_path}/prompts.txt")
    assert "method=denoising needs pairs" in message


@pytest.mark.parametrize(
    ("launcher_says", "command", "message"),
    [
        (FSDP2, ["optimizer=adafactor"], "needs whole weights"),
        (FSDP2, ["train.mixed_precision=fp16"], "fp16 scales gradients"),
        (DEEPSPEED, ["train.mixed_precision=bf16"], "train.mixed_precision=bf16 needs what DeepSpeed keeps to itself"),
        (DEEPSPEED, ["memory=bf16_stochastic"], "train.weight_updates=stochastic"),
        (DEEPSPEED, ["train.max_grad_value=1"], "train.max_grad_value=1"),
        (DEEPSPEED, ["auxiliary=output_distance"], "auxiliary losses"),
    ],
)
def test_what_parts_of_weights_or_gradients_cannot_do_is_refused(monkeypatch, launcher_says, command, message):
    monkeypatch.setattr("alignbench.configuration.launcher.find_spec", lambda package: True)
    for name, value in {**launcher_says, "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert message in refusal("method=dpo", "model=sd15_mini", *command)
    check_command_line(["method=dpo", "model=sd15_mini"], False)


def test_deepspeed_keeps_float32_copies_of_bfloat16_weights_itself(monkeypatch):
    command = ["method=dpo", "model=sd15_mini", "train.tuning=full", "train.weights_dtype=bfloat16"]
    assert "would lose most updates in rounding" in refusal(*command)
    monkeypatch.setattr("alignbench.configuration.launcher.find_spec", lambda package: True)
    for name, value in {**DEEPSPEED, "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    check_command_line(command, False)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["validation.every=5"], "needs prompts; add validation=shapes"),
        (["validation=shapes", "validation.every=0"], "validation.every=0 must be a whole number"),
        (["validation=shapes", "validation.patience=0"], "validation.patience=0 must be"),
        (["validation=shapes", "validation.select=[hpsv2]"], "validation.select=hpsv2 is not among evaluators"),
        (["validation=shapes", "validation.select=null", "validation.patience=3"], "add validation.select=[EVALUATOR]"),
        (["validation=shapes", "evaluators=none"], "evaluators is empty"),
        (["validation=shapes", "validation.prompts.limit=few"], "validation.prompts.limit=few must be a whole number"),
    ],
)
def test_a_validation_that_cannot_be_is_refused(command, message):
    assert message in refusal("method=dpo", "model=sd15_mini", "stages=[train]", *command)


def test_validation_is_part_of_a_runs_name_only_where_it_chooses():
    name = run_name(composed("method=dpo", "model=sd15_mini"))
    assert run_name(composed("method=dpo", "model=sd15_mini", "validation.batch_size=3")) == name
    looked_at = run_name(composed("method=dpo", "model=sd15_mini", "validation=shapes"))
    assert looked_at != name
    assert run_name(composed("method=dpo", "model=sd15_mini", "validation=shapes", "validation.every=7")) != looked_at


def test_an_optimizer_whose_package_is_missing_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    assert "needs the package prodigyopt, which is not installed: pip install" in refusal("optimizer=prodigy")
    extras = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for package, extra in EXTRAS.items():
        assert any(entry.startswith(package) for entry in extras[extra])
        assert f'"alignbench[{extra}]"' in installation(package)
    assert installation("mlflow") == "pip install mlflow"


def test_optimizers_and_auxiliary_losses_combine_with_any_method_and_change_the_name():
    names = [run_name(composed("method=dpo", *more)) for more in ([], ["optimizer=adafactor"], ["auxiliary=denoising"])]
    names.append(run_name(composed("method=dpo", "auxiliary=[denoising,output_distance]")))
    assert len(set(names)) == 4
    check_command_line(["method=srpo", "auxiliary=[denoising,output_distance]", "optimizer=adafactor"], False)


def test_a_model_without_weights_says_what_to_set():
    for model in ("flux", "sd15", "sdxl", "sd3"):
        message = refusal(f"model={model}", "data=shapes", "reward=shapes_clip", "evaluators=shapes")
        assert "model.pretrained_model_name_or_path" in message


def test_a_required_value_that_is_missing_is_named():
    assert "data.path must be set" in refusal("method=dpo", "data=local")


def test_a_method_whose_data_lack_what_it_needs_is_told_which_data_have_it(tmp_path):
    message = refusal("method=dpo", "data=prompts", f"data.path={tmp_path}/prompts.txt")
    assert "method=dpo needs pairs, and data=prompts has only prompts" in message
    assert "data=local or data=pickapic or data=runs or data=shapes" in message


def test_a_method_on_generated_images_is_told_which_data_have_their_noise(tmp_path):
    told = refusal("method=pnapo", "model=flux_mini")
    assert told.endswith("data=shapes has only images, labels, pairs, prompts; add data=runs")
    runs = ["method=pnapo", "data=runs", f"data.path={tmp_path}", "data.evaluator=shapes_clip"]
    for change in ("train.crop=random", "train.random_flip=true", "train.aspect_ratio_buckets=auto"):
        key = change.split("=")[0]
        assert f"{key} changes images, but not the noise that they were made from" in refusal(*runs, change)
    assert "would make up one; add data.ties=drop" in refusal(*runs, "data.ties=half")


def test_a_loss_that_needs_more_than_pairs_and_a_frozen_reference_is_refused_online():
    online = ["method=online_dpo", "method@method.pairwise=linear_dpo"]
    assert "choose another loss, or method.pairwise.reference=frozen" in refusal(*online)
    check_command_line([*online, "method.pairwise.reference=frozen"], False)


def test_data_that_are_not_there_and_impossible_rules_are_refused_before_a_model_loads(tmp_path):
    told = refusal("method=dpo", "data=hpdv2", f"data.path={tmp_path}")
    assert "holds no train.json, the annotations of HPDv2" in told
    told = refusal("method=dpo", "data=pickapic", f"data.path={tmp_path}", "data.split=test")
    assert told == "data.split=test is unknown; available: train, heldout, all"


def test_pairs_that_nobody_won_are_refused_for_methods_that_need_a_winner(tmp_path):
    data = ["data=pickapic", f"data.path={tmp_path}", "data.ties=half"]
    for method in ("dpo", "mapo", "sft", "inpo"):
        assert f"and method={method} would make up one; add data.ties=drop" in refusal(f"method={method}", *data)
    for more in (["method=dpo", "method.labels=soft"], ["method=smpo_votes"], ["method=kto"]):
        check_command_line([*more, *data], False)


def test_prompt_files_that_are_missing_or_empty_are_refused(tmp_path):
    (tmp_path / "empty.txt").write_text("")
    assert "does not exist" in refusal("prompts=file", f"prompts.path={tmp_path}/none.txt")
    assert "empty.txt" in refusal("prompts=file", f"prompts.path={tmp_path}/empty.txt")


def test_a_sweep_is_checked_whole_before_its_first_job():
    assert "method=dpi is unknown" in refusal("method=sft,dpi", multirun=True)
    assert "train.max_train_steps=0" in refusal("train.max_train_steps=5,0", "seed=0,1", multirun=True)


def test_the_online_experiment_validates_on_prompts_that_it_does_not_report():
    cfg = composed("experiment=mini_online_table", "method=nft", "model=flux_mini")
    reported, validated = build(cfg.prompts), build(cfg.validation.prompts)
    assert (len(reported), len(validated)) == (256, 64)
    assert not set(reported.texts) & set(validated.texts)
