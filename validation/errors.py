"""Standard errors of correlated series, and the deviations from theory that follow from them.

A series is cut into BATCHES batches; their means are all but independent, whatever the correlation within them, and the
mean of the series over its standard error is distributed as Student's t. Unlike a sum over the estimated
autocorrelation function this holds for series that oscillate, and counts the uncertainty of the error itself: a
deviation given in "sigma" is that of a normal variable of the same p-value. `tests/physics/test_errors.py` measures how
well it holds.
"""

import contextlib
import io
import logging
import math
import warnings
from typing import NamedTuple

import numpy as np
from scipy import optimize, special, stats

BATCHES = 10
# Over 100 statistical inefficiencies the mean square deviation of a right mean is 1.04, over 50 it is 1.08: batches of
# five are still a little correlated. Shorter series are refused.
FEWEST_INEFFICIENCIES = 40


class Mean(NamedTuple):
    """Mean of a series, its standard error, and the degrees of freedom of that error."""

    value: float
    error: float
    dof: float

    def sigma(self, expected: float) -> float:
        """Deviation from `expected` as that of a normal variable with the same p-value."""
        return normal_of_t((self.value - expected) / self.error, self.dof)


def normal_of_t(t: float, dof: float) -> float:
    """The normal deviation that is exceeded as often as `t` of Student's distribution."""
    return float(math.copysign(stats.norm.isf(max(stats.t.sf(abs(t), dof), 1e-300)), t))


def normal_of_p(p: float) -> float:
    """The normal deviation of a two-sided p-value; positive."""
    return float(stats.norm.isf(max(p, 1e-300) / 2))


def batch_means(series: np.ndarray) -> np.ndarray:
    """[BATCHES, ...], of a series [n, ...]; up to BATCHES - 1 samples of its beginning are left out."""
    length = len(series) // BATCHES
    return series[len(series) - BATCHES * length :].reshape(BATCHES, length, *series.shape[1:]).mean(axis=1)


def mean_of(series: np.ndarray) -> Mean:
    """Mean and standard error of a correlated series; ValueError where it is too short to have one."""
    count = len(series) / inefficiency(series)
    if count < FEWEST_INEFFICIENCIES:
        raise ValueError(
            f"{len(series)} samples count as {count:.0f}, fewer than {FEWEST_INEFFICIENCIES}: no error can be given"
        )
    means = batch_means(series)
    return Mean(float(means.mean()), float(means.std(ddof=1) / math.sqrt(BATCHES)), BATCHES - 1)


def inefficiency(series: np.ndarray) -> float:
    """Samples that count as one, 1 + 2 tau (pymbar); at least 1. Too large for a series that oscillates."""
    with quiet():
        from pymbar.timeseries import statistical_inefficiency

        return max(1.0, float(statistical_inefficiency(series)))


def independent(series: np.ndarray) -> slice:
    """Every so many samples: two and a half inefficiencies apart, where exp(-5) = 0.7 % of the correlation is left."""
    return slice(None, None, math.ceil(2.5 * inefficiency(series)))


def exponential_ratio(first: np.ndarray, second: np.ndarray, slope: float) -> Mean:
    """Slope of ln P2(x) / P1(x), a straight line, in units of the `slope` of theory; x sampled from P1 and from P2.

    The efficient score of logistic regression, the maximum-likelihood estimate of Shirts (JCTC 9, 909, 2013), at the
    slope of theory: it is a sum over samples, so that the error is that of two means of correlated series. The estimate
    is one Newton step from theory.
    """
    centre, scale = np.r_[first, second].mean(), np.r_[first, second].std()
    x1, x2, beta = (first - centre) / scale, (second - centre) / scale, slope * scale

    def excess(offset: float) -> float:
        return special.expit(offset + beta * x1).sum() - special.expit(-offset - beta * x2).sum()

    offset = optimize.brentq(excess, -1e3, 1e3)
    in_second = [special.expit(offset + beta * x) for x in (x1, x2)]  # probability that x is of the second series
    weights = [p * (1 - p) for p in in_second]
    total = sum(w.sum() for w in weights)
    middle = (weights[0] @ x1 + weights[1] @ x2) / total
    information = weights[0] @ (x1 - middle) ** 2 + weights[1] @ (x2 - middle) ** 2
    parts = [mean_of(-(x1 - middle) * in_second[0]), mean_of((x2 - middle) * (1 - in_second[1]))]
    score = sum(part.value * len(x) for part, x in zip(parts, (x1, x2), strict=True))
    variances = np.array([(part.error * len(x)) ** 2 for part, x in zip(parts, (x1, x2), strict=True)])
    dof = variances.sum() ** 2 / (variances**2 / [part.dof for part in parts]).sum()  # Welch and Satterthwaite
    step, error = score / information / beta, math.sqrt(variances.sum()) / information / abs(beta)
    return Mean(float(1 + step), float(error), float(dof))


@contextlib.contextmanager
def quiet():
    """Without the messages of pymbar and physical_validation."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
    logging.disable(level)
