"""CIF of a crystal: the sites and the symmetry become every atom of the cell, sorted by molecule.

The symmetry operations are those listed in the file, or those of its space group (ASE). Disorder has no single set of
atoms, so it is refused.
"""

import io
import re
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
from ase import Atoms

from mace_md.errors import InputError
from mace_md.structures.formats.contents import Contents, bare_topology, frame_index
from mace_md.structures.formats.coordinates import from_atoms
from mace_md.structures.formats.isotopes import DEUTERIUM
from mace_md.structures.formats.text import read_text
from mace_md.structures.molecules import find_molecules

FULL_OCCUPANCY = 0.999
# Images of one site closer than this are the same atom, on a special position given with too few digits.
SAME_ATOM = 0.5  # A


def read_cif(path: Path, frame: int | None = None, *, complete: bool = True) -> Contents:
    """The full unit cell of a crystal. With `complete`, a formula in the file has to agree with the atoms found.

    Raises InputError for disorder, sites that coincide, and atoms that the formula has and the list has not.
    """
    from ase.io.cif import parse_cif

    blocks = [block for block in parse_cif(io.StringIO(read_text(path))) if block.has_structure()]
    if not blocks and "_chem_comp_atom." in read_text(path):
        raise InputError(f"{path}: describes a component, not a structure. Take its SDF or mol2 file.")
    if not blocks:
        raise InputError(f"{path}: holds no crystal (no atom sites with coordinates). Check the file.")
    index = frame_index(path, frame, len(blocks))
    block = blocks[index]
    notes = []
    if len(blocks) > 1:
        notes.append(f"data block {block.name}, number {index + 1} of {len(blocks)} (another: {path.name}@INDEX)")
    _refuse_disorder(path, block)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        atoms = block.get_atoms(fractional_occupancies=False)
    notes += sorted({f"warning: {warning.message}" for warning in caught if "crystal system" in str(warning.message)})
    atoms, merged = _one_atom_a_place(path, atoms)
    group = atoms.info.get("spacegroup")
    sites = len(block.get_symbols())
    if group is not None:
        notes.append(f"space group {group.symbol}: {sites} sites became {len(atoms)} atoms in the unit cell")
    if merged:
        notes.append(
            f"{merged} images of sites on special positions, given with few digits, fell together and were merged"
        )
    if complete:
        _compare_with_formula(path, block, atoms)
    return _sorted_by_molecule(from_atoms(path, atoms, notes, masses=_masses(atoms)))


def _masses(atoms: Atoms) -> np.ndarray | None:
    """[n_atoms] Da, those of deuterium (ASE gives them the mass of the nucleus), NaN for others; None without any."""
    if not atoms.has("masses"):
        return None
    heavy = (atoms.numbers == 1) & (atoms.get_masses() > 1.5)
    return np.where(heavy, DEUTERIUM, np.nan)


def _refuse_disorder(path: Path, block) -> None:
    labels = block.get("_atom_site_label") or block.get_symbols()
    occupancies = block.get("_atom_site_occupancy") or []
    partial = [
        f"{label} {float(value):g}"
        for label, value in zip(labels, occupancies, strict=False)
        if isinstance(value, (int, float)) and value < FULL_OCCUPANCY
    ]
    groups = block.get("_atom_site_disorder_group") or []
    disordered = [
        f"{label} in group {group}"
        for label, group in zip(labels, groups, strict=False)
        if str(group).strip() not in (".", "?", "", "0")
    ]
    found = partial or disordered
    if found:
        shown = ", ".join(found[:4]) + (", ..." if len(found) > 4 else "")
        what = "occupied in part" if partial else "disordered"
        raise InputError(
            f"{path}: {len(found)} sites are {what} ({shown}); a simulation needs whole atoms. Keep one component of "
            "the disorder in the file with occupancy 1 and disorder group '.', or build an ordered supercell."
        )


def _one_atom_a_place(path: Path, atoms: Atoms) -> tuple[Atoms, int]:
    """Without repeated images of a site; two different sites at one place are refused."""
    from ase.neighborlist import neighbor_list

    first, second, distance = neighbor_list("ijd", atoms, SAME_ATOM, self_interaction=False)
    kinds = atoms.arrays.get("spacegroup_kinds", np.arange(len(atoms)))
    foreign = np.flatnonzero(kinds[first] != kinds[second])
    if len(foreign):
        i, j = first[foreign[0]], second[foreign[0]]
        raise InputError(
            f"{path}: sites {kinds[i] + 1} ({atoms.symbols[i]}) and {kinds[j] + 1} ({atoms.symbols[j]}) are "
            f"{distance[foreign[0]]:.2f} A apart after the symmetry is applied. Is it disorder, or the wrong space "
            "group?"
        )
    drop: set[int] = set()
    for i, j in zip(first.tolist(), second.tolist(), strict=True):
        if i < j and i not in drop:
            drop.add(j)
    keep = [i for i in range(len(atoms)) if i not in drop]
    info = atoms.info
    atoms = atoms[keep]
    atoms.info = info
    return atoms, len(drop)


def _compare_with_formula(path: Path, block, atoms: Atoms) -> None:
    """Raise InputError when the formula of the file is not that of the atoms: most often hydrogens were left out."""
    text = str(block.get("_chemical_formula_sum") or "")
    parts = re.findall(r"([A-Z][a-z]?)\s*(\d*\.?\d*)", text)
    if not parts or any("." in number for _, number in parts):
        return
    formula: Counter = Counter()
    for symbol, number in parts:
        formula["H" if symbol == "D" else symbol] += int(number or 1)
    found = Counter(atoms.get_chemical_symbols())
    ratios = {symbol: found[symbol] / count for symbol, count in formula.items() if count}
    if set(found) <= set(formula) and len(set(ratios.values())) == 1:
        return
    have = " ".join(f"{symbol}{found[symbol]}" for symbol in sorted(found))
    raise InputError(
        f"{path}: the formula in the file is {text.strip()}, but the atoms of the cell are {have}, no multiple of "
        "it. Atoms are missing or too many (hydrogens are often left out): complete the file, or pass --hydrogens "
        "keep if this is meant."
    )


def _sorted_by_molecule(contents: Contents) -> Contents:
    """Atoms of each molecule one after another, so that each becomes a residue; a network stays as it is."""
    molecules, _ = find_molecules(contents.topology, contents.positions, contents.box)
    if molecules.networks:
        return contents
    order = [i for group in molecules.groups() for i in group]
    elements = [atom.element for atom in contents.topology.atoms()]
    topology = bare_topology([elements[i].symbol for i in order])
    for atom, i in zip(topology.atoms(), order, strict=True):
        atom.element = elements[i]
    return replace(contents, topology=topology, positions=contents.positions[order])
