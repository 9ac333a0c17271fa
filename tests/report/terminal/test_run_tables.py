import io

from rich.console import Console

from alignbench.report.tables import build
from alignbench.report.terminal.run_tables import print_run
from alignbench.store.manifest import Manifest
from alignbench.store.run_folder import RunFolder, run_folders


def printed(world, method):
    [folder] = [folder for folder in run_folders(world.root) if folder.manifest.method == method]
    console = Console(file=io.StringIO(), width=100)
    print_run(folder, build(world.root), console)
    return console.file.getvalue()


def test_a_finished_run_is_summed_up_within_100_columns(small_table):
    text = printed(small_table, "dpo")
    tables = [line for line in text.splitlines() if "results" not in line]
    assert max(map(len, tables)) <= 100
    for expected in (
        "dpo on sd15_mini: shapes, 40 images",
        "clip",
        "21.95",
        "100.0 [91",
        "***",
        "2 min 00 s",
        "1.50 GiB",
    ):
        assert expected in text
    assert "…" not in "".join(tables), "nothing is cut"
    assert str(small_table.root / "index.html") in text


def test_the_longest_names_and_figures_fit(world):
    options = {"evaluator": "shapes_oracle_cleanliness", "full_size": 100}
    world.run("base", [-0.12345, -0.2, -0.3, -0.1], **options)
    world.run("srpo_paper", [-0.1, -0.15, -0.2, -0.05], trained_on=[options["evaluator"]], **options)
    world.run("srpo_paper", [1, 2, 3, 4], trained_on=[options["evaluator"]], full_size=100)
    table = [line for line in printed(world, "srpo_paper").splitlines() if "│" in line]
    assert any("shapes_oracle_cleanliness ↑ b" in line for line in table)
    assert "…" not in "".join(table)


def test_the_truth_is_shown_below_what_can_be_trained_on(small_table):
    text = printed(small_table, "dpo")
    assert text.index("clip") < text.index("shapes_oracle_agreement")
    assert "0.0 [0.0, 8." in text


def test_what_proves_nothing_is_marked_so(world):
    world.run("base", [1, 2, 3, 4])
    world.run("sft", [2, 1, 4, 3])
    assert "n.s." in printed(world, "sft")


def test_a_base_run_has_figures_but_no_training(small_table):
    text = printed(small_table, "base")
    assert "clip" in text
    assert "training  " not in text


def test_the_verdict_stands_below_the_figures(small_table):
    text = " ".join(printed(small_table, "dpo").split())
    assert "dpo (1 training seed): better only on clip 100.0 % (***), which it trained on, at the price of" in text
    assert "sft (1" not in text


def test_a_report_of_a_run_without_figures_tells_the_verdicts_on_all_others(small_table):
    folder = RunFolder(small_table.root / "kto-sd15_mini-new")
    folder.open(Manifest(folder.name, "kto", "sd15_mini", 0, config_hash="new", recipe_hash="new"))
    text = " ".join(printed(small_table, "kto").split())
    assert "sd15_mini, shapes Worse than base: sft and dpo. One training seed each, so all this holds for these" in text
    assert "dpo (1 training seed): better only on" in text
    assert "sft (1 training seed): worse on shapes_oracle_agreement 0.0 % (***), better on none" in text


def test_a_step_is_said_to_be_kept_only_where_it_was_chosen(world):
    world.run("base", [1, 2, 3, 4])
    folder = world.run("dpo", [2, 3, 4, 5])
    tables = build(world.root, 50)
    for chosen_by, told in (([], False), (["shapes_clip"], True)):
        folder.update(selected_by=chosen_by, selected_step=7)
        console = Console(file=io.StringIO(), width=100)
        print_run(folder, tables, console)
        assert (", step 7 kept" in console.file.getvalue()) is told
