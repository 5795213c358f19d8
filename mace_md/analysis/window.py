"""Which part of a run is averaged: what comes after equilibration, found in the log, or as --skip says."""

import re
from dataclasses import dataclass, field

import numpy as np

from mace_md.analysis.statistics import TooShort, difference, equilibration, inefficiency, mean_of
from mace_md.errors import InputError

SETTLING = ("potential_kJ_mol", "temperature_K", "volume_nm3")
LATEST = 0.45  # of the run: a window that begins later is no equilibrium that a run of this length can show
DRIFTING = 4.0  # standard deviations between the first and the last half of the window


@dataclass(frozen=True)
class Window:
    """From `start` to `end`, ps. equilibrated : None where nothing can be said. said : for people.

    starts : where each series of the log was found to have settled, ps.
    """

    start: float
    end: float
    equilibrated: bool | None
    said: str
    automatic: bool
    starts: dict[str, float] = field(default_factory=dict)

    @property
    def pair(self) -> tuple[float, float]:
        return self.start, self.end

    def inside(self, times: np.ndarray) -> np.ndarray:
        """Which times are in it, bool [n]."""
        return (times >= self.start - 1e-6) & (times <= self.end + 1e-6)


def find_window(log: dict[str, np.ndarray], skip: str = "auto", end: float | None = None) -> Window:
    """The window of a run; `log` may be empty, `end` (ps) is that of the trajectory. Raises InputError."""
    times = log.get("time_ps", np.zeros(0))
    first = float(times[0]) if len(times) else 0.0
    last = float(times[-1]) if len(times) else float(end or 0.0)
    if skip != "auto":
        start = first + _skipped(skip, last - first)
        if start >= last > first:
            raise InputError(f"--skip {skip}: the run is {last - first:g} ps long, and nothing would be left of it")
        return Window(start, last, *_judged(log, start, {}), False)
    starts = {}
    for name in SETTLING:
        series = log.get(name, np.zeros(0))
        if len(series) and np.isfinite(series).all() and np.ptp(series) > 0:
            starts[name] = float(times[settled(series)])
    if not starts:
        return Window(first, last, None, "there is no log to tell from, so everything is averaged", True)
    start = max(starts.values())
    equilibrated, said = _judged(log, start, starts)
    if start - first > (last - first) / 2:  # as good as any other part, and the verdict says so
        start = first + (last - first) / 2
    return Window(start, last, equilibrated, said, True, starts)


def settled(series: np.ndarray, most: int = 2000) -> int:
    """Index where a series has settled: pymbar's criterion on (means of) at most `most` samples, and then another
    two and a half inefficiencies, since what it leaves of a decay is one of the largest samples of the rest."""
    factor = max(1, len(series) // most)
    thin = series[: len(series) // factor * factor].reshape(-1, factor).mean(axis=1)
    start = equilibration(thin)
    if start == 0:
        return 0
    rest = thin[start:]
    start += int(min(2.5 * inefficiency(rest), len(rest) / 4))
    return min(start * factor, len(series) - 1)


def _skipped(skip: str, length: float) -> float:
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*(%|ps|ns|fs)?\s*", skip)
    if match is None:
        raise InputError(f"--skip {skip}: expected auto, a share such as 20%, or a time such as 5ps")
    number, unit = float(match.group(1)), match.group(2) or "ps"
    if unit == "%":
        if number >= 100:
            raise InputError(f"--skip {skip}: nothing would be left")
        return length * number / 100
    return number * {"ps": 1.0, "ns": 1e3, "fs": 1e-3}[unit]


def _judged(log: dict[str, np.ndarray], start: float, starts: dict[str, float]) -> tuple[bool | None, str]:
    times = log.get("time_ps", np.zeros(0))
    if len(times) < 20:
        return None, "too few rows of the log to tell whether it is equilibrated"
    length = times[-1] - times[0]
    if starts and start - times[0] > LATEST * length:
        slowest = max(starts, key=starts.get)
        return False, (
            f"not equilibrated: {NAMES[slowest]} settles only {start - times[0]:.3g} ps into {length:.3g} ps, if it "
            "does; a longer run will tell"
        )
    for name in SETTLING:
        if name not in log:
            continue
        kept = log[name][times >= start - 1e-6]
        if len(kept) < 40 or not np.isfinite(kept).all() or np.ptp(kept) == 0:
            continue
        halves = np.array_split(kept, 2)
        try:
            found = difference(*(mean_of(half) for half in halves))
        except TooShort as short:
            return None, f"too short to tell whether {NAMES[name]} still drifts ({short.n_eff:.0f} independent samples)"
        if abs(found.sigma) > DRIFTING:
            return False, (
                f"not equilibrated: {NAMES[name]} still drifts ({halves[0].mean():.5g} in the first half of the "
                f"window, {halves[1].mean():.5g} in the second)"
            )
    return True, f"equilibrated after {start - times[0]:.3g} ps; the {times[-1] - start:.3g} ps after that are averaged"


NAMES = {"potential_kJ_mol": "the potential energy", "temperature_K": "the temperature", "volume_nm3": "the volume"}
