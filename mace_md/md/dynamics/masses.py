"""Masses that are not the elements': hydrogen mass repartitioning, and atoms that are held still.

Masses do not enter averages over positions (density, structure, free energies): in classical statistical mechanics
momenta integrate out. They do enter whatever is a function of time: diffusion, spectra, rates.
"""

from collections.abc import Sequence

import numpy as np
from openmm import app, unit

from mace_md.errors import InputError

SMALLEST_MASS_LEFT = 1.0  # Da; below that the heavy atom would have become the fast one


def masses_of(topology: app.Topology) -> np.ndarray:
    """[n_atoms] Da, the masses of the elements. Raises InputError for an atom without one."""
    nameless = next((atom for atom in topology.atoms() if atom.element is None), None)
    if nameless is not None:
        raise InputError(
            f"atom {nameless.index + 1} ({nameless.name}) has no chemical element; MACE needs one for each."
        )
    return np.array([atom.element.mass.value_in_unit(unit.dalton) for atom in topology.atoms()])


def repartition_hydrogen(topology: app.Topology, hydrogen_mass: float, bonds: np.ndarray | None = None) -> np.ndarray:
    """[n_atoms] Da: each hydrogen weighs `hydrogen_mass`, and the heavy atom it is bonded to lighter by as much.

    bonds : [n_bonds, 2], those of the topology by default, which leave out those of endless networks.

    The mass of every molecule stays what it was (Feenstra, Hess and Berendsen, J. Comput. Chem. 20, 786 (1999)). Unlike
    in force fields with rigid water, the hydrogens of water are included: here they vibrate like all others.

    Raises InputError when a hydrogen has no heavy neighbour (a bare proton, H2), and when a heavy atom would be left
    with less than 1 Da.
    """
    masses = masses_of(topology)
    atoms = list(topology.atoms())
    partners: dict[int, list[int]] = {}
    pairs = [(a.index, b.index) for a, b in topology.bonds()] if bonds is None else bonds.tolist()
    for i, j in pairs:
        for hydrogen, other in ((atoms[i], atoms[j]), (atoms[j], atoms[i])):
            if hydrogen.element.atomic_number == 1 and other.element.atomic_number != 1:
                partners.setdefault(hydrogen.index, []).append(other.index)
    moved = masses.copy()
    for atom in atoms:
        if atom.element.atomic_number != 1:
            continue
        heavy = partners.get(atom.index)
        if not heavy:
            raise InputError(
                f"--hydrogen-mass: atom {atom.index + 1} ({atom.name}, residue {atom.residue.name} {atom.residue.id}) "
                "is a hydrogen without a heavy neighbour to take mass from. Leave the option out."
            )
        moved[atom.index] = hydrogen_mass
        moved[heavy[0]] -= hydrogen_mass - masses[atom.index]
    lightest = int(np.argmin(moved))
    if moved[lightest] < SMALLEST_MASS_LEFT:
        atom = atoms[lightest]
        raise InputError(
            f"--hydrogen-mass {hydrogen_mass:g}: atom {lightest + 1} ({atom.name}, residue {atom.residue.name} "
            f"{atom.residue.id}) would be left with {moved[lightest]:.2f} Da. Take 3 Da, or less."
        )
    return moved


def frozen(masses: np.ndarray, atoms: Sequence[int], why: str = "chosen") -> np.ndarray:
    """`masses` with 0 for `atoms`: OpenMM does not move particles without mass, and no integrator counts them.

    Raises InputError when nothing is left that moves.
    """
    held = masses.copy()
    held[list(atoms)] = 0.0
    if not held.any():
        raise InputError(f"--freeze: all {len(masses)} atoms are held ({why}); nothing would move. Hold fewer.")
    return held
