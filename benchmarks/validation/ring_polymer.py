"""Path integrals with a MACE force, against theory that is exact for each number of beads."""

import math

import numpy as np

from benchmarks.validation.checks import Check, mean_against
from benchmarks.validation.harmonic import Crystal, free_gyration, harmonic_gyration, ring_mode_energy
from benchmarks.validation.systems import Matter
from mace_md.md.force import make_force
from mace_md.md.integrators import make_dynamics
from mace_md.md.rpmd import RingPolymer
from mace_md.md.simulation import StepLoop, choose_platform, make_simulation
from mace_md.md.system import make_system
from mace_md.units import BOLTZMANN_KJ_MOL_K

BEADS = 8
EQUILIBRATION = 100  # samples


def sample_beads(
    matter: Matter, temperature: float, timestep: float, *, friction: float, count: int, every: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Squared radius of gyration of each atom, [count, n_atoms], nm^2; mean potential energy of the beads, kJ/mol.

    friction : 1/ps, of the centroids; the other modes of the rings are damped critically.
    """
    dynamics = make_dynamics(
        matter.masses, ensemble="nvt", thermostat="langevin", temperature=temperature, friction=friction,
        timestep=timestep, seed=seed, periodic=True, beads=BEADS,
    )  # fmt: skip
    force = make_force(matter.topology, matter.model, periodic=True, **matter.options)
    system = make_system(matter.topology, force)
    simulation = make_simulation(matter.topology, system, dynamics, choose_platform("Reference"), matter.positions)
    rings = RingPolymer(simulation.context)
    rings.collapse(matter.positions, seed)
    gyrations, energies = [], []

    def keep(_: int) -> None:
        gyrations.append(rings.radii())
        energies.append(rings.potential())

    StepLoop(simulation, [(every, keep)]).run((count + EQUILIBRATION) * every)
    return np.array(gyrations[EQUILIBRATION:]), np.array(energies[EQUILIBRATION:])


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
    ratio = (energies - crystal.energy) / energy
    above = mean_against(f"crystal, {BEADS} beads: potential energy", ratio, 1.0, "x theory", 4)
    found = f"{above.found} ({energy / classical:.2f} x classical)"
    return [
        mean_against(f"crystal, {BEADS} beads: <r_g²>", (gyrations / expected).mean(axis=1), 1.0, "x theory", 4),
        Check(above.quantity, found, above.expected, above.sigma),
    ]
