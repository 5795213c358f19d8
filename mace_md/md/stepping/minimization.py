"""Minimisation that cannot leap: L-BFGS directions, cut to a trust radius, and taken only where the energy falls.

OpenMM's own minimiser tries 1 nm along the force first. In a machine-learned potential free atoms may lie lower than
the molecule, and such a leap, over the barrier between them, would be accepted. Here no atom moves by more than
LARGEST_STEP at once, and what is followed is a path down from the start.

Directions: two-loop recursion of Nocedal, Math. Comp. 35, 773 (1980). Radius: halved and more where the energy rose,
widened where a cut step lowered it (Nocedal and Wright, Numerical Optimization, 2nd ed., chapter 4). A step costs one
evaluation, by OpenMM in the Context where the atoms are, on whatever platform; the vectors are numpy's.
"""

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import openmm
from openmm import app

from mace_md.errors import SafetyStop
from mace_md.md.watch.finite import numbers_stay_finite
from mace_md.units import ANGSTROM_TO_NM, EV_PER_ANGSTROM_TO_KJ_MOL_NM

FIRST_STEP, LARGEST_STEP = 0.05 * ANGSTROM_TO_NM, 0.1 * ANGSTROM_TO_NM  # of the atom that moves most
SMALLEST_STEP = 1e-6  # nm; a shorter one changes no energy that can be resolved
# kJ/mol/nm^2 (70 eV/A^2), a stiff bond: what the first step takes every direction for, as ASE's optimisers do.
STIFFNESS = 70.0 * EV_PER_ANGSTROM_TO_KJ_MOL_NM / ANGSTROM_TO_NM
MEMORY = 10  # steps whose curvature is remembered
SUFFICIENT = 1e-4  # of the fall that the slope promises (Armijo)


@dataclass(frozen=True)
class Minimization:
    """What a minimisation did: potential energies (kJ/mol), largest force on an atom (kJ/mol/nm), steps.

    `converged`: the tolerance was reached; `exhausted`: no lower energy was to be had in this precision.
    """

    energy_before: float
    energy_after: float
    force_before: float
    force_after: float
    iterations: int
    converged: bool
    exhausted: bool
    seconds: float


class Point(NamedTuple):
    """Energy (kJ/mol) and gradient [n_mobile, 3] (kJ/mol/nm) of the atoms that move, at their positions (nm)."""

    positions: np.ndarray
    energy: float
    gradient: np.ndarray

    @property
    def rms_force(self) -> float:
        """Root mean square of the components, kJ/mol/nm."""
        return float(np.sqrt((self.gradient**2).mean()))

    @property
    def largest_force(self) -> float:
        """On an atom, kJ/mol/nm."""
        return _longest(self.gradient)


def minimize(
    simulation: app.Simulation,
    *,
    tolerance: float,
    max_iterations: int,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[str], None] = lambda line: None,
) -> Minimization:
    """Minimise the potential energy to a root-mean-square force of `tolerance` (kJ/mol/nm), or `max_iterations` steps.

    The simulation ends at the lowest point met, which is never higher than the start. Before each step `stop()` is
    asked, and after it `progress` gets a line with the energy and the largest force. A max_iterations of 0 is no
    limit. Raises SafetyStop when the energy or the forces of the start are not finite.
    """
    begin = time.perf_counter()
    with numbers_stay_finite("minimisation"):
        surface = _Surface(simulation)
        before = now = surface.here()
        course, done = _Course(), 0
        while now.rms_force > tolerance and not course.exhausted and not stop():
            if 0 < max_iterations <= done:
                break
            now, done = course.step(surface, now), done + 1
            progress(
                f"minimise: after {done} iterations energy {now.energy:.3f} kJ/mol, largest force "
                f"{now.largest_force / EV_PER_ANGSTROM_TO_KJ_MOL_NM:.4f} eV/A"
            )
        surface.move_to(now.positions)
    return Minimization(
        before.energy, now.energy, before.largest_force, now.largest_force, done,
        converged=now.rms_force <= tolerance, exhausted=course.exhausted, seconds=time.perf_counter() - begin,
    )  # fmt: skip


