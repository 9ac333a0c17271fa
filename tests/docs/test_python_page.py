"""The cells of docs/python.md, smaller, in a real notebook."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "python.md"
SMALLER = {"train.max_train_steps=20": "train.max_train_steps=2", "prompts.limit=64": "prompts.limit=4"}
FEWER = ', "sampling.num_inference_steps=2", "train.total_batch_size=4", "data.num_pairs=24", "data.num_prompts=24"]'


def cells():
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.mark.matrix
def test_the_cells_of_the_page_run_in_a_notebook_and_show_what_they_say(tmp_path):
    import nbformat
    from nbclient import NotebookClient

    sources = cells()
    for long, short in SMALLER.items():
        assert long in sources[0]
        sources[0] = sources[0].replace(long, short)
    sources[0] = sources[0].replace('"]\n', f'"{FEWER}\n', 1)
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    NotebookClient(book, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()

    shown = [
        {kind: text for output in cell.outputs for kind, text in output.get("data", {}).items()} for cell in book.cells
    ]
    assert "<table" in shown[0]["text/html"]
    assert "application/vnd.jupyter.widget-view+json" in shown[0], "progress is a bar of the notebook"
    printed = "".join(output.get("text", "") for output in book.cells[0].outputs)
    assert printed.count("dpo on sd15_mini: shapes") == 1, f"the table of the run is printed once: {printed}"
    assert {"image/png"} <= shown[2].keys() & shown[3].keys()
    by_text = [page.get("text/plain", "") for page in shown]
    assert all(method in by_text[4] for method in ("dpo", "sft", "kto"))
    assert len(re.findall(r"^a ", by_text[5], re.MULTILINE)) == 4, "as many prompts as there are"
    assert "image/png" in shown[6], "a picture of the losses"
