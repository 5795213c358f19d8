"""xyz, extended xyz, POSCAR and whatever else ASE reads: elements, positions, a cell; no residues, no bonds."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms

from mace_md.errors import InputError
from mace_md.structures.formats.contents import Contents, bare_topology
from mace_md.units import ANGSTROM_TO_NM

_CHARGE_KEYS = ("charge", "total_charge")
_SPIN_KEYS = ("spin", "spin_multiplicity", "total_spin", "multiplicity")


def read_with_ase(path: Path, frame: int | None = None) -> Contents:
    """Any file ASE knows. Raises InputError for frames, elements and cells that cannot be used."""
    import ase.io

    index = 0 if frame is None else frame
    if path.suffix.lower() in (".xyz", ".extxyz"):
        _refuse_short_frames(path)
    try:
        atoms = ase.io.read(path, index=index)
        several = frame is None and len(ase.io.read(path, index=slice(0, 2))) > 1
    except IndexError as error:
        raise InputError(f"{path}: has no frame with index {index}; the first is @0, the last is @-1.") from error
    notes = [f"the file has several frames; the first was taken (another: {path.name}@INDEX)"] if several else []
    return from_atoms(path, atoms, notes)


def _refuse_short_frames(path: Path) -> None:
    """Raise InputError when the file ends inside a frame: ASE goes on counting lines to a number that may be absurd."""
    with open(path, errors="replace") as file:
        for frame, header in enumerate(iter(file.readline, "")):
            number = header.split()[:1]
            if not number or not number[0].isdigit():
                return  # blank lines end a file; for anything else ASE says what is wrong
            lines = sum(1 for _ in itertools.islice(file, int(number[0]) + 1))
            if lines < int(number[0]):
                raise InputError(
                    f"{path}: frame {frame} is to have {number[0]} atoms, but the file ends after {max(lines - 1, 0)}. "
                    "Correct the number, or complete the file."
                )


def from_atoms(path: Path, atoms: Atoms, notes: Sequence[str] = ()) -> Contents:
    """An ase.Atoms with its cell, and the charge and spin in its `info`."""
    notes = list(notes)
    if len(atoms) and 0 in atoms.numbers:
        raise InputError(
            f"{path}: atom {int(np.argmin(atoms.numbers)) + 1} has no chemical element ('X'). Name its element."
        )
    positions = atoms.positions * ANGSTROM_TO_NM
    box = None
    if atoms.pbc.any() and not atoms.pbc.all():
        axes = ", ".join(axis for axis, on in zip("xyz", atoms.pbc, strict=True) if on)
        raise InputError(
            f"{path}: is periodic along {axes} only; OpenMM knows fully periodic and open systems. For a slab put at "
            'least twice the cutoff of vacuum in the open direction and set pbc="T T T".'
        )
    if atoms.pbc.all():
        positions, box, rotated = _standard_box(path, positions, np.asarray(atoms.cell) * ANGSTROM_TO_NM)
        if rotated:
            notes.append("the cell and the atoms were rotated so that the first vector lies along x, as OpenMM wants")
    elif atoms.cell.rank:
        notes.append('the file has a cell but pbc="F F F": treated as not periodic')
    charge, spin = (_integer_info(path, atoms.info, keys) for keys in (_CHARGE_KEYS, _SPIN_KEYS))
    topology = bare_topology(atoms.get_chemical_symbols())
    return Contents(path, topology, positions, box, charge, spin, tuple(notes), (path,))


def _integer_info(path: Path, info: dict, keys: Sequence[str]) -> int | None:
    for key in keys:
        if key in info:
            try:
                number = float(info[key])
            except (TypeError, ValueError):
                number = float("nan")
            if number != round(number, 6) or number != int(round(number)):
                raise InputError(f"{path}: {key}={info[key]} in the file is not a whole number. Correct it.")
            return int(round(number))
    return None


def _standard_box(path: Path, positions: np.ndarray, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """Positions and cell turned so that a lies along x and b in the xy plane; True when that changed anything."""
    if abs(np.linalg.det(cell)) < 1e-6:
        raise InputError(f"{path}: is periodic, but its cell has no volume. Correct the cell, or set pbc to F.")
    if np.linalg.det(cell) < 0:
        cell = cell * [[1.0], [1.0], [-1.0]]  # -c spans the same lattice and makes the triple right-handed
    q, r = np.linalg.qr(cell.T)  # cell.T = q @ r, so rows of r.T are the cell in the frame of q's columns
    signs = np.sign(np.diag(r))
    standard = (signs[:, None] * r).T
    rotation = q * signs
    rotated = not np.allclose(rotation, np.eye(3), atol=1e-9)
    return (positions @ rotation if rotated else positions), standard if rotated else cell, rotated
