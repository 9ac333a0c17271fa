import re
from pathlib import Path

import pytest

from alignbench.configuration.build import conf_folder
from alignbench.configuration.typed.words import results_of
from alignbench.errors import UserError
from alignbench.reproduce.command import lacks, words_of
from alignbench.reproduce.listing import WIDTH, aligned, introduction, table
from alignbench.reproduce.page import PAGE, with_rows
from alignbench.reproduce.rows import figures, find_row, read_rows


@pytest.fixture(scope="module")
def rows():
    return read_rows()


def test_every_row_has_a_source_figures_and_what_may_differ(rows):
    assert len(rows) > 60
    for row in rows.values():
        assert re.fullmatch(r"\d{4}\.\d{5}|none", row.arxiv_id), row.id
        assert len(row.source) > 10, row.id
        assert row.confounders, row.id
        assert figures(row), row.id
        assert (row.method == "base") == (not any("one training run" in one for one in row.may_differ))


def test_every_experiment_of_a_row_is_a_file_whose_head_says_command_hardware_and_figures(rows):
    for name in {row.experiment for row in rows.values()}:
        file = conf_folder() / "experiment" / f"{name}.yaml"
        head = re.match(r"# @package _global_\n((?:#.*\n)+)", file.read_text())
        assert head, name
        commands = re.findall(r"# python -m alignbench\.reproduce (\w+)", head[1])
        assert [rows[command].experiment for command in commands] == [name]
        assert re.search("Hardware|core of a CPU", head[1]), name
        assert "Expected" in head[1], name
    papers = {file.stem for file in (conf_folder() / "experiment").glob("paper_*.yaml")}
    assert papers <= {row.experiment for row in rows.values()}


def test_the_heads_of_experiments_have_the_figures_of_the_tables(rows):
    for row in rows.values():
        head = (conf_folder() / "experiment" / f"{row.experiment}.yaml").read_text()
        if row.command == [f"experiment={row.experiment}"] and row.experiment.startswith(
            ("paper_smpo_s", "paper_linear_dpo")
        ):
            for one in figures(row)[: 5 if row.paper == "SmPO" else None]:
                assert f"{one.printed.value:.{one.decimals}f}" in head, (row.id, one.printed.evaluator)


def test_decimals_are_those_of_the_column(rows):
    """ImageReward of SmPO's table 2 has three digits although 1.224 and 0.706 are its only figures in some rows."""
    by_name = {one.printed.evaluator: one.decimals for one in figures(rows["smpo_sdxl_base_hpdv2"])}
    assert by_name == {"pickscore": 2, "hpsv2_1": 2, "image_reward": 3, "aesthetic": 3, "clip_score": 2}


def test_an_unknown_row_is_answered_with_those_spelled_alike():
    with pytest.raises(UserError, match=r"smpo_sd15_hpdv is no row; did you mean smpo_sd15_hpdv2 or"):
        find_row("smpo_sd15_hpdv")
    with pytest.raises(UserError, match=r"xyzzy is no row; python -m alignbench.reproduce lists all"):
        find_row("xyzzy")


