"""On which model families a test runs: the first step of CI has those that differ most, the second one all others."""

from collections.abc import Iterable
from typing import Any

import pytest

from alignbench.models.find_families import FAMILIES

FIRST = {"stable_diffusion", "stable_diffusion_xl", "stable_diffusion_3", "flux"}


def marked(names: Iterable[str]) -> list[Any]:
    """Return names that begin with a family's as parameters, those of the second step with the marker `matrix`."""
    return [name if _family(name) in FIRST else pytest.param(name, marks=pytest.mark.matrix) for name in names]


def _family(name: str) -> str:
    """Return the family of a variant such as `flux_undistilled`: the longest name that it begins with."""
    return max((family for family in FAMILIES if name.startswith(family)), key=len)


EVERY = marked(FAMILIES)
