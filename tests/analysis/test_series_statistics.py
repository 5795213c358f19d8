"""Means and intervals against series whose mean and correlation are known, and pymbar as an oracle."""

import numpy as np
import pytest
from scipy import signal, stats

from mace_md.analysis import statistics, thermodynamics
from mace_md.analysis.statistics import Mean, TooShort, difference, mean_of, together
from mace_md.analysis.window import find_window, settled

SERIES = 300


def correlated(rng, length, tau):
    """Normal, autocorrelation exp(-t / tau), mean 0 and variance 1."""
    factor = np.exp(-1 / tau)
    noise = rng.normal(size=length) * np.sqrt(1 - factor**2)
    return signal.lfilter([1], [1, -factor], noise, zi=[factor * rng.normal()])[0]


def oscillating(rng, length, tau=20, period=15.0):
    """A damped oscillator driven by noise."""
    r, start = np.exp(-1 / tau), 20 * tau
    series = signal.lfilter([1], [1, -2 * r * np.cos(2 * np.pi / period), r * r], rng.normal(size=length + start))
    return series[start:]


KINDS = {
    "short": lambda rng: correlated(rng, 800, 20),  # 20 independent samples
    "long": lambda rng: correlated(rng, 4000, 20),
    "fast": lambda rng: correlated(rng, 1000, 0.5),
    "fast and slow": lambda rng: correlated(rng, 3000, 40) + correlated(rng, 3000, 3),
    "oscillating": lambda rng: oscillating(rng, 2000),
}


@pytest.mark.parametrize("kind", KINDS)
def test_intervals_cover_the_mean_in_95_of_100(kind):
    """Of 300 intervals 0.95 +- 0.025 cover the mean (two standard deviations of a binomial)."""
    rng = np.random.default_rng(11)
    covered = []
    for _ in range(SERIES):
        try:
            low, high = mean_of(KINDS[kind](rng)).interval()
        except TooShort:
            continue
        covered.append(low < 0 < high)
    assert len(covered) > 0.9 * SERIES
    assert 0.92 <= np.mean(covered) <= 0.98


def test_naive_intervals_would_not():
    """What the rule is for: the standard deviation over the root of n covers a third."""
    rng = np.random.default_rng(5)
    covered = []
    for _ in range(SERIES):
        series = correlated(rng, 2000, 20)
        covered.append(abs(series.mean()) < 1.96 * series.std() / np.sqrt(len(series)))
    assert np.mean(covered) < 0.5


def test_equilibration_is_found_no_earlier_than_it_is():
    """A decay of 100 steps from five standard deviations away: after it, in 29 of 30; and most of the rest is kept."""
    rng = np.random.default_rng(3)
    found = [settled(correlated(rng, 5000, 20) + 5 * np.exp(-np.arange(5000) / 100)) for _ in range(30)]
    assert sum(start >= 100 for start in found) >= 29
    assert np.median(found) < 1000


def test_inefficiency_is_that_of_the_process():
    """g = (1 + f) / (1 - f) = 40 of an AR(1) process; the estimate scatters by a tenth in 100,000 samples."""
    series = correlated(np.random.default_rng(2), 100_000, 20)
    factor = np.exp(-1 / 20)
    assert abs(statistics.inefficiency(series) / ((1 + factor) / (1 - factor)) - 1) < 0.15


@pytest.mark.parametrize("series", [np.ones(3), np.arange(9.0), np.ones(0)])
def test_few_samples_have_no_interval(series):
    with pytest.raises(TooShort, match="count as"):
        mean_of(series)


def test_slow_series_have_no_interval():
    with pytest.raises(TooShort, match="interval needs 10: a run .* times as long"):
        mean_of(correlated(np.random.default_rng(1), 1000, 300))


def test_a_constant_has_no_error():
    assert mean_of(np.full(100, 2.5)) == Mean(2.5, 0.0, 9, 100.0)


def test_variance_of_a_correlated_series():
    """Unbiased, though the sample variance of few correlated samples is too small by g / n = 0.03."""
    rng = np.random.default_rng(4)
    found = [thermodynamics.variance_of(correlated(rng, 1500, 20)) for _ in range(100)]
    values = np.array([mean.value for mean in found])
    assert abs(values.mean() - 1) < 3 * values.std() / 10  # three standard errors
    assert np.mean([mean.interval()[0] < 1 < mean.interval()[1] for mean in found]) > 0.85


def test_several_runs_spread_more_than_each_of_them_knows():
    """Runs that are stuck in different places: the error is the spread between them, not the small one within."""
    means = [Mean(value, 0.01, 9, 50.0) for value in (1.0, 2.0, 3.0)]
    found = together(means)
    assert found.value == 2.0 and abs(found.error - 1 / np.sqrt(3)) < 1e-12 and found.dof == 2
    pair = together(means[:2])
    assert pair.dof == 1 and abs(pair.error - 0.5) < 1e-12
    equal = together([Mean(1.0, 0.3, 9, 50.0), Mean(1.1, 0.4, 9, 50.0)])
    assert abs(equal.error - 0.25) < 1e-12 and 9 <= equal.dof <= 18


def test_difference_is_welchs():
    rng = np.random.default_rng(8)
    first, second = rng.normal(size=50), rng.normal(0.5, 2, size=80)
    means = [Mean(x.mean(), x.std(ddof=1) / np.sqrt(len(x)), len(x) - 1) for x in (first, second)]
    expected = stats.ttest_ind(first, second, equal_var=False)
    found = difference(*means)
    assert abs(found.p_value - expected.pvalue) < 1e-9
    low, high = expected.confidence_interval(0.95)
    assert abs(found.value - found.half_width - low) < 1e-9 and abs(found.value + found.half_width - high) < 1e-9


# ------------------------------------------------------------------------------------------------ windows


def log_of(potential):
    return {"time_ps": np.arange(len(potential)) * 0.1, "potential_kJ_mol": potential}


def test_an_unequilibrated_start_is_left_out():
    """Planted: the energy comes down over the first tenth of the run."""
    series = correlated(np.random.default_rng(6), 4000, 10)
    window = find_window(log_of(series + 8 * np.exp(-np.arange(4000) / 100)))
    assert window.equilibrated and 10 < window.start < 200
    kept = series[window.inside(np.arange(4000) * 0.1)]
    low, high = mean_of(kept).interval()
    assert low < 0 < high


def test_a_run_that_never_settles_is_told():
    series = correlated(np.random.default_rng(6), 4000, 10) + np.linspace(20, 0, 4000)
    window = find_window(log_of(series))
    assert window.equilibrated is False and "not equilibrated" in window.said
    assert window.start <= 200  # half of it


@pytest.mark.parametrize(("skip", "start"), [("25%", 100.0), ("30ps", 30.0), ("0.05 ns", 50.0), ("12", 12.0)])
def test_windows_as_they_are_asked_for(skip, start):
    log = log_of(correlated(np.random.default_rng(6), 4001, 10))
    assert abs(find_window(log, skip).start - start) < 1e-9


@pytest.mark.parametrize("skip", ["half", "100%", "-5ps", "5 kg", "900ps"])
def test_windows_that_cannot_be(skip):
    with pytest.raises(ValueError, match="--skip"):
        find_window(log_of(np.arange(1000.0)), skip)
