"""GROMACS .gro files: residues, names, positions and a box; elements are not in them. Lengths are nm.

Columns are as in `gmx` (manual, "gro file format"): residue number and name, atom name and number, five characters
each, then numbers as wide as the distance between two decimal points says, so any precision is right.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from openmm import app, unit
from openmm.app.internal.unitcell import reducePeriodicBoxVectors

from mace_md.errors import InputError
from mace_md.structures.formats.contents import VIRTUAL_SITE_NAMES, Contents, frame_index
from mace_md.structures.formats.elements import NamedAtom, settle
from mace_md.structures.formats.ions import ION_RESIDUES, ion_of, is_water
from mace_md.structures.formats.text import read_text

_FIRST_NUMBER = 20  # columns before the coordinates


@dataclass
class GroFrame:
    """One frame: names as in the file, residue numbers, positions [n, 3] and box [3, 3] in nm (None for zeros).

    velocities : [n, 3] nm/ps where every atom has them.
    """

    names: list[str]
    residue_names: list[str]
    residue_numbers: list[str]
    positions: np.ndarray
    box: np.ndarray | None
    velocities: np.ndarray | None = None


def read_gro(path: Path, frame: int | None = None) -> Contents:
    """A .gro file on its own: residues are kept, elements come from the atom names."""
    read, index, count = read_gro_frame(path, frame)
    notes = []
    if count > 1 and frame is None:
        notes.append(f"the file has {count} frames; number {index + 1} was taken (another: {path.name}@INDEX)")
    groups = _groups(read)
    atoms = [
        NamedAtom(name, residue, group, label=f"{i + 1}")
        for i, (name, residue, group) in enumerate(zip(read.names, read.residue_names, groups, strict=True))
    ]
    elements, guessed = settle(path, atoms, read.positions, "a .gro file has no elements, a .top with it has")
    topology = _topology(path, read, groups, elements)
    topology.createStandardBonds()
    topology.createDisulfideBonds(read.positions * unit.nanometer)
    return Contents(
        path, topology, read.positions, read.box, notes=(*notes, *guessed), files=(path,), velocities=read.velocities
    )


def read_gro_frame(path: Path, frame: int | None = None) -> tuple[GroFrame, int, int]:
    """One frame, its index, and how many there are. Raises InputError naming the line that cannot be read."""
    lines = read_text(path).split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    starts, start = [], 0
    while start < len(lines):
        starts.append(start)
        start += _num_atoms(path, lines, start) + 3
    index = frame_index(path, frame, len(starts))
    return _frame(path, lines, starts[index]), index, len(starts)


def _num_atoms(path: Path, lines: list[str], start: int) -> int:
    """The number of atoms on the second line of a frame, after a check that its lines are there."""
    text = lines[start + 1].strip() if start + 1 < len(lines) else ""
    if not text.isdigit():
        raise InputError(
            f"{path}: line {start + 2}: a .gro file has the number of atoms there, not '{text[:40]}'. Check the file."
        )
    count = int(text)
    if start + 3 + count > len(lines):
        raise InputError(
            f"{path}: line {start + 2} announces {count} atoms, but after it there are {len(lines) - start - 2} lines "
            f"where {count} atoms and a box should be. Complete the file, or correct the number."
        )
    return count


def _frame(path: Path, lines: list[str], start: int) -> GroFrame:
    count = _num_atoms(path, lines, start)
    body = lines[start + 2 : start + 2 + count]
    names, residue_names, numbers = [], [], []
    positions = np.zeros((count, 3))
    for i, line in enumerate(body):
        places = _numbers(line)
        if places is None:
            raise InputError(
                f"{path}: line {start + 3 + i}: no three coordinates after column 20 ('{line.rstrip()[:60]}'). A .gro "
                "file has columns: number and name of the residue, name and number of the atom, five characters each."
            )
        positions[i] = places
        names.append(line[10:15].strip())
        residue_names.append(line[5:10].strip())
        numbers.append(line[:5].strip())
    box = _box(path, lines[start + 2 + count], start + 3 + count)
    return GroFrame(names, residue_names, numbers, positions, box, _velocities(body))


def _velocities(body: list[str]) -> np.ndarray | None:
    """[n, 3] nm/ps, after the coordinates and as wide; None where an atom has none, or all are 0."""
    rows = []
    for line in body:
        first = line.find(".", _FIRST_NUMBER)
        width = line.find(".", first + 1) - first
        words = [line[_FIRST_NUMBER + k * width : _FIRST_NUMBER + (k + 1) * width] for k in range(3, 6)]
        try:
            rows.append([float(word) for word in words])
        except ValueError:
            return None
    velocities = np.array(rows).reshape(-1, 3)
    return velocities if velocities.any() else None


def _numbers(line: str) -> list[float] | None:
    """Three coordinates; each number is as wide as the distance of the decimal points."""
    first = line.find(".", _FIRST_NUMBER)
    width = line.find(".", first + 1) - first
    if first < 0 or width <= 0:
        return None
    try:
        return [float(line[_FIRST_NUMBER + k * width : _FIRST_NUMBER + (k + 1) * width]) for k in range(3)]
    except ValueError:
        return None


def _box(path: Path, line: str, number: int) -> np.ndarray | None:
    """[3, 3] nm in reduced form, or None for the zeros that stand for no box."""
    try:
        values = [float(word) for word in line.split()]
    except ValueError:
        values = []
    if len(values) not in (3, 9):
        raise InputError(
            f"{path}: line {number}: the box of a .gro file is three or nine numbers, not '{line.strip()[:60]}'. Check "
            "the number of atoms on the second line."
        )
    xx, yy, zz, xy, xz, yx, yz, zx, zy = [*values, *[0.0] * (9 - len(values))]
    vectors = np.array([[xx, xy, xz], [yx, yy, yz], [zx, zy, zz]])
    if not abs(xx * yy * zz) > 0:
        return None
    return np.array(reducePeriodicBoxVectors(vectors * unit.nanometer).value_in_unit(unit.nanometer), dtype=float)


def _groups(frame: GroFrame) -> list[int]:
    """The residue of each atom, counted from 0: another number or name, or an ion after an ion."""
    groups: list[int] = []
    last, seen = None, set()
    for name, residue, number in zip(frame.names, frame.residue_names, frame.residue_numbers, strict=True):
        again = name in seen and (ion_of(residue) or is_water(residue))
        if (residue, number) != last or again or residue.upper() in ION_RESIDUES:
            groups.append(groups[-1] + 1 if groups else 0)
            last, seen = (residue, number), set()
        else:
            groups.append(groups[-1])
        seen.add(name)
    return groups


def _topology(path: Path, frame: GroFrame, groups: list[int], elements: list) -> app.Topology:
    topology = app.Topology()
    chain = topology.addChain("A")
    residue, last, unknown = None, None, []
    for i, (name, group, element) in enumerate(zip(frame.names, groups, elements, strict=True)):
        if group != last:
            label = "HOH" if is_water(frame.residue_names[i]) else frame.residue_names[i]
            residue, last = topology.addResidue(label, chain, frame.residue_numbers[i]), group
        atom = topology.addAtom(name, element, residue)
        if element is None and name.upper() not in VIRTUAL_SITE_NAMES:
            unknown.append(atom)
    if unknown:
        atom = unknown[0]
        raise InputError(
            f"{path}: no element can be read from the name of atom {atom.index + 1} ({atom.name}, residue "
            f"{atom.residue.name} {atom.residue.id}; {len(unknown) - 1} more; a coarse-grained bead has none). Give "
            f"the topology with it: system.top --coordinates {path.name}."
        )
    return topology
