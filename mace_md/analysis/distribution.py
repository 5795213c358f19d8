"""Radial distribution functions and coordination numbers, in boxes of any shape, that may change.

Pairs inside a molecule are left out. The range ends at half the shortest height of the box: beyond, part of the sphere
is outside of the nearest images, and g(r) would fall for no physical reason. Bands are the spread of batches of time.
"""

from dataclasses import dataclass

import numpy as np

from mace_md.analysis.geometry import heights, molecules_of
from mace_md.analysis.statistics import MOST_BATCHES, students_t
from mace_md.errors import InputError

PAIRS_AT_ONCE = 4_000_000
MOST_ROWS = 400  # histograms in memory: when there are more, neighbours in time are added up


@dataclass(frozen=True)
class Distribution:
    """g(r) [bins] at the middles r (nm) of the bins; the coordination number [bins] up to their ends r_end.

    Errors are half of 95 % intervals, None where there are too few frames. counts : distances in each bin, of all
    frames. excluded : pairs inside of molecules, which are left out. series [rows, bins] : the coordination number in
    stretches of time, one after the other.
    """

    r: np.ndarray
    g: np.ndarray
    g_error: np.ndarray | None
    r_end: np.ndarray
    coordination: np.ndarray
    coordination_error: np.ndarray | None
    counts: np.ndarray
    num_pairs: int
    num_frames: int
    excluded: int
    series: np.ndarray


