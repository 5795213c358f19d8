"""The standard errors of the validation, on series whose autocorrelation is known.

A deviation in standard errors has a mean square of one when the error is right. Of the 400 series of a test it scatters
by sqrt(2 / 400) = 0.07, so that the lines below lie three of these away, or at what the correlation between batches
adds by theory where it is not exponential: g (batches + 1) / 2 n of the variance for n samples of inefficiency g.
"""

import json

import numpy as np
import pytest
from scipy import signal, stats

from mace_md.analysis.statistics import MOST_BATCHES, independent, inefficiency, quiet
from validation import calibration, checks, deviations, report
from validation.checks import Check

SERIES = 400
SCATTER = 3 * np.sqrt(2 / SERIES)


def correlated(count, inefficiency, frequency=0.0, seed=7):
    """[SERIES, count], normal, autocorrelation exp(-2 t / inefficiency) cos(frequency t): a damped oscillator."""
    rng = np.random.default_rng(seed)
    factor = np.exp(-2 / inefficiency + 1j * frequency)
    noise = rng.normal(size=(2, SERIES, count)).T @ [1, 1j] * np.sqrt(1 - abs(factor) ** 2)
    noise[0] /= np.sqrt(1 - abs(factor) ** 2)
    return signal.lfilter([1], [1, -factor], noise, axis=0).real.T


def mean_square(sigmas):
    return float(np.mean(np.square(sigmas)))


@pytest.mark.parametrize("frequency", [0.0, 0.3, 1.5])
@pytest.mark.parametrize("count, inefficiency", [(600, 3), (2000, 10)])
def test_deviation_of_a_mean_has_a_variance_of_one(count, inefficiency, frequency):
    """Monotonous, and oscillating as the kinetic energy of a crystal under weak coupling."""
    series = correlated(count, inefficiency, frequency)
    found = mean_square([deviations.mean_of(one).sigma(0.0) for one in series])
    missing = inefficiency * (MOST_BATCHES + 1) / (2 * count)
    assert 1 - SCATTER < found < (1 + SCATTER) / (1 - missing)


def test_tails_of_the_deviation_are_those_of_a_normal_variable():
    """Ten batches know their own error to a quarter only: without Student's t 7 % would lie beyond two sigma."""
    series = correlated(200, 1.0)
    t = np.array([deviations.mean_of(one).value / deviations.mean_of(one).error for one in series])
    sigmas = np.array([deviations.mean_of(one).sigma(0.0) for one in series])
    assert stats.kstest(sigmas, "norm").pvalue > 0.01
    assert mean_square(t) > 9 / 7 - SCATTER > 1.05  # nu / (nu - 2)


def test_errors_from_the_autocorrelation_fail_for_oscillations():
    """Why the sum over autocorrelations up to their first zero, which pymbar makes, only sets the spacing of samples.

    It makes errors of an oscillation too large; and too small by far when a slow part is hidden behind the oscillation,
    as in the temperature of one element of a crystal, whose energy goes over to the other element within 10 ps.
    """

    def by_sum(series):
        sums = [one.std() * np.sqrt(inefficiency(one) / len(one)) for one in series]
        return mean_square(series.mean(axis=1) / sums)

    fast, slow = correlated(3000, 10, frequency=0.8), correlated(3000, 60, seed=8)
    assert by_sum(fast) < 0.8
    hidden = np.sqrt(0.85) * fast + np.sqrt(0.15) * slow
    assert by_sum(hidden) > 2
    missing = 60 * (MOST_BATCHES + 1) / (2 * 3000)
    assert mean_square([deviations.mean_of(one).sigma(0.0) for one in hidden]) < (1 + SCATTER) / (1 - missing)


