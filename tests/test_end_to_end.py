"""The whole command, from training to tables, on tiny random models of the real classes and on the miniatures."""

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file

from alignbench.files import with_check, without_check
from alignbench.miniature.weights import load_pipeline
from alignbench.models.families.stable_diffusion import StableDiffusion
from alignbench.models.tiny_random import tiny_adapter, tiny_controlnet
from alignbench.models.tiny_random.flux import tiny_flux
from alignbench.models.tiny_random.stable_diffusion import tiny_stable_diffusion
from tests.processes import FSDP2
from tests.program import alignbench, manifests, rows

ROOT = Path(__file__).resolve().parent.parent
FEW = [
    "train.max_train_steps=2",
    "train.total_batch_size=4",
    "train.micro_batch_size=2",
    "train.mixed_precision='no'",
    "sampling.num_inference_steps=2",
    "data.num_pairs=8",
    "data.num_prompts=8",
]


def launched(*arguments, processes=2, launcher_says=None):
    """Run the program as a launcher would, in several processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    environment = os.environ | (launcher_says or {})
    done = subprocess.run(
        [*launcher, "-m", "alignbench", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]


def runs(root):
    return {manifest["method"]: root / name for name, manifest in manifests(root).items()}


def snapshot(root):
    return {str(path): path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.fixture(scope="module")
def flux_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flux")
    tiny_flux().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def real_prompts(flux_folder, tmp_path_factory):
    """SRPO on a FLUX folder of one's own, measured on HPDv2: the root of its results, the command, and its output."""
    root = tmp_path_factory.mktemp("results")
    command = [
        "method=srpo",
        "model=flux",
        f"model.pretrained_model_name_or_path={flux_folder}",
        "model.resolution=64",
        "model.sampling_resolution=null",
        "reward=shapes_clip",
        "evaluators=shapes",
        "data=shapes",
        "prompts=hpdv2",
        "prompts.limit=16",
        "method.num_rollout_steps=2",
        f"results={root}",
        *FEW,
    ]
    return root, command, alignbench(*command)


@pytest.mark.slow
def test_srpo_on_a_flux_folder_runs_to_its_table_on_real_prompts(real_prompts):
    root, _, done = real_prompts
    assert set(runs(root)) == {"base", "srpo"}
    table = rows(root / "leaderboard.csv")
    assert {row["method"] for row in table} == {"base", "srpo"}
    assert {row["subset"] for row in table} == {"True"}
    assert {row["n"] for row in table if row["group"] == "all"} == {"16"}
    assert {row["group"] for row in table} == {"all", "anime", "concept-art", "paintings", "photo"}
    trained_on = {row["evaluator"] for row in table if row["method"] == "srpo" and row["trained_on"] == "True"}
    assert trained_on == {"shapes_clip"}
    evaluators = {row["evaluator"] for row in table}
    assert "shapes_oracle_agreement" not in evaluators
    assert "left out: shapes_oracle_agreement judges by prompts of the shapes world alone" in " ".join(
        done.stdout.split()
    )


@pytest.mark.slow
def test_every_file_that_the_design_names_is_there(real_prompts):
    root, _, _ = real_prompts
    run = runs(root)["srpo"]
    for name in ("manifest.json", "config.yaml", "train.jsonl"):
        assert (run / name).is_file()
    assert (run / "policy" / "pytorch_lora_weights.safetensors").is_file()
    assert len(list(run.glob("images/hpdv2/*/*.png"))) == 16
    assert list(run.glob("scores/hpdv2/*/shapes_clip@*.parquet"))
    for name in ("leaderboard.csv", "win_rates.csv", "leaderboard.md", "leaderboard.tex"):
        assert (root / name).is_file()
    assert list(root.glob(f"report/{run.name}/*.png"))
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["budget"]["optimizer_steps"] == 2
    assert manifest["budget"]["reward_calls"] == 2 * 4 * 2  # updates x prompts x branches
    assert manifest["fingerprints"]["data"]


