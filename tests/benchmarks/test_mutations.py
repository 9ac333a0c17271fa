"""The benchmark of mistakes: it makes them where it says, finds what tests find, and reports what they do not."""

import ast
import json
import subprocess
import sys
from dataclasses import replace

import pytest

from benchmarks.mutations.listed import MUTATIONS
from benchmarks.mutations.trial import ROOT, Mutation, Outcome

ANY = Mutation("any", "alignbench.models.families.z_image", "return 1 + guidance_scale", "return guidance_scale", "")
CHEAP = ["z_image: guidance has the usual sense", "chroma: checkpoints lose the mask", "sana: codes are not scaled"]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda one: one.name)
def test_each_mistake_changes_its_module_and_has_a_test(mutation):
    ast.parse(mutation.applied(mutation.file.read_text()))
    file, name = mutation.test.split("::")
    assert f"def {name.partition('[')[0]}(" in (ROOT / file).read_text()


def test_text_that_is_not_there_once_is_refused():
    assert ANY.applied("x\nreturn 1 + guidance_scale\n") == "x\nreturn guidance_scale\n"
    for number in (0, 2):
        with pytest.raises(ValueError, match=rf"any: alignbench.models.families.z_image has {number} times"):
            ANY.applied(ANY.old * number)


@pytest.mark.parametrize(
    ("status", "reasons", "found"),
    [
        (1, ["AssertionError"], True),
        (1, ["Failed"], True),  # nothing was raised that has to be
        (0, [], False),
        (1, ["AssertionError", "NameError"], False),  # a mistake of the mistake
        (4, [], False),  # no such test
    ],
)
def test_a_mistake_is_found_by_an_assertion_alone(status, reasons, found):
    assert Outcome(status, reasons).found == found


@pytest.mark.matrix
def test_mistakes_are_found_and_a_change_without_effect_is_not():
    """In a process of its own, as the tests that it runs would meet those that run here."""
    chosen = [one for one in MUTATIONS if one.name in CHEAP]
    assert len(chosen) == len(CHEAP)
    of_guidance = next(one for one in chosen if "guidance" in one.name)
    harmless = replace(of_guidance, name="harmless", new="return guidance_scale + 1")
    code = (
        "import json\n"
        "from benchmarks.mutations.__main__ import load, survivors\n"
        "from benchmarks.mutations.trial import Mutation\n"
        f"load()\nprint(json.dumps([*survivors({[*chosen, harmless]!r})]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == ["harmless"]
