"""CUDA graphs of a TorchForce: when they are used, and what happens to a step whose numbers a graph could not make.

A captured graph replays the same launches on the same memory. It cannot wait for the device, so it cannot raise, and it
cannot make room: where the neighbour list outgrows its room, or something is wrong, energy and forces are NaN.
`GraphStepper` makes the same steps again without a graph, from the state before. There the native op makes room, or
raises what is wrong, so that a list is never cut off and a real failure has its own words.
"""

import logging
from typing import NamedTuple

import numpy as np
import openmm
from openmm import app

from mace_md.errors import InputError, SafetyStop
from mace_md.md.stepping.stepper import Stepper
from mace_md.md.watch.finite import is_blown_up
from mace_md.model.potential import KernelChoice
from mace_md.units import EV_PER_ANGSTROM_TO_KJ_MOL_NM

log = logging.getLogger("mace_md")

WARM_UP_STEPS = 3  # evaluations before a capture: the first makes room, the others see that it was enough
# A graph launches the kernels that were compared with the plain model; this is above the rounding of their sums.
ALLOWED_DEVIATION = 1e-5  # of the largest force


class GraphChoice(NamedTuple):
    """Whether steps are made with a CUDA graph, and why."""

    use: bool
    reason: str


def choose_graphs(wanted: str, *, platform: str, backend: str, kernels: KernelChoice, beads: int) -> GraphChoice:
    """wanted: auto, on or off. Raises InputError, with the reason, where graphs are `on` but impossible."""
    obstacle = _obstacle(platform, backend, kernels, beads)
    if wanted == "off":
        return GraphChoice(False, "asked for")
    if wanted == "on" and obstacle is not None:
        raise InputError(f"--cuda-graphs on: {obstacle[0]}. {obstacle[1]}")
    if obstacle is not None:
        return GraphChoice(False, obstacle[0])
    return GraphChoice(True, "asked for" if wanted == "on" else "native CUDA kernels have shapes that do not change")


def _obstacle(platform: str, backend: str, kernels: KernelChoice, beads: int) -> tuple[str, str] | None:
    """Why there can be no graph, and what to change."""
    if platform != "CUDA":
        return f"the platform is {platform}, and only CUDA has graphs", "Leave the option out."
    if backend != "torchforce":
        return "a PythonForce calls Python in every step, which no graph can hold", "Take --backend torchforce."
    if kernels.name != "native":
        return (
            "the PyTorch kernels make arrays as long as the neighbour list, whose length changes",
            "Take --kernels native, or leave the option out.",
        )
    if beads > 1:
        return "the beads of a path integral take turns on one neighbour list", "Leave the option out."
    return None


class GraphStepper(Stepper):
    """Makes the steps of a simulation with CUDA graphs, and without them where a graph gives no numbers.

    `force` is the TorchForce in the simulation's System. `required`: a graph that cannot be captured, or deviates, is
    an error, not a reason to go on without.
    """

    def __init__(self, simulation: app.Simulation, force: openmm.Force, *, required: bool = False) -> None:
        super().__init__(simulation)
        self._force, self._required = force, required
        self.is_on = False
        self.captures = 0
        self.steps_redone = 0
        self._failed = False

    def start(self) -> None:
        """Capture at the present positions, unless it is done; the result must be that without a graph."""
        if self.is_on or self._failed:
            return
        context = self.simulation.context
        expected = _forces(context)
        before = context.createCheckpoint()
        problem = None
        try:
            self._capture(before)
            problem = _deviation(_forces(context), expected)
        except openmm.OpenMMException as error:
            problem = str(error).strip().splitlines()[-1][:200]
        if problem is None:
            return
        self._set(False, before)
        if self._required:
            raise SafetyStop(f"CUDA graphs: {problem}. Take --cuda-graphs off.")
        self._failed = True
        log.warning("warning: no CUDA graphs: %s", problem)

    def advance(self, count: int) -> None:
        """Make `count` steps; again, from before and without a graph, when numbers come out that are not finite."""
        if not self.is_on:
            self._step(count)
            return
        context = self.simulation.context
        before, first = context.createCheckpoint(), context.getStepCount()
        try:
            self._step(count)
            if self._state_is_finite():
                return
        except openmm.OpenMMException as error:
            if not is_blown_up(error):
                raise
        self._set(False, before)
        self._step(count)  # makes room, or raises what is wrong
        self.steps_redone += count
        log.info("CUDA graphs: steps %d to %d made again without: more room for the list", first, first + count)
        self._capture(context.createCheckpoint())

    def settle(self) -> None:
        """See that the graph can evaluate the present positions; capture it anew, with more room, where it cannot.

        To be called before an evaluation outside of `advance` whose numbers are used.
        """
        if self.is_on and not np.isfinite(_forces(self.simulation.context)).all():
            before = self.simulation.context.createCheckpoint()
            self._set(False, before)
            _forces(self.simulation.context)  # raises what is wrong
            self._capture(before)

    def record(self) -> dict[str, dict[str, object]]:
        """For run.json."""
        found = {"in use": self.is_on, "captures": self.captures, "steps made again": self.steps_redone}
        return {"cuda_graphs": found}

    def _state_is_finite(self) -> bool:
        state = self.simulation.context.getState(positions=True, velocities=True)
        return all(bool(np.isfinite(x._value).all()) for x in (
            state.getPositions(asNumpy=True), state.getVelocities(asNumpy=True)
        ))  # fmt: skip

    def _capture(self, checkpoint: bytes) -> None:
        self._set(True, checkpoint)
        self.captures += 1
        # One graph with forces and one without share the list's memory. Both are captured at the same positions: a
        # warm-up at others could make room elsewhere, and leave the first graph with memory that is not its own.
        context = self.simulation.context
        context.getState(forces=True)
        context.getState(energy=True)

    def _set(self, on: bool, checkpoint: bytes) -> None:
        """Graphs on or off, which a TorchForce learns when its context is made; then the state of `checkpoint`."""
        self._force.setProperty("useCUDAGraphs", "true" if on else "false")
        self._force.setProperty("CUDAGraphWarmupSteps", str(WARM_UP_STEPS))
        context = self.simulation.context
        context.reinitialize()
        context.loadCheckpoint(checkpoint)
        self.is_on = on


def _forces(context: openmm.Context) -> np.ndarray:
    return np.array(context.getState(forces=True).getForces(asNumpy=True)._value)


def _deviation(found: np.ndarray, expected: np.ndarray) -> str | None:
    largest, difference = np.abs(expected).max(initial=0.0), np.abs(found - expected).max(initial=0.0)
    if difference <= ALLOWED_DEVIATION * largest:
        return None
    return f"forces deviate by {difference / EV_PER_ANGSTROM_TO_KJ_MOL_NM:.3g} eV/A from those without a graph"