@pytest.mark.slow
def test_the_same_command_again_does_nothing(real_prompts):
    root, command, _ = real_prompts
    before = snapshot(root)
    left = runs(root)["srpo"] / "checkpoints" / "step-2" / "policy.safetensors"  # by a kill when all was trained
    left.parent.mkdir(parents=True)
    left.touch()
    done = alignbench(*command)
    assert not left.parent.parent.exists()
    changed = {path for path, time in snapshot(root).items() if before.get(path) != time}
    assert not {path for path in changed if Path(path).parent != root and "/report/" not in path}
    assert "train: done before" in done.stdout
    assert "generate: done before" in done.stdout


@pytest.mark.slow
def test_a_run_folder_of_another_configuration_is_refused(real_prompts):
    root, command, _ = real_prompts
    manifest = runs(root)["srpo"] / "manifest.json"
    text = manifest.read_text()
    try:
        manifest.write_text(json.dumps(with_check(without_check(json.loads(text)) | {"config_hash": "other"})))
        done = alignbench(*command, check=False)
        assert done.returncode == 2
        assert "other" in done.stderr
        manifest.write_text(json.dumps(json.loads(text) | {"schema_version": 99}))
        done = alignbench(*command, check=False)
        assert done.returncode == 2
        assert "schema version 99" in done.stderr
    finally:
        manifest.write_text(text)


@pytest.mark.matrix
def test_two_processes_make_the_update_and_the_images_of_one_whether_they_copy_or_share(tmp_path):
    folder = tmp_path / "sd"
    tiny_stable_diffusion().save_pretrained(folder)
    command = [
        "method=dpo",
        "model=sd15",
        f"model.pretrained_model_name_or_path={folder}",
        "model.resolution=64",
        "evaluators=shapes",
        "data=shapes",
        "prompts.limit=6",
        "prompts=shapes",
        *FEW,
        "train.max_train_steps=1",
        "train.lr_scheduler=constant",
        "train.optimizer._target_=torch.optim.SGD",
        "~train.optimizer.betas",
        "~train.optimizer.eps",
        "train.optimizer.weight_decay=0",
        "train.learning_rate=1.0",
        "train.max_grad_norm=1e9",
    ]
    alignbench(*command, f"results={tmp_path / 'one'}")
    layouts = {"ddp": {}, "fsdp2": FSDP2}
    for name, says in layouts.items():
        launched(*command, f"results={tmp_path / name}", launcher_says=says)
    start = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    policies, levels = {}, {}
    for name in ("one", *layouts):
        (run,) = (tmp_path / name).glob("dpo-*")
        policies[name] = UNet2DConditionModel.from_pretrained(run / "policy" / "unet").state_dict()
        pictures = sorted((tmp_path / name).glob("*/images/shapes/*/*.png"))
        assert len(pictures) == 12  # of base and of the policy
        levels[name] = np.stack([np.asarray(Image.open(path), dtype=int) for path in pictures])
    moved = sum(float((policies["one"][k] - start[k]).square().sum()) for k in start) ** 0.5
    assert moved > 0
    for name in layouts:
        apart = sum(float((policies["one"][k] - policies[name][k]).square().sum()) for k in start) ** 0.5
        assert apart / moved < 1e-5
        assert (abs(levels["one"] - levels[name]) > 1).mean() <= 1e-3


