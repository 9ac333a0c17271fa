"""B10: what a program prints is text: brackets, backslashes and colons of prompts, names and paths stay as they are."""

import contextlib
import io

import pytest
from rich.table import Table

from alignbench.terminal.console import headed, open_console
from tests.program import alignbench

ODD = ["a cat [/INST]", "[red]a cat[/red]", r"C:\x\[bold]", ":cat: a cat", "[link=x]a", "[@click=f]a", "a [/] b"]


def printed(*things):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        for thing in things:
            open_console().print(thing)
    return out.getvalue()


@pytest.mark.parametrize("text", ODD)
def test_text_is_printed_as_it_is(text):
    table = Table(text, title=text)
    table.add_row(text)
    assert printed(text, headed(text, text)) == f"{text}\n{text}  {text}\n"
    assert printed(table).count(text) == 3


def test_a_run_with_brackets_in_its_prompts_and_folder_ends_well(tmp_path):
    folder = tmp_path / "[red]results [x]"
    (tmp_path / "prompts.txt").write_text("\n".join(ODD))
    done = alignbench(
        "method=base", "model=sd15_mini", "prompts=file", f"prompts.path={tmp_path}/prompts.txt", "evaluators=none",
        "+evaluator@evaluators.a=shapes_clip", "+evaluator@evaluators.b=shapes_oracle_agreement",
        "sampling.num_inference_steps=1", f"results='{folder}'", "calibration=false",
    )  # fmt: skip
    told = done.stdout.replace("\n", "")
    assert str(folder) in told
    assert "left out:" in told
    assert "[/INST]" in told
