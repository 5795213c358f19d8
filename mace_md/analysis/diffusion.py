"""Diffusion of molecules: by Einstein from the way of their centres, and by Green and Kubo from their velocities.

The error of a straight-line fit is far too small, since neighbouring points of a mean square displacement are made of
the same motion. Here the spread between groups of molecules is the error (or between batches of time, where there are
few molecules), each with a fit of its own.
"""

import math
from dataclasses import dataclass

import numpy as np

from mace_md.analysis.statistics import MOST_BATCHES, Mean, mean_of_parts
from mace_md.errors import InputError
from mace_md.units import BOLTZMANN_KJ_MOL_K

XI = 2.837297  # of a cubic box: Yeh and Hummer, J. Phys. Chem. B 108, 15873 (2004)
NM2_PS_TO_CM2_S = 1e-2
KJ_MOL_TO_J = 1e3 / 6.02214076e23
FIT = (0.05, 0.25)  # of the length of the trajectory: where the slope is taken
FEWEST_MOLECULES = 20  # from here on their groups are the independent parts
LINEAR = (0.8, 1.2)  # exponents of time that count as diffusion


@dataclass(frozen=True)
class Diffusion:
    """d : nm^2/ps. lag (ps), msd (nm^2) [n]. exponent : of the time in the range of the fit, 1 for diffusion.

    fit : ps. parts : what the independent estimates were of.
    """

    d: Mean
    lag: np.ndarray
    msd: np.ndarray
    exponent: float
    fit: tuple[float, float]
    parts: str


def mean_squared_displacement(way: np.ndarray) -> np.ndarray:
    """[n_frames, n] nm^2 of each of n points, for every lag, over all beginnings; way [n_frames, n, 3] nm.

    By Fourier transform: Calandrini et al., Collection SFN 12, 201 (2011).
    """
    way = np.asarray(way, dtype=float)
    n = len(way)
    size = 1 << (2 * n - 1).bit_length()
    spectrum = np.fft.rfft(way, size, axis=0)
    together = np.fft.irfft(spectrum * spectrum.conj(), size, axis=0)[:n].sum(axis=2)
    squares = (way**2).sum(axis=2)
    both = np.concatenate([np.zeros((1, way.shape[1])), np.cumsum(squares, axis=0)])
    lags = np.arange(n)
    sums = both[n - lags] + (both[n] - both[lags])  # of r(t)^2 and of r(t + lag)^2
    return np.maximum((sums - 2 * together) / (n - lags)[:, None], 0.0)


def without_drift(way: np.ndarray, masses: np.ndarray) -> tuple[np.ndarray, float]:
    """The way relative to the centre of mass of everything, and how far that went (nm). way [f, n, 3], masses [n]."""
    centre = np.einsum("fni,n->fi", way, masses) / masses.sum()
    return way - centre[:, None], float(np.linalg.norm(centre[-1] - centre[0]))