@pytest.mark.slow
@pytest.mark.matrix
def test_a_run_that_is_looked_at_says_which_weights_it_kept_and_who_chose_them(tmp_path):
    command = ["method=sft", "model=flux_mini", "validation=shapes", "validation.every=1", "validation.prompts.limit=4"]
    command += ["prompts.limit=4", f"results={tmp_path}", *FEW]
    alignbench(*command)
    run = runs(tmp_path)["sft"]
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["selected_by"] == ["shapes_annotators", "shapes_oracle_agreement"]
    assert manifest["selected_step"] in (1, 2)
    assert {row["step"] for row in rows(run / "validation.csv")} == {"0", "1", "2"}
    assert Image.open(tmp_path / "report" / run.name / "validation.png").size[0] > 300
    with_same_prompts = alignbench(*command, "prompts=shapes_validation", "seed=1", check=False)
    assert with_same_prompts.returncode == 2
    assert "choose other prompts for validation" in with_same_prompts.stderr
    by_its_reward = [*command, "method=srpo", "validation.select=[shapes_clip]", "method.num_rollout_steps=2"]
    told = alignbench(*by_its_reward, check=False)
    assert told.returncode == 2
    assert "validation.select=shapes_clip is what training follows" in told.stderr


@pytest.mark.slow
@pytest.mark.matrix
def test_a_sweep_over_methods_and_models_fills_one_table(tmp_path):
    alignbench(
        "-m",
        "method=sft,dpo",
        "model=sd15_mini,qwen_mini",
        "prompts.limit=4",
        f"results={tmp_path}",
        *FEW,
    )
    found = {(row["method"], row["model"]) for row in rows(tmp_path / "leaderboard.csv")}
    assert found == {(method, model) for method in ("base", "sft", "dpo") for model in ("sd15_mini", "qwen_mini")}


@pytest.mark.slow
@pytest.mark.matrix
def test_a_killed_sweep_goes_on_where_it_was(tmp_path):
    command = ["-m", "method=sft,dpo", "model=flux_mini", "prompts.limit=4", f"results={tmp_path}", *FEW]
    with subprocess.Popen([sys.executable, "-m", "alignbench", *command], cwd=ROOT) as sweep:
        while sweep.poll() is None and not (runs(tmp_path).get("sft", tmp_path) / "scores").exists():
            time.sleep(0.1)
        sweep.kill()
    assert not (tmp_path / "leaderboard.csv").exists() or "dpo" not in (tmp_path / "leaderboard.csv").read_text()
    before = {path: made for path, made in snapshot(tmp_path).items() if "/sft-" in path and "/policy/" in path}
    assert before
    alignbench(*command)
    after = snapshot(tmp_path)
    assert all(after[path] == made for path, made in before.items())
    assert {row["method"] for row in rows(tmp_path / "leaderboard.csv")} == {"base", "sft", "dpo"}


@pytest.mark.slow
def test_a_sweep_outlives_a_failing_job_and_says_so(tmp_path):
    sweep = ["-m", "method=sft", "model=flux_mini", "train.learning_rate=1e6,1e-5", "stages=[train]"]
    done = alignbench(*sweep, f"results={tmp_path}", *FEW, check=False)
    assert done.returncode != 0
    assert "alignbench: job 1 of 2 failed: the loss of method=sft is not finite at update 2" in done.stderr
    assert len(list(tmp_path.glob("sft-*/policy"))) == 1


@pytest.mark.slow
@pytest.mark.matrix
def test_training_and_reporting_can_be_separate_commands(tmp_path):
    command = ["method=sft", "model=flux_mini", "prompts.limit=4", f"results={tmp_path}", *FEW]
    alignbench(*command, "stages=[train]")
    assert not list(tmp_path.glob("*/images"))
    refused = alignbench(*command, "stages=[score,report]", check=False)
    assert refused.returncode == 2
    alignbench(*command, "stages=[generate]")
    alignbench(*command, "stages=[score,report]")
    assert {row["method"] for row in rows(tmp_path / "leaderboard.csv")} == {"base", "sft"}


@pytest.mark.slow
def test_what_an_auxiliary_loss_learns_from_is_marked_as_trained_on(tmp_path):
    alignbench("auxiliary=denoising", "stages=[train]", "method.num_rollout_steps=2", f"results={tmp_path}", *FEW)
    (run,) = runs(tmp_path).values()
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["trained_on"] == ["shapes_clip", "shapes_annotators"]
    lines = [json.loads(line) for line in (run / "train.jsonl").read_text().splitlines()]
    assert all(line["denoising/loss"] > 0 for line in lines)


