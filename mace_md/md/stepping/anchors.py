"""What makes a continued run the same to the last bit with the native kernels on a CPU: anchors.

A sum over neighbours in another order differs in its last digit, and the order is that of the neighbour list, which
depends on the step at which it was built. A run builds its list when atoms have moved far enough; after a restart it
would be built at once. So every run builds it anew at fixed steps, the anchors, whatever went before, and keeps the
state of the last one. A checkpoint holds that state too: a continued run makes
the few steps from there again, writes nothing, and then has the list of the run that was not interrupted.

On a GPU, and in PyTorch, the order of neighbours does not depend on when the list was built, and nothing is needed.
"""

import logging

import openmm
from openmm import app

from mace_md.config import RunConfig
from mace_md.errors import InputError
from mace_md.md.dynamics.rpmd import make_stepper
from mace_md.md.files.restart import Anchor
from mace_md.ops.energy_forces import forget_lists

log = logging.getLogger("mace_md")

# Steps. A build costs a third of an evaluation of the smallest model (32 channels), 2 % of one of 128: below 0.7 % of
# the time. Up to as many steps are repeated by a restart.
INTERVAL = 50
GPU_PLATFORMS_OF_TORCH = ("CUDA", "HIP")  # on the others, OpenCL among them, a TorchForce computes on the CPU


class Anchors:
    """The anchors of one simulation; `last` is None before the first.

    `between_checkpoints` is False where steps cannot be repeated: OpenMM writes no random numbers of a barostat into
    its checkpoints, and beads share one list, which every reading of their energies may build anew. Then only a
    checkpoint is an anchor, so that a path integral continues exactly from those at multiples of their interval.
    """

    def __init__(self, simulation: app.Simulation, between_checkpoints: bool = True) -> None:
        self.last: Anchor | None = None
        self.between_checkpoints = between_checkpoints
        self._simulation, self._step = simulation, make_stepper(simulation)
        # A custom integrator keeps the forces from the end of a step for the next one; the others evaluate at its
        # beginning. The list has to be that of the positions of the anchor in both.
        self._at_the_end = isinstance(simulation.integrator, openmm.CustomIntegrator)

    def begin(self) -> None:
        """Make the present state an anchor; the integrator has no forces from before."""
        forget_lists()
        self.keep()

    def keep(self) -> None:
        """Remember the present state, for whose positions the list is or will be built."""
        if self.between_checkpoints:
            context = self._simulation.context
            self.last = Anchor(context.getStepCount(), context.createCheckpoint())

    def restored(self, anchor: Anchor) -> None:
        """The simulation was set to an anchor of another process."""
        self.last = anchor
        forget_lists()

    def at(self, step: int, read_before: bool = False) -> None:
        """The event of a step that is a multiple of INTERVAL. `read_before`: energies were read one step earlier, after
        which a custom integrator evaluates once more at those positions, and may have built the list there."""
        if not self._at_the_end:
            forget_lists()
        elif read_before:
            forget_lists()
            self._simulation.context.getState(forces=True)
        self.keep()

    def saved(self) -> None:
        """A checkpoint was written."""
        if not self.between_checkpoints:
            forget_lists()

    def advance(self, count: int) -> None:
        """Make steps; where the integrator ends with an evaluation, an anchor's is the one that builds the list."""
        if self._at_the_end and (self._simulation.context.getStepCount() + count) % INTERVAL == 0:
            if count > 1:
                self._step(count - 1)
            forget_lists()
            count = 1
        self._step(count)


def anchors_for(config: RunConfig, simulation: app.Simulation, kernels: str) -> Anchors | None:
    """The anchors of a run, where its kernels need them; None, with a warning, where these are too old for that."""
    if kernels != "native" or simulation.context.getPlatform().getName() in GPU_PLATFORMS_OF_TORCH:
        return None
    try:
        forget_lists()
    except InputError as error:
        log.warning("warning: %s. Until then the last digits after a restart differ.", error)
        return None
    return Anchors(simulation, between_checkpoints=config.ensemble != "npt" and config.beads == 1)
