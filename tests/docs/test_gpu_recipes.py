"""The recipes for cards: there is one for each, its command passes the checks, and its estimate is the program's."""

import re
from collections import Counter
from dataclasses import dataclass
from itertools import product

import pytest
from diffusers import AutoencoderTiny

from alignbench.configuration.build import conf_folder
from alignbench.configuration.compose import check_command_line, composed
from alignbench.models.tiny_random.flux import tiny_flux
from alignbench.models.tiny_random.stable_diffusion import tiny_stable_diffusion
from alignbench.models.tiny_random.stable_diffusion_3 import tiny_stable_diffusion_3
from alignbench.models.tiny_random.stable_diffusion_xl import tiny_stable_diffusion_xl
from alignbench.training.memory_estimate import CARDS, GIB, estimate, total
from tests.docs.test_other_families import ROWS
from tests.pages import ROOT, blocks, sections, tables

PAGE = ROOT / "docs" / "gpu_recipes.md"
START = "python -m alignbench "
METHODS = ("dpo", "srpo", "grpo", "nft")
MODELS = {
    "sd15": tiny_stable_diffusion,
    "sdxl": tiny_stable_diffusion_xl,
    "sd3": tiny_stable_diffusion_3,
    "flux": tiny_flux,
}
LATENT_CHANNELS = {"sd15": 4, "sdxl": 4, "sd3": 16, "flux": 16}
LABELS = {  # what the table names beside a figure: settings that change the result
    "train.tuning=lora": "LoRA",
    "train.weights_dtype=bfloat16": "bfloat16 base",
    "memory=bf16_stochastic": "stochastic rounding",
    "memory=base_8bit": "8-bit base",
    "memory=base_4bit": "4-bit base",
    "optimizer=adamw8bit": "8-bit AdamW",
    "train.reward_vae=TINY_VAE": "tiny VAE",
}
EQUAL = re.compile(  # settings that change no result, and what a command is about
    r"(method|model|data|data\.path|reward|stages|memory=checkpointing|train\.micro_batch_size|method\.rollout_batch_size"
    r"|sampling\.batch_size|sampling\.base_bits|evaluators)(=|$)"
)
ROOM = 0.9  # share of a card that an estimate takes at most, as the page says


@dataclass(frozen=True)
class Recipe:
    """A command of the page, and what stands above it.

    Attributes:
        cards: sizes of the cards that it is for, as in `24 GB`.
        gib: the estimate that is printed.
        words: of the command.
    """

    cards: tuple[str, ...]
    gib: str
    words: tuple[str, ...]

    def chosen(self, group):
        """Return what the command chooses of a group."""
        return next(word.partition("=")[2] for word in self.words if word.startswith(f"{group}="))

    @property
    def cell(self):
        """What the table says of it."""
        modes = re.sub(
            r"memory=\[(.*?)\]", lambda m: " ".join(f"memory={one}" for one in m[1].split(",")), self.command
        )
        words = modes.split()
        assert all(word in LABELS or EQUAL.match(word) for word in words), words
        told = ", ".join(label for word, label in LABELS.items() if word in words)
        return f"{self.gib}: {told}" if told else self.gib

    @property
    def command(self):
        return " ".join(self.words)

    def with_files(self, files):
        """Return its words with real paths for those in capitals."""
        places = files | {"TINY_VAE": f"{files['TINY_VAE']}{LATENT_CHANNELS[self.chosen('model')]}"}
        return [re.sub(r"\b(PAIRS|FILE|TINY_VAE)\b", lambda found: places[found[0]], word) for word in self.words]


def recipes():
    """Return the recipes of the page; every command has a line of its cards and its estimate above it."""
    found = []
    for block in blocks(PAGE, "bash"):
        lines = block.splitlines()
        for head, command in zip(lines[::2], lines[1::2], strict=True):
            told = re.fullmatch(r"# ([\d, and]+) GB: (\d+\.\d) GiB", head)
            assert told, head
            assert command.startswith(START), command
            cards = tuple(f"{size} GB" for size in re.findall(r"\d+", told[1]))
            found.append(Recipe(cards, told[2], tuple(command.removeprefix(START).split())))
    return found


