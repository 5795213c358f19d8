"""Geometries of SPICE, labelled by the teacher and divided into training and test by whole molecules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ase.data import covalent_radii
from frames import Engine, Frame

FILES = {
    "monomers": "des-monomers.hdf5",
    "water30": "water.hdf5",
    "water60": "water60.hdf5",
    "amino acids": "solvated-amino-acids.hdf5",
    "ions": "ions.hdf5",
    "ligands": "amino-acid-ligand-test.hdf5",
}
HELD_OUT = {"monomers": 38, "amino acids": 4, "ions": 4, "ligands": 20}  # molecules
FIRST_HELD_OUT_WATER = 900  # of 1000 configurations of each cluster; water is one molecule


def read_molecules(folder: Path) -> Iterator[tuple[str, str, np.ndarray, np.ndarray, int, list[tuple[int, int]]]]:
    """(kind, name, numbers, positions [n_conformations, n_atoms, 3] in A, charge, bonds) of every molecule."""
    import h5py

    for kind, name in FILES.items():
        with h5py.File(folder / name) as file:
            for key in file:
                numbers, charge, bonds = read_smiles(file[key]["smiles"][0].decode())
                yield kind, key, numbers, 10.0 * file[key]["conformations"][:].astype(float), charge, bonds


def read_smiles(smiles: str) -> tuple[np.ndarray, int, list[tuple[int, int]]]:
    """Numbers in the order of the atom map, charge, and bonds of a mapped SMILES with explicit hydrogens."""
    from rdkit import Chem

    parameters = Chem.SmilesParserParams()
    parameters.removeHs, parameters.sanitize = False, False
    molecule = Chem.MolFromSmiles(smiles, parameters)
    place = {atom.GetIdx(): (atom.GetAtomMapNum() or atom.GetIdx() + 1) - 1 for atom in molecule.GetAtoms()}
    numbers = np.zeros(len(place), int)
    for atom in molecule.GetAtoms():
        numbers[place[atom.GetIdx()]] = atom.GetAtomicNum()
    bonds = [(place[bond.GetBeginAtomIdx()], place[bond.GetEndAtomIdx()]) for bond in molecule.GetBonds()]
    return numbers, sum(atom.GetFormalCharge() for atom in molecule.GetAtoms()), bonds


def clashes(numbers: np.ndarray, positions: np.ndarray, bonds: list[tuple[int, int]]) -> bool:
    """Whether atoms that are not bonded are closer than the sum of their covalent radii.

    Some ligand geometries overlap with the amino acid so that forces are above 15 eV/A, and the teacher is off there.
    """
    radii = covalent_radii[numbers]
    closest = radii[:, None] + radii[None]
    np.fill_diagonal(closest, 0.0)
    for a, b in bonds:
        closest[a, b] = closest[b, a] = 0.0
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    return bool((distance < closest).any())


def label_spice(folder: Path, teacher: Engine, seed: int) -> tuple[list[Frame], list[Frame]]:
    """(training, test) frames of all files, without those whose atoms clash."""
    frames: list[tuple[int, Frame]] = []
    dropped: Counter[str] = Counter()
    for kind, name, numbers, conformations, charge, bonds in read_molecules(folder):
        for index, positions in enumerate(conformations):
            if clashes(numbers, positions, bonds):
                dropped[kind] += 1
                continue
            frames.append((index, Frame(kind, name, numbers, positions, charge, *teacher(numbers, positions))))
    print("left out because atoms clash:", dict(dropped))
    held_out = choose_molecules([frame for _, frame in frames], seed)
    parts: tuple[list[Frame], list[Frame]] = ([], [])
    for index, frame in frames:
        is_test = (frame.kind, frame.group) in held_out
        if frame.kind.startswith("water"):
            is_test = index >= FIRST_HELD_OUT_WATER
        parts[is_test].append(frame)
    return parts


def choose_molecules(frames: list[Frame], seed: int) -> set[tuple[str, str]]:
    """(kind, molecule) of those that are kept for the test."""
    rng = np.random.default_rng(seed)
    chosen = set()
    for kind, count in HELD_OUT.items():
        names = sorted({frame.group for frame in frames if frame.kind == kind})
        chosen |= {(kind, names[i]) for i in rng.choice(len(names), count, replace=False)}
    return chosen
