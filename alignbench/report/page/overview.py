"""Tell the page what each method did, in words, and what it cost."""

from alignbench.report.display import TableSection
from alignbench.report.figures import cost_text
from alignbench.report.hacking import below_base
from alignbench.report.page.store import PageData
from alignbench.report.tables import Tables
from alignbench.report.verdict import summary, verdicts


def overview_entry(tables: Tables, section: TableSection) -> PageData:
    """Return the verdicts on the methods of a section, with their costs, and what they come to."""
    costs = {method: cost_text(row) for (method, _), row in section.rows.items()}
    found = verdicts(tables, section)
    return {
        "summary": summary(found, below_base(tables, section.model, section.prompt_set)),
        "verdicts": [
            {"method": one.method, "who": one.who, "kind": one.kind, "text": one.text, "cost": costs[one.method]}
            for one in found
        ],
    }