RECIPES = recipes()
EACH = pytest.mark.parametrize("recipe", RECIPES, ids=lambda one: one.command)


def test_each_model_has_one_recipe_for_each_card_and_kind_of_method():
    shipped = {file.stem for file in (conf_folder() / "model").glob("*.yaml")} - {"images"}
    of_the_page_of_models = {*ROWS, "sd35_medium"}
    assert set(MODELS) == {name for name in shipped if not name.endswith("_mini")} - of_the_page_of_models
    found = Counter((one.chosen("method"), one.chosen("model"), card) for one in RECIPES for card in one.cards)
    assert found == Counter(product(METHODS, MODELS, CARDS))


def test_the_table_tells_the_estimates_and_what_changes_results():
    heads, rows = next((heads, rows) for heads, rows in tables(PAGE) if heads[:2] == ["method", "model"])
    told = {
        (*(cell.strip("`") for cell in row[:2]), head): cell
        for row in rows
        for head, cell in list(zip(heads, row, strict=True))[2:]
    }
    of_commands = {(one.chosen("method"), one.chosen("model"), card): one.cell for one in RECIPES for card in one.cards}
    assert told == of_commands


@pytest.mark.matrix
def test_nothing_else_fits_the_smallest_card_where_the_gradient_goes_through_the_whole_decoder():
    told = dict(re.findall(r"(\d+\.\d) GiB on `(\w+)`", sections(PAGE)["Gradient of a reward: srpo"]))
    least = {}
    for model in set(MODELS) - {"sd15"}:
        (recipe,) = (
            one for one in RECIPES if "141 GB" in one.cards and one.words[:2] == ("method=srpo", f"model={model}")
        )
        words = [*recipe.words, "dry_run=true", "train.tuning=lora", "memory=[checkpointing,offload,base_4bit]"]
        gib = total(estimate(composed([*words, "train.micro_batch_size=1"]))) / GIB
        least[f"{gib:.1f}"] = model
        assert gib > ROOM * CARDS["24 GB"]
    assert told == least


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Weights of each model, and something real for each word in capitals."""
    root = tmp_path_factory.mktemp("files")
    for name, tiny in MODELS.items():
        tiny().save_pretrained(root / name)
    for channels in {*LATENT_CHANNELS.values()}:  # the published ones differ in nothing else
        AutoencoderTiny(latent_channels=channels).save_pretrained(root / f"tiny{channels}")
    (root / "pairs").mkdir()
    (root / "pairs" / "pairs.jsonl").touch()
    (root / "prompts.txt").write_text("a red circle\n")
    words = {"PAIRS": root / "pairs", "FILE": root / "prompts.txt", "TINY_VAE": root / "tiny"}
    return {word: str(path) for word, path in {**words, **{name: root / name for name in MODELS}}.items()}


@pytest.mark.matrix
@EACH
def test_the_estimate_is_the_programs_and_leaves_room_on_the_card(recipe, files):
    if "optimizer=adamw8bit" in recipe.words:
        pytest.importorskip("bitsandbytes")
    parts = estimate(composed([*recipe.with_files(files), "dry_run=true"]))
    assert not any(part.unknown for part in parts)
    assert f"{total(parts) / GIB:.1f}" == recipe.gib
    assert total(parts) / GIB <= ROOM * min(CARDS[card] for card in recipe.cards)


@pytest.mark.matrix
@pytest.mark.usefixtures("scorers_at_hand")
@EACH
def test_every_command_passes_the_checks(recipe, files):
    weights = f"model.pretrained_model_name_or_path={files[recipe.chosen('model')]}"
    check_command_line([*recipe.with_files(files), weights], False)