@pytest.mark.slow
def test_a_published_policy_is_measured_against_the_untouched_model(tmp_path):
    model = tiny_adapter("stable_diffusion", seed=5)
    folder = tmp_path / "sd"
    model.pipeline.save_pretrained(folder)
    model.prepare_training("lora", rank=2, alpha=8)
    for parameter in model.denoiser.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    model.save_policy(tmp_path / "kind_lora")
    policy = tmp_path / "kind_lora" / "pytorch_lora_weights.safetensors"
    command = [
        "method=base",
        "model=sd15",
        f"model.pretrained_model_name_or_path={folder}",
        "model.resolution=64",
        "evaluators=shapes",
        "prompts=shapes",
        "prompts.limit=4",
        "sampling.num_inference_steps=2",
        f"results={tmp_path / 'results'}",
    ]
    alignbench(*command, f"model.policy={policy}", "model.policy_trained_on=[shapes_clip]")
    found = runs(tmp_path / "results")
    assert set(found) == {"base", "published_kind_lora"}
    manifest = json.loads((found["published_kind_lora"] / "manifest.json").read_text())
    assert manifest["seed"] is None
    assert manifest["start_weights"]["policy"] == str(policy)
    assert manifest["start_weights"]["policy_sha256"] == hashlib.sha256(policy.read_bytes()).hexdigest()
    assert manifest["budget"]["optimizer_steps"] == 0
    table = [row for row in rows(tmp_path / "results" / "leaderboard.csv") if row["group"] == "all"]
    assert {row["method"] for row in table} == {"base", "published_kind_lora"}
    published = [row for row in table if row["method"] != "base"]
    assert all(row["win_rate_vs_base"] for row in published)
    assert {row["evaluator"] for row in published if row["trained_on"] == "True"} == {"shapes_clip"}

    # its images are those of the adapters, not folded into the weights and not left out
    images = {name: next(run.glob("images/shapes/*/")) for name, run in found.items()}
    assert sorted(path.name for path in images["base"].glob("*.png")) == sorted(
        path.name for path in images["published_kind_lora"].glob("*.png")
    )
    assert all(path.read_bytes() != (images["base"] / path.name).read_bytes()
               for path in images["published_kind_lora"].glob("*.png"))  # fmt: skip

    save_file({"unet.x": torch.zeros(1)}, policy)
    done = alignbench(*command, f"model.policy={policy}", check=False)
    assert done.returncode == 2
    assert "was made from weights of another policy_sha256" in done.stderr


@pytest.mark.slow
def test_adapters_of_a_quantised_base_are_sampled_on_the_base_as_it_is_or_quantised_on_request(tmp_path):
    command = ["method=dpo", "model=flux_mini", "train.tuning=lora", "memory=base_4bit", *FEW, f"results={tmp_path}"]
    command.append("prompts.limit=2")
    alignbench(*command, "stages=[train,generate]")
    alignbench(*command, "stages=[generate]", "sampling.base_bits=4")
    found = runs(tmp_path)
    assert set(found) == {"base", "dpo"}  # the base run was sampled both ways, too
    assert (found["dpo"] / "policy" / "pytorch_lora_weights.safetensors").is_file()
    for run in found.values():
        bits = {
            json.loads(file.read_text()).get("base_bits"): file.parent
            for file in run.glob("images/shapes/*/sampling.json")
        }
        assert set(bits) == {None, 4}
        exact, quantised = (sorted(bits[key].glob("*.png")) for key in (None, 4))
        assert [path.name for path in exact] == [path.name for path in quantised]
        assert all(one.read_bytes() != other.read_bytes() for one, other in zip(exact, quantised, strict=True))


