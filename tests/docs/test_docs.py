"""What the pages say is so: commands pass the checks, tables equal the configuration, links lead on, examples run."""

import ast
import inspect
import itertools
import json
import re
import shlex
import subprocess
import sys
from dataclasses import asdict
from functools import cache
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import ModuleType, SimpleNamespace

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import save_file

import methods
from alignbench.batch import PairBatch
from alignbench.calibrate.__main__ import calibrate_all
from alignbench.capsule.__main__ import arguments as arguments_of_capsule
from alignbench.card.__main__ import arguments as arguments_of_card
from alignbench.card.checks import check as check_card
from alignbench.configuration.build import conf_folder
from alignbench.configuration.compose import check_command_line, composed
from alignbench.configuration.find_evaluator import read_settings
from alignbench.context import Context
from alignbench.data.hub.columns import USUAL_NAMES
from alignbench.evaluator import Reward
from alignbench.export import arguments as arguments_of_export
from alignbench.files import write_json
from alignbench.models.tiny_random import tiny_adapter
from alignbench.models.tiny_random.flux import tiny_flux
from alignbench.models.tiny_random.stable_diffusion_xl import tiny_stable_diffusion_xl
from alignbench.models.tiny_random.wan import tiny_wan
from alignbench.objectives import denoising_error as preference
from alignbench.objectives import inversion
from alignbench.plan import __main__ as planning
from alignbench.reproduce import __main__ as reproducing
from alignbench.reproduce.rows import find_row
from alignbench.search import __main__ as searching
from alignbench.search.run import check_search
from alignbench.serve.__main__ import arguments as arguments_of_serve
from alignbench.soup import arguments as arguments_of_soup
from alignbench.soup import read_shares
from alignbench.stages.trained_weights import find_source
from alignbench.store.checkpoint_files import DIGESTS
from alignbench.store.image_records import PromptRecord, SamplingRecord, write_prompts, write_sampling
from alignbench.store.manifest import Manifest
from alignbench.store.run_folder import RunFolder
from alignbench.study.__main__ import arguments as arguments_of_study
from alignbench.sweeps import __main__ as sweeping
from alignbench.train_reward.__main__ import arguments as arguments_of_train_reward
from alignbench.train_reward.checks import check as check_reward_model
from alignbench.train_reward.run import reward_model_name, train_reward
from evaluators import load
from tests.evaluators.tiny_flant5 import write_tiny_flant5
from tests.pages import PAGES, README, ROOT, block_that_begins, blocks, command_lines, name, tables
from tests.program import alignbench

SAMPLING = ROOT / "docs" / "sampling.md"
METHOD_PAGES = sorted((ROOT / "docs" / "methods").glob("*.md"))
SMALL_JUDGE = [
    "judge=head",
    "data.num_pairs=32",
    "data.num_prompts=32",
    "train.max_train_steps=1",
    "heldout_share=0.3",
    "validation_share=0.3",
]
OF_THE_LOOP = {"loss", "grad_norm", "lr"}
NOT_LOGGED = {"state_dict", "reference_values", "reference_settings"}  # functions that return others


# ---- commands


def commands(program="alignbench"):
    """Yield once what pages give to one of our programs, `python -m PROGRAM`, by whatever it is started.

    Those of README are tried by default, those of the other pages in the second step of CI.
    """
    found = []
    for page in PAGES:
        if page.name == "gpu_recipes.md":  # names models of the hub: test_gpu_recipes.py
            continue
        for command in command_lines(page):
            words = shlex.split(re.sub(r"\$\w+", "1", command), comments=True)  # the shell's variables are numbers
            starts = [i + 2 for i in range(len(words)) if words[i : i + 2] == ["-m", program]]
            if starts and words[starts[0] :] not in found:
                found.append(given := words[starts[0] :])
                marks = [] if name(page) == "README.md" else [pytest.mark.matrix]
                yield pytest.param(given, id=f"{name(page)}: {' '.join(given)}", marks=marks)


