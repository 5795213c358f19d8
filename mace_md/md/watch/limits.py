"""Where physics ends: the limits of the safety watch, and why they are where they are."""

import math
from dataclasses import dataclass

import numpy as np

from mace_md.config.sections import SafetyOptions
from mace_md.structures.molecules import BOND_TOLERANCE, minimum_image
from mace_md.units import ANGSTROM_TO_NM, BOLTZMANN_KJ_MOL_K, EV_TO_KJ_MOL

SMALLEST_CONTACT = 0.4  # A, any pair; below preflight's limit by what vibrations need
# The temperature limit by default: the kinetic energy of so many degrees of freedom reaches it once in about 1e15 looks
# (8 standard deviations in Wilson and Hilferty's transform of the chi-squared distribution), but never below these:
TEMPERATURE_SIGMAS = 8.0
LEAST_TEMPERATURE_FACTOR = 3.0
LEAST_TEMPERATURE_LIMIT = 1000.0  # K; a structure that was not minimised may warm up so far
# Kinetic energy of one atom. Maxwell and Boltzmann give more than 60 kT with a probability of 1e-25; the most
# exothermic steps of reactions leave less than 5 eV in one atom.
ATOM_ENERGY_FACTOR = 60.0
LEAST_ATOM_ENERGY = 5.0 * EV_TO_KJ_MOL  # kJ/mol
BROKEN_BOND = 1.5  # times the sum of the covalent radii (O-H 1.46 A, C-C 2.28 A), and beyond what counts as a bond


@dataclass(frozen=True)
class Limits:
    """What the watch takes for physics.

    max_force : eV/A on an atom. max_temperature : K, or None for the default at `temperature`.
    closest_contact : of the sum of the covalent radii. bond_break, small_box : "warn", "stop" or
    "ignore"; bond_break may be "auto", which stops for stated bonds and warns of those found by distance.
    """

    temperature: float
    max_force: float = 50.0
    max_temperature: float | None = None
    closest_contact: float = 0.5
    bond_break: str = "auto"
    small_box: str = "warn"


def temperature_limit(temperature: float, num_dof: int) -> float:
    """K, above which no thermostat at `temperature` (K) takes `num_dof` degrees of freedom; see the constants above."""
    variance = 2.0 / (9.0 * max(num_dof, 1))
    quantile = (1.0 - variance + TEMPERATURE_SIGMAS * math.sqrt(variance)) ** 3
    return max(temperature * max(quantile, LEAST_TEMPERATURE_FACTOR), LEAST_TEMPERATURE_LIMIT)


def atom_energy_limit(temperature: float, max_temperature: float | None = None) -> float:
    """kJ/mol of kinetic energy that no atom has in a bath at `temperature` (K); see the constants above.

    max_temperature : K, that somebody allowed.
    """
    highest = max(temperature, max_temperature or 0.0, 0.0)
    return max(ATOM_ENERGY_FACTOR * BOLTZMANN_KJ_MOL_K * highest, LEAST_ATOM_ENERGY)


def limits_of(safety: SafetyOptions, temperature: float, beads: int) -> Limits:
    """What the safety watch takes for physics: `temperature` (K) is the highest of the run's bath."""
    return Limits(
        temperature=temperature * beads,
        max_force=safety.max_force,
        max_temperature=None if safety.max_temperature is None else safety.max_temperature * beads,
        closest_contact=safety.closest_contact,
        bond_break=safety.bond_break,
        small_box=safety.small_box,
    )


class ContactLimits:
    """How close two atoms may come, nm: a share of the sum of their covalent radii, and at least the smallest."""

    def __init__(self, numbers: np.ndarray, share: float) -> None:
        from ase.data import covalent_radii

        self._radii = share * covalent_radii[numbers] * ANGSTROM_TO_NM
        self._floor = SMALLEST_CONTACT * ANGSTROM_TO_NM
        self.cutoff = max(2.0 * float(self._radii.max(initial=0.0)), self._floor) if share > 0 else 0.0

    def of(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        return np.maximum(self._radii[i] + self._radii[j], self._floor)


class Bonds:
    """The bonds of the start, which of them somebody stated (all by default), and which broke."""

    def __init__(self, pairs: np.ndarray, numbers: np.ndarray, stated: np.ndarray | None = None) -> None:
        from ase.data import covalent_radii

        self.pairs = np.asarray(pairs, dtype=int).reshape(-1, 2)
        self.stated = np.ones(len(self.pairs), dtype=bool) if stated is None else np.asarray(stated, dtype=bool)
        radii = covalent_radii[numbers][self.pairs].sum(axis=1)
        self._limits = np.maximum(BROKEN_BOND * radii, radii + BOND_TOLERANCE) * ANGSTROM_TO_NM
        self._squares = self._limits**2
        self.broken = np.zeros(len(self.pairs), dtype=bool)

    def newly_broken(self, positions: np.ndarray, box: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the bonds found broken for the first time, and their lengths, nm; those of now count as broken."""
        vectors = positions[self.pairs[:, 1]] - positions[self.pairs[:, 0]]
        over = np.einsum("ij,ij->i", vectors, vectors) > self._squares
        if not over.any():
            return np.zeros(0, dtype=int), np.zeros(0)
        candidates = np.flatnonzero(over & ~self.broken)  # few: those through the box, and the broken
        lengths = np.linalg.norm(minimum_image(vectors[candidates], box), axis=1)
        broken = lengths > self._limits[candidates]
        self.broken[candidates[broken]] = True
        return candidates[broken], lengths[broken]