@pytest.mark.slow
@pytest.mark.matrix
def test_aligned_weights_generate_under_control_and_are_scored_against_their_base(tmp_path):
    model = StableDiffusion(load_pipeline("sd15_mini"), 64, ["to_q"])
    tiny_controlnet(model).save_pretrained(tmp_path / "controlnet")
    (tmp_path / "pictures").mkdir()
    prompts = ["a red circle on a white background", "a blue square on a black background"]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts))
    for number, edge in enumerate((20, 40)):
        pixels = np.full((70, 90, 3), 20, np.uint8)
        pixels[edge:, edge:] = 220
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{number:05d}.png")
    command = [
        "method=sft", "model=sd15_mini", "data=shapes", "evaluators=shapes", "prompts=file",
        f"prompts.path={tmp_path}/prompts.txt", f"results={tmp_path}/results", "calibration=false", *FEW,
    ]  # fmt: skip
    controlled = [
        *command, "sampling=controlnet_canny", f"sampling.control.controlnet={tmp_path}/controlnet",
        f"sampling.control.pictures={tmp_path}/pictures",
    ]  # fmt: skip
    alignbench(*controlled)
    alignbench(*command)
    found = runs(tmp_path / "results")
    assert set(found) == {"base", "sft"}
    images = {name: sorted(run.glob("images/*/*/00000-0.png")) for name, run in found.items()}
    assert [len(files) for files in images.values()] == [2, 2]  # with and without control
    assert len({file.read_bytes() for files in images.values() for file in files}) == 4
    notes = [json.loads(file.read_text()) for file in sorted(found["sft"].glob("images/*/*/sampling.json"))]
    assert sorted("control" in note for note in notes) == [False, True]
    assert len(list((tmp_path / "results" / "cache" / "control").glob("*.png"))) == 2
    table = rows(tmp_path / "results" / "leaderboard.csv")
    assert {row["method"] for row in table} == {"base", "sft"}
    assert len({row["prompt_set"] for row in table}) == 2  # never compared with each other

    before = snapshot(tmp_path / "results")
    assert "done before" in alignbench(*controlled, "stages=[train,generate]").stdout
    assert snapshot(tmp_path / "results") == before

    (tmp_path / "pictures" / "00001.png").unlink()
    refused = alignbench(*controlled, check=False)
    assert refused.returncode == 2
    assert "1 of 2 prompts of prompts=prompts-" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.slow
@pytest.mark.matrix
def test_a_run_that_ruins_images_for_its_reward_is_flagged_in_words_and_a_mild_one_is_not(tmp_path):
    """Direct-Align, the plain reward: at a learning rate of 3e-4 it rises, and the oracle sees the damage."""
    command = [
        "method=direct_align",
        "model=sd15_mini",
        "reward=shapes_preference",
        "train.total_batch_size=8",
        "train.micro_batch_size=8",
        "prompts.limit=32",
        "sampling.num_inference_steps=4",
        "sampling.batch_size=32",
        f"results={tmp_path}",
    ]
    ruined = alignbench(*command, "train.max_train_steps=10", "train.learning_rate=3e-4")
    mild = alignbench(*command, "train.max_train_steps=2", "train.learning_rate=1e-6")
    text = " ".join(ruined.stdout.split())
    assert re.search(
        r"reward hacking: direct_align on sd15_mini, shapes: better on shapes_preference .*, "
        r"which it trained on \(reward, labels or shared data\), but worse on shapes_",
        text,
    )
    assert "reward hacking" not in mild.stdout
    table = rows(tmp_path / "diagnostics.csv")
    flagged = {row["measure"]: row["difference"] for row in table if row["flag"]}
    assert float(flagged["shapes_preference"]) > 0 > float(flagged["shapes_oracle_cleanliness"])
    assert len({row["run"] for row in table if row["flag"]}) == 1
    assert "> **reward hacking: direct" in (tmp_path / "leaderboard.md").read_text()
    far, near = sorted((float(row["value"]) for row in table if row["measure"] == "weight_distance"), reverse=True)
    assert far > 100 * near > 0
