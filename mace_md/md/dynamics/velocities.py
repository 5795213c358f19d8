"""Velocities at a temperature, without the motion that a run would keep for ever."""

import numpy as np
from openmm import app, unit

from mace_md.md.dynamics.integrators import Dynamics
from mace_md.md.dynamics.rpmd import RingPolymer, is_ring_polymer
from mace_md.md.dynamics.temperature import temperature_of


def set_velocities(simulation: app.Simulation, dynamics: Dynamics, temperature: float, seed: int) -> None:
    """Draw velocities at `temperature` (K), then take out the motion that `dynamics` would keep for ever.

    The mean kinetic energy of what is left is num_dof k T / 2.
    """
    context = simulation.context
    context.setVelocitiesToTemperature(temperature, max(seed, 1))
    if is_ring_polymer(context):
        positions = context.getState(positions=True).getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        RingPolymer(context).collapse(np.array(positions), seed)
        return
    remove_kept_motion(simulation, dynamics)


def take_velocities(simulation: app.Simulation, dynamics: Dynamics, velocities: np.ndarray) -> float:
    """Set `velocities` [n_atoms, 3] nm/ps, less the motion that `dynamics` would keep for ever; the temperature, K.

    Atoms that do not move have none.
    """
    context = simulation.context
    system = context.getSystem()
    mobile = np.array([system.getParticleMass(i)._value > 0 for i in range(system.getNumParticles())])
    context.setVelocities(np.where(mobile[:, None], velocities, 0.0))
    remove_kept_motion(simulation, dynamics)
    kinetic = context.getState(energy=True).getKineticEnergy().value_in_unit(unit.kilojoule_per_mole)
    return temperature_of(kinetic, dynamics.num_dof)


def remove_kept_motion(simulation: app.Simulation, dynamics: Dynamics) -> None:
    """Take out the translation and rotation as a whole that `dynamics` would keep for ever, and does not count."""
    if not (dynamics.remove_translation or dynamics.remove_rotation):
        return
    context = simulation.context
    state = context.getState(positions=True, velocities=True)
    positions = np.array(state.getPositions(asNumpy=True).value_in_unit(unit.nanometer))
    velocities = np.array(state.getVelocities(asNumpy=True).value_in_unit(unit.nanometer / unit.picosecond))
    system = context.getSystem()
    masses = np.array([system.getParticleMass(i).value_in_unit(unit.dalton) for i in range(system.getNumParticles())])
    if dynamics.remove_translation:
        velocities -= (masses @ velocities) / masses.sum()
    if dynamics.remove_rotation and len(masses) > 1:
        velocities = without_rotation(positions, velocities, masses)
    context.setVelocities(velocities)


def without_rotation(positions: np.ndarray, velocities: np.ndarray, masses: np.ndarray) -> np.ndarray:
    """`velocities` [n, 3] less the rigid rotation about the centre of mass that carries the angular momentum."""
    arms = positions - (masses @ positions) / masses.sum()
    momentum = (masses[:, None] * np.cross(arms, velocities)).sum(axis=0)
    inertia = (masses * (arms**2).sum(axis=1)).sum() * np.eye(3) - (masses[:, None] * arms).T @ arms
    rate = np.linalg.pinv(inertia, rcond=1e-10) @ momentum  # a line has no inertia about itself
    return velocities - np.cross(rate, arms)


def is_linear(positions: np.ndarray) -> bool:
    """True when all atoms lie on one line, to 1e-3 of its length."""
    singular = np.linalg.svd(positions - positions.mean(axis=0), compute_uv=False)
    return len(positions) < 3 or bool(singular[1] < 1e-3 * singular[0])
