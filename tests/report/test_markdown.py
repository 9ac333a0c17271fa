import re

from alignbench.report import markdown
from alignbench.report.tables import build


def test_the_leaderboard_shows_display_scale_intervals_marks_and_notes(small_table):
    text = markdown.markdown(build(small_table.root))
    assert "## sd15_mini, shapes" in text.replace("\\", "")
    assert re.search(r"\| base \| 21\.95 \[2\d\.\d\d, 2\d\.\d\d\] \|", text), "cosines are shown times 100"
    assert re.search(r"\| dpo \| 100\.0 \[91\.\d, 100\.0\] \(\\\*\\\*\\\*\) a,b \|", text)
    assert "one training seed, which cannot tell" in text
    assert "mean ranks leave the evaluator out" in text
    assert "fewer prompts" not in text, "notes that nothing refers to are not printed"


def test_every_markdown_row_has_as_many_cells_as_its_head(small_table):
    text = markdown.markdown(build(small_table.root))
    for table in text.split("\n\n"):
        lines = [line.replace("\\|", "") for line in table.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) <= 1


def test_latex_escapes_what_would_break_it(small_table):
    text = markdown.latex(build(small_table.root))
    assert r"sd15\_mini" in text
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert not re.search(r"(?<!\\)[_%#]", body)
    assert body.count("\\begin{tabular}") == body.count("\\end{tabular}") == 4


def test_strengths_stand_with_interval_rank_and_marks(small_table):
    text = markdown.markdown(build(small_table.root))
    grid = text[text.index("Strength and rank") : text.index("Cost,")]
    zero = r"0\.000 \[0\.000, 0\.000\] \(1\)"
    assert re.search(rf"\| base \| {zero} \| {zero} \|\n", grid)
    own_reward = r"\d+ \[\d+, \d+\] a,b"  # and so no rank
    assert re.search(rf"\| dpo \| {own_reward} \| -\d+ \[-\d+, -\d+\] \(3\) a \|\n", grid)
    assert re.search(r"\| largest gap to observed win rates, % \| \d+\.\d \| \d+\.\d \|\n", grid)
    assert "| beat each other in a circle | none | none |\n" in grid
    assert "strength: Bradley-Terry" in text
    assert "Published values" not in text, "there is nothing of the miniatures to compare with"


def test_writing_twice_gives_the_same_bytes(small_table):
    contents = []
    for _ in range(2):
        markdown.write(small_table.root, build(small_table.root))
        contents.append([(small_table.root / f"leaderboard.{kind}").read_bytes() for kind in ("md", "tex")])
    assert contents[0] == contents[1]


def test_a_section_begins_with_what_happened(small_table):
    text = markdown.markdown(build(small_table.root))
    begin = text[text.index("## sd15") :].split("\n")[2]
    assert begin.startswith("Worse than base: sft and dpo. One training seed each")
    assert (
        text.index("> **reward hacking: dpo") < text.index("- dpo (1 training seed): ") < text.index("**Median score")
    )
