"""What a structure file says of motion: the atoms that it holds still, and velocities."""

import ase.units
import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian, FixScaled

A_PER_FS_TO_NM_PER_PS = 100.0


def fixed_of(atoms: Atoms, notes: list[str]) -> np.ndarray | None:
    """[n_atoms, 3] bool, the coordinates that are held still (selective dynamics of VASP, `move_mask` of extended XYZ);
    None where none is. Adds a note on constraints of other kinds."""
    fixed = np.zeros((len(atoms), 3), dtype=bool)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            fixed[constraint.index] = True
        elif isinstance(constraint, (FixCartesian, FixScaled)):
            fixed[constraint.index] |= np.asarray(constraint.mask, dtype=bool)
        else:
            notes.append(f"the file has a constraint of the kind {type(constraint).__name__}, which is not used")
    return fixed if fixed.any() else None


def velocities_of(atoms: Atoms, notes: list[str]) -> np.ndarray | None:
    """[n_atoms, 3] nm/ps, from momenta in ASE's units (also a POSCAR's velocities) or the column of our own frames.

    None without; adds a note on a column `velocities` whose unit nobody states."""
    if atoms.has("momenta") and np.any(atoms.arrays["momenta"]):
        return atoms.get_velocities() * ase.units.fs * A_PER_FS_TO_NM_PER_PS
    column = atoms.arrays.get("velocities")
    if column is None:
        return None
    if "atom_name" not in atoms.arrays:  # the frames that a run writes have it, and A/fs
        notes.append("the file does not state the unit of its velocities: not used (ASE's `momenta` would be)")
        return None
    return np.asarray(column, dtype=float) * A_PER_FS_TO_NM_PER_PS
