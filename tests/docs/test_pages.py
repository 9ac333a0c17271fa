"""What pages list is what there is: groups and their choices, files and columns, evaluators, prompts; examples run."""

import re
import sys
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hydra import initialize_config_dir
from hydra.utils import get_class
from omegaconf import OmegaConf

from alignbench.configuration.build import build, conf_folder
from alignbench.configuration.compose import composed, group_choices
from alignbench.configuration.page import TABLES, with_tables
from alignbench.files import CHECK, write_csv
from alignbench.models.tiny_random import RESOLUTION
from alignbench.report.columns import (
    BEST_SETTING_COLUMNS,
    BUDGET_COLUMNS,
    GUIDANCE_COLUMNS,
    LEADERBOARD_COLUMNS,
    RANKING_COLUMNS,
    SENSITIVITY_COLUMNS,
    TURNING_POINT_COLUMNS,
    WIN_RATE_COLUMNS,
)
from alignbench.store.manifest import Manifest
from tests.pages import PAGES, README, ROOT, block_that_begins, blocks, sections, tables

DOCS = ROOT / "docs"
CONFIGURATION = DOCS / "configuration.md"
RESULTS = DOCS / "results.md"
ADDING_A_MODEL = DOCS / "adding_a_model.md"
EVALUATOR_PAGES = sorted((DOCS / "evaluators").glob("*.md"))


def named(text):
    """Return everything that stands in backticks."""
    return re.findall(r"`([^`]+)`", text)


# ---- configuration


# folders, and the groups of which every choice is declared
FOLDERS = {folder.name for folder in conf_folder().iterdir() if folder.is_dir()}
GROUPS = sorted((FOLDERS - {"hydra"}) | {"train", "hydra/launcher"})


def test_every_group_of_the_configuration_has_a_section():
    assert sorted(sections(CONFIGURATION, level=3)) == GROUPS


@pytest.mark.parametrize("group", GROUPS)
def test_every_choice_of_a_group_is_named(group):
    """Methods and evaluators have pages of their own; of recipes and presets the folders are named."""
    folder = conf_folder() / group
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        choices = set(group_choices(group))
    choices |= {one.name for one in folder.iterdir() if one.is_dir()} if group in ("recipe", "preset") else set()
    assert choices
    told = set(named(sections(CONFIGURATION, level=3)[group]))
    assert choices <= told or group in ("method", "evaluator")


def test_the_models_of_each_world_are_those_whose_files_name_it():
    rows = next(rows for heads, rows in tables(CONFIGURATION) if heads[0] == "`world=`")
    told = {row[0].strip("`"): set(named(row[1])) - {"method=base"} for row in rows}
    found: dict[str, set[str]] = {}
    for file in (conf_folder() / "model").glob("*.yaml"):
        found.setdefault(_world(file), set()).add(file.stem)
    assert told == found


def _world(file: Path) -> str:
    """Return the world that the file of a model names, or the file of the model that it is like."""
    defaults = OmegaConf.load(file).defaults
    named = {key: value for entry in defaults if not isinstance(entry, str) for key, value in entry.items()}
    if "override /world@_global_.world" in named:
        return named["override /world@_global_.world"]
    return _world(file.with_name(f"{defaults[0]}.yaml"))


def test_the_keys_of_a_command_have_the_defaults_that_are_told():
    told = {row[0].strip("`"): yaml.safe_load(row[1].strip("`")) for row in next(tables(CONFIGURATION))[1]}
    values = OmegaConf.to_container(composed([]))
    assert told == {key: value for key, value in values.items() if not isinstance(value, dict)}


def test_the_tables_of_settings_are_those_of_their_declarations():
    """If this fails, write them anew: python -m alignbench.configuration.page"""
    page = CONFIGURATION.read_text()
    assert with_tables(page) == page
    assert set(re.findall("<!-- settings: (.*) -->", page)) == TABLES.keys()


def test_prompt_sets_have_as_many_prompts_as_the_page_says():
    rows = next(rows for heads, rows in tables(CONFIGURATION) if heads[0] == "`prompts=`")
    told = {row[0].strip("`"): int(row[1].strip("`")) for row in rows if row[0] != "`file`"}
    files = {file.stem: file for file in (conf_folder() / "prompts").glob("*.yaml") if file.stem != "file"}
    assert told == {stem: len(build(OmegaConf.load(file)).prompts) for stem, file in files.items()}


