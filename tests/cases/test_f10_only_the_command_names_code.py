"""F10: code is named by the shipped configuration and by the typed command. No folder, file or alias names any."""

import json
import os
import pickle
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from alignbench.configuration.compose import check_command_line
from alignbench.configuration.find_evaluator import build_evaluator
from alignbench.errors import UserError
from alignbench.models.tiny_random.stable_diffusion import tiny_stable_diffusion
from alignbench.models.weights.loading import check_weights, load_pipeline, read_index
from alignbench.models.weights.state_dicts import read_state_dict
from tests.program import alignbench

BASE = ["method=base", "model=sd15_mini", "prompts.limit=2"]


class Payload:
    """What a pickle runs when it is read: it makes a folder."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


@pytest.fixture
def ran(tmp_path):
    """What a payload would make, asserted not to be there in the end."""
    path = tmp_path / "ran"
    yield path
    assert not path.exists()


@pytest.fixture
def evil(tmp_path, ran, monkeypatch):
    """An importable module that leaves a file when it is imported."""
    (tmp_path / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nclass Evil: pass\ndef load(): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))


# ---- the command line


@pytest.mark.parametrize(
    "target",
    [
        "evaluators.aesthetic.torch.hub.load",
        "evaluators.aesthetic.torch",
        "evaluators.aesthetic.UserError",
        "alignbench.files.shutil.rmtree",
        "alignbench.files.os.system",
        "methods.dpo.Literal",
        "evaluators.judge.ShapesReward",
        "alignbench.nowhere.Nothing",
        "alignbench",
    ],
)
def test_an_alias_is_refused_before_anything_is_built(tmp_path, target):
    words = [*BASE, f"results={tmp_path / 'results'}", f"evaluators.shapes_clip._target_={target}"]
    done = alignbench(*words, check=False)
    assert done.returncode == 2
    assert f"_target_={target} is refused" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("target", ["torch.os.system", "torch.hub.os.mkdir", "accelerate.utils.os.mkdir"])
def test_an_alias_of_another_package_is_refused(ran, target):
    word = f"train.optimizer._target_={target}"
    with pytest.raises(UserError, match=f"_target_={target} (is refused|cannot be found)"):
        check_command_line(["method=dpo", "model=sd15_mini", word], multirun=False)


def test_an_optimizer_of_another_package_may_be_typed():
    words = ["method=dpo", "model=sd15_mini", "train.optimizer._target_=torch.optim.SGD"]
    with pytest.raises(UserError, match=r"train.optimizer=torch.optim.SGD refuses its arguments: .* 'betas'"):
        check_command_line(words, multirun=False)
    words += ["~train.optimizer.betas", "~train.optimizer.eps"]
    assert check_command_line(words, multirun=False) == 1


@pytest.fixture
def configurations(tmp_path, ran):
    """A folder of configuration files as Hydra would read it."""
    folder = tmp_path / "stranger"
    (folder / "extra").mkdir(parents=True)
    (folder / "extra" / "mine.yaml").write_text(f"_target_: torch.hub.load\nrepo_or_dir: {ran}\n")
    (folder / "config.yaml").write_text("method: {_target_: torch.hub.load}\n")
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ["--config-dir=FOLDER", "+extra@evaluators.mine=mine"],
        ["--config-path", "FOLDER"],
        ["--config-name", "other"],
        ["--experimental-rerun", "FOLDER/config.pickle"],
        ["hydra.searchpath=[file://FOLDER]", "+extra@evaluators.mine=mine"],
        ["+hydra.searchpath=[file://FOLDER]", "+extra@evaluators.mine=mine"],
    ],
)
def test_configuration_files_of_a_folder_are_not_read(configurations, ran, words):
    (configurations / "config.pickle").write_bytes(pickle.dumps(Payload(ran)))
    done = alignbench(*(word.replace("FOLDER", str(configurations)) for word in words), *BASE, check=False)
    assert done.returncode == 2
    assert "would run what files of a folder name" in done.stderr
    assert "Traceback" not in done.stderr


def test_values_of_an_evaluator_name_no_alias(ran):
    node = {"_target_": "evaluators.aesthetic.torch.hub.load", "repo_or_dir": str(ran)}
    with pytest.raises(UserError, match=r"is refused|must be text"):
        build_evaluator("clip_score", {"source": node})
    with pytest.raises(UserError, match="is refused"):
        build_evaluator("clip_score", {"architecture": node})


# ---- the folder of a model


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_stable_diffusion().save_pretrained(folder)
    return folder


@pytest.fixture
def model(whole, tmp_path):
    """A diffusers folder to be changed."""
    import shutil

    return shutil.copytree(whole, tmp_path / "model")


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


INDICES = {
    "a part of another module": {"unet": ["evil", "Evil"]},
    "a part that is left out": {"feature_extractor": ["evil", "Evil"]},
    "a filter of another module": {"safety_checker": ["evil", "Evil"]},
    "a part of the standard library": {"scheduler": ["os", "System"]},
    "a function": {"tokenizer": ["transformers", "pipeline"]},
    "a class that reads what it is": {"text_encoder": ["transformers", "AutoModel"]},
    "a pipeline of the folder": {"_class_name": ["evil", "Evil"]},
    "a number as a library": {"vae": [1, "Evil"]},
    "three entries": {"vae": ["diffusers", "AutoencoderKL", "evil"]},
    "a mapping": {"vae": {"_target_": "evil.load"}},
}


@pytest.mark.parametrize("changes", INDICES.values(), ids=INDICES)
def test_an_index_names_classes_of_diffusers_and_transformers_alone(model, ran, evil, changes):
    (model / "evil.py").write_text(f"open({str(ran)!r}, 'w')\n")
    edit(model / "model_index.json", **changes)
    for use in (check_weights, load_pipeline):
        with pytest.raises(UserError, match=r"model_index.json names .* code from elsewhere"):
            use(str(model))


@pytest.mark.parametrize("name", ["utils", "AutoencoderKL", "Nothing"])
def test_a_pipeline_is_a_pipeline_of_diffusers(model, name):
    edit(model / "model_index.json", _class_name=name)
    with pytest.raises(UserError, match="no pipeline of diffusers"):
        load_pipeline(str(model))


def test_what_is_no_index_is_told(model):
    (model / "model_index.json").write_text("[1, 2")
    with pytest.raises(UserError, match="give another folder or fetch it again"):
        read_index(model / "model_index.json")


def test_the_command_ends_with_a_sentence(model, tmp_path, evil):
    edit(model / "model_index.json", unet=["evil", "Evil"])
    words = ["method=base", "model=sd15", f"model.pretrained_model_name_or_path={model}", f"results={tmp_path / 'r'}"]
    for extra in ([], ["method=dpo", "data=shapes", "dry_run=true"]):
        done = alignbench(*words, *extra, "evaluators=shapes", "prompts=shapes", check=False)
        assert done.returncode == 2
        assert "code from elsewhere than diffusers and transformers" in done.stderr
        assert "Traceback" not in done.stderr


PARTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "pytorch_model"}


@pytest.mark.parametrize("part", PARTS)
def test_a_pickle_in_place_of_weights_is_not_run(model, ran, part):
    for file in (model / part).glob("*.safetensors"):
        file.unlink()
    torch.save({"weight": Payload(ran)}, model / part / f"{PARTS[part]}.bin")
    with pytest.raises(UserError, match=f"{part}.*more than tensors, which could run code"):
        load_pipeline(str(model))


def test_code_that_a_part_names_is_not_run(model, ran):
    (model / "text_encoder" / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nclass Evil: pass\n")
    edit(model / "text_encoder" / "config.json", auto_map={"AutoModel": "evil.Evil"})
    edit(model / "tokenizer" / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", None]})
    load_pipeline(str(model))  # the classes are those of the index


def test_code_that_a_depth_network_names_is_not_run(tmp_path, ran, monkeypatch):
    from transformers import DPTConfig, DPTForDepthEstimation

    from alignbench.generation.control.makers import Depth

    folder = tmp_path / "depth"
    config = DPTConfig(
        hidden_size=8, num_hidden_layers=4, num_attention_heads=2, intermediate_size=8, image_size=32, patch_size=16,
        backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8, is_hybrid=False,
    )  # fmt: skip
    DPTForDepthEstimation(config).save_pretrained(folder)
    (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nclass Evil: pass\n")
    edit(folder / "config.json", auto_map={"AutoModelForDepthEstimation": "evil.Evil"})
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "Unheard", "auto_map": {"AutoImageProcessor": "evil.Evil"}})
    )
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # transformers would ask, and do it
    with pytest.raises(UserError, match=r"preprocessor_config.json names code to run as auto_map"):
        Depth(str(folder))._network  # noqa: B018


# ---- files


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt"])
@pytest.mark.parametrize("write", [torch.save, lambda value, file: file.write_bytes(pickle.dumps(value))])
def test_a_pickle_as_a_policy_or_an_evaluator_is_not_run(tmp_path, ran, suffix, write):
    write({"weight": Payload(ran)}, file := tmp_path / f"weights{suffix}")
    with pytest.raises(UserError, match=f"weights{suffix} holds more than tensors, which could run code"):
        read_state_dict(file)


def test_a_policy_of_the_command_line_is_not_run(tmp_path, ran):
    torch.save({"weight": Payload(ran)}, tmp_path / "policy.pt")
    words = [*BASE, f"model.policy={tmp_path / 'policy.pt'}", f"results={tmp_path / 'results'}"]
    done = alignbench(*words, check=False)
    assert done.returncode == 2
    assert "holds more than tensors, which could run code" in done.stderr
    assert "Traceback" not in done.stderr


UNSAFE = (
    "pickle.load", "pickle.loads", "joblib.load", "pandas.read_pickle", "eval", "exec", "yaml.load", "yaml.unsafe_load",
    "yaml.full_load", "torch.hub.load",
)  # fmt: skip


def test_no_reader_of_ours_allows_pickles():
    """numpy, torch, yaml and pandas can all be told to run what they read; nothing here tells them."""
    import ast
    from pathlib import Path

    root = Path(__file__).resolve().parents[2]
    files = [file for package in ("alignbench", "methods", "evaluators") for file in (root / package).rglob("*.py")]
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert given.get("allow_pickle", "False") == "False", file
            assert given.get("trust_remote_code", "False") == "False", file
            assert "custom_pipeline" not in given, file
            assert name not in UNSAFE, file
            if name == "torch.load":
                assert given.get("weights_only") == "True", file


def test_a_table_of_objects_is_not_unpickled(tmp_path, ran):
    """As a cache of image sizes, say."""
    np.save(tmp_path / "sizes.npy", np.array([Payload(ran)], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        np.load(tmp_path / "sizes.npy")


def test_the_metadata_of_a_parquet_file_is_text(tmp_path, ran):
    import base64

    import pyarrow
    from pyarrow import parquet

    from alignbench.store.scores import Scores

    pickled = base64.b64encode(pickle.dumps(Payload(ran)))
    for name in (b"alignbench", b"pandas", b"ARROW:extension:metadata"):
        field = pyarrow.field("score", pyarrow.int64(), metadata={
            b"ARROW:extension:name": b"arrow.py_extension_type",
            b"ARROW:extension:metadata": pickle.dumps(Payload(ran)),
        })  # fmt: skip
        table = pyarrow.table([[1]], schema=pyarrow.schema([field], metadata={name: pickled}))
        parquet.write_table(table, tmp_path / "scores.parquet")
        with pytest.raises(UserError, match="has no column prompt_id"):
            Scores.read(tmp_path / "scores.parquet")


def test_an_image_is_read_as_an_image(tmp_path, ran):
    from alignbench.images import ImageError, opened

    (tmp_path / "image.png").write_bytes(pickle.dumps(Payload(ran)))
    with pytest.raises(ImageError):
        opened(tmp_path / "image.png")
    Image.new("RGB", (16, 16)).save(tmp_path / "good.png")
    assert opened(tmp_path / "good.png").size == (16, 16)
    assert "evil" not in sys.modules