def test_independent_samples_have_uniform_p_values():
    gamma = stats.gamma(40)
    p = [
        stats.kstest(series[independent(series)], gamma.cdf).pvalue
        for series in gamma.ppf(stats.norm.cdf(correlated(1000, 6)))
    ]
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_ratio_of_two_distributions():
    """Two normal distributions d standard deviations apart: ln P2 / P1 = d (x - d / 2)."""
    one, two = correlated(2000, 6), correlated(2000, 6, seed=8) + 1.5
    pairs = list(zip(one, two, strict=True))
    ratios = [deviations.exponential_ratio(first, second, 1.5) for first, second in pairs]
    assert 1 - SCATTER < mean_square([ratio.sigma(1.0) for ratio in ratios]) < 1 + SCATTER + 0.05
    error = np.mean([ratio.error for ratio in ratios])
    assert abs(np.mean([ratio.value for ratio in ratios]) - 1) < 4 * error / np.sqrt(SERIES)
    wrong = [deviations.exponential_ratio(first, second, 1.5 * 1.3).sigma(1.0) for first, second in pairs]
    assert np.mean(wrong) < -2 and error < 0.15  # a slope that is 30 % off is seen, and the sign says which way


def test_ratio_agrees_with_physical_validation():
    """On independent samples, where its errors hold too: to a third, as ten batches know their error to a quarter."""
    from physical_validation.util.ensemble import check_1d

    rng = np.random.default_rng(3)
    quotients = []
    for shift in (0.7, 0.8, 1.2, 1.3):  # of the second distribution, so that the slope deviates from theory
        first, second = rng.normal(size=2000), rng.normal(size=2000) + 1.5 * shift
        ours = deviations.exponential_ratio(first, second, 1.5)
        with quiet():
            (theirs,) = check_1d(
                first, second, param1=1.5, param2=0.0, kb=1.0, quantity="V", dtemp=False, dpress=True, dmu=False,
                temp=1.0, pvconvert=1.0, nbins=40, cutoff=0.001, bootstrap_seed=1, bootstrap_error=False,
                bootstrap_repetitions=2, verbosity=0, screen=False, filename=None, xlabel="", xunit=None,
                data_is_uncorrelated=True,
            )  # fmt: skip
        assert abs(ours.value - shift) < 3 * ours.error + 0.05  # one Newton step is not the maximum itself
        quotients.append((ours.value - 1) / ours.error / theirs * np.sign(shift - 1))
    assert 2 / 3 < np.mean(quotients) < 3 / 2


def test_short_series_have_no_error():
    with pytest.raises(ValueError, match="an interval needs 40"):
        deviations.mean_of(correlated(100, 20)[0])


def test_calibration_finds_errors_that_are_too_small_and_those_that_are_too_large():
    sigmas = stats.norm.ppf((np.arange(80) + 0.5) / 80)
    verdicts = {}
    for factor in (0.7, 1.0, 1.4):
        found = [Check("", "", "", float(factor * sigma), independent=True) for sigma in sigmas]
        found += [Check("", "", "", 3.0)] * 20  # depend on the others, and do not count
        verdicts[factor] = calibration.calibration(found)
    assert [verdict.passes for verdict in verdicts.values()] == [False, True, False]
    assert verdicts[1.0].count == 80 and verdicts[1.0].low < verdicts[1.0].mean_square < verdicts[1.0].high


def test_calibration_finds_a_common_bias():
    """Half a standard error in the same direction in every check is seen in none of them."""
    sigmas = 0.5 + np.random.default_rng(1).normal(size=160)
    assert not checks.failures([Check("", "", "", float(sigma)) for sigma in sigmas])
    assert not calibration.calibration([Check("", "", "", float(s), independent=True) for s in sigmas]).passes


def test_every_check_of_the_report_has_a_kind(repository):
    """Each statistical check is in one row of its table."""
    results = json.loads((repository / "benchmarks" / "results" / "validation.json").read_text())
    found = report.replicated(results)
    rows = calibration.spreads(found)
    assert sum(row.count for row in rows) == sum(check.sigma is not None for check in found)
    assert all(row.low < 1 < row.high for row in rows)