# ---- methods


@pytest.mark.matrix
def test_the_table_of_methods_names_those_that_have_a_page_and_says_who_needs_a_reference():
    """A method that is added needs neither a page nor a row; one that has a page has a row."""
    told = {row[0].strip("`"): (row[2] == "yes", row[4]) for row in next(tables(DOCS / "methods.md"))[1]}
    pages = {page.stem for page in (DOCS / "methods").glob("*.md")}
    assert pages <= told.keys()
    for method, (needs_reference, link) in told.items():
        node = composed([f"method={method}", "model=flux", "reward=shapes_clip"]).method
        assert needs_reference == get_class(node._target_).weight_copies(node).reference, method
        page = DOCS / re.search(r"\((.*)\)", link)[1]
        assert f"`{method}`" in page.read_text() or page.stem == method


# ---- evaluators


def test_every_evaluator_has_one_section_which_says_its_version():
    told = {title: text for page in EVALUATOR_PAGES for title, text in sections(page).items()}
    general = ("Both releases", "Both scores", "How well text is read")
    titles = [title for page in EVALUATOR_PAGES for title in sections(page) if title not in general]
    files = {file.stem: OmegaConf.load(file) for file in (conf_folder() / "evaluator").glob("*.yaml")}
    assert sorted(titles) == sorted(files)
    for stem, file in files.items():
        version = getattr(get_class(file._target_), "version", None)
        if isinstance(version, str):  # others have that of the server or of the user
            assert re.search(rf"version[ |]*`{version}`", told[stem], flags=re.IGNORECASE), stem


# ---- results


def explained(section, level=2):
    """Return what the first cells of the table in a section of the page name, in order."""
    text = sections(RESULTS, level)[section].partition("\n#")[0]
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return [column for cell in cells for column in named(cell)]


@pytest.mark.parametrize(
    ("section", "columns"),
    [
        ("win_rates.csv", WIN_RATE_COLUMNS),
        ("ranking.csv", RANKING_COLUMNS),
        ("guidance.csv", GUIDANCE_COLUMNS),
        ("turning_points.csv", TURNING_POINT_COLUMNS),
        ("sensitivity.csv", SENSITIVITY_COLUMNS),
        ("best_settings.csv", BEST_SETTING_COLUMNS),
    ],
)
def test_every_column_of_a_table_is_explained(section, columns):
    assert explained(section) == list(columns)


def test_every_column_of_the_leaderboard_is_explained():
    told = explained("leaderboard.csv")
    own = [column for column in LEADERBOARD_COLUMNS if column not in BUDGET_COLUMNS]
    assert told == [*own, BUDGET_COLUMNS[0], BUDGET_COLUMNS[-1]]
    assert explained("Budget", level=3) == list(BUDGET_COLUMNS)


def test_every_entry_of_a_manifest_is_explained():
    assert set(explained("manifest.json", level=3)) == {entry.name for entry in fields(Manifest)} | {CHECK}


def test_the_lines_that_read_a_leaderboard_leave_out_who_was_trained_on(tmp_path, capsys):
    row = dict.fromkeys(LEADERBOARD_COLUMNS) | {"group": "all", "evaluator": "people"}
    rows = [
        row | {"method": "dpo", "win_rate_vs_base": 0.6125, "trained_on": False},
        row | {"method": "dpo", "win_rate_vs_base": 0.99, "trained_on": True},
        row | {"method": "dpo", "group": "anime", "win_rate_vs_base": 0.25, "trained_on": False},
    ]
    write_csv(tmp_path / "leaderboard.csv", LEADERBOARD_COLUMNS, rows)
    exec(blocks(RESULTS, "python")[0].replace("RESULTS", str(tmp_path)), {})
    assert re.findall(r"0\.\d+", capsys.readouterr().out) == ["0.6125"]


def test_the_lines_that_compare_two_runs_count_ties_half(tmp_path, capsys):
    ids = {"prompt_id": ["p", "q", "r", "s"], "image": [0, 0, 0, 0]}
    for run, score in (("SCORES_A", [1, 2, 3, 0]), ("SCORES_B", [0, 2, 1, 9])):
        pd.DataFrame(ids | {"score": np.float32(score)}).to_parquet(tmp_path / run)
    exec(re.sub(r"(SCORES_\w)", lambda found: str(tmp_path / found[0]), blocks(RESULTS, "python")[1]), {})
    assert capsys.readouterr().out == "a wins 62.5 % of 4; it loses most on prompt s\n"