def einstein(
    times: np.ndarray, way: np.ndarray, *, fit: tuple[float, float] | None = None, box_length: float | None = None
) -> Diffusion:
    """D = slope of the mean square displacement / 6, from unwrapped points.

    times [f] ps, evenly spaced; way [f, n, 3] nm, without drift (`without_drift`). fit : range of lags in ps, a
    twentieth to a quarter of the trajectory by default. box_length : nm; with it jumps by a box length, as in wrapped
    positions, are an InputError. Raises TooShort where the parts are too few.
    """
    times, way = np.asarray(times, dtype=float), np.asarray(way, dtype=float)
    step = even_step(times)
    if box_length is not None:
        refuse_jumps(way, box_length)
    if len(way) < 40:
        raise InputError(
            f"diffusion: {len(way)} frames are too few for a slope with an error (40 at least): a longer run, or a "
            "smaller --trajectory-interval"
        )
    span = (len(way) - 1) * step
    first, last = fit or (FIT[0] * span, FIT[1] * span)
    chosen = slice(max(1, math.ceil(first / step - 1e-9)), min(len(way) - 1, math.floor(last / step + 1e-9)) + 1)
    lag = step * np.arange(len(way))
    if chosen.stop - chosen.start < 3:
        raise InputError(f"diffusion: the fit from {first:g} to {last:g} ps has fewer than three frames in it")
    if way.shape[1] >= FEWEST_MOLECULES:
        each = mean_squared_displacement(way)
        groups = [group.mean(axis=1) for group in np.array_split(each, MOST_BATCHES, axis=1)]
        msd, parts = each.mean(axis=1), f"{MOST_BATCHES} groups of molecules"
    else:
        msd, parts = mean_squared_displacement(way).mean(axis=1), "batches of time"
        length = len(way) // 5
        groups = [mean_squared_displacement(way[k * length : (k + 1) * length]).mean(axis=1) for k in range(5)]
        chosen = slice(chosen.start, min(chosen.stop, length // 2))
        if chosen.stop - chosen.start < 3:
            raise InputError(
                "diffusion: too few molecules for groups and too few frames for batches of time: a longer run"
            )
    slopes = [np.polyfit(lag[chosen], group[chosen], 1)[0] / 6 for group in groups]
    mean = mean_of_parts(slopes)
    whole = float(np.polyfit(lag[chosen], msd[chosen], 1)[0] / 6)
    logs = np.log(np.maximum(msd[chosen], 1e-300))
    exponent = float(np.polyfit(np.log(lag[chosen]), logs, 1)[0])
    window = (float(lag[chosen.start]), float(lag[chosen.stop - 1]))
    return Diffusion(mean._replace(value=whole), lag, msd, exponent, window, parts)


def green_kubo(times: np.ndarray, velocities: np.ndarray, *, up_to: float | None = None) -> tuple[Mean, np.ndarray]:
    """D = 1/3 of the integral of the autocorrelation of velocities; and the running integral [lags], nm^2/ps.

    times [f] ps, evenly spaced and much closer than the motion; velocities [f, n, 3] nm/ps of centres, without that of
    the whole. up_to : ps of the integral, a tenth of the trajectory by default.
    """
    velocities = np.asarray(velocities, dtype=float)
    step = even_step(np.asarray(times, dtype=float))
    n = len(velocities)
    last = min(n - 1, int((up_to if up_to is not None else 0.1 * n * step) / step) + 1)
    size = 1 << (2 * n - 1).bit_length()
    spectrum = np.fft.rfft(velocities, size, axis=0)
    each = np.fft.irfft(np.abs(spectrum) ** 2, size, axis=0)[: last + 1].sum(axis=2)
    each /= (n - np.arange(last + 1))[:, None]
    trapezes = np.concatenate([np.zeros((1, each.shape[1])), np.cumsum((each[1:] + each[:-1]) / 2, axis=0)]) * step / 3
    parts = [group[-1].mean() for group in np.array_split(trapezes, min(MOST_BATCHES, each.shape[1]), axis=1)]
    return mean_of_parts(parts)._replace(value=float(trapezes[-1].mean())), trapezes.mean(axis=1)


def finite_size_correction(temperature: float, viscosity: float, length: float) -> float:
    """What a cubic periodic box takes from D: xi k T / (6 pi eta L), nm^2/ps. K, mPa s, nm. Yeh and Hummer (2004)."""
    kT = BOLTZMANN_KJ_MOL_K * temperature * KJ_MOL_TO_J  # J
    return XI * kT / (6 * math.pi * viscosity * 1e-3 * length * 1e-9) * 1e18 * 1e-12


def even_step(times: np.ndarray) -> float:
    """The spacing of evenly spaced times; raises InputError where frames are missing or doubled."""
    steps = np.diff(times)
    if not len(steps):
        raise InputError("one frame alone has no motion in it")
    step = float(np.median(steps))
    if step <= 0 or np.abs(steps - step).max() > 0.02 * step + 1e-4:
        worst = int(np.argmax(np.abs(steps - step)))
        raise InputError(
            f"the frames are not evenly spaced: {step:g} ps apart, but {steps[worst]:g} ps after {times[worst]:g} ps: "
            "frames are missing or there twice. Leave that part out (--skip), or make the trajectory anew."
        )
    return step


def refuse_jumps(way: np.ndarray, box_length: float) -> None:
    """Raise InputError when points jump by about a box length from one frame to the next: they are wrapped."""
    moves = np.abs(np.diff(way, axis=0))
    jumps = int((np.abs(moves - box_length) < 0.25 * box_length).sum())
    if jumps:
        raise InputError(
            f"diffusion: {jumps} moves of about a box length ({box_length:.3f} nm) between two frames: these positions "
            "are wrapped into the box. Unwrap them first (mace_md.analysis.unwrap, or --wrap none of the run)."
        )
