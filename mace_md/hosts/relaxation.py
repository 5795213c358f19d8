"""Relaxation of a geometry, and of a cell under a pressure, by ASE's optimisers; ASE's units (eV, A, eV/A^3)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms, FixConstraint
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS, FIRE, LBFGSLineSearch
from ase.optimize.optimize import Optimizer

from mace_md.errors import InputError

# LBFGS without a line search walks away from a minimum where the curvature is negative: from 1.3 sigma of two
# Lennard-Jones atoms it ends at 11 sigma, where the force is small too.
OPTIMIZERS = {"bfgs": BFGS, "lbfgs": LBFGSLineSearch, "fire": FIRE}
MOST_ATOMS_OF_BFGS = 100  # it diagonalises a matrix of three times as many rows at every step


@dataclass(frozen=True)
class Relaxation:
    """Where a relaxation is, or ended.

    steps : of the optimiser. energy : eV. enthalpy : eV, with the pressure times the volume where the cell moves.
    largest_force : on an atom, eV/A, what constraints take away left out.
    stress : [6] eV/A^3 in ASE's order (xx, yy, zz, yz, xz, xy; tension is positive), None without three cell vectors.
    converged : forces, and the stress where the cell moves, are within the limits.
    """

    steps: int
    energy: float
    enthalpy: float
    largest_force: float
    stress: np.ndarray | None
    converged: bool


def relax(
    atoms: Atoms,
    *,
    cell: str = "fixed",
    pressure: float = 0.0,
    symmetry_tolerance: float | None = None,
    frozen: np.ndarray | None = None,
    max_force: float = 0.01,
    max_stress: float = 6e-5,
    max_steps: int = 1000,
    optimizer: str = "auto",
    watch: Callable[[Relaxation], bool] = lambda now: True,
) -> Relaxation:
    """Relax `atoms`, which have a calculator, in place.

    Parameters
    ----------
    cell : "fixed"; "volume", at constant shape; or "full" (Frechet derivative of the deformation, ASE's
        FrechetCellFilter), against `pressure`, eV/A^3.
    symmetry_tolerance : A; the space group of the start within it is kept (ASE's FixSymmetry). None keeps none.
    frozen : indices of atoms that do not move.
    max_force, max_stress : eV/A, eV/A^3; both hold at the end of a converged relaxation.
    watch : told of every step; False ends the relaxation there.

    Raises InputError for a cell that is to move and is none, and where spglib is missing for the symmetry.
    """
    if cell != "fixed" and not (atoms.pbc.all() and atoms.cell.rank == 3):
        raise InputError(
            f"the cell is to be relaxed ({cell}), and this structure is not periodic in three directions. Leave the "
            "cell fixed, or give a box."
        )
    constraints: list[FixConstraint] = []
    if frozen is not None and len(frozen):
        constraints.append(FixAtoms(indices=frozen))
    if symmetry_tolerance is not None:
        constraints.append(_fixed_symmetry(atoms, symmetry_tolerance))
    atoms.set_constraint(constraints)
    moved = (
        atoms
        if cell == "fixed"
        else FrechetCellFilter(atoms, hydrostatic_strain=cell == "volume", scalar_pressure=pressure)
    )
    kind = ("bfgs" if len(atoms) <= MOST_ATOMS_OF_BFGS else "lbfgs") if optimizer == "auto" else optimizer
    search: Optimizer = OPTIMIZERS[kind](moved, logfile=None)

    def now() -> Relaxation:
        stress = atoms.get_stress() if atoms.cell.rank == 3 and atoms.pbc.any() else None
        force = float(np.linalg.norm(atoms.get_forces(), axis=1).max(initial=0.0))
        converged = force <= max_force and (cell == "fixed" or _excess(stress, pressure, cell) <= max_stress)
        energy = float(atoms.get_potential_energy())
        enthalpy = energy + (pressure * atoms.get_volume() if cell != "fixed" else 0.0)
        return Relaxation(search.nsteps, energy, enthalpy, force, stress, converged)

    found = now()
    if not watch(found) or found.converged:
        return found
    for _ in search.irun(fmax=0.0, steps=max_steps):
        if search.nsteps == found.steps:  # it begins by handing out the start
            continue
        found = now()
        if not watch(found) or found.converged:
            break
    return found


def _excess(stress: np.ndarray, pressure: float, cell: str) -> float:
    """By how much the stress differs from that of the pressure, eV/A^3, in what the cell is free to do."""
    if cell == "volume":
        return abs(float(stress[:3].mean()) + pressure)
    return float(np.abs(stress + pressure * np.array([1, 1, 1, 0, 0, 0])).max())


def _fixed_symmetry(atoms: Atoms, tolerance: float) -> FixConstraint:
    try:
        import spglib  # noqa: F401
    except ModuleNotFoundError:
        raise InputError("keeping the symmetry needs spglib, which is not installed: pip install spglib") from None
    from ase.constraints import FixSymmetry

    return FixSymmetry(atoms, symprec=tolerance)
