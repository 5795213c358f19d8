"""Deviations from theory in standard errors, by the statistics of the analysis; and the ratio of two distributions.

A deviation given in "sigma" is that of a normal variable of the same p-value. `tests/physics/test_deviations.py`
measures how well it holds.
"""

import math

import numpy as np
from scipy import optimize, special, stats

from mace_md.analysis import statistics
from mace_md.analysis.statistics import Mean

# Between batches of fewer samples than this says a little correlation is left, which is corrected for as if it were
# exponential; here the correlation is that of oscillators, too, so that shorter series are refused.
FEWEST_EFFECTIVE = 40


def mean_of(series: np.ndarray) -> Mean:
    """Mean and standard error of a correlated series; TooShort, a ValueError, where it is too short to have one."""
    return statistics.mean_of(series, FEWEST_EFFECTIVE)


def normal_of_p(p: float) -> float:
    """The normal deviation of a two-sided p-value; positive."""
    return float(stats.norm.isf(max(p, 1e-300) / 2))


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
