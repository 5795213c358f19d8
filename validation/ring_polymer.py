"""Path integrals with a MACE force, against theory that is exact for each number of beads."""

import math
from dataclasses import dataclass, replace

import numpy as np

from mace_md.md.dynamics.barostat import make_barostat
from mace_md.md.dynamics.integrators import make_dynamics
from mace_md.md.dynamics.rpmd import RingPolymer
from mace_md.md.forces.model import make_force
from mace_md.md.stepping.simulation import StepLoop, choose_platform, make_simulation
from mace_md.md.system import make_system
from mace_md.units import BOLTZMANN_KJ_MOL_K
from validation.checks import Check, mean_against
from validation.harmonic import Crystal, free_gyration, harmonic_gyration, ring_mode_energy, volume_moments
from validation.systems import Matter

BEADS = 8
EQUILIBRATION = 100  # samples


@dataclass(frozen=True)
class BeadSamples:
    """A time series. gyrations : squared radius of gyration of each atom, [n, n_atoms], nm^2.   potential : mean of the
    beads, [n], kJ/mol.   volume : [n], nm^3."""

    gyrations: np.ndarray
    potential: np.ndarray
    volume: np.ndarray


def sample_beads(
    matter: Matter, temperature: float, timestep: float, *, friction: float, count: int, every: int, seed: int,
    pressure: float | None = None, barostat_interval: int = 2, equilibration: int = EQUILIBRATION,
) -> BeadSamples:  # fmt: skip
    """Run rings of BEADS beads; with a barostat when there is a pressure (bar).

    friction : 1/ps, of the centroids; the other modes of the rings are damped critically.
    """
    dynamics = make_dynamics(
        matter.masses, ensemble="nvt" if pressure is None else "npt", thermostat="langevin", temperature=temperature,
        friction=friction, timestep=timestep, seed=seed, periodic=True, beads=BEADS,
    )  # fmt: skip
    force = make_force(matter.topology, matter.model, periodic=True, **matter.options)
    barostat = None
    if pressure is not None:
        barostat = make_barostat(
            "isotropic", pressure=pressure, temperature=temperature, interval=barostat_interval,
            rigid_molecules=True, seed=seed, beads=BEADS,
        )  # fmt: skip
    system = make_system(matter.topology, force, barostat=barostat)
    for extra in matter.extra_forces():
        system.addForce(extra)
    simulation = make_simulation(matter.topology, system, dynamics, choose_platform("Reference"), matter.positions)
    rings = RingPolymer(simulation.context)
    rings.collapse(matter.positions, seed)
    rows: list[tuple] = []

    def keep(_: int) -> None:
        volume = simulation.context.getState().getPeriodicBoxVolume()._value
        rows.append((rings.radii(), rings.potential(), volume))

    StepLoop(simulation, [(every, keep)]).run((count + equilibration) * every)
    return BeadSamples(*(np.array(column) for column in zip(*rows[equilibration:], strict=True)))


def free_particles(matter: Matter, temperature: float, samples: BeadSamples) -> list[Check]:
    """Radius of gyration of atoms without interaction."""
    gyrations = samples.gyrations
    expected = np.array([free_gyration(mass, BEADS, temperature) for mass in matter.masses])
    ratio = np.sqrt((gyrations / expected).mean(axis=1).mean())
    series = (gyrations / expected).mean(axis=1)
    check = mean_against(f"free particle, {BEADS} beads: <r_g²>", series, 1.0, "x theory", 4, True)
    size = math.sqrt(expected.mean())
    return [replace(check, found=f"{check.found}; r_g = {ratio * size:.5f} nm", expected=f"{size:.5f} nm")]


def vibrating(crystal: Crystal, temperature: float, samples: BeadSamples) -> list[Check]:
    """Radius of gyration and potential energy of a harmonic crystal; half its energy at T = 0 is zero-point motion."""
    expected = harmonic_gyration(crystal, BEADS, temperature)
    energy = ring_mode_energy(crystal.frequencies, BEADS, temperature).sum()
    classical = 0.5 * len(crystal.frequencies) * BOLTZMANN_KJ_MOL_K * temperature
    ratio = (samples.potential - crystal.energy) / energy
    above = mean_against(f"crystal, {BEADS} beads: potential energy", ratio, 1.0, "x theory", 4, True)
    found = f"{above.found} ({energy / classical:.2f} x classical)"
    radii = (samples.gyrations / expected).mean(axis=1)
    return [
        mean_against(f"crystal, {BEADS} beads: <r_g²>", radii, 1.0, "x theory", 4),
        replace(above, found=found),
    ]


def crystal_volume(lattices: list[Crystal], temperature: float, pressure: float, samples: BeadSamples) -> list[Check]:
    """Mean and variance of the volume of a harmonic crystal under the barostat of ring polymers.

    Its zero-point motion presses the crystal apart: how far from the classical mean volume is in the row.
    """
    mean, width = volume_moments(lattices, temperature, pressure, BEADS)
    classical, _ = volume_moments(lattices, temperature, pressure)
    x = (samples.volume - mean) / width
    check = mean_against(f"crystal, {BEADS} beads: mean volume, from theory's", x, 0.0, "widths", 3, True)
    found = f"{check.found} (classical: {(classical - mean) / width:+.3f})"
    return [
        replace(check, found=found),
        mean_against(f"crystal, {BEADS} beads: variance of volume", x**2, 1.0, "x theory", 3, True),
    ]
