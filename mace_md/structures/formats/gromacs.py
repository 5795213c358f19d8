"""GROMACS: a .top with .gro coordinates. Lengths are nm."""

import os
from pathlib import Path

import numpy as np
from openmm import app

from mace_md.errors import InputError
from mace_md.structures.formats.by_mass import TypedAtom, settle_by_mass
from mace_md.structures.formats.contents import Contents
from mace_md.structures.formats.elements import readings
from mace_md.structures.formats.gro import read_gro_frame
from mace_md.structures.formats.ions import ion_of
from mace_md.structures.formats.isotopes import plain


class _Topology(app.GromacsTopFile):
    """OpenMM's reader, which also says what it included, and takes files that begin with a byte-order mark."""

    def __init__(self, path: Path, include: Path | None) -> None:
        self.included: list[Path] = []
        super().__init__(str(path), includeDir=None if include is None else str(include))

    def _processFile(self, file):
        self.included.append(Path(file))
        with open(file, encoding="utf-8-sig", errors="replace") as lines:
            append = ""
            for line in lines:
                if line.strip().endswith("\\"):
                    append = f"{append} {line[: line.rfind(chr(92))]}"
                else:
                    self._processLine(f"{append} {line}" if append else line, file)
                    append = ""


def read_top(path: Path, coordinates: Path, *, include: Path | None = None) -> Contents:
    """A .top with a .gro. `include` is where the force field's own files are, by default where GROMACS has them."""
    gro, _, _ = read_gro_frame(coordinates)
    try:
        top = _Topology(path, include)
    except ValueError as error:
        raise _explained(path, " ".join(str(error).split()), include) from error
    count = top.topology.getNumAtoms()
    if len(gro.positions) != count:
        raise InputError(
            f"{path}: has {count} atoms (its [ molecules ] section says how many of each), but {coordinates} has "
            f"{len(gro.positions)}. Take two files that belong together."
        )
    guessed = _set_elements(path, top, gro.positions)
    _name_chains(top)
    notes = (f"topology of {path.name}, coordinates of {coordinates.name}", *guessed)
    notes += tuple(_name_note(top, gro.names, coordinates))
    files = (path, coordinates, *top.included[1:])
    return Contents(path, top.topology, gro.positions, gro.box, notes=notes, files=files, velocities=gro.velocities)


def _set_elements(path: Path, top: _Topology, positions: np.ndarray) -> list[str]:
    """Elements by the atomic numbers and masses of the topology, in place of OpenMM's; notes."""
    fields = [atom for name, count in top._molecules for _ in range(count) for atom in top._moleculeTypes[name].atoms]
    atoms = list(top.topology.atoms())
    typed = []
    for atom, words in zip(atoms, fields, strict=True):
        kind = top._atomTypes[words[1]]
        number = 0 if kind[2] is None else int(kind[2])
        mass = float(words[7]) if len(words) > 7 else float(kind[3])
        alone = len(list(atom.residue.atoms())) == 1
        typed.append(TypedAtom(words[4], words[3], atom.residue.index, alone, number, mass))
    bonds = np.array([(a.index, b.index) for a, b in top.topology.bonds()], dtype=int).reshape(-1, 2)
    elements, notes = settle_by_mass(path, typed, bonds, positions, "and masses; the topology has no atomic numbers")
    for atom, element in zip(atoms, elements, strict=True):
        atom.element = element
    return notes


def _name_chains(top: _Topology) -> None:
    """One letter for all molecules of a line of [ molecules ], which OpenMM numbers one by one."""
    letters = [chr(ord("A") + k % 26) for k, (_, count) in enumerate(top._molecules) for _ in range(count)]
    for chain, letter in zip(top.topology.chains(), letters, strict=True):
        chain.id = letter


def _explained(path: Path, reason: str, include: Path | None) -> InputError:
    if "Could not locate #include file" in reason:
        name = reason.rpartition(":")[2].strip()
        looked = include or os.environ.get("GMXLIB") or os.environ.get("GMXDATA") or "no GROMACS is installed here"
        return InputError(
            f"{path}: the file '{name}' that it includes was not found (beside it, nor in the force fields: {looked}). "
            "Give the folder that holds it with --include."
        )
    if "Virtual sites" in reason or "virtual_sites" in reason:
        return InputError(
            f"{path}: has virtual sites (TIP4P or the like), and MACE knows nuclei only. Convert to a three-site "
            "water, or give the .gro file alone with --virtual-sites drop."
        )
    return InputError(f"{path}: cannot be read as a GROMACS topology ({reason}). Check the file.")


def _name_note(top: _Topology, names: list[str], coordinates: Path) -> list[str]:
    """A note when the order of the atoms may differ: grompp warns of the same."""
    different = sum(
        atom.element is not None and bool(readings(name)) and atom.name != name
        and not _may_be(name, plain(atom.element).symbol)
        for atom, name in zip(top.topology.atoms(), names, strict=True)
    )  # fmt: skip
    if not different:
        return []
    return [f"warning: {different} atoms of {coordinates.name} have names of another element than in the topology"]


def _may_be(name: str, symbol: str) -> bool:
    return symbol in readings(name) or ion_of(name) == symbol
