"""Means of correlated series with their intervals: one rule for the analysis, several runs, and the validation.

A series is cut into batches; their means are all but independent, whatever the correlation within them, and the mean of
the series over its standard error is distributed as Student's t. Unlike a sum over the estimated autocorrelation
function this holds for series that oscillate, and counts the uncertainty of the error itself. What correlation is left
between batches is corrected for, as if it decayed exponentially (`_widening`).
"""

import contextlib
import io
import logging
import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from mace_md.errors import InputError

LEVEL = 0.95  # of every interval
FEWEST_EFFECTIVE = 10  # independent samples below which no interval is given
MOST_BATCHES, FEWEST_BATCHES = 10, 5
EFFECTIVE_IN_BATCH = 4  # independent samples in one, where there are enough for that


class TooShort(InputError):
    """A series has too few independent samples for an interval."""

    def __init__(self, n_eff: float, count: int, fewest: int = FEWEST_EFFECTIVE) -> None:
        self.n_eff = n_eff
        super().__init__(
            f"{count} samples count as {n_eff:.1f} independent ones, and an interval needs {fewest}: a run "
            f"{max(1.1, fewest / max(n_eff, 0.1)):.1f} times as long may have them"
        )


class Mean(NamedTuple):
    """Mean of a series, its standard error, the degrees of freedom of that error, and the independent samples."""

    value: float
    error: float
    dof: float
    n_eff: float = math.nan

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Where the mean is with probability `level`, by Student's t."""
        half = self.half_width(level)
        return self.value - half, self.value + half

    def half_width(self, level: float = LEVEL) -> float:
        """Half the width of the interval."""
        return students_t(self.dof, level) * self.error

    def sigma(self, expected: float) -> float:
        """Deviation from `expected` as that of a normal variable with the same p-value."""
        return normal_of_t((self.value - expected) / self.error, self.dof)

    def scaled(self, factor: float) -> "Mean":
        """The same in another unit."""
        return self._replace(value=self.value * factor, error=self.error * abs(factor))


def students_t(dof: float, level: float = LEVEL) -> float:
    """Half the width of an interval in standard errors."""
    return float(special.stdtrit(dof, 0.5 + level / 2))


def normal_of_t(t: float, dof: float) -> float:
    """The normal deviation that is exceeded as often as `t` of Student's distribution."""
    return float(math.copysign(-special.ndtri(max(special.stdtr(dof, -abs(t)), 1e-300)), t))


# ------------------------------------------------------------------------------------------------ one series


def mean_of(series: np.ndarray, fewest: int = FEWEST_EFFECTIVE) -> Mean:
    """Mean and standard error of a correlated series [n]; raises TooShort below `fewest` independent samples.

    The mean is that of all samples; a series without any spread has an error of 0.
    """
    series = np.asarray(series, dtype=float)
    if len(series) and np.ptp(series) == 0:
        if len(series) < fewest:
            raise TooShort(len(series), len(series), fewest)
        return Mean(float(series[0]), 0.0, MOST_BATCHES - 1, float(len(series)))
    g = inefficiency(series)
    n_eff = len(series) / g
    if n_eff < fewest or len(series) < 2 * FEWEST_BATCHES:
        raise TooShort(n_eff, len(series), fewest)
    count = int(np.clip(n_eff / EFFECTIVE_IN_BATCH, FEWEST_BATCHES, MOST_BATCHES))
    means = batch_means(series, count)
    error = means.std(ddof=1) / math.sqrt(count) * _widening(len(series) / count / g, count)
    return Mean(float(series.mean()), float(error), count - 1, float(n_eff))


def batch_means(series: np.ndarray, count: int = MOST_BATCHES) -> np.ndarray:
    """[count, ...], of a series [n, ...]; up to `count` - 1 samples of its beginning are left out."""
    length = len(series) // count
    return series[len(series) - count * length :].reshape(count, length, *series.shape[1:]).mean(axis=1)


def _widening(length: float, count: int) -> float:
    """By how much the error from `count` batches of `length` inefficiencies is too small, for exponential correlation.

    The mean over a time T (in correlation times, g = 2 tau) has the variance 2 (T - 1 + exp(-T)) / T^2.
    """

    def variance(time: float) -> float:
        return 2 * (time - 1 + math.exp(-time)) / time**2

    one, all_of_them = variance(2 * length), variance(2 * length * count)
    return math.sqrt(all_of_them * (count - 1) / (one - all_of_them))