def test_every_command_is_of_a_kind_that_is_tested():
    """Others are the shell's and other people's; what is added to them is run by nobody."""
    tested = {"alignbench"} | {
        f"alignbench.{one}"
        for one in "calibrate capsule card export plan reproduce search serve soup study sweeps train_reward".split()
    }
    others = (
        "#", "python -m benchmarks.", "export HF_HUB_OFFLINE=1", "head=$(", "pip install uv", 'pip install ".[',
        "uv run pytest", "uv venv", "uv pip install", "source .venv/bin/activate",
    )  # fmt: skip
    for page in PAGES:
        for command in filter(None, command_lines(page)):
            program = re.search(r"-m (alignbench\S*)", command)
            assert program[1] in tested if program else command.startswith(others), f"{name(page)}: {command}"


@pytest.mark.slow
@pytest.mark.matrix
def test_the_quickest_commands_of_the_first_page_leave_a_table(tmp_path):
    """The second makes the tables again, and changes nothing."""
    first, second = (given.values[0] for given in commands() if "train.max_train_steps=5" in given.values[0])
    command = [sys.executable, "-m", "alignbench", *first, f"results={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    made = [(tmp_path / "leaderboard.csv").read_text()]
    alignbench(*second, f"results={tmp_path}")
    made.append((tmp_path / "leaderboard.csv").read_text())
    assert made[0] == made[1]
    assert made[0].count("dpo-sd15_mini") == 6 * 3  # evaluators; all prompts, those of one shape, those of two


@pytest.mark.parametrize("given", list(commands("alignbench.calibrate")))
def test_every_command_that_calibrates_passes(given, tmp_path):
    assert calibrate_all([*given, f"results={tmp_path}"], None, False)


@pytest.fixture(scope="session")
def placeholders(tmp_path_factory):
    """Something real for each word in capitals."""
    folder, file = tmp_path_factory.mktemp("weights"), tmp_path_factory.mktemp("data") / "prompts.txt"
    pipeline = tiny_flux()
    pipeline.save_pretrained(folder)
    for published in ("pairs.jsonl", "train.json", "metadata-train.parquet"):  # data sets, of which nothing is read
        (folder / published).touch()
    (folder / "train").mkdir()
    (folder / "unet").mkdir()  # some commands start from trained weights of another family
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    single = tmp_path_factory.mktemp("single") / "flux1.safetensors"
    save_file({"double_blocks.0.img_attn.qkv.weight": torch.zeros(1)}, single)  # checked, not loaded
    file.write_text("a red circle\n")
    labels = file.with_name("labels.csv")
    labels.touch()
    images = {}
    for letter in "AB":
        pictures = tmp_path_factory.mktemp(f"pictures_{letter}")
        Image.new("RGB", (64, 64)).save(pictures / "1.png")
        (pictures / "list.csv").write_text("file,prompt\n1.png,a red circle\n")
        images[f"FOLDER_{letter}"] = str(pictures)
    tiny_stable_diffusion_xl().save_pretrained(sdxl := tmp_path_factory.mktemp("sdxl"))
    tiny_wan().save_pretrained(wan := tmp_path_factory.mktemp("wan"))
    videos = tmp_path_factory.mktemp("videos")  # named, not read
    (videos / "pairs.jsonl").write_text('{"prompt": "a red circle", "image_w": "1.webp", "image_l": "2.webp"}\n')
    weights = {
        "FOLDER": str(folder),
        "SDXL_FOLDER": str(sdxl),
        "WAN_FOLDER": str(wan),
        "VIDEOS": str(videos),
        "SINGLE_FILE": str(single),
        "POLICY": str(folder / "transformer"),
        "SOUP": str(folder / "unet"),
        "PROGRAM": sys.executable,
        "MODULE": "json",
    }
    for word, config in {
        "CONTROLNET": {"_class_name": "ControlNetModel"},
        "ESTIMATOR": {"architectures": ["DPTForDepthEstimation"]},
        "TINY_VAE": {"_class_name": "AutoencoderTiny"},
    }.items():
        network = tmp_path_factory.mktemp(word)
        (network / "config.json").write_text(json.dumps(config))
        (network / "model.safetensors").write_bytes(b"")
        weights[word] = str(network)
    vlm = tmp_path_factory.mktemp("vlm")
    (vlm / "config.json").write_text('{"model_type": "qwen3_vl"}')  # checked, not loaded
    weights["VLM_FOLDER"] = str(vlm)
    write_tiny_flant5(flant5 := tmp_path_factory.mktemp("flant5") / "clip-flant5")
    config = json.loads((flant5 / "config.json").read_text())
    (flant5 / "config.json").write_text(json.dumps(config | {"mm_hidden_size": 1024}))
    weights["FLANT5_FOLDER"] = str(flant5)
    for word, entry in {
        "GENEVAL2": {"vqa_list": [["Is there a circle?", "Yes"]], "skills": ["object"]},
        "QUESTIONS": {"question": "Is there a circle?"},
        "CHUNKS": {"chunks": ["a red circle"]},
    }.items():
        (vlm / f"{word}.jsonl").write_text(json.dumps({"prompt": "a red circle"} | entry))
        weights[word] = str(vlm / f"{word}.jsonl")
    stopped = RunFolder(tmp_path_factory.mktemp("stopped"))
    manifest = Manifest("dpo", "dpo", "sd15_mini", 0, "", "", fingerprints={"data": ""})
    write_json(stopped.manifest_file, asdict(manifest))
    for part in ("policy.safetensors", DIGESTS):  # checked, not loaded
        write_json(stopped.checkpoint(20) / part, {})
    weights["STOPPED_RUN"] = str(stopped.path)
    pictures = tmp_path_factory.mktemp("control")
    Image.new("RGB", (64, 64)).save(pictures / "00000.png")
    pairs, scorer = tmp_path_factory.mktemp("pairs"), tmp_path_factory.mktemp("scorer")
    Image.new("RGB", (64, 64)).save(pairs / "1.png")
    (pairs / "pairs.jsonl").write_text('{"prompt": "a red circle", "image_w": "1.png", "image_l": "1.png"}\n')
    for needed in (
        "model.safetensors",
        "tokenizer.json",
        "HPS_v2.1_compressed.pt",
        "aesthetic_predictor_v2_5.pth",
    ):  # checked, not loaded
        (scorer / needed).write_bytes(b"")
    own = tmp_path_factory.mktemp("own")
    for number in (1, 2):
        Image.new("RGB", (64, 64)).save(own / f"{number}.png")
    (own / "metadata.jsonl").write_text('{"file_name": "1.png", "text": "a red circle"}\n')
    (own / "pairs.jsonl").write_text('{"prompt": "a blue house", "image_w": "1.png", "image_l": "2.png"}\n')
    images |= {"MY_PICTURES": str(own), "HELD_OUT": str(own), "START": weights["SOUP"]}
    cfg = composed([*SMALL_JUDGE, f"results={folder}"], "train_reward")
    train_reward(cfg)
    run = RunFolder(tmp_path_factory.mktemp("results") / "base-flux_mini-0")
    run.open(Manifest(run.name, "base", "flux_mini", None, "0", "0"))
    made = run.images("mine", "0123456789")
    made.mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(made / "p-0.png")
    write_prompts(made, [PromptRecord("p", "a red circle", (), ("p-0.png",))])
    write_sampling(made, SamplingRecord("mine", 4, 3.5, "per_prompt", 0, 1, 1, False))
    images |= {
        "RUN": str(run.path),
        "PAIRS": str(pairs),
        "WEIGHTS": str(scorer),
        "JUDGE": str(folder / "judges" / reward_model_name(cfg)),
    }
    return {**weights, "FILE": str(file), "LIST": str(labels), "PICTURES": str(pictures), **images}


@pytest.mark.usefixtures("scorers_at_hand")
@pytest.mark.parametrize("words", list(commands("alignbench.train_reward")))
def test_every_command_that_trains_a_judge_passes_its_checks(words, placeholders):
    overrides = [
        re.sub(rf"\b({'|'.join(placeholders)})\b", lambda found: placeholders[found[0]], text)
        for text in arguments_of_train_reward(words).overrides
    ]
    check_reward_model(composed(overrides, "train_reward"))


@pytest.mark.parametrize("words", list(commands("alignbench.card")))
def test_every_command_that_makes_cards_passes_its_checks(words):
    check_card(composed(arguments_of_card(words).overrides, "card"))


@pytest.mark.usefixtures("scorers_at_hand")
@pytest.mark.parametrize("given", list(commands()))
def test_every_command_passes_the_checks(given, placeholders):
    args = get_args_parser().parse_args(given)
    overrides = [
        re.sub(rf"\b({'|'.join(placeholders)})\b", lambda found: placeholders[found[0]], text)
        for text in args.overrides
    ]
    seed = ["seed=0"] if any(text.startswith(("seed=", "experiment=")) for text in overrides) else []
    unsown = [text for text in overrides if not text.startswith("seed=")]
    check_command_line([*unsown, *seed], args.multirun)  # of jobs that differ in the seed alone, one


# ---- sampling


def test_the_defaults_of_sampling_are_those_of_the_configuration():
    (heads, rows), (_, schedulers), (_, controlnets) = tables(SAMPLING)
    for head, row in itertools.product(heads[1:], rows):
        key, cfg = row[0].strip("`"), configuration("base", head.strip("`"))
        found = OmegaConf.to_container(OmegaConf.create({"value": OmegaConf.select(cfg, key)}))
        assert found == {"value": value(row[heads.index(head)])}, f"{key} on {head}"
    for models, names in schedulers:
        for model in re.findall(r"`(\w+)`", models):
            adapter = get_class(configuration("base", model).model.adapter._target_)
            assert re.findall(r"`(\w+)`", names) == list(adapter.schedulers), model
    for model, *cells in controlnets:
        known = configuration("base", model.strip("`")).model.controlnets
        told = [re.findall(r"`([^`]+)`", cell) for cell in cells]
        both = [[one.pretrained_model_name_or_path, str(one.conditioning_scale)] for one in (known.canny, known.depth)]
        assert told == [*both, [known.depth.estimator]]


# ---- tables


def value(cell):
    """Return what a cell such as `[5, 25]`, in backticks, means to YAML."""
    assert re.fullmatch(r"`[^`]+`", cell), f"{cell!r} should be one value in backticks"
    return yaml.safe_load(cell.strip("`"))


def leaves(node, prefix=""):
    for key, child in node.items():
        if isinstance(child, dict):
            yield from leaves(child, f"{prefix}{key}.")
        elif key != "_target_":
            yield f"{prefix}{key}", child


@cache
def options(preset):
    """Return the options of a file in conf/method, with what it inherits: those that no model changes."""
    method = configuration(preset, "images").method
    values = OmegaConf.to_container(method)
    for key, value in values.items():
        if str(value).startswith("${oc.create:"):  # a value of the file itself, marked as untyped
            values[key] = list(method[key])
    return {key: child for key, child in leaves(values) if key != "name"}


@cache
def configuration(method, model):
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return compose("config", [f"method={method}", f"model={model}"])


def presets(page):
    """Return the names that a page explains: its own, and the columns of its table of presets."""
    heads = [heads[1:] for heads, _ in tables(page) if heads[0] == "option" and heads[1] != "default"]
    return [page.stem, *(head.strip("`") for head in itertools.chain(*heads) if head.strip("`") != page.stem)]


@pytest.mark.parametrize("page", METHOD_PAGES, ids=name)
def test_every_option_is_explained_with_its_default(page):
    told = {
        row[0].strip("`"): value(row[1])
        for heads, rows in tables(page)
        if heads[:2] == ["option", "default"]
        for row in rows
    }
    assert told == options(page.stem)


@pytest.mark.parametrize("page", METHOD_PAGES, ids=name)
def test_presets_differ_in_what_their_table_says_and_in_nothing_else(page):
    told = {preset: options(page.stem) for preset in presets(page)}
    for heads, rows in tables(page):
        if heads[0] == "option" and heads[1] != "default":
            for head, row in itertools.product(heads[1:], rows):
                told[head.strip("`")] = told[head.strip("`")] | {
                    row[0].strip("`"): value(row[heads.index(head)]),
                }
    assert told == {preset: options(preset) for preset in told}


def test_every_method_of_the_table_is_explained_on_one_page():
    explained = [preset for page in METHOD_PAGES for preset in presets(page)]
    assert sorted(explained) == sorted(row[0].strip("`") for row in next(tables(ROOT / "docs" / "methods.md"))[1])


def test_every_preset_of_a_method_that_has_a_page_is_on_it():
    """A method that is added needs no page; a new file that starts from a documented one belongs on its page."""
    explained = {preset for page in METHOD_PAGES for preset in presets(page)}
    for file in (conf_folder() / "method").glob("*.yaml"):
        parents = [entry for entry in OmegaConf.load(file).get("defaults", []) if entry in explained]
        assert not parents or file.stem in explained, file.stem


@pytest.mark.parametrize("page", METHOD_PAGES, ids=name)
@pytest.mark.matrix
def test_values_of_a_method_on_a_model_are_those_of_the_configuration(page):
    for heads, rows in tables(page):
        if heads[0] == "key":
            for head, row in itertools.product(heads[1:], rows):
                key, cfg = row[0].strip("`"), configuration(page.stem, head.strip("`"))
                found = OmegaConf.to_container(OmegaConf.create({"value": OmegaConf.select(cfg, key)}))
                assert found == {"value": value(row[heads.index(head)])}, f"{key} on {head}"


def keys_written(source):
    """Return the keys of all dictionaries that a piece of code spells out, but for what is kept and not logged."""
    module = ast.parse(source)
    states = {
        id(node) for part in ast.walk(module) if getattr(part, "name", "") in NOT_LOGGED for node in ast.walk(part)
    }
    dictionaries = [node for node in ast.walk(module) if isinstance(node, ast.Dict) and id(node) not in states]
    return {key.value for node in dictionaries for key in node.keys if isinstance(key, ast.Constant)}


@pytest.mark.parametrize("page", METHOD_PAGES, ids=name)
def test_every_logged_figure_is_explained(page):
    """Figures are the keys of the dictionaries that a method writes, and those that it shares with others."""
    told = {
        figure
        for heads, rows in tables(page)
        if heads[0] == "figure"
        for row in rows
        for figure in re.findall(r"`(\w+)`", row[0])
    }
    method = get_class(configuration(page.stem, "flux_mini").method._target_)
    functions = [member for _, member in inspect.getmembers(sys.modules[method.__module__], inspect.isfunction)]
    parts = [base for base in method.__mro__ if base.__module__.startswith(("methods.", "alignbench.online."))]
    parts += [function for function in functions if function.__module__ == method.__module__]
    source = "\n".join(inspect.getsource(part) for part in parts)
    logged = keys_written(source)
    if "errors.metrics(" in source:
        logged |= keys_written(inspect.getsource(preference))
    if "known_inversion(" in source:
        logged |= keys_written(inspect.getsource(inversion))
    assert told == (logged | OF_THE_LOOP if page.stem != "base" else set())


# ---- links


def anchors(page):
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_to_a_file(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name(page)} links to {link}"
        assert not anchor or anchor in anchors(target), f"{name(page)} links to {link}"


# ---- the example of a method


@pytest.fixture
def example(monkeypatch):
    """The README's method, as the module it would be; returns its configuration."""
    source = block_that_begins(README, "python", "# methods/")
    module_name = Path(source.splitlines()[0].removeprefix("# methods/")).stem
    module = ModuleType(f"methods.{module_name}")
    exec(compile(source, module.__name__, "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(methods, module_name, module, raising=False)
    return yaml.safe_load(block_that_begins(README, "yaml", f"# conf/method/{module_name}.yaml"))


def test_the_example_of_a_method_trains(example):
    method = instantiate(example)
    assert method.name == example["name"]
    assert method.batch_type is PairBatch
    model = tiny_adapter("stable_diffusion")
    model.prepare_training("full", rank=4, alpha=4.0)
    prompts = ["a red circle", "two blue squares", "a green star"]
    latents_w, latents_l = torch.randn(2, 3, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    batch = PairBatch(torch.arange(3), prompts, model.encode_prompts(prompts), latents_w, latents_l, torch.ones(3))
    loss = method.loss(model, batch, Context(step=0, seed=0, micro_batch_size=3))
    assert loss.values.shape == loss.weights.shape == (3,)
    assert loss.values.isfinite().all()
    (loss.values * loss.weights).sum().backward()
    gradient = torch.cat([p.grad.flatten() for p in model.denoiser.parameters() if p.grad is not None])
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


def test_the_test_of_the_example_passes(example):
    page = ROOT / "docs" / "adding_a_method.md"
    names: dict = {}
    exec(compile(block_that_begins(page, "python", "# tests/methods/"), name(page), "exec"), names)
    tests = [names[key] for key in names if key.startswith("test_")]
    assert tests
    for test in tests:
        test()


# ---- evaluators

EVALUATORS = ROOT / "docs" / "evaluators.md"


def module_of(block):
    """Return a block of Python as the module it would be."""
    module = ModuleType("example")
    exec(compile(block, str(EVALUATORS), "exec"), module.__dict__)
    return module


def test_the_table_of_evaluators_has_them_all_and_says_which_are_rewards():
    rows = next(rows for heads, rows in tables(EVALUATORS) if heads[-1] == "reward")
    told = {row[0].strip("`"): row[-1] for row in rows}
    files = {file.stem: yaml.safe_load(file.read_text()) for file in (conf_folder() / "evaluator").glob("*.yaml")}
    assert told == {
        stem: "yes" if issubclass(get_class(file["_target_"]), Reward) else "no" for stem, file in files.items()
    }


def test_the_three_lines_build_what_they_say(monkeypatch, capsys):
    built = []

    def build_evaluator(name, values):
        built.append((name, values))
        return SimpleNamespace(score=lambda images, prompts: (images, prompts))

    monkeypatch.setattr("alignbench.configuration.find_evaluator.build_evaluator", build_evaluator)
    module_of(block_that_begins(EVALUATORS, "python", "from evaluators"))
    assert built == [("pickscore", {"source": "FOLDER"})]
    assert capsys.readouterr().out == "(['cat.png'], ['a photo of a cat'])\n"


@pytest.mark.parametrize("words", list(commands("alignbench.serve")))
def test_every_command_that_serves_has_known_names_and_keys(words):
    args = arguments_of_serve(words)
    keys = yaml.safe_load((conf_folder() / "evaluator" / f"{args.evaluator}.yaml").read_text())
    assert read_settings(args.settings).keys() <= keys.keys()


def test_a_judge_is_loaded_by_the_lines_of_its_page(placeholders, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for picture in ("a.png", "b.png"):
        Image.new("RGB", (64, 64)).save(picture)
    module_of(block_that_begins(ROOT / "docs" / "judges.md", "python", "from").replace("JUDGE", placeholders["JUDGE"]))
    assert capsys.readouterr().out.startswith("tensor([")


def test_the_example_of_a_server_is_one():
    example = module_of(block_that_begins(EVALUATORS, "python", "# brightness_server.py"))
    monochrome = [Image.new("L", (64, 64), value) for value in (0, 100)]
    with ThreadingHTTPServer(("127.0.0.1", 0), example.Handler) as server:
        server.RequestHandlerClass.log_message = lambda *_: None
        Thread(target=server.serve_forever, daemon=True).start()
        remote = load("remote", url=f"http://127.0.0.1:{server.server_address[1]}")
        assert (remote.name, remote.range) == ("brightness", (0, 255))
        assert remote.score(monochrome, ["", ""]).tolist() == [0, 100]
        server.shutdown()


def test_the_example_of_a_function_is_an_evaluator(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text(block_that_begins(EVALUATORS, "python", "# my_rewards.py"))
    monkeypatch.syspath_prepend(str(tmp_path))
    redness = load("function", name="redness", version=1, function="my_rewards:redness")
    pictures = [Image.new("RGB", (64, 64), colour) for colour in ("grey", "red", "blue")]
    assert redness.score(pictures, [""] * 3).tolist() == [0, 1, -0.5]


def test_the_example_of_a_program_is_an_evaluator(tmp_path):
    (tmp_path / "length.py").write_text(block_that_begins(EVALUATORS, "python", "# length.py"))
    length = load("program", name="length", version=1, command=[sys.executable, str(tmp_path / "length.py")])
    assert length.score([Image.new("RGB", (64, 64))] * 2, ["a red circle", ""]).tolist() == [3, 0]
    length.release()


def test_the_example_of_an_evaluator_scores():
    block = block_that_begins(EVALUATORS, "python", "# evaluators/saturation.py")
    target = yaml.safe_load(block_that_begins(EVALUATORS, "yaml", "# conf/evaluator/saturation.yaml"))["_target_"]
    evaluator = getattr(module_of(block), target.removeprefix("evaluators.saturation."))()
    pictures = [Image.new("RGB", (64, 64), colour) for colour in ("grey", "red", (255, 127, 127))]
    torch.testing.assert_close(evaluator.score(pictures, [""] * 3), torch.tensor([0, 1, 128 / 255]), atol=1e-5, rtol=0)


# ---- data


def test_the_table_of_sources_has_them_all_and_says_what_they_offer():
    rows = next(rows for heads, rows in tables(ROOT / "docs" / "data.md") if heads[0] == "`data=`")
    told = {row[0].strip("`"): set(row[-1].split(", ")) for row in rows}
    files = {file.stem: yaml.safe_load(file.read_text()) for file in (conf_folder() / "data").glob("*.yaml")}
    assert told == {stem: set(get_class(file["_target_"]).provides) for stem, file in files.items()}


def test_the_usual_names_of_columns_of_the_hub_are_those_that_are_found():
    rows = next(rows for heads, rows in tables(ROOT / "docs" / "data.md") if heads[0] == "source")
    told: dict[str, tuple[str, ...]] = {}
    for _, roles, names in rows:
        by_role = zip(re.findall(r"`(\w+)`", roles), names.split("; "), strict=True)
        told |= {role: tuple(re.findall(r"`(\w+)`", some)) for role, some in by_role}
    assert told == USUAL_NAMES


# ---- votes


@pytest.mark.parametrize("words", list(commands("alignbench.study")))
def test_every_command_of_a_study_is_understood(words):
    assert arguments_of_study(words).command == words[0]


# ---- weights


@pytest.fixture(scope="module")
def mini_run(tmp_path_factory):
    """Runs of flux_mini as training leaves them, and its pipeline as a folder: what the pages call RUN and BASE."""
    root = tmp_path_factory.mktemp("runs")
    models = {}
    for tuning in ("lora", "full"):
        model = instantiate(configuration("dpo", "flux_mini").model.adapter)
        if not models:
            model.pipeline.save_pretrained(root / "base")
        model.prepare_training(tuning, rank=2, alpha=6)
        generator = torch.Generator().manual_seed(0)
        for parameter in (p for p in model.denoiser.parameters() if p.requires_grad):
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
        model.save_policy(root / tuning / "policy")
        model.fold_adapters()
        models[tuning] = model.denoiser.state_dict()
    return root, models


def loading_blocks():
    for page in (README, ROOT / "docs" / "models.md"):
        for block in blocks(page, "python"):
            if "RUN/policy" in block:
                tuning = "lora" if "load_lora_weights" in block else "full"
                yield pytest.param(block, tuning, id=f"{name(page)}: {tuning}")


@pytest.mark.parametrize(("block", "tuning"), list(loading_blocks()))
def test_the_three_lines_load_what_a_run_leaves(block, tuning, mini_run):
    root, models = mini_run
    assert len([line for line in block.splitlines() if line]) == 3
    names: dict = {}
    exec(block.replace('"BASE"', repr(str(root / "base"))).replace('"RUN/', f'"{root / tuning}/'), names)
    network = names["pipeline"].transformer
    if tuning == "lora":
        network.fuse_lora()
        network.unload_lora()
    for key, tensor in models[tuning].items():
        torch.testing.assert_close(network.state_dict()[key], tensor, rtol=0, atol=1e-5, msg=key)


@pytest.mark.parametrize("words", list(commands("alignbench.export")))
def test_every_command_that_exports_is_understood(words, placeholders):
    args = arguments_of_export(words)
    if args.settings:
        settings = [word.replace("FOLDER", placeholders["FOLDER"]) for word in args.settings]
        assert find_source(placeholders["POLICY"], [w.replace("sdxl", "flux") for w in settings]).run is None


@pytest.mark.parametrize("words", list(commands("alignbench.plan")))
def test_every_plan_has_lines(words):
    assert len(list(planning.plan(planning.read_settings(words)))) > 5


@pytest.mark.parametrize("words", list(commands("alignbench.reproduce")))
def test_every_command_that_reproduces_names_a_row(words):
    args = reproducing.arguments(words)
    assert args.row is None or find_row(args.row).command


@pytest.mark.parametrize("words", list(commands("alignbench.capsule")))
def test_every_command_about_a_capsule_is_understood(words):
    assert arguments_of_capsule(words).action in {"pack", "verify", "merge"}


@pytest.mark.parametrize("words", list(commands("alignbench.search")))
def test_every_search_passes_the_checks(words):
    settings, shared, space = searching.read_words(words)
    cfg, *_ = check_search(shared, space, settings)
    assert cfg.stages == ["train", "generate", "score"]


@pytest.mark.parametrize("words", list(commands("alignbench.sweeps")))
def test_every_question_about_sweeps_is_understood(words):
    assert sweeping.parser().parse_args(words).results


@pytest.mark.parametrize("words", list(commands("alignbench.soup")))
def test_every_command_that_makes_a_soup_is_understood(words):
    args = arguments_of_soup(words)
    assert sum(read_shares(args.weights, len(args.runs))) == pytest.approx(1)
