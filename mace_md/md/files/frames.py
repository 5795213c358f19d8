"""Single frames for people and for training: extended XYZ with names of residues and atoms, velocities and forces."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openmm
from openmm import app

from mace_md.provenance import write_atomically
from mace_md.units import EV_PER_ANGSTROM_TO_KJ_MOL_NM, FS_TO_PS, NM_TO_ANGSTROM


@dataclass(frozen=True)
class Snapshot:
    """One moment: positions [n, 3] nm, velocities [n, 3] nm/ps, box [3, 3] nm or None."""

    step: int
    positions: np.ndarray
    velocities: np.ndarray
    box: np.ndarray | None

    @classmethod
    def of(cls, state: openmm.State, step: int, periodic: bool) -> "Snapshot":
        """From a State with positions and velocities."""
        box = None
        if periodic:
            box = np.array(state.getPeriodicBoxVectors(asNumpy=True)._value)  # as it is, in nm: units cost a look
        return cls(step, state.getPositions(asNumpy=True)._value, state.getVelocities(asNumpy=True)._value, box)


@dataclass(frozen=True)
class AtomNames:
    """What the atoms of a topology are called, for messages and files; counted from 1, as in structure files."""

    numbers: np.ndarray  # atomic numbers
    symbols: tuple[str, ...]
    names: tuple[str, ...]
    residues: tuple[tuple[str, str], ...]  # name and number, of every atom

    @classmethod
    def of(cls, topology: app.Topology) -> "AtomNames":
        atoms = list(topology.atoms())
        return cls(
            np.array([0 if atom.element is None else atom.element.atomic_number for atom in atoms], dtype=int),
            tuple("X" if atom.element is None else atom.element.symbol for atom in atoms),
            tuple(atom.name for atom in atoms),
            tuple((atom.residue.name, str(atom.residue.id)) for atom in atoms),
        )

    def one(self, index: int) -> str:
        """For example "atom 34 (O, HOH 12)"."""
        return f"atom {index + 1} ({self.names[index]}, {' '.join(self.residues[index])})"

    def some(self, indices: Sequence[int], most: int = 3) -> str:
        """The first few of `indices`, and how many more."""
        indices = [int(i) for i in indices]
        if len(indices) == len(self.symbols) > most:
            return f"all {len(indices)} atoms"
        rest = f" and {len(indices) - most} more atoms" if len(indices) > most else ""
        return ", ".join(self.one(i) for i in indices[:most]) + rest


def extxyz_text(names: AtomNames, snapshot: Snapshot, info: dict[str, object], columns: dict[str, np.ndarray]) -> str:
    """One frame as extended XYZ: A, A/fs; `columns` [n] or [n, 3] after the positions, in the units given.

    Each key of `info` becomes key="value" in the second line.
    """
    velocities = snapshot.velocities * (NM_TO_ANGSTROM * FS_TO_PS)
    columns = {"pos": snapshot.positions * NM_TO_ANGSTROM, "velocities": velocities, **columns}
    arrays = {name: array.reshape(len(array), -1) for name, array in columns.items()}
    properties = "species:S:1:atom_name:S:1:residue:S:1:residue_id:S:1"
    properties += "".join(f":{name}:R:{array.shape[1]}" for name, array in arrays.items())
    cell = ""
    if snapshot.box is not None:
        cell = 'Lattice="' + " ".join(f"{x:.8f}" for x in (snapshot.box * NM_TO_ANGSTROM).ravel()) + '" '
    pbc = "F F F" if snapshot.box is None else "T T T"
    said = "".join(f' {key}="{_quoted(value)}"' for key, value in info.items())
    lines = [str(len(names.symbols)), f'{cell}Properties={properties} pbc="{pbc}"{said}']
    words = zip(names.symbols, names.names, names.residues, strict=True)
    table = np.concatenate(list(arrays.values()), axis=1).tolist()
    for (symbol, name, (residue, number)), row in zip(words, table, strict=True):
        texts = [symbol, *(_word(text) for text in (name, residue, number))]
        lines.append(" ".join(texts + [f"{x:15.8f}" for x in row]))
    return "\n".join(lines) + "\n"


def write_snapshots(
    path: Path,
    frames: Sequence[tuple[str, Snapshot]],
    names: AtomNames,
    reason: str,
    timestep: float,
    forces: Callable[[Snapshot], np.ndarray | None],
) -> Path:
    """Write labelled frames to a new file at `path` (another number where it exists); returns where.

    `forces` gives those of a frame in kJ/mol/nm, or None where they cannot be evaluated; timestep in fs.
    """
    text = ""
    for label, snapshot in frames:
        found = forces(snapshot)
        columns = {} if found is None else {"forces": found / EV_PER_ANGSTROM_TO_KJ_MOL_NM}
        info = {"frame": label, "step": snapshot.step, "time_ps": f"{snapshot.step * timestep * FS_TO_PS:.6f}"}
        text += extxyz_text(names, snapshot, info | {"reason": reason}, columns)
    free, number = path, 2
    while free.exists():
        free, number = path.with_stem(f"{path.stem}_{number}"), number + 1
    write_atomically(free, text)
    return free


def _word(text: str) -> str:
    """A column of text must be one word."""
    return "_".join(text.split()) or "-"


def _quoted(value: object) -> str:
    return str(value).replace('"', "'").replace("\n", " ")
