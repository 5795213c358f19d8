"""xyz, extended xyz, POSCAR and whatever else ASE reads: elements, positions, a cell; no residues, no bonds."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms

from mace_md.errors import InputError
from mace_md.structures.formats.contents import Contents, bare_topology
from mace_md.structures.formats.isotopes import element_of_symbol, isotope_notes, weighing
from mace_md.structures.formats.motion import fixed_of, velocities_of
from mace_md.structures.formats.xyz import read_xyz
from mace_md.units import ANGSTROM_TO_NM

_CHARGE_KEYS = ("charge", "total_charge", "net_charge", "molecular_charge")
_SPIN_KEYS = ("spin", "spin_multiplicity", "total_spin", "multiplicity", "mult")
WHOLE_CHARGE = 0.02  # e; charges of atoms are written with a few digits each


def read_with_ase(path: Path, frame: int | None = None) -> Contents:
    """Any file ASE knows. Raises InputError for frames, elements and cells that cannot be used."""
    import ase.io

    if path.suffix.lower() in (".xyz", ".extxyz"):
        atoms, masses, settled, count = read_xyz(path, frame)
        notes = _frame_notes(path, frame, count) + settled
        return from_atoms(path, atoms, notes, masses=masses)
    index = 0 if frame is None else frame
    try:
        atoms = ase.io.read(path, index=index)
        count = 1 if frame is not None else len(ase.io.read(path, index=slice(0, 2)))
    except IndexError as error:
        raise InputError(f"{path}: has no frame with index {index}; the first is @0, the last is @-1.") from error
    except KeyError as error:
        if element_of_symbol(str(error.args[0])) is not None and str(error.args[0]).isalpha():
            raise InputError(
                f"{path}: names the isotope {error.args[0]}, which ASE does not read in this format. Name the element, "
                "and give masses in an extended XYZ file, if they matter."
            ) from error
        raise
    except Exception as error:  # ASE has a class of its own for it
        if "chemical symbols" not in str(error):  # of a POSCAR as VASP 4 wrote it
            raise
        raise InputError(
            f"{path}: names no elements. Add a line with their symbols above the numbers of atoms, as in VASP 5."
        ) from error
    masses = np.asarray(atoms.get_masses(), dtype=float) if atoms.has("masses") else None
    return from_atoms(path, atoms, _frame_notes(path, frame, count), masses=masses)


def _frame_notes(path: Path, frame: int | None, count: int) -> list[str]:
    if frame is not None or count < 2:
        return []
    return [f"the file has several frames; the first was taken (another: {path.name}@INDEX)"]


def from_atoms(path: Path, atoms: Atoms, notes: Sequence[str] = (), *, masses: np.ndarray | None = None) -> Contents:
    """An ase.Atoms with its cell, and the charge and spin in its `info`.

    masses : [n_atoms] Da as the file states them, NaN where it does not.
    """
    notes = list(notes)
    if len(atoms) and 0 in atoms.numbers:
        raise InputError(
            f"{path}: atom {int(np.argmin(atoms.numbers)) + 1} has no chemical element ('X'). Name its element."
        )
    positions = atoms.positions * ANGSTROM_TO_NM
    box, rotation = None, np.eye(3)
    if atoms.pbc.any() and not atoms.pbc.all():
        axes = ", ".join(axis for axis, on in zip("xyz", atoms.pbc, strict=True) if on)
        raise InputError(
            f"{path}: is periodic along {axes} only; OpenMM knows fully periodic and open systems. For a slab put at "
            'least twice the cutoff of vacuum in the open direction and set pbc="T T T".'
        )
    if atoms.pbc.all():
        box, rotation = _standard_box(path, np.asarray(atoms.cell) * ANGSTROM_TO_NM)
        if not np.array_equal(rotation, np.eye(3)):
            positions = positions @ rotation
            notes.append("the cell and the atoms were rotated so that the first vector lies along x, as OpenMM wants")
    elif atoms.cell.rank:
        notes.append('the file has a cell but pbc="F F F": treated as not periodic')
    charge, spin = (_integer_info(path, atoms.info, keys) for keys in (_CHARGE_KEYS, _SPIN_KEYS))
    charge = _charge_of_atoms(path, atoms, charge, notes)
    topology = bare_topology(atoms.get_chemical_symbols())
    if masses is not None:
        for atom, mass in zip(topology.atoms(), masses.tolist(), strict=True):
            atom.element = atom.element if np.isnan(mass) else weighing(atom.element, mass)
        notes += isotope_notes(atom.element for atom in topology.atoms())
    fixed, velocities = fixed_of(atoms, notes), velocities_of(atoms, notes)
    if velocities is not None:
        velocities = velocities @ rotation
    return Contents(
        path, topology, positions, box, charge, spin, tuple(notes), (path,), fixed=fixed, velocities=velocities
    )


def _charge_of_atoms(path: Path, atoms: Atoms, charge: int | None, notes: list[str]) -> int | None:
    """The charge of the comment, or the sum of the column `initial_charges`, which has to agree with it."""
    if not atoms.has("initial_charges") or not np.any(atoms.get_initial_charges()):
        return charge
    total = float(atoms.get_initial_charges().sum())
    whole = round(total)
    if abs(total - whole) > WHOLE_CHARGE:
        notes.append(f"the initial_charges of the file add up to {total:+.3f}, no whole charge: not used")
        return charge
    if charge is not None and charge != whole:
        raise InputError(
            f"{path}: the comment says charge={charge}, the initial_charges add up to {whole:+d}. Correct one of them."
        )
    return whole


def _integer_info(path: Path, info: dict, keys: Sequence[str]) -> int | None:
    info = {str(key).lower(): value for key, value in info.items()}
    for key in keys:
        if key in info:
            try:
                number = float(info[key])
            except (TypeError, ValueError):
                number = float("nan")
            if number != round(number, 6) or number != int(round(number)):
                raise InputError(f"{path}: {key}={info[key]} in the file is not a whole number. Correct it.")
            return int(round(number))
    return None


def _standard_box(path: Path, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cell with a along x and b in the xy plane, and what turns row vectors that way (unity where it is so)."""
    if abs(np.linalg.det(cell)) < 1e-6:
        raise InputError(f"{path}: is periodic, but its cell has no volume. Correct the cell, or set pbc to F.")
    if np.linalg.det(cell) < 0:
        cell = cell * [[1.0], [1.0], [-1.0]]  # -c spans the same lattice and makes the triple right-handed
    q, r = np.linalg.qr(cell.T)  # cell.T = q @ r, so rows of r.T are the cell in the frame of q's columns
    signs = np.sign(np.diag(r))
    standard = (signs[:, None] * r).T
    rotation = q * signs
    if np.allclose(rotation, np.eye(3), atol=1e-9):
        return cell, np.eye(3)
    return standard, rotation
