"""One look at all frames: the energies, forces and charges that stand out among those of their kind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from mace_md.training.configuration import Configuration
from mace_md.training.contacts import nearest_neighbours

_ENERGY_APART, _SPREADS = 3.0, 50.0  # eV per atom from the median of a composition, and median deviations
_ENERGY_FAR = 20.0  # eV per atom, whatever the spread
_FORCE, _FORCE_RATIO = 30.0, 30.0  # eV/A, and times the largest force of a typical frame
_CONTACT = 0.75  # of the sum of covalent radii: nearer atoms may well feel a large force


class Survey:
    """Numbers of every frame; frames are looked at in the order of the data."""

    def __init__(self) -> None:
        self._energies: dict[tuple, list[tuple[float, int]]] = defaultdict(list)  # by composition: energy, index
        self._where: list[str] = []
        self._forces: list[tuple[float, int]] = []  # largest force and its atom
        self._charges: dict[tuple, set[tuple[float | None, float | None]]] = defaultdict(set)
        self._file = ""

    def add(self, c: Configuration) -> None:
        """The next frame."""
        numbers, counts = np.unique(c.atomic_numbers, return_counts=True)
        composition = tuple(zip(numbers.tolist(), counts.tolist(), strict=True))
        if c.energy is not None:
            self._energies[composition].append((c.energy, len(self._where)))
        size = np.linalg.norm(c.forces, axis=1) if c.forces is not None else np.zeros(1)
        self._forces.append((float(size.max(initial=0.0)), int(size.argmax())))
        self._where.append(c.where)
        if c.charge is not None or c.spin is not None:
            self._charges[composition].add((c.charge, c.spin))
            self._file = self._file or c.file

    def odd_energy(self) -> str | None:
        """An energy so far from those of the same atoms that it must be in another unit, or wrong."""
        for composition, known in self._energies.items():
            n_atoms = sum(count for _, count in composition)
            energies = np.array([energy for energy, _ in known])
            middle = np.median(energies)
            away = np.abs(energies - middle) / n_atoms
            odd = int(away.argmax())
            spread = float(np.median(away))
            rare = len(known) >= 10 and away[odd] > max(_ENERGY_APART, _SPREADS * spread)
            if away[odd] > _ENERGY_FAR or rare:
                return (
                    f"{self._where[known[odd][1]]}: the energy {energies[odd]:.6g} eV is {away[odd]:.3g} eV per atom "
                    f"away from that of other frames of the same atoms (median {middle:.6g} eV). Are units mixed, or "
                    "is it wrong?"
                )
        return None

    def odd_force(self, data: Sequence[Configuration]) -> str | None:
        """A force far beyond those of all other frames, on an atom that nothing is too near to."""
        largest = np.array([size for size, _ in self._forces])
        limit = max(_FORCE, _FORCE_RATIO * float(np.median(largest)))
        for frame in np.argsort(-largest):
            size, atom = self._forces[int(frame)]
            if size <= limit:
                return None
            c = data[int(frame)]
            if nearest_neighbours(c, 3.0)[atom] > _CONTACT:
                return (
                    f"{c.where}: the force on atom {atom} (counted from 0) is {size:.4g} eV/A; the largest of a "
                    f"typical frame is {np.median(largest):.3g}, and no atom is so near that it would explain it. "
                    "Leave the frame out if its calculation did not converge."
                )
        return None

    def charges(self) -> list[str]:
        """A remark on total charges and spins, which the models here do not take."""
        if not self._charges:
            return []
        every = set().union(*self._charges.values())
        text = " and ".join(
            f"{name} {_listed({pair[i] for pair in every})}" for i, name in enumerate(("charge", "spin"))
            if any(pair[i] is not None for pair in every)
        )  # fmt: skip
        remark = f"{self._file or 'the data'}: frames state a total {text}: not used, the models here take neither"
        if any(len(states) > 1 for states in self._charges.values()):
            remark += ". Frames of the same atoms differ in it, which a model cannot tell apart: train on one state"
        return [remark]


def _listed(values: set[float | None]) -> str:
    numbers = sorted(value for value in values if value is not None)
    shown = ", ".join(f"{value:g}" for value in numbers[:5]) + (", ..." if len(numbers) > 5 else "")
    return shown + (" or none" if None in values else "")
