"""Numbers that are not finite: what tells a simulation that has blown up from a machine that fails."""

from collections.abc import Iterator
from contextlib import contextmanager

import openmm

from mace_md.errors import SafetyStop

# What OpenMM's integrators and our neighbour list say when a simulation has blown up or its box has collapsed.
BLOWN_UP = (
    "NaN", "not finite", "not a finite number", "not a usable number", "too far apart", "do not span a volume",
    "too small for a cutoff",
)  # fmt: skip


def is_blown_up(error: openmm.OpenMMException) -> bool:
    """Whether an exception of OpenMM is about numbers that are not sensible, not about the machine."""
    return any(words in str(error) for words in BLOWN_UP)


@contextmanager
def numbers_stay_finite(phase: str) -> Iterator[None]:
    """Turn the exceptions raised on a simulation that has blown up into a SafetyStop that says what to do."""
    try:
        yield
    except openmm.OpenMMException as error:
        if not is_blown_up(error):
            raise
        reason = str(error).strip().rpartition("RuntimeError: ")[2].splitlines()[0]  # the last line is the cause
        raise SafetyStop(
            f"{phase}: positions, energy or forces are no longer sensible numbers ({reason}). Atoms may overlap, the "
            "time step may be too long, or the model is far from what it was trained on. Minimise (--minimize), take a "
            "shorter --timestep, and look at the last frames."
        ) from error
