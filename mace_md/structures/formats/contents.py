"""What a structure file holds, before anything is made of it; and the few things that several readers need."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from openmm import app, unit

from mace_md.errors import InputError

# Names of massless sites in water models and lone pairs: TIP4P and TIP5P of Amber, GROMACS, CHARMM and OpenMM.
VIRTUAL_SITE_NAMES = frozenset(
    (
        "M",
        "MW",
        "OM",
        "EP",
        "EPW",
        "EP1",
        "EP2",
        "EPW1",
        "EPW2",
        "MW1",
        "MW2",
        "LP",
        "LP1",
        "LP2",
        "LP3",
        "LP4",
        "LPA",
        "LPB",
        "LPX",
    )
)


@dataclass(frozen=True)
class Contents:
    """What one reader found.

    path : the file that messages name.
    topology : with the residues, chains and bonds the file states; an atom without element is not one MACE knows.
    positions : [n_atoms, 3] nm, as in the file.
    box : [3, 3] rows nm, a along x and b in the xy plane; None when the file has none.
    charge, spin : of the whole, as the file states them (spin as multiplicity 2S + 1), or None.
    notes : sentences for the log.
    files : every file that was read; a change of one makes another run.
    symmetry : space group of which the atoms are the asymmetric unit only; empty when they fill the cell.
    text : the PDB or mmCIF file itself, for what it says about the sequence; empty for other formats.
    hydrogens_known : the bond orders say that no hydrogen is missing.
    fixed : [n_atoms, 3] bool, the coordinates that the file holds still; None where it says nothing of that.
    velocities : [n_atoms, 3] nm/ps, or None.
    guessed : bonds of the topology, as pairs of atoms, that were found by distance and stated by no file.
    """

    path: Path
    topology: app.Topology
    positions: np.ndarray
    box: np.ndarray | None = None
    charge: int | None = None
    spin: int | None = None
    notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    symmetry: str = ""
    text: str = ""
    hydrogens_known: bool = False
    fixed: np.ndarray | None = None
    velocities: np.ndarray | None = None
    guessed: frozenset[tuple[int, int]] = frozenset()


def frame_index(path: Path, frame: int | None, num_frames: int) -> int:
    """The index of the frame asked for (None is the first), counted from 0. Raises InputError beyond the end."""
    index = 0 if frame is None else frame
    if not -num_frames <= index < num_frames:
        raise InputError(f"{path}: has no frame with index {index}; it has {num_frames} (0 to {num_frames - 1}).")
    return index % num_frames


def bare_topology(symbols: Sequence[str]) -> app.Topology:
    """All atoms in one residue MOL, without bonds, for a file that knows elements only."""
    topology = app.Topology()
    residue = topology.addResidue("MOL", topology.addChain("A"))
    for symbol in symbols:
        topology.addAtom(symbol, app.Element.getBySymbol(symbol), residue)
    return topology


def box_of(vectors: unit.Quantity | None) -> np.ndarray | None:
    """OpenMM's box vectors as [3, 3] rows in nm."""
    return None if vectors is None else np.array(vectors.value_in_unit(unit.nanometer), dtype=float)


def nanometers(positions: unit.Quantity) -> np.ndarray:
    """[n_atoms, 3] nm, float64, of OpenMM's positions."""
    return np.array(positions.value_in_unit(unit.nanometer), dtype=float).reshape(-1, 3)


def describe_residue(residue: app.topology.Residue) -> str:
    """`TYR 7 (chain A)`, to find it in the file."""
    chain = f" (chain {residue.chain.id})" if residue.chain.id.strip() else ""
    return f"{residue.name} {residue.id}{residue.insertionCode.strip()}{chain}"


def describe_atom(atom: app.topology.Atom) -> str:
    """`residue TYR 7 (chain A), atom CB`, to find it in the file."""
    return f"residue {describe_residue(atom.residue)}, atom {atom.name}"


def copy_topology(topology: app.Topology, keep: Sequence[bool] | None = None) -> tuple[app.Topology, dict]:
    """A copy without bonds, of the atoms marked in `keep` (all by default); and old atom index -> new atom.

    Chains and residues that would be empty are left out.
    """
    copy = app.Topology()
    atoms = {}
    for chain in topology.chains():
        new_chain = None
        for residue in chain.residues():
            new_residue = None
            for atom in residue.atoms():
                if keep is not None and not keep[atom.index]:
                    continue
                new_chain = new_chain or copy.addChain(chain.id)
                new_residue = new_residue or copy.addResidue(residue.name, new_chain, residue.id, residue.insertionCode)
                atoms[atom.index] = copy.addAtom(atom.name, atom.element, new_residue, atom.id, atom.formalCharge)
    copy.setPeriodicBoxVectors(topology.getPeriodicBoxVectors())
    return copy, atoms


def without_atoms(topology: app.Topology, positions: np.ndarray, drop: Sequence[int]):
    """Topology with the bonds among the atoms that stay, and their positions, without the atoms in `drop`."""
    keep = np.ones(topology.getNumAtoms(), dtype=bool)
    keep[list(drop)] = False
    copy, atoms = copy_topology(topology, keep)
    for bond in topology.bonds():
        if keep[bond[0].index] and keep[bond[1].index]:
            copy.addBond(atoms[bond[0].index], atoms[bond[1].index], bond.type, bond.order)
    return copy, positions[keep]