def inefficiency(series: np.ndarray) -> float:
    """Samples that count as one, 1 + 2 tau (pymbar; Chodera, J. Chem. Theory Comput. 12, 1799, 2016); at least 1.

    Too large for a series that oscillates; the length of the series for one that does not change.
    """
    series = np.asarray(series, dtype=float)
    if len(series) < 3 or np.ptp(series) == 0:
        return float(max(1, len(series)))
    with quiet():
        from pymbar.timeseries import statistical_inefficiency

        return min(float(len(series)), max(1.0, float(statistical_inefficiency(series))))


def equilibration(series: np.ndarray, looks: int = 60) -> int:
    """Index of the first sample after equilibration: where most independent samples are left (pymbar's criterion).

    Tried are `looks` beginnings in the first half, evenly spaced: the inefficiency of a short rest is mostly noise, and
    chance would find one that looks settled. Chodera, J. Chem. Theory Comput. 12, 1799 (2016).
    """
    series = np.asarray(series, dtype=float)
    if len(series) < 2 * FEWEST_BATCHES or np.ptp(series) == 0:
        return 0
    starts = np.unique(np.linspace(0, len(series) // 2, looks).astype(int))
    left = [(len(series) - start) / inefficiency(series[start:]) for start in starts]
    return int(starts[int(np.argmax(left))])


def independent(series: np.ndarray) -> slice:
    """Every so many samples: two and a half inefficiencies apart, where exp(-5) = 0.7 % of the correlation is left."""
    return slice(None, None, math.ceil(2.5 * inefficiency(series)))


def duplicated(rows: np.ndarray) -> int:
    """How many rows of [n, ...] are the same, to the last bit, as one of those before."""
    flat = np.ascontiguousarray(np.asarray(rows).reshape(len(rows), -1))
    return len(flat) - len({row.tobytes() for row in flat})


# ------------------------------------------------------------------------------------------------ several of them


def mean_of_parts(values: Sequence[float], fewest: int = FEWEST_BATCHES) -> Mean:
    """Mean of independent estimates, of groups of molecules or batches of time; their spread is the error."""
    found = np.asarray(values, dtype=float)
    found = found[np.isfinite(found)]
    if len(found) < fewest:
        raise TooShort(len(found), len(found), fewest)
    return Mean(float(found.mean()), float(found.std(ddof=1) / math.sqrt(len(found))), len(found) - 1, len(found))


def together(means: Sequence[Mean]) -> Mean:
    """One mean of several runs of the same kind: from three runs on, the spread between them is the error.

    Two runs have too few degrees of freedom for that: the errors within them are added, or their difference is taken
    where it is larger.
    """
    values = np.array([mean.value for mean in means])
    n_eff = float(np.nansum([mean.n_eff for mean in means]))
    if len(means) == 1:
        return means[0]
    between = float(values.std(ddof=1) / math.sqrt(len(values)))
    if len(means) >= 3:
        return Mean(float(values.mean()), between, len(values) - 1, n_eff)
    variances = np.array([mean.error**2 for mean in means]) / len(means) ** 2
    within = math.sqrt(variances.sum())
    if not within >= between:  # also where a run is too short for an error
        return Mean(float(values.mean()), between, 1, n_eff)
    dof = variances.sum() ** 2 / (variances**2 / [mean.dof for mean in means]).sum()  # Welch and Satterthwaite
    return Mean(float(values.mean()), within, float(dof), n_eff)


class Difference(NamedTuple):
    """One mean less another: with its half interval, its standard deviations, and the p-value of there being none."""

    value: float
    half_width: float
    sigma: float
    p_value: float


def difference(first: Mean, second: Mean) -> Difference:
    """`first` - `second`, by Welch's t test."""
    variances = np.array([first.error**2, second.error**2])
    error = math.sqrt(variances.sum())
    value = first.value - second.value
    if error == 0:
        same = value == 0
        return Difference(value, 0.0, 0.0 if same else math.copysign(math.inf, value), 1.0 if same else 0.0)
    dof = variances.sum() ** 2 / (variances**2 / [first.dof, second.dof]).sum()
    sigma = normal_of_t(value / error, dof)
    half = students_t(dof) * error
    return Difference(value, half, sigma, float(2 * special.ndtr(-abs(sigma))))


@contextlib.contextmanager
def quiet():
    """Without the messages of pymbar and physical_validation."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield
    logging.disable(level)
