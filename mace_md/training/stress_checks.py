"""Stresses that give away another unit, sign or order of their components.

The energy of a strained box changes by the work of its stress, as it changes by the work of forces when atoms move. So
frames of one composition in boxes of several shapes judge a stress without any model; where the box is the same in all
frames, only a model can (`compare_with_model`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mace_md.training.configuration import Configuration
from mace_md.units import EV_PER_CUBIC_ANGSTROM_TO_BAR

_LARGEST = 1.0  # eV/A^3 (160 GPa), root mean square of a typical frame
_NEIGHBOURS = 3  # pairs that a frame is in
_MOST_STRAIN = 0.1
_FEWEST_PAIRS, _SIGNIFICANT = 12, 6.0  # pairs; slope over its error
_FACTOR = 5.0  # between the work of the stress and the energy; the nearest confusion of units is a factor of 10
_UNITS = {"kbar": EV_PER_CUBIC_ANGSTROM_TO_BAR / 1e3, "GPa": EV_PER_CUBIC_ANGSTROM_TO_BAR / 1e4,
          "bar": EV_PER_CUBIC_ANGSTROM_TO_BAR}  # fmt: skip
_VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
# Orders in which programs write six numbers: component of the i-th one, in Voigt's numbering.
_ORDERS = {
    "xx yy zz xy yz xz (VASP)": (0, 1, 2, 5, 3, 4),
    "xx yy zz xy xz yz (LAMMPS)": (0, 1, 2, 5, 4, 3),
    "xx xy xz yy yz zz (rows of a triangle)": (0, 5, 4, 1, 3, 2),
    "xx xy yy xz yz zz (columns of a triangle)": (0, 5, 1, 4, 3, 2),
}
_REMEDY = "--stress-weight 0 leaves stresses out"


class StrainWork(NamedTuple):
    """Pairs of similar frames in boxes of different shape."""

    stress: np.ndarray  # [n_pairs, 6], mean of volume x stress as it was read, eV
    strain: np.ndarray  # [n_pairs, 6], from one to the other, shears twice (Voigt)
    energy: np.ndarray  # [n_pairs], eV: what energy difference the forces leave to the stress
    doubt: np.ndarray  # [n_pairs], eV: a guess of its error, from how much the forces change on the way


def check_stresses(sample: Sequence[Configuration]) -> str | None:
    """What is odd about the stresses of these frames, or None."""
    labelled = [c for c in sample if c.stress is not None and c.volume > 0]
    if len(labelled) < 2:
        return None
    where = labelled[0].file or "the data"
    stresses = np.stack([c.stress for c in labelled])
    if not stresses.any():
        return f"{where}: every stress is 0. Were they computed? {_REMEDY}."
    lopsided = np.abs(stresses - stresses.swapaxes(1, 2)).max(axis=(1, 2))
    if np.median(lopsided / np.abs(stresses).max(axis=(1, 2)).clip(1e-4)) > 0.05:
        return (
            f"{labelled[0].where}: the stress is not symmetric, which every stress is. Are its nine numbers in order? "
            f"{_REMEDY}."
        )
    by_work = _judge_by_work(strain_work(labelled), where)
    size = float(np.median(np.sqrt((stresses**2).mean(axis=(1, 2)))))
    if by_work is None and size > _LARGEST:
        return (
            f"{where}: the stress of a typical frame is {size:.3g} eV/A^3, {size * _UNITS['GPa']:.0f} GPa. Are they in "
            "GPa or kbar (--stress-unit), or virials, of the unit eV (--virials-key)?"
        )
    return by_work


def _judge_by_work(work: StrainWork, where: str) -> str | None:
    if len(work.energy) < _FEWEST_PAIRS:
        return None
    order = _better_order(work)
    if order is not None:
        return (
            f"{where}: energies of boxes of different shape fit their stress if its six numbers are in the order "
            f"{order}, not xx yy zz yz xz xy. Write nine numbers, or these in that order."
        )
    better = StrainWork(*(column[work.doubt <= np.median(work.doubt)] for column in work))
    for pairs in (better, work):  # a long way between two frames says little, and may say something wrong
        (slope,), (error,), _ = _fit(pairs, (pairs.stress * pairs.strain).sum(axis=1))
        if abs(slope) < _SIGNIFICANT * error or 1 / _FACTOR < slope < _FACTOR:
            return None
    if -_FACTOR < slope < -1 / _FACTOR:
        return f"{where}: the energy falls where the stress says that it rises. Is its sign that of a pressure?"
    unit = min(_UNITS, key=lambda name: abs(np.log(abs(slope) * _UNITS[name])))
    guess = f" Is it in {unit} (--stress-unit {unit})?" if abs(np.log(abs(slope) * _UNITS[unit])) < 0.7 else ""
    sign = " and its sign is the other one (positive: the box wants to contract)" if slope < 0 else ""
    return (
        f"{where}: from box to box the energy changes {abs(slope):.3g} times as much as the stress says{sign}."
        f"{guess or ' Is it in another unit, or a virial?'}"
    )


def _better_order(work: StrainWork) -> str | None:
    """The order of the six numbers that fits the energies where the one they were read in does not."""

    def both(order: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        parts = work.stress * work.strain[:, list(order)]
        return parts[:, :3].sum(axis=1), parts[:, 3:].sum(axis=1)

    slopes, errors, as_read = _fit(work, *both(range(6)))
    if max(abs(slopes - 1.0) - 4.0 * errors) < 0.3:
        return None
    fits = {}
    for name, order in _ORDERS.items():
        slopes, errors, left = _fit(work, *both(order))
        if (abs(slopes - 1.0) < 0.35).all() and (slopes > _SIGNIFICANT * errors).all() and left < 0.5 * as_read:
            fits[name] = left
    return min(fits, key=lambda name: fits[name]) if fits else None


def _fit(work: StrainWork, *columns: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Slopes of the energy in the columns, their errors, and the squares that are left, each over its doubt; by least
    squares without a constant."""
    matrix, y = np.stack(columns, axis=1) / work.doubt[:, None], work.energy / work.doubt
    slopes, _, rank, _ = np.linalg.lstsq(matrix, y, rcond=None)
    if rank < len(columns):
        return np.ones(len(columns)), np.full(len(columns), np.inf), float((y**2).sum())
    left = float(((y - matrix @ slopes) ** 2).sum())
    errors = np.sqrt(left / (len(y) - rank) * np.diag(np.linalg.inv(matrix.T @ matrix)))
    return slopes, errors + 1e-12, left


