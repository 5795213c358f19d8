"""Ring-polymer dynamics by OpenMM's RPMDIntegrator with a MACE force, against theory exact for each number of beads."""

import math

import numpy as np
import openmm

from benchmarks.validation.checks import Check, mean_against
from benchmarks.validation.harmonic import Crystal, free_gyration, harmonic_gyration, ring_mode_energy
from benchmarks.validation.systems import Matter
from mace_md.md.force import make_force
from mace_md.md.system import make_system
from mace_md.units import BOLTZMANN_KJ_MOL_K, FS_TO_PS

BEADS = 8
FRICTION = 5.0  # 1/ps, of the centroid; the internal modes are damped critically (Ceriotti et al., JCP 133, 124104, 2010)


def sample_beads(
    matter: Matter, temperature: float, timestep: float, *, count: int, every: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Squared radius of gyration of each atom, [count, n_atoms], nm^2; mean potential energy of the beads, kJ/mol."""
    force = make_force(matter.topology, matter.model, periodic=matter.box is not None, **matter.options)
    integrator = openmm.RPMDIntegrator(BEADS, temperature, FRICTION, timestep * FS_TO_PS)
    integrator.setRandomNumberSeed(seed)
    system = make_system(matter.topology, force)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(matter.positions)
    rng = np.random.default_rng(seed)
    speeds = np.sqrt(BOLTZMANN_KJ_MOL_K * temperature * BEADS / matter.masses)[:, None]
    for bead in range(BEADS):
        integrator.setPositions(bead, matter.positions)
        integrator.setVelocities(bead, speeds * rng.normal(size=matter.positions.shape))
    integrator.step(50 * every)
    gyrations, energies = [], []
    for _ in range(count):
        integrator.step(every)
        states = [integrator.getState(bead, getPositions=True, getEnergy=True) for bead in range(BEADS)]
        beads = np.array([state.getPositions(asNumpy=True)._value for state in states])
        gyrations.append(((beads - beads.mean(axis=0)) ** 2).sum(axis=2).mean(axis=0))
        energies.append(np.mean([state.getPotentialEnergy()._value for state in states]))
    return np.array(gyrations), np.array(energies)


def free_particles(matter: Matter, temperature: float, gyrations: np.ndarray) -> list[Check]:
    """Radius of gyration of atoms without interaction."""
    expected = np.array([free_gyration(mass, BEADS, temperature) for mass in matter.masses])
    ratio = np.sqrt((gyrations / expected).mean(axis=1).mean())
    series = (gyrations / expected).mean(axis=1)
    check = mean_against(f"free particle, {BEADS} beads: <r_g²>", series, 1.0, "x theory", 4)
    size = math.sqrt(expected.mean())
    return [Check(check.quantity, f"{check.found}; r_g = {ratio * size:.5f} nm", f"{size:.5f} nm", check.sigma)]


def vibrating(crystal: Crystal, temperature: float, gyrations: np.ndarray, energies: np.ndarray) -> list[Check]:
    """Radius of gyration and potential energy of a harmonic crystal; half its energy at T = 0 is zero-point motion."""
    expected = harmonic_gyration(crystal, BEADS, temperature)
    energy = ring_mode_energy(crystal.frequencies, BEADS, temperature).sum()
    classical = 0.5 * len(crystal.frequencies) * BOLTZMANN_KJ_MOL_K * temperature
    above = mean_against(f"crystal, {BEADS} beads: potential energy", (energies - crystal.energy) / energy, 1.0, "x theory", 4)
    found = f"{above.found} ({energy / classical:.2f} x classical)"
    return [
        mean_against(f"crystal, {BEADS} beads: <r_g²>", (gyrations / expected).mean(axis=1), 1.0, "x theory", 4),
        Check(above.quantity, found, above.expected, above.sigma),
    ]
