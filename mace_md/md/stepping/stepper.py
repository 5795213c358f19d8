"""How the steps of a run are made: by the integrator, or by one of its kinds with needs of their own.

Graphs of CUDA (`graphs.py`) and anchors (`anchors.py`) are steppers too; the loop over steps knows this interface only.
"""

from collections.abc import Callable, Sequence

from openmm import app

from mace_md.md.dynamics.rpmd import step_function
from mace_md.md.files.restart import Anchor, Checkpoint
from mace_md.md.stepping.hooks import Hook

Event = tuple[int, Callable[[int], None]]  # every so many steps, and what is done then


class Stepper:
    """The integrator makes the steps, and nothing else is needed.

    anchor : the state from which a restart makes steps again, or None. hooks : of the run, whose states belong to it.
    between_checkpoints : whether a restart is as exact from a checkpoint at any step.
    """

    between_checkpoints = True

    def __init__(self, simulation: app.Simulation) -> None:
        self.simulation = simulation
        self.anchor: Anchor | None = None
        self.hooks: Sequence[Hook] = ()
        self._step = step_function(simulation)

    def begin(self) -> None:
        """The state was set from outside: at the start of a run, or from a checkpoint."""

    def start(self) -> None:
        """Steps follow."""

    def advance(self, count: int) -> None:
        """Make so many steps."""
        self._step(count)

    def settle(self) -> None:
        """Before an evaluation outside of `advance` whose numbers are used."""

    def events(self, is_read: Callable[[int], bool]) -> list[Event]:
        """What it does at steps of its own, after all else that belongs to the step.

        is_read : whether energies or forces are evaluated after a step.
        """
        return []

    def read(self) -> None:
        """An evaluation that belongs to no step was made before the first, which may have drawn random numbers."""

    def repeat(self, checkpoint: Checkpoint, again: Callable[[int], None]) -> str | None:
        """Come to `checkpoint` by making steps again, from an anchor before it; how exact that was, or None where there
        is nothing to repeat, or it did not lead there. `again` makes them, with all that reads, from the step it gets.
        """
        return None

    def saved(self) -> None:
        """A checkpoint was written."""

    def record(self) -> dict[str, dict[str, object]]:
        """For run.json: entries, and what to add to them."""
        return {}