def strain_work(sample: Sequence[Configuration]) -> StrainWork:
    """Pairs of similar frames of one composition with a stress, energy and forces, in boxes of different shape.

    To first order dE = V stress : strain - F u with the strain of the box and what atoms move beside it; both taken at
    the middle of the way (trapezoidal rule, exact for harmonic energies).
    """
    groups: dict[tuple, list[Configuration]] = {}
    for c in sample:
        if all(c.pbc) and c.energy is not None and c.forces is not None and c.stress is not None:
            groups.setdefault(tuple(c.atomic_numbers.tolist()), []).append(c)
    rows = [_between(group[i], group[j]) for group in groups.values() for i, j in _similar(group)]
    rows = [row for row in rows if row is not None]
    if not rows:
        return StrainWork(np.zeros((0, 6)), np.zeros((0, 6)), np.zeros(0), np.zeros(0))
    return StrainWork(*(np.array(column) for column in zip(*rows, strict=True)))


def _similar(group: Sequence[Configuration]) -> list[tuple[int, int]]:
    """Each frame with the few whose box and positions are the nearest."""
    if len(group) < 2:
        return []
    features = np.stack([np.concatenate([c.cell.ravel(), c.positions.ravel()]) for c in group])
    square = (features**2).sum(axis=1)
    apart = square[:, None] + square - 2.0 * features @ features.T
    np.fill_diagonal(apart, np.inf)
    nearest = np.argsort(apart, axis=1)[:, :_NEIGHBOURS]
    return sorted({(min(i, int(j)), max(i, int(j))) for i, row in enumerate(nearest) for j in row if j != i})


def _between(a: Configuration, b: Configuration) -> tuple[np.ndarray, np.ndarray, float, float] | None:
    deformation = np.linalg.solve(a.cell, b.cell)
    strain = 0.5 * (deformation + deformation.T) - np.eye(3)
    if not 1e-5 < np.abs(strain).max() < _MOST_STRAIN:
        return None
    moved = b.positions - a.positions @ deformation
    moved -= np.round(moved @ np.linalg.inv(b.cell)) @ b.cell
    left = b.energy - a.energy + 0.5 * float(((a.forces + b.forces) * moved).sum())
    mean = 0.5 * (a.volume * a.stress + b.volume * b.stress)
    return (
        np.array([mean[i, j] for i, j in _VOIGT]),
        np.array([strain[i, j] * (1 if i == j else 2) for i, j in _VOIGT]),
        left,
        0.2 * abs(float(((a.forces - b.forces) * moved).sum())) + 1e-3 * len(moved),
    )


# --- by a model ---


def compare_with_model(label: np.ndarray, model: np.ndarray) -> str | None:
    """What a model's stresses [n, 3, 3] say about labels, both eV/A^3, or None: only where it is sure of itself."""
    good = np.isfinite(label).all(axis=(1, 2)) & np.isfinite(model).all(axis=(1, 2))
    sides = ([[s[i, j] for i, j in _VOIGT] for s in side[good]] for side in (label, model))
    a, b = (np.array(side).reshape(-1, 6) for side in sides)
    if len(a) < 3 or not a.any() or not b.any():
        return None
    for name, order in _ORDERS.items():
        if _alike(a, b[:, order]) > 0.9 and _alike(a, b) < 0.7:
            return f"the model's fit if the six numbers of a label are in the order {name}, not xx yy zz yz xz xy"
    alike = _alike(a, b)
    size = float(np.sqrt((b**2).sum() / (a**2).sum()))
    if abs(alike) < 0.8 or (alike > 0 and 0.3 < size < 3.0):
        return None
    sign = "of the other sign than" if alike < 0 else "like"
    unit = min(_UNITS, key=lambda name: abs(np.log(size * _UNITS[name])))
    guess = f"; are they in {unit} (--stress-unit {unit})?" if abs(np.log(size * _UNITS[unit])) < 0.7 else ""
    return f"stresses of the labels are {sign} the model's, {1 / size:.3g} times as large{guess}"


def _alike(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()))
