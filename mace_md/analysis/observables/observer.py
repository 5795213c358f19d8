"""What observables have in common: the system they look at, frames as they come, and series that they keep."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mace_md.analysis.geometry import Molecules, make_whole
from mace_md.analysis.reading import Chunk, Source
from mace_md.analysis.results import Result
from mace_md.analysis.window import Window

MOST_BYTES = 250_000_000  # of the series that an observable keeps; then every second frame of it goes


@dataclass(frozen=True)
class System:
    """What is looked at. kind : liquid, solution, crystal, peptide, molecule or cluster. solute [n] : indices of the
    atoms that are not the solvent; all where there is no solvent."""

    source: Source
    molecules: Molecules
    window: Window
    kind: str
    solute: np.ndarray

    @property
    def topology(self):
        return self.source.topology

    @property
    def masses(self) -> np.ndarray:
        return self.source.masses

    @cached_property
    def symbols(self) -> np.ndarray:
        return np.array(["X" if atom.element is None else atom.element.symbol for atom in self.topology.atoms])


class View:
    """A chunk of frames, with what several observables need of it, worked out once."""

    def __init__(self, system: System, chunk: Chunk) -> None:
        self.system, self.chunk = system, chunk
        self.times, self.boxes, self.velocities = chunk.times, chunk.boxes, chunk.velocities

    def __len__(self) -> int:
        return len(self.times)

    @property
    def positions(self) -> np.ndarray:
        """[f, n_atoms, 3] nm, as in the file."""
        return self.chunk.positions

    @cached_property
    def whole(self) -> np.ndarray:
        """[f, n_atoms, 3] nm, every molecule in one piece."""
        return make_whole(self.chunk.positions, self.boxes, self.system.molecules)

    @cached_property
    def centres(self) -> np.ndarray:
        """Centres of mass [f, n_molecules, 3] nm."""
        return self.system.molecules.centres(self.whole, self.system.masses)

    def within(self, inside: np.ndarray) -> "View":
        """The frames that are chosen, bool [f]."""
        if inside.all():
            return self
        chunk = self.chunk
        kept = View(
            self.system,
            Chunk(
                chunk.times[inside], chunk.positions[inside], None if chunk.boxes is None else chunk.boxes[inside],
                None if chunk.velocities is None else chunk.velocities[inside],
            ),
        )  # fmt: skip
        for name in ("whole", "centres"):
            if name in self.__dict__:
                kept.__dict__[name] = self.__dict__[name][inside]
        return kept


class Observer:
    """Sees all frames of a run in order (`add`), or those of the window alone, and then says what it found."""

    name = ""
    only_window = False  # whether frames before the window are kept from it
    velocities = False  # whether it needs them

    def __init__(self, system: System) -> None:
        self.system = system

    def add(self, view: View) -> None:
        raise NotImplementedError

    def result(self) -> Result:
        raise NotImplementedError


class Series:
    """Rows that are kept of each frame; when they are too many, every second one is let go."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self.every, self._seen, self._most = 1, 0, most_bytes
        self._times: list[np.ndarray] = []
        self._rows: list[np.ndarray] = []
        self._bytes = 0

    def add(self, times: np.ndarray, rows: np.ndarray) -> None:
        """times [f], rows [f, ...]."""
        keep = (self._seen + np.arange(len(times))) % self.every == 0
        self._seen += len(times)
        self._times.append(times[keep])
        self._rows.append(rows[keep])
        self._bytes += self._rows[-1].nbytes
        if self._bytes > self._most:
            self.every *= 2
            thinned = np.concatenate(self._rows)[::2]
            self._times, self._rows = [np.concatenate(self._times)[::2]], [thinned]
            self._bytes = thinned.nbytes

    @property
    def times(self) -> np.ndarray:
        return np.concatenate(self._times) if self._times else np.zeros(0)

    @property
    def rows(self) -> np.ndarray:
        return np.concatenate(self._rows) if self._rows else np.zeros((0,))
