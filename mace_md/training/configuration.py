"""A labelled configuration of atoms, and how labels are called and in which units they come.

Everything past the readers is in eV and angstrom. Stress is (dE/d strain) / volume: positive when the system wants to
contract, as in ASE.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from mace_md.errors import InputError
from mace_md.units import EV_PER_CUBIC_ANGSTROM_TO_BAR, unit_size

ISOLATED_ATOM = "IsolatedAtom"  # config_type of the frames that give E0s, as mace-torch has it
LABELS = ("energy", "forces", "stress")
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
    file: str = ""  # where it was read
    frame: int = 0  # counted from 0

    @property
    def where(self) -> str:
        """File and frame, for messages."""
        return f"{self.file}, frame {self.frame} (counted from 0)" if self.file else f"frame {self.frame}"

    @property
    def is_isolated_atom(self) -> bool:
        """Whether it gives the energy of an isolated atom: one atom, marked so or without a box."""
        if len(self.atomic_numbers) != 1:
            return False
        return self.config_type.lower() == ISOLATED_ATOM.lower() or not any(self.pbc)


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
            return Factors(energy, length, forces, self._stress_factor(energy / length**3))
        except ValueError as error:
            raise InputError(f"units of the labels: {error}") from None

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
