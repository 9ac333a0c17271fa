"""The page of questions explains each column of its table and each field of the evidence, and shows every template."""

from alignbench.report.columns import QUESTION_COLUMNS
from evaluators.vqa.vqascore import TEMPLATES
from tests.docs.test_pages import named
from tests.pages import ROOT, tables

PAGE = ROOT / "docs" / "evaluators" / "questions.md"


def test_every_column_and_every_template_is_explained():
    columns = next(rows for heads, rows in tables(PAGE) if heads[0] == "column")
    assert [name for row in columns for name in named(row[0])] == list(QUESTION_COLUMNS)
    templates = next(rows for heads, rows in tables(PAGE) if heads[0] == "`template=`")
    assert {row[0].strip("`"): row[1] for row in templates} == {name: text for name, (text, _) in TEMPLATES.items()}
