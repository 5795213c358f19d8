"""AMBER: prmtop for the topology, inpcrd, rst7 or a NetCDF restart for the coordinates and the box."""

import warnings
from pathlib import Path

import numpy as np
from openmm import app, unit

from mace_md.errors import InputError
from mace_md.structures.formats.contents import Contents, box_of, nanometers

HEAVIEST_PROTIUM = 1.1  # Da; anything above was repartitioned, or is deuterium


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
    notes += _repartitioned(prmtop)
    return Contents(path, prmtop.topology, positions, box, notes=tuple(notes), files=(path, coordinates))


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


def _repartitioned(prmtop: app.AmberPrmtopFile) -> list[str]:
    """A note when the masses of the file are not those of the elements."""
    masses = [float(mass) for mass in prmtop._prmtop.getMasses()]
    is_hydrogen = [atom.element is app.element.hydrogen for atom in prmtop.topology.atoms()]
    hydrogens = [mass for mass, hydrogen in zip(masses, is_hydrogen, strict=True) if hydrogen]
    if hydrogens and max(hydrogens) > HEAVIEST_PROTIUM:
        return [
            f"the prmtop has repartitioned masses (hydrogen up to {max(hydrogens):.3f} Da); they are not used, the "
            "masses here are those of the elements"
        ]
    elements = [atom.element for atom in prmtop.topology.atoms()]
    own = [0.0 if element is None else element.mass.value_in_unit(unit.dalton) for element in elements]
    odd = int((np.abs(np.array(masses) - own) > 0.5).sum())
    return [f"{odd} masses of the prmtop differ from those of the elements, which are used"] if odd else []
