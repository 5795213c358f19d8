"""What makes a continued run the same to the last bit with the native kernels on a CPU: anchors.

A sum over neighbours in another order differs in its last digit, and the order is that of the neighbour list, which
depends on the step at which it was built. A run builds its list when atoms have moved far enough; after a restart it
would be built at once. So every run builds it anew at fixed steps, the anchors, whatever went before, and keeps the
state of the last one. A checkpoint holds that state too: a continued run makes
the few steps from there again, writes nothing, and then has the list of the run that was not interrupted.

On a GPU, and in PyTorch, the order of neighbours does not depend on when the list was built, and nothing is needed.
"""

import logging
from collections.abc import Callable

import openmm
from openmm import app

from mace_md.config import RunConfig
from mace_md.errors import InputError, SafetyStop
from mace_md.md.files.restart import EXACT, Anchor, Checkpoint, load_binary
from mace_md.md.stepping.hooks import restore_all, states_of
from mace_md.md.stepping.stepper import Event, Stepper
from mace_md.ops.energy_forces import forget_lists

log = logging.getLogger("mace_md")

# Steps. A build costs a third of an evaluation of the smallest model (32 channels), 2 % of one of 128: below 0.7 % of
# the time. Up to as many steps are repeated by a restart.
INTERVAL = 50
GPU_PLATFORMS_OF_TORCH = ("CUDA", "HIP")  # on the others, OpenCL among them, a TorchForce computes on the CPU


class AnchoredStepper(Stepper):
    """Makes the steps of a simulation with anchors; `anchor` is the last one, None before the first.

    `between_checkpoints` is False where steps cannot be repeated: OpenMM writes no random numbers of a barostat into
    its checkpoints, and beads share one list, which every reading of their energies may build anew. Then only a
    checkpoint is an anchor, so that a path integral continues exactly from those at multiples of their interval.
    """

    def __init__(self, simulation: app.Simulation, between_checkpoints: bool = True) -> None:
        super().__init__(simulation)
        self.between_checkpoints = between_checkpoints
        # A custom integrator keeps the forces from the end of a step for the next one; the others evaluate at its
        # beginning. The list has to be that of the positions of the anchor in both.
        self._at_the_end = isinstance(simulation.integrator, openmm.CustomIntegrator)

    def begin(self) -> None:
        """Make the present state an anchor; the integrator has no forces from before."""
        forget_lists()
        self._keep()

    def read(self) -> None:
        """Keep what the reading made of the state."""
        self._keep()

    def advance(self, count: int) -> None:
        """Make steps; where the integrator ends with an evaluation, an anchor's is the one that builds the list."""
        if self._at_the_end and (self.simulation.context.getStepCount() + count) % INTERVAL == 0:
            if count > 1:
                self._step(count - 1)
            forget_lists()
            count = 1
        self._step(count)

    def events(self, is_read: Callable[[int], bool]) -> list[Event]:
        """An anchor each INTERVAL steps, where they can be repeated."""
        if not self.between_checkpoints:
            return []
        return [(INTERVAL, lambda step: self.at(step, is_read(step - 1)))]

    def at(self, step: int, read_before: bool = False) -> None:
        """The event of a step that is a multiple of INTERVAL. `read_before`: energies were read one step earlier, after
        which a custom integrator evaluates once more at those positions, and may have built the list there."""
        if not self._at_the_end:
            forget_lists()
        elif read_before:
            forget_lists()
            self.simulation.context.getState(forces=True)
        self._keep()

    def saved(self) -> None:
        """Where only a checkpoint is an anchor, the list is built anew from it."""
        if not self.between_checkpoints:
            forget_lists()

    def repeat(self, checkpoint: Checkpoint, again: Callable[[int], None]) -> str | None:
        """From the anchor before it, as the interrupted run came there; None where that does not lead to the same bits,
        as on another processor, and where there is no other anchor."""
        anchor = checkpoint.anchor
        if anchor is None or not 0 < checkpoint.step - anchor.step < INTERVAL:
            return None
        if not load_binary(self.simulation, checkpoint, anchor.binary):
            return None
        restore_all(self.hooks, anchor.hooks)
        self.anchor = anchor
        forget_lists()
        try:
            again(anchor.step)
        except SafetyStop:
            return None
        same = self.simulation.context.createCheckpoint() == checkpoint.binary
        if not same or states_of(self.hooks) != checkpoint.hooks:
            log.info(
                "note: the steps after step %d do not repeat here to the last bit (another processor, or number of "
                "threads): the run goes on from the state of the checkpoint, and differs in rounding", anchor.step,
            )  # fmt: skip
            return None
        return f"{EXACT} ({checkpoint.step - anchor.step} steps repeated)"

    def _keep(self) -> None:
        """Remember the present state, for whose positions the list is or will be built."""
        if self.between_checkpoints:
            context = self.simulation.context
            self.anchor = Anchor(context.getStepCount(), context.createCheckpoint(), states_of(self.hooks))


def needs_anchors(simulation: app.Simulation, kernels: str) -> bool:
    """Whether the kernels of a run need anchors; False too, with a warning, where these are too old for them."""
    if kernels != "native" or simulation.context.getPlatform().getName() in GPU_PLATFORMS_OF_TORCH:
        return False
    try:
        forget_lists()
    except InputError as error:
        log.warning("warning: %s. Until then the last digits after a restart differ.", error)
        return False
    return True


def anchored(simulation: app.Simulation, config: RunConfig) -> AnchoredStepper:
    """The stepper of a run that needs anchors."""
    return AnchoredStepper(simulation, between_checkpoints=config.ensemble != "npt" and config.beads == 1)
