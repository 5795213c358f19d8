"""Atoms by name: mdtraj's selection language on the topology of a run."""

import re

import numpy as np
from openmm import app

from mace_md.errors import InputError
from mace_md.structures.structure import Structure

_ONE_ATOM = re.compile(r"\s*index (?:== ?)?(\d{1,9})\s*", re.ASCII)


def select_atoms(structure: Structure, selection: str, where: str) -> np.ndarray:
    """Indices, ascending, of the atoms of an mdtraj selection ('name CA', 'resid 0 to 4 and not water', 'index 7').

    Raises InputError, which begins with `where`, when the text is not a selection or chooses nothing.
    """
    one = _ONE_ATOM.fullmatch(selection)  # as thousands of restraints name their atoms
    if one and int(one[1]) < len(structure.positions):
        return np.array([int(one[1])])
    try:
        found = structure.selectable.select(selection)
    except Exception as error:  # its parser raises ValueError, SyntaxError, NameError and what pyparsing has
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{where}: '{selection}' is not a selection mdtraj understands ({reason}). Examples: 'name CA', 'element "
            "O', 'resname HOH', 'resid 0 to 4', 'index 7'."
        ) from None
    atoms = np.asarray(found, dtype=int)
    if not len(atoms):
        residues = sorted({residue.name for residue in structure.topology.residues()})
        shown = " ".join(residues[:8]) + (" ..." if len(residues) > 8 else "")
        raise InputError(f"{where}: '{selection}' chooses no atom of {structure.path}, which has residues {shown}.")
    return atoms


def sub_topology(topology: app.Topology, atoms: np.ndarray) -> app.Topology:
    """The topology of these atoms (ascending), with their names, residues, chains and the bonds between them."""
    chosen = set(atoms.tolist())
    part = app.Topology()
    part.setPeriodicBoxVectors(topology.getPeriodicBoxVectors())
    copies: dict[int, app.topology.Atom] = {}
    for chain in topology.chains():
        kept = [residue for residue in chain.residues() if any(atom.index in chosen for atom in residue.atoms())]
        new_chain = part.addChain(chain.id) if kept else None
        for residue in kept:
            new_residue = part.addResidue(residue.name, new_chain, residue.id, residue.insertionCode)
            for atom in residue.atoms():
                if atom.index in chosen:
                    copies[atom.index] = part.addAtom(atom.name, atom.element, new_residue, atom.id)
    for bond in topology.bonds():
        if bond[0].index in chosen and bond[1].index in chosen:
            part.addBond(copies[bond[0].index], copies[bond[1].index])
    return part