# ---- examples


def test_every_example_in_python_is_run_by_a_test():
    """By its first line; a new one needs a test, and then a place here."""
    run = {
        "# methods/likelihood_gap.py", "# tests/methods/test_likelihood_gap.py",  # test_docs.py
        "# methods/ram.py",  # test_additions.py
        "# evaluators/saturation.py", "# brightness_server.py", "from evaluators import load", "# my_rewards.py",
        "# length.py",
        "from diffusers import FluxPipeline", "from diffusers import FluxPipeline, FluxTransformer2DModel",
        "import pandas as pd", "# alignbench/models/families/aura_flow.py",
        "# alignbench/models/tiny_random/aura_flow.py", "from alignbench import load_results, run",  # here
        "from alignbench.miniature.weights import load_pipeline",  # stages/test_loading.py
    }  # fmt: skip
    pages = [page for page in PAGES if page != DOCS / "python.md"]  # whose cells test_python_page.py runs
    assert {block.splitlines()[0] for page in pages for block in blocks(page, "python")} == run


@pytest.mark.matrix
def test_the_example_from_python_prints_both_tables(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    smaller = (
        '"model=sd15_mini", "train.max_train_steps=1", "train.total_batch_size=2", "train.micro_batch_size=2", '
        '"data.num_pairs=12", "data.num_prompts=12", "prompts.limit=2", "sampling.num_inference_steps=1"'
    )
    source = block_that_begins(README, "python", "from alignbench import load_results, run")
    exec(source.replace('"model=sd15_mini"', smaller), {})
    told = capsys.readouterr().out
    assert re.search(r"^ +dpo +shapes_annotators +2 .* True$", told, re.MULTILINE)
    assert re.search(r"^sd15_mini shapes +dpo( +\d+\.\d){6}$", told, re.MULTILINE)


@pytest.fixture(scope="module")
def aura_flow():
    """The adapter of the page around its tiny random pipeline, which is one of diffusers."""
    adapter = ModuleType("alignbench.models.families.aura_flow")
    tiny: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, adapter.__name__, adapter)
        for names, file in ((vars(adapter), "families/aura_flow"), (tiny, "tiny_random/aura_flow")):
            exec(block_that_begins(ADDING_A_MODEL, "python", f"# alignbench/models/{file}.py"), names)
    return tiny["AuraFlow"](tiny["tiny_aura_flow"](), RESOLUTION, ["to_q", "to_k", "to_v", "to_out.0"])


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_the_example_of_a_model_gives_the_images_of_its_pipeline(aura_flow, scale):
    prompts = ["a red circle", "two blue squares"]
    noise = torch.randn(2, *aura_flow.latent_shape, generator=torch.Generator().manual_seed(0))
    conditioning = aura_flow.encode_prompts(prompts)
    unconditional = aura_flow.unconditional(scale, conditioning)
    guidance = {} if unconditional is None else {"guidance_scale": scale, "unconditional": unconditional}
    latents = aura_flow.sample(noise, conditioning, aura_flow.noise_levels(5), **guidance).latents
    ours = aura_flow.decode_latents(latents).permute(0, 2, 3, 1).detach().numpy()
    theirs = aura_flow.pipeline(
        prompt=prompts,
        latents=noise,
        num_inference_steps=5,
        height=RESOLUTION,
        width=RESOLUTION,
        output_type="np",
        **aura_flow.generation_arguments(2, scale),
    ).images
    assert abs(ours - theirs).max() < 5e-6
    blank = aura_flow.blank_conditioning(2).prompt_embeds
    assert blank.shape == conditioning.prompt_embeds.shape


def test_the_example_of_a_model_has_the_keys_of_those_that_ship():
    example = OmegaConf.create(block_that_begins(ADDING_A_MODEL, "yaml", "# conf/model/aura_flow.yaml"))
    shipped = OmegaConf.load(conf_folder() / "model" / "sd3.yaml")
    assert example.keys() == shipped.keys() - {"controlnets"} or example.keys() == shipped.keys()
    assert example.adapter.pipeline.keys() == shipped.adapter.pipeline.keys()
    assert example.adapter.keys() <= shipped.adapter.keys()
