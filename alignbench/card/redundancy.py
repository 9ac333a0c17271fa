"""How many scorers several scorers are worth: what each says that the others do not say already."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Redundancy:
    """How alike scorers judge the same pairs of images.

    Attributes:
        names: of the scorers, in the order of the matrices.
        correlation: Spearman correlation of their differences.
        kappa: 2 P(same sign) - 1, pairs that either calls a tie left out.
        phi: correlation of being right about what people prefer; NaN where one is always right.
        effective: exp of the entropy of the eigenvalues of `correlation` / M: 1 for copies, M for M that share nothing.
        left_out: scorers that call every pair a tie.
    """

    names: list[str]
    correlation: Floats
    kappa: Floats
    phi: Floats
    effective: float
    left_out: list[str]

    def __str__(self) -> str:
        """Write the headline."""
        plural = "scorers are" if len(self.names) > 1 else "scorer is"
        text = f"{len(self.names)} {plural} worth {self.effective:.1f}"
        return f"{text}; {', '.join(self.left_out)} calls every pair a tie" if self.left_out else text


def redundancy(margins: Mapping[str, Floats], worth: Floats) -> Redundancy | None:
    """Compare scorers on pairs of images; None where nobody tells two images apart.

    Args:
        margins: by the name of the scorer, first image minus second, [P]. Differences are compared, as raw scores of
            all scorers share how hard a prompt is.
        worth: what people prefer, in the same sense, [P]; 0 is a tie.
    """
    left_out = [name for name, values in margins.items() if not values.any()]
    names = [name for name in margins if name not in left_out]
    if not names:
        return None
    values = np.stack([margins[name] for name in names])
    signs, decided = np.sign(values), worth != 0
    right = signs[:, decided] == np.sign(worth[decided])
    correlation = spearman_of_differences(values)
    return Redundancy(names, correlation, _kappa(signs), _correlations(right), effective_number(correlation), left_out)


def spearman_of_differences(values: Floats) -> Floats:
    """Return the Spearman correlation of the rows, [M, M], whichever image of a pair is called the first.

    Args:
        values: differences, [M, P]; no row is all zeros.
    """
    both = np.concatenate([values, -values], axis=1)
    ranks = np.stack([rankdata(row) for row in both])
    return _correlations(ranks)


def effective_number(correlation: Floats) -> float:
    """Return the exponential of the entropy of the eigenvalues of a correlation matrix, [M, M], divided by M."""
    shares = np.clip(np.linalg.eigvalsh(correlation), 0, None) / len(correlation)
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _correlations(rows: NDArray) -> Floats:
    centred = rows - rows.mean(axis=1, keepdims=True)
    length = np.sqrt((centred**2).sum(axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        found = centred @ centred.T / np.outer(length, length)
    found[np.diag_indices(len(found))] = np.where(length > 0, 1.0, np.nan)
    return found


def _kappa(signs: Floats) -> Floats:
    found = np.eye(len(signs))
    for row, one in enumerate(signs):
        for column, other in enumerate(signs[:row]):
            told = (one != 0) & (other != 0)
            same = float((one == other)[told].mean()) if told.any() else float("nan")
            found[row, column] = found[column, row] = 2 * same - 1
    return found