class PairCounter:
    """Counts the distances between two groups of atoms, chunk by chunk."""

    def __init__(
        self, topology, first: np.ndarray, second: np.ndarray, r_max: float, bin_width: float = 0.002,
        molecule: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        """topology : mdtraj's. first, second : indices of atoms, in nm up to `r_max`. molecule [n_atoms] : atoms with
        the same number are no pair. Raises InputError where no pair is left."""
        if not len(first) or not len(second):
            raise InputError("g(r): one of the two groups has no atoms")
        i, j = (grid.ravel() for grid in np.meshgrid(first, second, indexing="ij"))
        inside = (i != j) & (molecule[i] == molecule[j] if molecule is not None else np.zeros(len(i), dtype=bool))
        keep = (i != j) & ~inside
        if not keep.any():
            raise InputError("g(r): every pair of these atoms is inside of a molecule; such pairs are left out")
        self._topology = topology
        self.num_first, self.num_pairs, self.excluded = len(first), int(keep.sum()), int(inside.sum())
        ordered = np.sort(np.stack([i[keep], j[keep]], axis=1), axis=1)
        self._pairs, times = np.unique(ordered, axis=0, return_counts=True)  # O-O pairs are there twice
        self._weights = times.astype(float)
        self.edges = np.linspace(0.0, r_max, max(2, round(r_max / bin_width) + 1))
        self._rows: list[np.ndarray] = []  # histograms, each of `_in_row` frames
        self._in_row, self._open, self._in_open = 1, np.zeros(len(self.edges) - 1), 0
        self._frames, self._inverse_volume = 0, 0.0

    def add(self, positions: np.ndarray, boxes: np.ndarray) -> None:
        """positions [f, n_atoms, 3] nm, boxes [f, 3, 3] nm. Raises InputError when a box is too small for r_max."""
        shortest = float(heights(boxes).min())
        if self.edges[-1] > shortest / 2 * (1 + 1e-6):
            raise InputError(
                f"g(r) up to {10 * self.edges[-1]:.2f} A: the shortest height of the box is {10 * shortest:.2f} A, and "
                f"g(r) is defined up to half of that. Give --r-max {np.floor(50 * shortest) / 10:.1f} or less."
            )
        self._inverse_volume += float((1 / np.abs(np.linalg.det(boxes))).sum())
        step = max(1, PAIRS_AT_ONCE // len(self._pairs))
        for at in range(0, len(positions), step):
            for distances in self._distances(positions[at : at + step], boxes[at : at + step]):
                self._count(distances)

    def _distances(self, positions: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        import mdtraj

        part = mdtraj.Trajectory(positions, self._topology)
        part.unitcell_vectors = boxes
        return mdtraj.compute_distances(part, self._pairs, periodic=True)

    def _count(self, distances: np.ndarray) -> None:
        bins = (distances * (len(self.edges) - 1) / self.edges[-1]).astype(np.int64)
        last = len(self.edges) - 1
        self._open += np.bincount(np.minimum(bins, last), self._weights, minlength=last + 1)[:last]
        self._in_open += 1
        self._frames += 1
        if self._in_open == self._in_row:
            self._rows.append(self._open)
            self._open, self._in_open = np.zeros(last), 0
            if len(self._rows) == MOST_ROWS:
                self._rows = [a + b for a, b in zip(self._rows[::2], self._rows[1::2], strict=True)]
                self._in_row *= 2

    def result(self) -> Distribution:
        """g(r) = counts / (pairs * shell / volume), summed over frames; raises InputError where there was none."""
        if not self._frames:
            raise InputError("g(r): there is no frame in the window")
        counts = np.sum(self._rows, axis=0) + self._open if self._rows else self._open
        shells = 4 / 3 * np.pi * np.diff(self.edges**3)
        ideal = self.num_pairs * shells * self._inverse_volume  # of all frames
        g_error = n_error = None
        if len(self._rows) >= 2 * MOST_BATCHES:
            groups = np.array_split(np.array(self._rows), MOST_BATCHES)
            parts = np.array([group.mean(axis=0) / self._in_row for group in groups])  # counts a frame
            half = students_t(MOST_BATCHES - 1) / np.sqrt(MOST_BATCHES)
            g_error = half * parts.std(axis=0, ddof=1) * self._frames / ideal
            n_error = half * np.cumsum(parts, axis=1).std(axis=0, ddof=1) / self.num_first
        rows = np.array(self._rows).reshape(-1, len(shells))
        return Distribution(
            (self.edges[1:] + self.edges[:-1]) / 2, counts / ideal, g_error, self.edges[1:],
            np.cumsum(counts) / (self._frames * self.num_first), n_error, counts, self.num_pairs, self._frames,
            self.excluded, np.cumsum(rows, axis=1) / self._in_row / self.num_first,
        )  # fmt: skip


def rdf(
    trajectory, first: str, second: str | None = None, *, r_max: float | None = None, bin_width: float = 0.002,
    intramolecular: bool = False,
) -> Distribution:  # fmt: skip
    """g(r) of an mdtraj trajectory between two mdtraj selections (of one with itself by default).

    r_max : nm, half the shortest height of all boxes by default. Raises InputError without a box.
    """
    boxes = trajectory.unitcell_vectors
    if boxes is None:
        raise InputError("g(r) is relative to the density of a box, and this trajectory has none.")
    if r_max is None:
        r_max = float(heights(boxes.astype(float)).min()) / 2
    one, other = (trajectory.topology.select(text) for text in (first, second or first))
    molecule = None if intramolecular else molecules_of(trajectory.topology).index
    counter = PairCounter(trajectory.topology, one, other, r_max, bin_width, molecule)
    counter.add(trajectory.xyz, boxes.astype(float))
    return counter.result()


def first_minimum(found: Distribution) -> float | None:
    """Where the first shell ends (nm): the minimum of a smoothed g(r) after its first peak; None without one."""
    width = found.r[1] - found.r[0]
    kernel = np.exp(-0.5 * (np.arange(-3 * 0.008 // width, 3 * 0.008 // width + 1) * width / 0.008) ** 2)
    smooth = np.convolve(found.g, kernel / kernel.sum(), mode="same")
    inner = smooth[: len(smooth) - len(kernel)]
    rising = np.flatnonzero(inner > 1.0)
    if not len(rising):
        return None
    peak = rising[0] + int(np.argmax(inner[rising[0] : rising[0] + max(2, round(0.1 / width))]))
    behind = inner[peak:]
    lowest = peak + int(np.argmin(behind[: max(2, round(0.25 / width))]))
    is_minimum = peak < lowest < len(inner) - 2 and inner[lowest] < 0.95 * inner[peak]
    return float(found.r[lowest]) if is_minimum else None
