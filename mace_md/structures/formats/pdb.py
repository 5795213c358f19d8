"""PDB files through OpenMM's reader; what it settles without a word is settled and said here, in `pdb_lines`."""

import io
import warnings
from pathlib import Path

import numpy as np
from openmm import app

from mace_md.structures.formats.contents import Contents, nanometers
from mace_md.structures.formats.ions import is_water
from mace_md.structures.formats.isotopes import element_of_symbol, isotope_notes
from mace_md.structures.formats.pdb_lines import clean_pdb, space_group
from mace_md.structures.formats.text import read_text

SMALLEST_CELL = 0.008  # nm^3; entries without a crystal carry CRYST1 1 1 1 (A), or zeros


def read_pdb(path: Path, frame: int | None = None) -> Contents:
    """A PDB file. Raises whatever OpenMM's reader raises, and InputError for lines and frames that cannot be used."""
    clean = clean_pdb(path, read_text(path), frame)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on residues that share a number; nothing is lost by them
        file = app.PDBFile(io.StringIO(clean.text))
    return contents_of_file(path, file, clean.box, clean.notes, space_group(clean.symmetry), clean.text)


def contents_of_file(
    path: Path, file: app.PDBFile | app.PDBxFile, box: np.ndarray | None, notes: list[str], symmetry: str, text: str
) -> Contents:
    """Contents of a file with one frame, as OpenMM read it, in the box [3, 3] nm; deuterium weighs an atom's mass."""
    topology = file.topology
    for atom in topology.atoms():
        if atom.element is app.element.deuterium:
            atom.element = element_of_symbol("D")
    for residue in topology.residues():
        if is_water(residue.name):
            residue.name = "HOH"  # of TIP4, SPCE, DOD, ... too, which OpenMM leaves as they are
    notes = [*notes, *isotope_notes(atom.element for atom in topology.atoms())]
    if box is not None and not abs(np.linalg.det(box)) >= SMALLEST_CELL:
        notes.append("the unit cell in the file is the 1 A placeholder of structures that are not crystals: no box")
        box, symmetry = None, ""
    topology.setPeriodicBoxVectors(None)
    positions = nanometers(file.getPositions())
    return Contents(path, topology, positions, box, notes=tuple(notes), files=(path,), symmetry=symmetry, text=text)
