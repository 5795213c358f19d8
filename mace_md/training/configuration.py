"""A labelled configuration of atoms, and how labels are called and in which units they come.

Everything past the readers is in eV and angstrom. Stress is (dE/d strain) / volume: positive when the system wants to
contract, as in ASE.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import product

import numpy as np

from mace_md.errors import InputError
from mace_md.training.data_file import DataFile
from mace_md.units import EV_PER_CUBIC_ANGSTROM_TO_BAR, unit_size

ISOLATED_ATOM = "IsolatedAtom"  # config_type of the frames that give E0s, as mace-torch has it
LABELS = ("energy", "forces", "stress")
_ALONE = 8.0  # A: a single atom whose images are farther away is no crystal (the widest, of xenon, has 4.4)
_STRESS_UNITS = {name: size / EV_PER_CUBIC_ANGSTROM_TO_BAR for name, size in (("GPa", 1e4), ("kbar", 1e3), ("bar", 1))}


@dataclass(frozen=True, eq=False)
class Configuration:
    """Atoms with the labels that are known of them; a label that is not known is None."""

    atomic_numbers: np.ndarray  # [n_atoms], int64
    positions: np.ndarray  # [n_atoms, 3], A, float64
    cell: np.ndarray  # [3, 3], rows, A; zeros without a box
    pbc: tuple[bool, bool, bool] = (False, False, False)
    energy: float | None = None  # eV, total
    forces: np.ndarray | None = None  # [n_atoms, 3], eV/A
    stress: np.ndarray | None = None  # [3, 3], eV/A^3
    weight: float = 1.0  # of the configuration in the loss
    energy_weight: float = 1.0
    forces_weight: float = 1.0
    stress_weight: float = 1.0
    head: str = "Default"
    config_type: str = "Default"
    charge: float | None = None  # total, e, where the file says one
    spin: float | None = None  # in the file's convention, where it says one
    file: str = ""  # where it was read
    frame: int = 0  # counted from 0
    source: DataFile | None = None  # what that file gave

    @property
    def where(self) -> str:
        """File and frame, for messages."""
        return f"{self.file}, frame {self.frame} (counted from 0)" if self.file else f"frame {self.frame}"

    @property
    def volume(self) -> float:
        """Of the box as the file has it, A^3, whatever its periodic directions; 0 without a box."""
        return abs(float(np.linalg.det(self.cell))) if any(self.pbc) else 0.0

    @property
    def is_lone_atom(self) -> bool:
        """Whether it is one atom alone: marked so, without a box, or in one whose images are far away."""
        if len(self.atomic_numbers) != 1:
            return False
        if not any(self.pbc) or re.sub(r"[_\- ]", "", self.config_type.lower()) == ISOLATED_ATOM.lower():
            return True
        return _nearest_image(self.cell, self.pbc) > _ALONE

    @property
    def is_lone_ion(self) -> bool:
        """Whether it is one atom alone with a charge: no neutral atom, and nothing that its energy could be fitted
        with."""
        return abs(self.charge or 0.0) > 0.01 and self.is_lone_atom

    @property
    def is_isolated_atom(self) -> bool:
        """Whether it gives the energy of an isolated atom: one neutral atom alone."""
        return self.is_lone_atom and not self.is_lone_ion


def _nearest_image(cell: np.ndarray, pbc: tuple[bool, bool, bool]) -> float:
    """A: the shortest vector that repeats the box, among the sums of up to two of each of its vectors."""
    steps = [range(-2, 3) if repeats else (0,) for repeats in pbc]
    vectors = np.array([step for step in product(*steps) if any(step)]) @ cell
    return float(np.linalg.norm(vectors, axis=1).min())


@dataclass(frozen=True)
class LabelFormat:
    """Names and units of the labels in a file; None takes the default of the file's format.

    For extended XYZ: keys `REF_energy`, `REF_forces`, `REF_stress`, `REF_virials`, or the same without REF_, whichever
    is there; eV and A. For the rMD17 npz layout: kcal/mol and A. HDF5 files of `hdf5.py` are always eV and A.
    """

    energy_key: str | None = None
    forces_key: str | None = None
    stress_key: str | None = None
    virials_key: str | None = None
    config_type_key: str = "config_type"
    head_key: str = "head"
    energy_unit: str | None = None  # eV, meV, kcal/mol, kJ/mol, Hartree
    length_unit: str | None = None  # of positions and cell: A, Bohr, nm
    forces_unit: str | None = None  # such as Hartree/Bohr; None: energy_unit / length_unit
    stress_unit: str | None = None  # GPa, kbar, bar or eV/A^3; None: energy_unit / length_unit^3

    def key(self, label: str) -> str | None:
        """The key that was asked for, of energy, forces, stress or virials."""
        return getattr(self, f"{label}_key")

    def factors(self, energy_unit: str = "eV", length_unit: str = "A") -> Factors:
        """What numbers of the file are multiplied with; the arguments are the defaults of the format.

        Raises InputError for a unit that is not known.
        """
        try:
            energy = unit_size(self.energy_unit or energy_unit, "energy")
            length = unit_size(self.length_unit or length_unit, "length")
            forces = energy / length
            if self.forces_unit is not None:
                above, _, below = self.forces_unit.rpartition("/")
                forces = unit_size(above, "energy") / unit_size(below, "length")
            stress = self._stress_factor(energy / length**3)
        except ValueError as error:
            raise InputError(f"units of the labels: {error}") from None
        names = (self.energy_unit or energy_unit, self.length_unit or length_unit)
        units = {"energy": names[0], "forces": self.forces_unit or "/".join(names), "virials": names[0]}
        units |= {"stress": self.stress_unit or f"{'/'.join(names)}^3", "length": names[1]}
        return Factors(energy, length, forces, stress, units)

    def with_units_of_file(self, units: Mapping[str, str]) -> LabelFormat:
        """With the units that the file states (`own_units`) where none was asked for."""
        asked = self.energy_unit is not None or self.length_unit is not None
        stated = {f"{what}_unit": name for what, name in units.items() if getattr(self, f"{what}_unit") is None}
        if asked:
            stated.pop("forces_unit", None)  # of the units that were asked for
        return replace(self, **stated)

    def _stress_factor(self, default: float) -> float:
        if self.stress_unit in (None, ""):
            return default
        if self.stress_unit in ("eV/A^3", "eV/A3"):
            return 1.0
        if self.stress_unit not in _STRESS_UNITS:
            raise ValueError(f"unknown unit of stress '{self.stress_unit}'; expected one of eV/A^3, GPa, kbar, bar")
        return _STRESS_UNITS[self.stress_unit]

    @staticmethod
    def from_options(config: object) -> LabelFormat:
        """The options of a command that have the names of these fields."""
        names = [entry.name for entry in fields(LabelFormat) if hasattr(config, entry.name)]
        return LabelFormat(**{name: getattr(config, name) for name in names})


@dataclass(frozen=True)
class Factors:
    """Sizes of a file's units in eV, A, eV/A and eV/A^3."""

    energy: float
    length: float
    forces: float
    stress: float
    units: dict[str, str] = field(default_factory=dict)  # their names
