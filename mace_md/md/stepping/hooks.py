"""What else takes part in a run: something that acts between steps and has a state of its own.

A bias that grows, an exchange of replicas, a coordinate that is recorded: each is a `Hook`. The loop over steps calls
it after a step, and its state is in every checkpoint, so that a run with hooks is continued as exactly as one without.
"""

from collections.abc import Mapping, Sequence

from mace_md.errors import InputError


class Hook:
    """Acts after every step that is a multiple of `interval`; the base does nothing.

    name : of its state in a checkpoint; letters, digits, - and _.
    interval : steps.
    evaluates : whether `after` asks OpenMM for energies or forces.
    columns : names of what `values` gives, in log.csv.
    patterns : of the names of its files in the run's folder.
    muted : steps are made again after a restart. `after` then does what it does to the simulation and to its own state,
        and writes nothing: rows of these steps are there.
    """

    name = "hook"
    interval = 1
    evaluates = False
    columns: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    muted = False

    def open(self) -> None:
        """The first step is near: files in the folder have been cut back to the checkpoint, and may be opened."""

    def after(self, step: int) -> None:
        """After `step`, before its row and frame are written.

        What it does may depend on the state of the simulation, on its own state and on `step` alone, so that a restart
        repeats it.
        """

    def values(self) -> tuple[float | None, ...]:
        """One for each of `columns`, as they are now; None stays empty."""
        return ()

    def state(self) -> bytes:
        """All that `after` depends on beyond the simulation: random numbers, what was added up, which replica it is."""
        return b""

    def restore(self, state: bytes) -> None:
        """Take up a state, and bring what depends on it into the simulation. Raises ValueError where it is none."""

    def sizes(self) -> dict[str, int]:
        """Bytes of each of its files by name, when all is on the disk."""
        return {}


def states_of(hooks: Sequence[Hook]) -> dict[str, bytes]:
    """The state of each, by name."""
    return {hook.name: hook.state() for hook in hooks}


def check_names(hooks: Sequence[Hook], states: Mapping[str, bytes]) -> None:
    """Raises InputError where a checkpoint is that of a run with other hooks."""
    names = {hook.name for hook in hooks}
    if names != set(states):
        was, now = (" and ".join(sorted(found)) or "nothing" for found in (states, names))
        raise InputError(
            f"this is not the run that was started there: between its steps acted {was}, now {now}. Continue with the "
            "old options, or start a new run with another --output."
        )


def restore_all(hooks: Sequence[Hook], states: Mapping[str, bytes]) -> None:
    """Set every hook to its state. Raises InputError for a state that is none."""
    for hook in hooks:
        try:
            hook.restore(states[hook.name])
        except ValueError as error:
            raise InputError(f"the checkpoint holds no state of {hook.name} that can be read ({error}).") from None
