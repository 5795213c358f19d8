"""AMBER: prmtop for the topology, inpcrd, rst7 or a NetCDF restart for the coordinates and the box."""

import warnings
from pathlib import Path

import numpy as np
from openmm import app, unit

from mace_md.errors import InputError
from mace_md.structures.formats.by_mass import TypedAtom, settle_by_mass
from mace_md.structures.formats.contents import Contents, box_of, nanometers


def read_amber(path: Path, coordinates: Path) -> Contents:
    """A prmtop and its coordinates. Raises InputError when the two do not fit."""
    prmtop = app.AmberPrmtopFile(str(path))
    inpcrd = _read_coordinates(coordinates)
    positions = nanometers(inpcrd.getPositions())
    count = prmtop.topology.getNumAtoms()
    if len(positions) != count:
        raise InputError(
            f"{path}: has {count} atoms, but {coordinates} has coordinates of {len(positions)}. Take two files that "
            "were written together."
        )
    notes = [f"topology of {path.name}, coordinates of {coordinates.name}"]
    box = box_of(inpcrd.boxVectors)
    if box is None:
        box = box_of(prmtop.topology.getPeriodicBoxVectors())
        if box is not None:
            notes.append(f"{coordinates.name} has no box; the one in {path.name} was taken")
    notes += _set_elements(path, prmtop, positions)
    velocities = None if inpcrd.velocities is None else inpcrd.getVelocities(asNumpy=True)
    if velocities is not None:
        velocities = np.array(velocities.value_in_unit(unit.nanometer / unit.picosecond), dtype=float)
    return Contents(
        path, prmtop.topology, positions, box, notes=tuple(notes), files=(path, coordinates), velocities=velocities
    )


def _read_coordinates(path: Path) -> app.AmberInpcrdFile:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scipy's NetCDF reader, on a file that is closed before its arrays
            return app.AmberInpcrdFile(str(path))
    except Exception as error:  # TypeError, ValueError, IndexError, ... for a file of another kind
        raise InputError(
            f"--coordinates {path}: cannot be read as an inpcrd, rst7 or NetCDF restart. A trajectory is neither: "
            "write one frame of it as a restart file."
        ) from error


def _set_elements(path: Path, prmtop: app.AmberPrmtopFile, positions: np.ndarray) -> list[str]:
    """Elements by the atomic numbers and masses of the file, in place of OpenMM's; notes."""
    raw = prmtop._prmtop
    masses = [float(mass) for mass in raw.getMasses()]
    atoms = list(prmtop.topology.atoms())
    numbers = [0] * len(atoms)
    if raw.has_atomic_number:
        numbers = [int(text) for text in raw._raw_data["ATOMIC_NUMBER"]]
    typed = [
        TypedAtom(
            raw.getAtomName(i).strip(), raw.getResidueLabel(iAtom=i).strip(), atom.residue.index,
            len(list(atom.residue.atoms())) == 1, max(numbers[i], 0), masses[i],
        )
        for i, atom in enumerate(atoms)
    ]  # fmt: skip
    bonds = np.array([(a.index, b.index) for a, b in prmtop.topology.bonds()], dtype=int).reshape(-1, 2)
    elements, notes = settle_by_mass(path, typed, bonds, positions, "and masses; the prmtop has no atomic numbers")
    for atom, element in zip(atoms, elements, strict=True):
        atom.element = element
    return notes
