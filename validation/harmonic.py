"""Exact statistical mechanics of a crystal that is cold enough to be harmonic; classical, and of ring polymers.

The Hessian is that of the MACE model itself, by central differences of the forces of its plain PyTorch form, which is
not what the simulation runs.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats

from mace_md.model.potential import make_potential
from mace_md.units import BOLTZMANN_KJ_MOL_K, HBAR_KJ_MOL_PS
from validation.checks import Check, mean_against
from validation.deviations import mean_of
from validation.sampling import Samples
from validation.systems import BAR_NM3, Matter

DISPLACEMENT = 1e-5  # nm
RIGID = 3  # modes of a crystal without a frequency: it may move as a whole


@dataclass(frozen=True)
class Crystal:
    """The minimum of a crystal and its vibrations.

    energy : kJ/mol.   frequencies : [3 n - 3], rad/ps, ascending.   modes : [3 n, 3 n - 3], orthonormal columns in
    mass-weighted coordinates.
    """

    matter: Matter
    energy: float
    frequencies: np.ndarray
    modes: np.ndarray

    def mode_energies(self, positions: np.ndarray) -> np.ndarray:
        """Potential energy of each mode, [n_samples, 3 n - 3], kJ/mol, of positions [n_samples, n_atoms, 3], nm."""
        moved = positions - self.matter.positions
        masses = self.matter.masses
        moved = moved - (np.einsum("a,tax->tx", masses, moved) / masses.sum())[:, None]
        amplitudes = (moved * np.sqrt(masses)[:, None]).reshape(len(moved), -1) @ self.modes
        return 0.5 * (self.frequencies * amplitudes) ** 2


def crystal(matter: Matter) -> Crystal:
    """The vibrations of `matter`, whose positions have to be a minimum."""
    potential, _ = make_potential(matter.model, [a.element.atomic_number for a in matter.topology.atoms()],
                                  periodic=True, kernels="reference")  # fmt: skip
    box = torch.from_numpy(matter.box)
    count = len(matter.positions)

    def evaluate(positions: np.ndarray) -> tuple[float, np.ndarray]:
        energy, forces = potential(torch.from_numpy(positions), box)
        return float(energy), forces.numpy()

    energy, forces = evaluate(matter.positions)
    if np.abs(forces).max() > 1e-6 * np.abs(energy):
        raise ValueError(f"forces of up to {np.abs(forces).max():.3g} kJ/mol/nm: not a minimum")
    hessian = np.empty((3 * count, 3 * count))
    for k in range(3 * count):
        shifted = [matter.positions.copy(), matter.positions.copy()]
        for sign, positions in zip((1, -1), shifted, strict=True):
            positions.flat[k] += sign * DISPLACEMENT
        hessian[k] = (evaluate(shifted[1])[1] - evaluate(shifted[0])[1]).ravel() / (2 * DISPLACEMENT)
    weights = 1 / np.sqrt(np.repeat(matter.masses, 3))
    dynamical = 0.5 * (hessian + hessian.T) * weights * weights[:, None]
    squared, modes = np.linalg.eigh(dynamical)
    order = np.argsort(np.abs(squared))  # three of nearly zero come first
    rigid, rest = order[:RIGID], np.sort(order[RIGID:])
    if squared[rest].min() < 1e3 * np.abs(squared[rigid]).max():
        raise ValueError(f"the crystal is not stable: smallest eigenvalue {squared[rest].min():.3g} /ps^2")
    return Crystal(matter, energy, np.sqrt(squared[rest]), modes[:, rest])


def classical(crystal: Crystal, samples: Samples, temperature: float, each_mode: bool = True) -> list[Check]:
    """<U> = (3n - 3) kT / 2 above the minimum; each mode kT / 2; the mean-square displacements of the atoms.

    each_mode : False for a thermostat that scales all velocities alike: it moves no energy between the modes of a
        harmonic crystal, and only their sum comes to its mean.
    """
    kT = BOLTZMANN_KJ_MOL_K * temperature
    count = len(crystal.frequencies)
    above = (samples.potential - crystal.energy) / (0.5 * count * kT)
    checks = [mean_against("crystal, potential energy", above, 1.0, f"x {count} kT/2", 4, True)]
    if not each_mode:
        return checks
    energies = crystal.mode_energies(samples.positions.astype(float)) / (0.5 * kT)
    checks.append(_modes_alike(energies))
    matter = crystal.matter
    moved = samples.positions.astype(float) - matter.positions
    moved -= (np.einsum("a,tax->tx", matter.masses, moved) / matter.masses.sum())[:, None]
    per_mode = crystal.modes.reshape(len(matter.masses), 3, -1) ** 2 / matter.masses[:, None, None]
    expected = kT * (per_mode / crystal.frequencies**2).sum(axis=(1, 2))  # [n_atoms]
    for mass in sorted(set(matter.masses.tolist())):
        group = matter.masses == mass
        ratio = (moved[:, group] ** 2).sum(axis=2).mean(axis=1) / expected[group].mean()
        checks.append(mean_against(f"crystal, mean-square displacement of {mass:.4g} Da", ratio, 1.0, "x theory", 4))
    return checks


def _modes_alike(energies: np.ndarray) -> Check:
    """Chi-square of the mean energies of all modes, in units of kT / 2, against 1."""
    deviations = np.array([mean_of(series).sigma(1.0) for series in energies.T])
    chi2 = float((deviations**2).sum())
    sigma = float(stats.norm.isf(stats.chi2.sf(chi2, len(deviations))))
    return Check("crystal, energy of each mode", f"chi² = {chi2:.0f}", f"{len(deviations)} modes at kT/2", sigma)


# ------------------------------------------------------------------------------------------------ constant pressure


def volume_moments(lattices: list[Crystal], temperature: float, pressure: float, beads: int = 1) -> tuple[float, float]:
    """Mean and standard deviation (nm^3) of the volume under an isotropic barostat, in quasi-harmonic theory.

        p(V) ~ V exp(-(E0(V) + P V) / kT) prod_modes,k (omega(V)^2 + ring_k^2)^(-1/2)

    The factor V is the crystal as a whole, free to be anywhere. `lattices`: the crystal at several volumes; E0 and the
    sum of logarithms are polynomials through them. One bead, k = 0 alone, is the classical crystal.
    """
    kT = BOLTZMANN_KJ_MOL_K * temperature
    volumes = np.array([np.linalg.det(c.matter.box) for c in lattices])
    middle, scale = volumes.mean(), np.ptp(volumes) / 2
    x = (volumes - middle) / scale
    energy = np.polynomial.Polynomial.fit(x, [c.energy for c in lattices], len(x) - 1)
    ring = ring_frequencies(beads, temperature)
    sums = [0.5 * np.log(c.frequencies[:, None] ** 2 + ring**2).sum() for c in lattices]
    logs = np.polynomial.Polynomial.fit(x, sums, min(3, len(x) - 1))
    grid = np.linspace(-1, 1, 20001)
    V = middle + scale * grid
    exponent = np.log(V) - (energy(grid) + pressure * BAR_NM3 * V) / kT - logs(grid)
    weight = np.exp(exponent - exponent.max())
    if max(weight[0], weight[-1]) > 1e-6:
        raise ValueError("the volumes given do not enclose the distribution")
    weight /= weight.sum()
    mean = float(weight @ V)
    return mean, float(np.sqrt(weight @ (V - mean) ** 2))


# ------------------------------------------------------------------------------------------------ ring polymers


def ring_frequencies(beads: int, temperature: float) -> np.ndarray:
    """Frequencies (rad/ps) of the normal modes of a free ring polymer of `beads` beads, k = 0 first."""
    kT = BOLTZMANN_KJ_MOL_K * temperature
    return 2 * beads * kT / HBAR_KJ_MOL_PS * np.sin(np.arange(beads) * np.pi / beads)


def free_gyration(mass: float, beads: int, temperature: float) -> float:
    """<r_g^2> (nm^2) of the ring polymer of a free particle: hbar^2 (n^2 - 1) / (4 m kT n^2)."""
    return HBAR_KJ_MOL_PS**2 * (beads**2 - 1) / (4 * mass * BOLTZMANN_KJ_MOL_K * temperature * beads**2)


def ring_mode_energy(frequencies: np.ndarray, beads: int, temperature: float) -> np.ndarray:
    """Mean potential energy (kJ/mol) of harmonic modes (rad/ps), averaged over any number of beads."""
    kT = BOLTZMANN_KJ_MOL_K * temperature
    ring = ring_frequencies(beads, temperature)
    ratio = frequencies[:, None] ** 2 / (ring**2 + frequencies[:, None] ** 2)
    return 0.5 * kT * ratio.sum(axis=1)


def harmonic_gyration(crystal: Crystal, beads: int, temperature: float) -> np.ndarray:
    """<r_g^2> (nm^2) of the ring polymer of each atom of a harmonic crystal, its motion as a whole included."""
    kT = BOLTZMANN_KJ_MOL_K * temperature
    ring = ring_frequencies(beads, temperature)[1:]
    spread = kT / (ring**2 + np.r_[np.zeros(RIGID), crystal.frequencies][:, None] ** 2)  # [3 n, beads - 1]
    masses = crystal.matter.masses
    rigid = np.zeros((3 * len(masses), RIGID))
    for axis in range(RIGID):
        rigid[axis::3, axis] = np.sqrt(masses / masses.sum())
    modes = np.c_[rigid, crystal.modes].reshape(len(masses), 3, -1)
    return (modes**2 @ spread.sum(axis=1)).sum(axis=1) / masses
