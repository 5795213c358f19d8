"""Are all deviations together spread as they should be? Errors that are too small, or a bias common to all, show here.

Of the checks that use the same samples, those are taken that do not depend on each other (`Check.independent`): the
two parts of the kinetic energy but not their sum, the mean volume of a gas but not its distribution.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from validation.checks import Check

ERROR = 0.01  # probability of each of the two tests that it fails a report whose deviations are normal


class Calibration(NamedTuple):
    """Of `count` independent deviations in standard errors, which should be normal with a variance of one.

    mean_square : with the range that 95 % of correct reports fall into.   p_square : two-sided, of the sum of squares.
    p_uniform : Kolmogorov-Smirnov, of the one-sided p-values against the uniform distribution; a bias that most checks
        share moves them to one side.
    """

    count: int
    mean_square: float
    low: float
    high: float
    p_square: float
    p_uniform: float

    @property
    def passes(self) -> bool:
        return bool(min(self.p_square, self.p_uniform) > ERROR)


class Spread(NamedTuple):
    """Mean square deviation of the checks of one kind, and 95 % of what it would be of as many independent ones."""

    kind: str
    count: int
    mean_square: float
    low: float
    high: float


_KINDS = {
    "kinetic energy, mean": "kinetic energy, mean",
    "kinetic energy, variance": "kinetic energy, variance",
    "kinetic energy, distribution": "kinetic energy, distribution",
    "temperature of": "temperatures of elements and of molecules",
    "potential energy at": "ratios of two ensembles",
    "enthalpy at": "ratios of two ensembles",
    "volume at": "ratios of two ensembles",
    "ideal gas, mean volume": "ideal gas, mean volume",
    "ideal gas, distribution": "ideal gas, distribution of volume",
    "crystal": "harmonic crystals and ring polymers",
    "free particle": "harmonic crystals and ring polymers",
}


def spreads(checks: Sequence[Check]) -> list[Spread]:
    """By kind, independent or not, in the order of `_KINDS`."""
    kinds: dict[str, list[float]] = {kind: [] for kind in _KINDS.values()}
    for check in checks:
        if check.sigma is not None:
            kinds[next(kind for start, kind in _KINDS.items() if check.quantity.startswith(start))].append(check.sigma)
    rows = [(kind, len(found), np.square(found).mean()) for kind, found in kinds.items() if found]
    return [Spread(kind, count, float(square), *_range(count)) for kind, count, square in rows]


def _range(count: int) -> tuple[float, float]:
    """95 % of the mean square of `count` normal deviations."""
    low, high = stats.chi2.ppf([0.025, 0.975], count) / count
    return float(low), float(high)


def calibration(checks: Sequence[Check]) -> Calibration:
    """Of the independent ones among `checks`."""
    sigmas = np.array([check.sigma for check in checks if check.independent])
    count, total = len(sigmas), float((sigmas**2).sum())
    below = stats.chi2.cdf(total, count)
    uniform = stats.kstest(stats.norm.cdf(sigmas), "uniform").pvalue
    p_square = float(2 * min(below, 1 - below))
    return Calibration(count, total / count, *_range(count), p_square, float(uniform))
