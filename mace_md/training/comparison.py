"""Errors of predicted energies, forces and stresses against labels, in the forms that papers use.

All numbers here are in meV and angstrom, signs are prediction minus label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mace_md.training.configuration import Configuration

MEV = 1000.0  # in eV
QUANTITIES = {  # what -> (unit, meaning)
    "energy": ("meV", "total energy of a configuration"),
    "energy_per_atom": ("meV/atom", "total energy of a configuration divided by its atoms"),
    "forces": ("meV/A", "component of the force on an atom"),
    "stress": ("meV/A^3", "component of the stress of a configuration"),
}


@dataclass(frozen=True)
class Errors:
    """Statistics of the errors of one quantity."""

    count: int  # numbers compared
    mae: float  # mean absolute error
    rmse: float  # root of the mean square error
    mean: float  # mean error, with its sign
    largest: float  # largest absolute error
    relative_mae: float | None = None  # %, mae / mean absolute label
    relative_rmse: float | None = None  # %, rmse / root of the mean square label


def errors_of(predicted: np.ndarray, label: np.ndarray, relative: bool = False) -> Errors | None:
    """Errors over all entries of two arrays of one shape (in meV, ...); None where there is nothing to compare.

    `relative` adds the errors as a share of the size of the labels: for quantities whose zero has a meaning.
    """
    if predicted.size == 0:
        return None
    error = predicted - label
    mae, rmse = float(np.abs(error).mean()), float(np.sqrt((error**2).mean()))
    size, root = float(np.abs(label).mean()), float(np.sqrt((label**2).mean()))
    shares = (100.0 * mae / size, 100.0 * rmse / root) if relative and size > 0 else (None, None)
    return Errors(error.size, mae, rmse, float(error.mean()), float(np.abs(error).max()), *shares)


@dataclass(frozen=True)
class Comparison:
    """Labels and predictions of many configurations, end to end. Where a label is missing the entries are NaN."""

    num_atoms: np.ndarray  # [n_frames]
    atomic_numbers: np.ndarray  # [n_atoms]
    config_type: np.ndarray  # [n_frames], text
    where: tuple[tuple[str, int], ...]  # file and frame of each configuration
    energy: tuple[np.ndarray, np.ndarray]  # label, prediction: [n_frames], eV
    forces: tuple[np.ndarray, np.ndarray]  # [n_atoms, 3], eV/A
    stress: tuple[np.ndarray, np.ndarray]  # [n_frames, 3, 3], eV/A^3

    def __len__(self) -> int:
        return len(self.num_atoms)

    @property
    def frame_of_atom(self) -> np.ndarray:
        """[n_atoms], index of the configuration of each atom."""
        return np.repeat(np.arange(len(self)), self.num_atoms)

    def errors(self, frames: np.ndarray | None = None) -> dict[str, Errors]:
        """Errors of every quantity that has labels, over the configurations where `frames` (bool, [n_frames]) holds."""
        chosen = np.ones(len(self), dtype=bool) if frames is None else frames
        found = {
            "energy": self._compared(self.energy, chosen, MEV),
            "energy_per_atom": self._compared(self.energy, chosen, MEV / self.num_atoms),
            "forces": self._compared(self.forces, chosen[self.frame_of_atom], MEV, relative=True),
            "stress": self._compared(self.stress, chosen, MEV, relative=True),
        }
        return {name: errors for name, errors in found.items() if errors is not None}

    def by_config_type(self) -> dict[str, dict[str, Errors]]:
        """`errors` of each type of configuration, in the order in which they come."""
        types = dict.fromkeys(self.config_type.tolist())
        return {name: self.errors(self.config_type == name) for name in types}

    def by_element(self) -> dict[int, Errors]:
        """Errors of the force components on the atoms of each element (atomic number), where there are labels."""
        numbers = sorted(set(self.atomic_numbers.tolist()))
        found = {z: self._compared(self.forces, self.atomic_numbers == z, MEV, relative=True) for z in numbers}
        return {z: errors for z, errors in found.items() if errors is not None}

    def worst_force(self) -> tuple[int, int, float] | None:
        """(frame of this comparison, atom within it, |error| in meV/A) of the atom whose force is the most wrong."""
        error = np.linalg.norm(self.forces[1] - self.forces[0], axis=1) * MEV
        if not np.isfinite(error).any():
            return None
        atom = int(np.nanargmax(error))
        frame = int(self.frame_of_atom[atom])
        return frame, atom - int(self.num_atoms[:frame].sum()), float(error[atom])

    def constant(self) -> float | None:
        """The constant, meV/atom, that makes up most of the error of the energies, or None where none does: as between
        levels of theory, or with other E0s."""
        energy = self.errors().get("energy_per_atom")
        if energy is None or energy.count < 2 or abs(energy.mean) <= 0.9 * energy.rmse or energy.rmse <= 5.0:
            return None
        return energy.mean

    def left_out(self) -> dict[str, int]:
        """Rows (frames, or atoms for forces) with a label to which the model has no finite number, where there are."""
        pairs = {"energy": self.energy, "forces": self.forces, "stress": self.stress}
        counts = {name: int((_finite(label) & ~_finite(found)).sum()) for name, (label, found) in pairs.items()}
        return {name: count for name, count in counts.items() if count}

    @staticmethod
    def _compared(
        pair: tuple[np.ndarray, np.ndarray], chosen: np.ndarray, unit: np.ndarray | float, relative: bool = False
    ) -> Errors | None:
        label, predicted = pair
        known = chosen & _finite(label) & _finite(predicted)
        factor = unit[known] if isinstance(unit, np.ndarray) else unit
        return errors_of(predicted[known] * factor, label[known] * factor, relative)


def compare(labelled: Sequence[Configuration], predicted: Sequence[Configuration]) -> Comparison:
    """The two sets of configurations (the same ones, with labels and with predictions as labels) side by side."""
    if len(labelled) != len(predicted):
        raise ValueError(f"{len(labelled)} labelled configurations, {len(predicted)} predicted ones")
    return Comparison(
        num_atoms=np.array([len(c.atomic_numbers) for c in labelled], dtype=np.int64),
        atomic_numbers=np.concatenate([c.atomic_numbers for c in labelled]),
        config_type=np.array([c.config_type for c in labelled], dtype=object),
        where=tuple((c.file, c.frame) for c in labelled),
        energy=tuple(np.array([_or_nan(c.energy, ()) for c in side]) for side in (labelled, predicted)),
        forces=tuple(
            np.concatenate([_or_nan(c.forces, c.positions.shape) for c in side]) for side in (labelled, predicted)
        ),
        stress=tuple(np.stack([_or_nan(c.stress, (3, 3)) for c in side]) for side in (labelled, predicted)),
    )


def join(comparisons: Sequence[Comparison]) -> Comparison:
    """Several data sets as one."""
    return Comparison(
        num_atoms=np.concatenate([c.num_atoms for c in comparisons]),
        atomic_numbers=np.concatenate([c.atomic_numbers for c in comparisons]),
        config_type=np.concatenate([c.config_type for c in comparisons]),
        where=tuple(place for c in comparisons for place in c.where),
        energy=_joined([c.energy for c in comparisons]),
        forces=_joined([c.forces for c in comparisons]),
        stress=_joined([c.stress for c in comparisons]),
    )


def _joined(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    labels, predictions = zip(*pairs, strict=True)
    return np.concatenate(labels), np.concatenate(predictions)


def _finite(values: np.ndarray) -> np.ndarray:
    """For each row whether all of its numbers are finite."""
    return np.isfinite(values.reshape(len(values), -1)).all(axis=1)


def _or_nan(value: np.ndarray | float | None, shape: tuple[int, ...]) -> np.ndarray:
    return np.full(shape, np.nan) if value is None else np.asarray(value, dtype=np.float64)
