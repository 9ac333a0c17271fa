"""The page of comparers names every choice, every column of their table, and what its calls come to."""

from itertools import combinations

from omegaconf import OmegaConf

from alignbench.configuration.build import choices, conf_folder
from alignbench.report.columns import COMPARER_COLUMNS
from tests.docs.test_pages import named
from tests.pages import ROOT, tables

PAGE = ROOT / "docs" / "comparers.md"


def test_every_choice_and_every_column_is_explained():
    chosen, _, columns, _ = ([row[0] for row in rows] for _, rows in tables(PAGE))
    assert sorted(name for cell in chosen for name in named(cell)) == choices("comparers")
    assert [name for cell in columns for name in named(cell)] == list(COMPARER_COLUMNS)


def test_the_number_of_calls_is_that_of_pairs_of_runs_prompts_and_orders():
    _, (heads, rows), *_ = tables(PAGE)
    num_methods, num_prompts = 12, 1632
    assert f"{num_methods} methods on Parti ({num_prompts} prompts)" in heads[1]
    pairs = len([*combinations(range(num_methods), 2)])
    expected = [pairs * num_prompts * 2, (num_methods - 1) * num_prompts * 2, (num_methods - 1) * num_prompts]
    assert [int(row[1].replace(",", "")) for row in rows] == expected


def test_every_key_of_a_comparer_as_a_reward_is_explained_with_its_default():
    *_, (_, rows) = tables(PAGE)
    node = OmegaConf.load(conf_folder() / "reward" / "comparer.yaml")
    keys = {f"reward.{key}": value for key, value in node.items() if key not in ("defaults", "_target_")}
    assert [name for row in rows[1:] for name in named(row[0])] == list(keys)
    assert [named(row[1])[0] for row in rows[1:]] == ["null" if one is None else str(one) for one in keys.values()]
