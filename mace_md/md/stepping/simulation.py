"""From a System to the end of a run: platform, Simulation, and the loop over steps."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import openmm
from openmm import app

from mace_md.errors import InputError
from mace_md.md.dynamics.integrators import Dynamics
from mace_md.md.dynamics.rpmd import step_function
from mace_md.md.watch.finite import numbers_stay_finite

log = logging.getLogger("mace_md")

LONGEST_SILENCE = 0.5  # s; signals and the clock are looked at this often
WARM_UP_EVALUATIONS = 3
GPU_PLATFORMS = ("CUDA", "HIP", "OpenCL")


@dataclass(frozen=True)
class PlatformChoice:
    """An OpenMM platform, its properties, and why it was taken."""

    platform: openmm.Platform
    properties: dict[str, str]
    reason: str


def choose_platform(
    name: str = "auto",
    *,
    precision: str = "auto",
    device_index: int | None = None,
    threads: int | None = None,
    deterministic: bool = False,
) -> PlatformChoice:
    """The platform to run on: the one named, or with 'auto' a CUDA device that works, else Reference.

    `deterministic`: forces that OpenMM itself adds up on a GPU do not depend on the order of threads.

    Without a GPU the model is all the work, and it runs on all threads whatever the platform. What OpenMM adds on a
    step is then least on Reference: 1, 11 and 105 us for 9, 99 and 999 atoms (Langevin), against 109, 124 and 227 us
    on CPU; at 12,000 atoms both take 1.3 ms. Both hand float64 positions to the model; Reference also integrates in
    float64.

    Raises InputError with the platforms there are when the one named is missing or does not start.
    """
    known = [openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms())]
    if name == "auto":
        reason = "no CUDA platform in this OpenMM; Reference costs least beside a machine-learned force"
        if "CUDA" in known:
            choice = _platform("CUDA", precision, device_index, threads, deterministic)
            failure = _start_failure(choice)
            if failure is None:
                return choice
            reason = f"CUDA does not start here ({failure}); Reference costs least beside a machine-learned force"
        _refuse_index(device_index, "Reference", f": {reason}")
        return PlatformChoice(openmm.Platform.getPlatformByName("Reference"), {}, reason)
    if name not in known:
        raise InputError(
            f"--platform {name}: this OpenMM has {', '.join(known)}. Install the extra that brings {name} "
            "(`mace-md doctor` says which), or take --platform auto."
        )
    if name not in GPU_PLATFORMS:
        _refuse_index(device_index, name, "")
    choice = _platform(name, precision, device_index, threads, deterministic)
    failure = _start_failure(choice)
    if failure is not None:
        raise InputError(f"--platform {name} does not start on this machine ({failure}). Take --platform auto or CPU.")
    return choice


def _refuse_index(device_index: int | None, platform: str, reason: str) -> None:
    if device_index is not None:
        raise InputError(
            f"--device-index {device_index} is for GPUs, and this run is on the platform {platform}{reason}. Leave it "
            "out, or see what `mace-md doctor` says of the GPU."
        )


def _platform(
    name: str, precision: str, device_index: int | None, threads: int | None, deterministic: bool
) -> PlatformChoice:
    properties: dict[str, str] = {}
    if name in GPU_PLATFORMS:
        properties["Precision"] = "mixed" if precision == "auto" else precision
        if device_index is not None:
            properties["DeviceIndex"] = str(device_index)
        if deterministic and name != "OpenCL":  # which has no such property
            properties["DeterministicForces"] = "true"
    if name == "CPU" and threads is not None:
        properties["Threads"] = str(threads)
    return PlatformChoice(openmm.Platform.getPlatformByName(name), properties, "asked for")


def _start_failure(choice: PlatformChoice) -> str | None:
    """None when a context of one particle starts, else OpenMM's reason; a driver can be missing behind a platform."""
    system = openmm.System()
    system.addParticle(1.0)
    try:
        openmm.Context(system, openmm.VerletIntegrator(0.001), choice.platform, choice.properties)
    except openmm.OpenMMException as error:
        return str(error)
    return None


def make_simulation(
    topology: app.Topology,
    system: openmm.System,
    dynamics: Dynamics,
    choice: PlatformChoice,
    positions: np.ndarray,
) -> app.Simulation:
    """An OpenMM Simulation at `positions` [n_atoms, 3] nm, in the box of the topology; at rest, at step 0."""
    simulation = app.Simulation(topology, system, dynamics.integrator, choice.platform, choice.properties)
    vectors = topology.getPeriodicBoxVectors()
    if vectors is not None:
        simulation.context.setPeriodicBoxVectors(*vectors)
    simulation.context.setPositions(positions)
    return simulation


def warm_up(simulation: app.Simulation) -> None:
    """Evaluate the force a few times: TorchScript profiles and rewrites a module in its first calls, which may change
    the rounding of the later ones. A continued run then goes on with the numbers of the one it continues."""
    for _ in range(WARM_UP_EVALUATIONS):
        simulation.context.getState(energy=True, forces=True)


@dataclass
class StepLoop:
    """Steps a simulation to a total, stopping at every step where something is due and often enough to see signals.

    events : (interval, action) in the order in which they act on a step; `action(step)`.
    stop : asked between chunks; a reason ends the loop early.
    tick : told the step after each chunk.
    advance : makes a number of steps; the integrator by default.
    """

    simulation: app.Simulation
    events: list[tuple[int, Callable[[int], None]]]
    stop: Callable[[], str | None] = lambda: None
    phase: str = "production"
    tick: Callable[[int], None] = lambda step: None
    advance: Callable[[int], None] | None = None

    def run(self, total: int) -> str | None:
        """Step to `total`; None, or the reason for which it stopped before. Raises SafetyStop at numbers not finite."""
        context = self.simulation.context
        advance = self.advance or step_function(self.simulation)
        step = context.getStepCount()
        chunk = 1
        while step < total:
            reason = self.stop()
            if reason is not None:
                return reason
            due = min([total - step] + [interval - step % interval for interval, _ in self.events])
            count = min(due, chunk)
            start = time.perf_counter()
            with numbers_stay_finite(self.phase):
                advance(count)
            seconds = max(time.perf_counter() - start, 1e-9)
            chunk = max(1, min(2 * count if count == chunk else chunk, math.floor(count * LONGEST_SILENCE / seconds)))
            step += count
            if context.getStepCount() != step:  # an RPMDIntegrator does not count
                context.setStepCount(step)
            for interval, action in self.events:
                if step % interval == 0:
                    action(step)
            self.tick(step)
        return None
