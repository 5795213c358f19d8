"""Diffusion of particles whose D is known: Brownian, and Ornstein-Uhlenbeck velocities."""

import numpy as np
import pytest
from scipy import signal

from mace_md.analysis import diffusion
from mace_md.analysis.statistics import TooShort
from mace_md.errors import InputError

STEP = 0.05  # ps


def brownian(rng, frames, count, d=1.0, step=STEP):
    return np.cumsum(rng.normal(size=(frames, count, 3)) * np.sqrt(2 * d * step), axis=0)


def ornstein_uhlenbeck(rng, frames, count, friction=2.0, d=1.0, step=STEP):
    """Velocities with autocorrelation d friction exp(-friction t), and the way they go; D = d exactly."""
    a = np.exp(-friction * step)
    noise = rng.normal(size=(frames, count, 3)) * np.sqrt(d * friction * (1 - a * a))
    noise[0] /= np.sqrt(1 - a * a)
    velocities = signal.lfilter([1], [1, -a], noise, axis=0)
    way = np.cumsum((velocities[1:] + velocities[:-1]) / 2 * step, axis=0)
    return velocities, np.concatenate([np.zeros((1, count, 3)), way])


def times_of(frames, step=STEP):
    return step * np.arange(frames)


def test_mean_squared_displacement_is_its_definition(rng):
    """The Fourier transform against two loops."""
    way = brownian(rng, 40, 3)
    found = diffusion.mean_squared_displacement(way)
    for lag in range(40):
        direct = ((way[lag:] - way[: 40 - lag]) ** 2).sum(axis=2).mean(axis=0)
        assert np.abs(found[lag] - direct).max() < 1e-9


def test_intervals_cover_d_in_95_of_100():
    """60 runs of 64 Brownian particles: of 95 % intervals at least 85 % of 60 (three deviations) cover D."""
    rng = np.random.default_rng(1)
    found = [diffusion.einstein(times_of(400), brownian(rng, 400, 64)).d for _ in range(60)]
    assert np.mean([mean.interval()[0] < 1 < mean.interval()[1] for mean in found]) > 0.86
    values = np.array([mean.value for mean in found])
    assert abs(values.mean() - 1) < 3 * values.std() / np.sqrt(60)
    assert 0.7 < np.mean([mean.error for mean in found]) / values.std() < 1.3  # the error is the spread


def test_einstein_is_green_kubo_and_both_are_right():
    rng = np.random.default_rng(4)
    frames = 4000
    velocities, way = ornstein_uhlenbeck(rng, frames, 100)
    einstein = diffusion.einstein(times_of(frames), way, fit=(3.0, 10.0))
    green_kubo, running = diffusion.green_kubo(times_of(frames), velocities, up_to=4.0)
    assert einstein.d.interval()[0] < 1 < einstein.d.interval()[1]
    assert green_kubo.interval()[0] < 1 < green_kubo.interval()[1]
    assert abs(einstein.d.value / green_kubo.value - 1) < 0.05
    plateau = 1 - np.exp(-2.0 * times_of(len(running)))  # of the running integral
    assert np.abs(running - plateau).max() < 0.06
    assert abs(einstein.exponent - 1) < 0.1


def test_the_error_of_a_straight_line_is_far_too_small(rng):
    way = brownian(rng, 1000, 64)
    found = diffusion.einstein(times_of(1000), way)
    chosen = (found.lag >= found.fit[0]) & (found.lag <= found.fit[1])
    _, covariance = np.polyfit(found.lag[chosen], found.msd[chosen], 1, cov=True)
    assert found.d.error > 5 * np.sqrt(covariance[0, 0]) / 6


def test_few_molecules_have_batches_of_time(rng):
    found = diffusion.einstein(times_of(5000), brownian(rng, 5000, 2))
    assert found.parts == "batches of time"
    assert found.d.interval()[0] < 1 < found.d.interval()[1]


def test_a_drift_of_everything_is_found_and_taken_off(rng):
    """Planted: 1 nm/ps in one direction, which doubles D."""
    way = brownian(rng, 500, 64)
    moved = way + times_of(500)[:, None, None] * np.array([1.0, 0.0, 0.0])
    still, drifted = diffusion.without_drift(moved, np.ones(64))
    assert abs(drifted - 1.0 * times_of(500)[-1]) < 1.5
    with_drift = diffusion.einstein(times_of(500), moved)
    without = diffusion.einstein(times_of(500), still)
    assert with_drift.d.interval()[0] > 1.1
    assert without.d.interval()[0] < 1 < without.d.interval()[1]


def test_something_that_stays_is_no_diffusion(rng):
    found = diffusion.einstein(times_of(1000), 0.1 * rng.normal(size=(1000, 64, 3)))
    assert abs(found.exponent) < 0.05


def test_wrapped_positions_are_refused(rng):
    with pytest.raises(InputError, match="wrapped into the box"):
        diffusion.einstein(times_of(500), brownian(rng, 500, 64) % 2.0, box_length=2.0)


@pytest.mark.parametrize("frames", [5, 30])
def test_few_frames_are_refused(rng, frames):
    with pytest.raises(InputError, match="frames are too few"):
        diffusion.einstein(times_of(frames), brownian(rng, frames, 64))
    with pytest.raises(TooShort):
        diffusion.mean_of_parts([1.0, 2.0])


def test_finite_size_correction_of_water():
    """64 waters, 0.89 mPa s, 298.15 K, 1.242 nm: 2.837297 kT / (6 pi eta L) = 5.6e-6 cm2/s; by hand."""
    by_hand = 2.837297 * 1.380649e-23 * 298.15 / (6 * np.pi * 0.89e-3 * 1.242e-9)  # m2/s
    found = diffusion.finite_size_correction(298.15, 0.89, 1.242)
    assert abs(found - by_hand * 1e18 / 1e12) < 1e-9
    assert abs(by_hand * 1e4 - 5.6e-6) < 0.1e-6