class _Surface:
    """The potential energy of a simulation over the atoms that move: those with a mass."""

    def __init__(self, simulation: app.Simulation) -> None:
        self._context: openmm.Context = simulation.context
        system = simulation.system
        self._mobile = np.array([system.getParticleMass(i)._value > 0 for i in range(system.getNumParticles())])
        self._all = np.array(self._context.getState(positions=True).getPositions(asNumpy=True)._value)

    def here(self) -> Point:
        """Where the simulation is. Raises SafetyStop where the energy or a force is not finite."""
        found = self._point(self._all[self._mobile])
        if not _is_finite(found):
            raise SafetyStop(
                "the energy or the forces of the structure are not finite numbers. Atoms may overlap: see the closest "
                "contact above; or the model is far from what it was trained on."
            )
        return found

    def at(self, positions: np.ndarray) -> Point:
        """The simulation moved to `positions`."""
        self.move_to(positions)
        return self._point(positions)

    def move_to(self, positions: np.ndarray) -> None:
        self._all[self._mobile] = positions
        self._context.setPositions(self._all)

    def _point(self, positions: np.ndarray) -> Point:
        state = self._context.getState(energy=True, forces=True)
        forces = np.asarray(state.getForces(asNumpy=True)._value)[self._mobile]  # whatever acts on atoms held still
        return Point(positions, state.getPotentialEnergy()._value, -forces)


class _Course:
    """The way down: what is known of the curvature, and how far the next step may go."""

    def __init__(self) -> None:
        self.radius = FIRST_STEP
        self._known: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=MEMORY)  # steps and changes of the gradient

    @property
    def exhausted(self) -> bool:
        """Whether steps have become too short to lower the energy."""
        return self.radius < SMALLEST_STEP

    def step(self, surface: _Surface, now: Point) -> Point:
        """A lower point than `now`, or `now` after steps that only taught the curvature and shortened the radius."""
        step = self._direction(now.gradient)
        if (slope := float(np.vdot(step, now.gradient))) >= 0:  # what is known no longer describes the surface
            self._known.clear()
            step = self._direction(now.gradient)
            slope = float(np.vdot(step, now.gradient))
        cut = self.radius / max(_longest(step), 1e-300)
        if cut < 1.0:
            step, slope = step * cut, slope * cut
        found = surface.at(now.positions + step)
        if not _is_finite(found):
            self.radius = 0.25 * _longest(step)
            return now
        self._learn(step, found.gradient - now.gradient)
        if found.energy > now.energy + SUFFICIENT * slope:
            self.radius = 0.4 * _longest(step)
            return now
        if cut < 1.0:
            self.radius = min(1.5 * self.radius, LARGEST_STEP)
        return found

    def _learn(self, step: np.ndarray, change: np.ndarray) -> None:
        """Remember a curvature that is positive, beyond rounding."""
        if np.vdot(step, change) > 1e-10 * np.linalg.norm(step) * np.linalg.norm(change):
            self._known.append((step, change))

    def _direction(self, gradient: np.ndarray) -> np.ndarray:
        """Minus the inverse of the curvature, as far as it is known, times the gradient."""
        direction, weights = -gradient, []
        for step, change in reversed(self._known):
            weight = np.vdot(step, direction) / np.vdot(step, change)
            direction = direction - weight * change
            weights.append(weight)
        if self._known:
            step, change = self._known[-1]
            direction = direction * (np.vdot(step, change) / np.vdot(change, change))
        else:
            direction = direction / STIFFNESS
        for (step, change), weight in zip(self._known, reversed(weights), strict=True):
            direction = direction + step * (weight - np.vdot(change, direction) / np.vdot(step, change))
        return direction


def _longest(vectors: np.ndarray) -> float:
    return math.sqrt(np.einsum("ij,ij->i", vectors, vectors).max(initial=0.0))


def _is_finite(point: Point) -> bool:
    return math.isfinite(point.energy) and bool(np.isfinite(point.gradient).all())
