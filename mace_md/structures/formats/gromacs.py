"""GROMACS: .top with .gro coordinates, or a .gro file alone, whose elements have to be guessed from atom names.

GROMACS coordinates are in nm.
"""

import os
from pathlib import Path

from openmm import app

from mace_md.errors import InputError
from mace_md.structures.formats.contents import VIRTUAL_SITE_NAMES, Contents, box_of, frame_index, nanometers

_TWO_LETTERS = {"CL": "Cl", "NA": "Na", "MG": "Mg", "ZN": "Zn", "BR": "Br", "LI": "Li", "FE": "Fe", "CS": "Cs"}
_IONS = _TWO_LETTERS | {"K": "K", "CA": "Ca", "F": "F", "I": "I", "RB": "Rb"}
_WATERS = {"SOL", "WAT", "HOH", "TIP3", "TIP4", "TIP5", "SPC", "SPCE"}


def read_gro(path: Path, frame: int | None = None) -> Contents:
    """A .gro file on its own: residues are kept, elements come from the atom names."""
    gro = app.GromacsGroFile(str(path))
    index = frame_index(path, frame, gro.getNumFrames())
    topology = app.Topology()
    chain = topology.addChain("A")
    residue, last, unknown = None, None, []
    for name, residue_name, number in zip(gro.atomNames, gro.residueNames, gro.residueIds, strict=True):
        if (residue_name, number) != last:
            last = (residue_name, number)
            label = "HOH" if residue_name in _WATERS else residue_name
            residue = topology.addResidue(label, chain, str(number))
        element = element_of(name, residue_name)
        atom = topology.addAtom(name, element, residue)
        if element is None and name not in VIRTUAL_SITE_NAMES:
            unknown.append(atom)
    if unknown:
        atom = unknown[0]
        raise InputError(
            f"{path}: no element can be read from the atom name {atom.name} (residue {atom.residue.name} "
            f"{atom.residue.id}; {len(unknown) - 1} more; a coarse-grained bead has none). Give the topology with it: "
            f"system.top --coordinates {path.name}."
        )
    topology.createStandardBonds()
    positions = nanometers(gro.getPositions(frame=index))
    topology.createDisulfideBonds(gro.getPositions(frame=index))
    notes = ["elements were guessed from the atom names of the .gro file (a .top with --coordinates states them)"]
    box = _box(gro, index)
    return Contents(path, topology, positions, box, notes=tuple(notes), files=(path,))


def element_of(name: str, residue_name: str) -> app.Element | None:
    """The element an atom name of a .gro file stands for; None for a virtual site or a name without one."""
    letters = name.strip("0123456789+-*'\"").upper()
    if name.upper() in VIRTUAL_SITE_NAMES and residue_name.upper() != name.upper():
        return None
    if residue_name.strip("0123456789+-").upper() in (letters, "ION") and letters in _IONS:
        return app.Element.getBySymbol(_IONS[letters])
    if letters[:2] in ("CL", "BR"):  # in a larger residue CA, NA, CD, HG, ... begin with their element
        return app.Element.getBySymbol(_TWO_LETTERS[letters[:2]])
    return app.Element.getBySymbol(letters[0]) if letters[:1] in set("HCNOSPFIBK") and letters else None


def read_top(path: Path, coordinates: Path, *, include: Path | None = None) -> Contents:
    """A .top with a .gro. `include` is where the force field's own files are, by default where GROMACS has them."""
    gro = app.GromacsGroFile(str(coordinates))
    try:
        top = app.GromacsTopFile(str(path), includeDir=None if include is None else str(include))
    except ValueError as error:
        raise _explained(path, " ".join(str(error).split()), include) from error
    positions = nanometers(gro.getPositions())
    count = top.topology.getNumAtoms()
    if len(positions) != count:
        raise InputError(
            f"{path}: has {count} atoms (its [ molecules ] section says how many of each), but {coordinates} has "
            f"{len(positions)}. Take two files that belong together."
        )
    notes = (f"topology of {path.name}, coordinates of {coordinates.name}", *_name_note(top, gro, coordinates))
    return Contents(path, top.topology, positions, _box(gro, 0), notes=notes, files=(path, coordinates))


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


def _name_note(top: app.GromacsTopFile, gro: app.GromacsGroFile, coordinates: Path) -> list[str]:
    """A note when the order of the atoms may differ: grompp warns of the same."""
    different = sum(
        element is not None and atom.element is not None and element is not atom.element
        for atom, element in zip(top.topology.atoms(), map(element_of, gro.atomNames, gro.residueNames), strict=True)
    )
    if not different:
        return []
    return [f"warning: {different} atoms of {coordinates.name} have names of another element than in the topology"]


def _box(gro: app.GromacsGroFile, index: int):
    """[3, 3] nm, or None for the zeros that stand for no box."""
    vectors = box_of(gro.getPeriodicBoxVectors(frame=index))
    return vectors if vectors is not None and abs(vectors[0, 0] * vectors[1, 1] * vectors[2, 2]) > 0 else None