ONE = """
all: {paper: SRPO, arxiv_id: "2509.06942", source: somewhere, table: HPDv2 benchmark, model: flux, prompts: hpdv2,
      num_prompts: 3200, hardware: H20, hours_source: published, confounders: [noise]}
rows:
  a: {method: srpo, command: [experiment=paper_srpo_flux], device_hours: 5.3}
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("rows:", "others:", "must have the keys all and rows"),
        ("num_prompts: 3200", "num_prompts: many", "row a: num_prompts: Input should be a valid integer"),
        ("num_prompts: 3200", "num_prompts: 0", "row a: num_prompts: Input should be greater than 0"),
        ("source: somewhere, ", "", "row a: source: Field required"),
        ("source: somewhere", "sauce: somewhere", "row a: source: Field required"),
        ("confounders: [noise]", "confounders: []", "row a: confounders: List should have at least 1 item"),
        ("device_hours: 5.3", "device_hours: -1.0", "row a: device_hours: Input should be greater than or equal to 0"),
        ("device_hours: 5.3", "device_hours: 5.3, starts_from: b", "row a starts from b, which is no row"),
        ("experiment=paper_srpo_flux", "method=srpo", "command must begin with experiment=NAME, not with method=srpo"),
        ("method: srpo", "method: nobody", "row a has no figure in alignbench/report/published_tables"),
        ("{method", "[method", "is not YAML"),
    ],
)
def test_a_damaged_file_is_refused_in_a_sentence(tmp_path, old, new, message):
    (tmp_path / "one.yaml").write_text(ONE)
    assert list(read_rows(tmp_path)) == ["a"]
    assert old in ONE
    (tmp_path / "one.yaml").write_text(ONE.replace(old, new))
    with pytest.raises(UserError, match=re.escape(message)):
        read_rows(tmp_path)


def test_two_files_cannot_have_one_row(tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(ONE)
    with pytest.raises(UserError, match="has the row a, which another file has, too"):
        read_rows(tmp_path)


def test_confounders_of_a_row_are_added_to_those_of_its_paper(rows):
    own = "the source does not say what KTO started from"
    kto, base = rows["smpo_sd15_kto_hpdv2"].confounders, rows["smpo_sd15_base_hpdv2"].confounders
    assert kto == [*base, own]


def test_a_command_asks_for_what_the_row_lacks(rows, tmp_path):
    row = rows["smpo_sd15_dpo_hpdv2"]
    with pytest.raises(UserError, match=r"smpo_sd15_dpo_hpdv2 needs the folder of Pick-a-Pic v2.*: add data.path=PATH"):
        words_of(row, [])
    given = ["data.path=/data", f"results={tmp_path}"]
    assert words_of(row, given) == [*row.command, *given]
    assert [key for key, _ in lacks(row, given)] == []
    assert results_of(given) == tmp_path
    assert str(results_of([])) == "results"
    with pytest.raises(UserError, match="--quick is not understood"):
        words_of(row, ["--quick"])


def test_a_row_that_starts_from_another_names_it_until_its_weights_are_there(rows, tmp_path):
    row, given = rows["smpo_sd15_hpdv2"], ["data.path=/data", f"results={tmp_path}"]
    with pytest.raises(UserError, match=r"starts from the weights of the row smpo_sd15_sft_hpdv2.*model.policy=FOLDER"):
        words_of(row, given)
    assert words_of(row, [*given, "model.policy=/mine"])[-1] == "model.policy=/mine"


def test_the_table_and_the_introduction_say_what_a_row_is(rows):
    text = "\n".join(table(rows.values()))
    assert "\nSmPO on sd15; its weights are not here\nsmpo_sd15_base_hpdv2 " in text
    assert re.search(r"\nsmpo_sd15_hpdv2 +41\.3 +pickscore 22\.08 \+24\n", text)
    assert re.search(r"on sd15_mini; its weights ship\nmini_smpo ", text)
    assert max(map(len, text.splitlines())) <= WIDTH
    assert all(f"\n{row} " in text for row in rows)
    told = "\n".join(introduction(rows["smpo_sd15_hpdv2"], []))
    assert "training    41.3 device hours (published" in told
    assert "experiment=paper_smpo_sd15 data.path=PATH model.policy=RUN" in told


def test_a_long_text_of_the_first_column_is_broken_between_words():
    assert list(aligned([("figure", "n"), ("a reward that has a long name", "1")], 20)) == [
        "figure             n", "a reward that has  1", "a long name",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "folder"),
    [
        ([], "results"),
        (["results=a", "results=b"], "b"),
        (["results='my runs'"], "my runs"),
        (['results="é (1)"'], "é (1)"),
    ],
)
def test_the_results_folder_is_the_one_that_the_main_program_reads_of_the_words(words, folder):
    assert results_of(words) == Path(folder)


def test_the_page_shows_the_rows_as_they_are():
    """`python -m alignbench.reproduce.page` writes its table."""
    page = PAGE.read_text(encoding="utf-8")
    assert with_rows(page) == page
    assert page.count("\n| `") >= len(read_rows())
