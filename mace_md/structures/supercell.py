"""Several copies of a periodic structure side by side, in a box as many times as large."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from openmm import app

from mace_md.errors import InputError
from mace_md.structures.structure import Structure, assemble, contents_of

MOST_ATOMS = 10_000_000


def repeat(structure: Structure, counts: Sequence[int]) -> Structure:
    """`counts` copies along a, b and c; chains and residues are repeated, molecules stay whole.

    Raises InputError for a structure without a box, and for more than MOST_ATOMS.
    """
    if structure.box is None:
        raise InputError(f"{structure.path}: --supercell repeats a periodic box, and this has none. Give --box a,b,c.")
    if len(structure.positions) * math.prod(counts) > MOST_ATOMS:
        raise InputError(
            f"--supercell {','.join(map(str, counts))}: {len(structure.positions)} atoms would become "
            f"{len(structure.positions) * math.prod(counts):g}; at most {MOST_ATOMS:g} are possible."
        )
    images = [(i, j, k) for i in range(counts[0]) for j in range(counts[1]) for k in range(counts[2])]
    contents = contents_of(structure)
    shifts = np.array(images, dtype=float) @ structure.box
    positions = (structure.positions[None] + shifts[:, None]).reshape(-1, 3)
    before = len(structure.positions)
    notes = [*contents.notes, f"supercell {' x '.join(map(str, counts))}: {before} atoms became {len(positions)}"]
    spin = structure.spin
    if spin not in (None, 1):
        notes.append(f"the spin multiplicity {spin} of the file is that of one cell; none is taken over")
        spin = None
    repeated = replace(
        contents,
        topology=_repeated(structure.topology, len(images)),
        positions=positions,
        box=structure.box * np.asarray(counts, dtype=float)[:, None],
        charge=None if structure.charge is None else structure.charge * len(images),
        spin=spin,
        notes=tuple(notes),
        fixed=_tiled(structure.fixed, len(images)),
        velocities=_tiled(structure.velocities, len(images)),
        guessed=frozenset((i + k * before, j + k * before) for i, j in contents.guessed for k in range(len(images))),
    )
    return assemble(repeated, bonds_from="repeated")


def _tiled(rows: np.ndarray | None, count: int) -> np.ndarray | None:
    return None if rows is None else np.tile(rows, (count, 1))


def _repeated(topology: app.Topology, count: int) -> app.Topology:
    """The topology `count` times; residue numbers go on counting in each copy."""
    numbers = [int(residue.id) for residue in topology.residues() if residue.id.lstrip("-").isdigit()]
    span = max(numbers) - min(numbers) + 1 if len(numbers) == topology.getNumResidues() else 0
    result = app.Topology()
    for image in range(count):
        atoms = []
        for chain in topology.chains():
            new_chain = result.addChain(chain.id)
            for residue in chain.residues():
                number = str(int(residue.id) + image * span) if span else residue.id
                new_residue = result.addResidue(residue.name, new_chain, number, residue.insertionCode)
                atoms += [
                    result.addAtom(atom.name, atom.element, new_residue, formalCharge=atom.formalCharge)
                    for atom in residue.atoms()
                ]
        for bond in topology.bonds():
            result.addBond(atoms[bond[0].index], atoms[bond[1].index], bond.type, bond.order)
    return result
