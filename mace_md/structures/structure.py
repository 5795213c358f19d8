"""A structure ready for a simulation: topology + positions + box, with every assumption written down.

Lengths are nm, boxes are rows in OpenMM's reduced form.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from openmm import app, unit
from openmm.app.internal.unitcell import computePeriodicBoxVectors, reducePeriodicBoxVectors

from mace_md.errors import InputError
from mace_md.structures.formats.contents import Contents, copy_topology
from mace_md.structures.formats.reader import read_contents
from mace_md.structures.molecules import Molecules, find_molecules
from mace_md.units import ANGSTROM_TO_NM

if TYPE_CHECKING:
    import mdtraj

MOST_BROKEN_BONDS = 0.2  # of the bonds of a file; more are no gaps in chains
_WATER_NAMES = ("O", "H1", "H2")  # the names the residue HOH has in every force field and viewer


@dataclass(frozen=True)
class Structure:
    """What a simulation starts from.

    path : the file that messages name.
    topology : openmm.app.Topology, with bonds and, for a periodic system, box vectors.
    positions : [n_atoms, 3], nm, float64; molecules are whole.
    box : [3, 3] rows, nm, reduced; None when not periodic.
    charge, spin : as the file states them (spin as multiplicity 2S + 1), or None.
    molecules : how the atoms are joined; see `molecules.find_molecules`.
    assumptions : sentences for the log, one for each assumption made on the way here.
    bond_notes : sentences on bonds and molecules.
    files : every file it was read from.
    hydrogens_known : bond orders say that no hydrogen is missing.
    fixed : [n_atoms, 3] bool, the coordinates that the file holds still, or None.
    velocities : [n_atoms, 3] nm/ps, of the file, or None.
    """

    path: Path
    topology: app.Topology
    positions: np.ndarray
    box: np.ndarray | None
    charge: int | None
    spin: int | None
    molecules: Molecules
    assumptions: tuple[str, ...] = ()
    bond_notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    hydrogens_known: bool = False
    fixed: np.ndarray | None = None
    velocities: np.ndarray | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """All sentences for the log."""
        return self.assumptions + self.bond_notes

    @property
    def atomic_numbers(self) -> list[int]:
        return [atom.element.atomic_number for atom in self.topology.atoms()]

    @functools.cached_property
    def masses(self) -> np.ndarray:
        """[n_atoms], Da, not to be written to."""
        masses = np.array([atom.element.mass.value_in_unit(unit.dalton) for atom in self.topology.atoms()])
        masses.setflags(write=False)
        return masses

    @functools.cached_property
    def selectable(self) -> "mdtraj.Topology":
        """The topology as mdtraj has it, in which its selections look."""
        import mdtraj

        return mdtraj.Topology.from_openmm(self.topology)


def read_structure(
    path: str | Path, *, periodic: str = "auto", box: Sequence[float] | None = None, **reading
) -> Structure:
    """The structure in a file, as it is; `file.xyz@7` takes the frame with index 7.

    Parameters
    ----------
    periodic : 'auto' (when the file or `box` gives one), 'yes' or 'no'.
    box : lengths a, b, c in A, or a, b, c and alpha, beta, gamma in degrees, in place of the file's.
    reading : passed on to `formats.reader.read_contents`.

    Raises InputError when the file is missing, unreadable, empty, has atoms without an element or coordinates
    that are not numbers, is periodic in one or two directions only, or is the asymmetric unit of a crystal.
    """
    return assemble(read_contents(Path(path), **reading), periodic=periodic, box=box)


def assemble(
    contents: Contents, *, periodic: str = "auto", box: Sequence[float] | None = None, bonds_from: str = "of the file"
) -> Structure:
    """Bonds, molecules, residues and the box to use, which every format gets the same way.

    bonds_from : where the bonds of the topology come from, for the log.
    """
    chosen, box_notes = _choose_box(contents, periodic, box)
    if chosen is not None:
        chosen = np.array(reducePeriodicBoxVectors(chosen * unit.nanometer).value_in_unit(unit.nanometer), dtype=float)
    molecules, bond_notes = find_molecules(contents.topology, contents.positions, chosen, bonds_from, contents.guessed)
    topology = contents.topology
    if molecules.dropped > MOST_BROKEN_BONDS * topology.getNumBonds() and molecules.dropped > 3:
        raise InputError(
            f"{contents.path}: {molecules.dropped} of {topology.getNumBonds()} bonds are far longer than bonds are. "
            "The coordinates belong to other atoms, or have another unit."
        )
    if _is_bare(topology):
        topology = _residues_from(topology, molecules)
    topology = _with_bonds(topology, molecules)
    topology.setPeriodicBoxVectors(None if chosen is None else chosen * unit.nanometer)
    return Structure(
        contents.path,
        topology,
        molecules.whole(contents.positions),
        chosen,
        contents.charge,
        contents.spin,
        molecules,
        (*contents.notes, *box_notes),
        tuple(bond_notes),
        contents.files,
        contents.hydrogens_known,
        contents.fixed,
        contents.velocities,
    )


def contents_of(structure: Structure) -> Contents:
    """The way back, for what changes the atoms and assembles them again."""
    molecules = structure.molecules
    return Contents(
        structure.path,
        structure.topology,
        structure.positions,
        structure.box,
        structure.charge,
        structure.spin,
        structure.assumptions,
        structure.files,
        hydrogens_known=structure.hydrogens_known,
        fixed=structure.fixed,
        velocities=structure.velocities,
        guessed=frozenset(map(tuple, np.sort(molecules.bonds[~molecules.stated], axis=1).tolist())),
    )


def _choose_box(contents: Contents, periodic: str, lengths_and_angles) -> tuple[np.ndarray | None, list[str]]:
    """The box to use, of the file's and the options', and what to say about it."""
    if periodic == "no":
        return None, [] if contents.box is None else ["the box of the file is not used: not periodic, as asked"]
    if lengths_and_angles is not None:
        values = [float(x) for x in lengths_and_angles]
        lengths = [x * ANGSTROM_TO_NM for x in values[:3]]
        angles = [np.radians(x) for x in (values[3:] or (90.0, 90.0, 90.0))]
        vectors = computePeriodicBoxVectors(*lengths, *angles).value_in_unit(unit.nanometer)
        return np.array(vectors, dtype=float), [] if contents.box is None else [
            "the box of the file is replaced, as asked"
        ]
    if periodic == "yes" and contents.box is None:
        raise InputError(f"{contents.path}: has no box, and --periodic yes needs one. Give --box a,b,c in A.")
    if contents.symmetry:
        raise InputError(
            f"{contents.path}: its unit cell has the symmetry {contents.symmetry}, and the file holds one asymmetric "
            "unit of it: that is no periodic system. Use --solvate 10 for a box of water, --periodic no for vacuum, or "
            "--box a,b,c; for the crystal, write all of its unit cell to the file (space group P 1)."
        )
    return contents.box, []


def _is_bare(topology: app.Topology) -> bool:
    """Whether the file knew elements and positions only."""
    residues = list(topology.residues())
    return len(residues) == 1 and residues[0].name == "MOL" and topology.getNumBonds() == 0


def _residues_from(topology: app.Topology, molecules: Molecules) -> app.Topology:
    """One residue a molecule where the atoms of each follow one another, else one residue for all."""
    elements = [atom.element for atom in topology.atoms()]
    groups = molecules.groups()
    if any(group[-1] - group[0] + 1 != len(group) for group in groups) or molecules.networks:
        groups = [list(range(len(elements)))]
    named = app.Topology()
    chain = named.addChain("A")
    for group in sorted(groups):
        symbols = [elements[i].symbol for i in group]
        water = symbols == ["O", "H", "H"]
        name = "HOH" if water else symbols[0].upper() if len(group) == 1 else "MOL"
        residue = named.addResidue(name, chain)
        for k, i in enumerate(group):
            atom_name = _WATER_NAMES[k] if water else _atom_name(symbols, k)
            named.addAtom(atom_name, elements[i], residue)
    return named


def _atom_name(symbols: list[str], k: int) -> str:
    """Element and running number, in the four characters a PDB file has (base 36 beyond, then the bare symbol)."""
    if len(symbols) == 1:
        return symbols[0]
    name = f"{symbols[k]}{k + 1}"
    if len(name) > 4:
        name = f"{symbols[k]}{np.base_repr(k + 1, 36)}"
    return name if len(name) <= 4 else symbols[k]


def _with_bonds(topology: app.Topology, molecules: Molecules) -> app.Topology:
    """The topology with the bonds in use, in place of those of the file (too long ones dropped, found ones added)."""
    clean, atoms = copy_topology(topology)
    kinds = {frozenset((bond[0].index, bond[1].index)): (bond.type, bond.order) for bond in topology.bonds()}
    network = molecules.in_network()
    seen = set()
    for i, j in molecules.bonds.tolist():
        pair = frozenset((i, j))
        if i != j and pair not in seen and not network[i]:  # bonds of an endless network cross every face of the box
            seen.add(pair)
            clean.addBond(atoms[i], atoms[j], *kinds.get(pair, (None, None)))
    return clean
