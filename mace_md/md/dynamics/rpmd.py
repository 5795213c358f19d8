"""Path integrals: every atom is a ring of P beads on springs, and the beads sample its quantum distribution.

OpenMM's RPMDIntegrator moves the beads (thermostat PILE: Ceriotti et al., J. Chem. Phys. 133, 124104, 2010). Here
is what it leaves to others: setting the beads, reading them, and the estimators.

The beads move at P times the temperature on

    H_P = sum_k [ sum_i p_ik^2 / 2 m_i + V(r_k) + sum_i m_i w_P^2 |r_ik - r_i,k+1|^2 / 2 ],    w_P = P k T / hbar.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import openmm
from openmm import app, unit

from mace_md.units import BOLTZMANN_KJ_MOL_K, HBAR_KJ_MOL_PS

_NM, _VELOCITY = unit.nanometer, unit.nanometer / unit.picosecond
_KJ, _FORCE = unit.kilojoule_per_mole, unit.kilojoule_per_mole / unit.nanometer


class Estimates(NamedTuple):
    """Of one moment, kJ/mol and K; the quantum energy of the system is potential + kinetic, on average.

    potential : mean over the beads.
    kinetic : centroid virial estimator, 3 N k T / 2 - sum_ik (r_ik - c_i) F_ik / 2P.
    kinetic_primitive : 3 N P k T / 2 - sum of the springs / P; the same on average, with more noise.
    conserved : H_P / P.
    temperature : of the beads, 2 K / (num_dof k P), K over all beads; of the method, not of the quantum system.
    """

    potential: float
    kinetic: float
    kinetic_primitive: float
    conserved: float
    temperature: float


class RingPolymer:
    """The beads behind a Context with an RPMDIntegrator. Arrays [beads, n_atoms, 3] in nm and nm/ps."""

    def __init__(self, context: openmm.Context) -> None:
        self.context = context
        self.integrator: openmm.RPMDIntegrator = context.getIntegrator()
        self.count: int = self.integrator.getNumCopies()
        system = context.getSystem()
        self.masses = np.array([system.getParticleMass(i)._value for i in range(system.getNumParticles())])

    @property
    def temperature(self) -> float:
        """K, of the quantum system."""
        return float(self.integrator.getTemperature().value_in_unit(unit.kelvin))

    @functools.cached_property
    def num_mobile(self) -> int:
        return int((self.masses > 0).sum())

    def collapse(self, positions: np.ndarray, seed: int) -> None:
        """Put every bead of an atom at its one position, with velocities of P times the temperature.

        The thermostat spreads the rings within a few periods of the slowest spring, hbar / k T (25 fs at 300 K).
        """
        rng = np.random.default_rng(seed)
        scale = np.zeros_like(self.masses)
        mobile = self.masses > 0
        scale[mobile] = np.sqrt(self.count * BOLTZMANN_KJ_MOL_K * self.temperature / self.masses[mobile])
        velocities = rng.normal(size=(self.count, len(self.masses), 3)) * scale[:, None]
        self.put(np.repeat(positions[None], self.count, axis=0), velocities)

    def put(self, positions: np.ndarray, velocities: np.ndarray) -> None:
        """Set all beads."""
        for k in range(self.count):
            self.integrator.setPositions(k, positions[k])
            self.integrator.setVelocities(k, velocities[k])

    def take(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions and velocities of all beads."""
        states = [self.integrator.getState(k, getPositions=True, getVelocities=True) for k in range(self.count)]
        positions = np.stack([state.getPositions(asNumpy=True).value_in_unit(_NM) for state in states])
        velocities = np.stack([state.getVelocities(asNumpy=True).value_in_unit(_VELOCITY) for state in states])
        return positions, velocities

    def centroid(self) -> np.ndarray:
        """[n_atoms, 3] nm, the mean position of the beads of each atom. OpenMM never wraps a bead by itself."""
        return self.take()[0].mean(axis=0)

    def potential(self, groups: int | set[int] = -1) -> float:
        """kJ/mol, of the forces in `groups`, mean over the beads."""
        states = [self.integrator.getState(k, getEnergy=True, groups=groups) for k in range(self.count)]
        return float(np.mean([state.getPotentialEnergy().value_in_unit(_KJ) for state in states]))

    def forces(self, groups: int | set[int] = -1) -> np.ndarray:
        """[n_atoms, 3] kJ/mol/nm, mean over the beads: the force on the centroid."""
        states = [self.integrator.getState(k, getForces=True, groups=groups) for k in range(self.count)]
        return np.mean([state.getForces(asNumpy=True).value_in_unit(_FORCE) for state in states], axis=0)

    def estimate(self, num_dof: int | None = None) -> Estimates:
        """The estimators at this moment: P evaluations of the force. num_dof: 3 P n_mobile when None."""
        potential = kinetic_of_beads = virial = 0.0
        positions, _ = self.take()
        centroid = positions.mean(axis=0)
        mobile = self.masses > 0
        for k in range(self.count):
            state = self.integrator.getState(k, getEnergy=True, getForces=True)
            potential += state.getPotentialEnergy().value_in_unit(_KJ)
            kinetic_of_beads += state.getKineticEnergy().value_in_unit(_KJ)
            forces = state.getForces(asNumpy=True).value_in_unit(_FORCE)
            virial += float(((positions[k] - centroid) * forces)[mobile].sum())
        thermal = 1.5 * self.num_mobile * BOLTZMANN_KJ_MOL_K * self.temperature
        springs = self.spring_energy(positions)
        num_dof = 3 * self.count * self.num_mobile if num_dof is None else num_dof
        return Estimates(
            potential=potential / self.count,
            kinetic=thermal - virial / (2 * self.count),
            kinetic_primitive=self.count * thermal - springs / self.count,
            conserved=(potential + kinetic_of_beads + springs) / self.count,
            temperature=2 * kinetic_of_beads / (num_dof * BOLTZMANN_KJ_MOL_K * self.count),
        )

    def spring_energy(self, positions: np.ndarray) -> float:
        """kJ/mol, of all springs between the beads."""
        frequency = self.count * BOLTZMANN_KJ_MOL_K * self.temperature / HBAR_KJ_MOL_PS  # 1/ps
        stretch = ((positions - np.roll(positions, -1, axis=0)) ** 2).sum(axis=(0, 2))
        return float(0.5 * frequency**2 * (self.masses * stretch).sum())

    def radii(self) -> np.ndarray:
        """[n_atoms] nm^2, squared radius of gyration of each ring: mean squared distance of beads from the centroid.

        For a free particle and many beads its average is hbar^2 / (4 m k T).
        """
        positions, _ = self.take()
        return ((positions - positions.mean(axis=0)) ** 2).sum(axis=2).mean(axis=0)


def is_ring_polymer(context: openmm.Context) -> bool:
    """Whether the integrator of the context moves beads."""
    return isinstance(context.getIntegrator(), openmm.RPMDIntegrator)


def step_function(simulation: app.Simulation) -> Callable[[int], None]:
    """What makes a number of steps: the integrator, called once for each step where beads have a barostat.

    OpenMM (8.6 and before) asks the barostat of path integrals once in each call of `step`, whatever number of steps is
    asked for, so that its interval would count calls.
    """
    integrator = simulation.integrator
    with_barostat = any(isinstance(force, openmm.RPMDMonteCarloBarostat) for force in simulation.system.getForces())
    if not with_barostat:
        return integrator.step

    def one_by_one(count: int) -> None:
        for _ in range(count):
            integrator.step(1)

    return one_by_one
