"""Random molecules through every format and back: the same elements, masses, positions, bonds, charge and box.

The writers are those of RDKit, ASE, mdtraj and OpenMM; what a format cannot hold is not asked of it.
"""

import random
from dataclasses import dataclass

import ase
import ase.io
import mdtraj
import numpy as np
import pytest
from openmm import app, unit
from rdkit import Chem

from mace_md.structures.formats.molfile import from_smiles
from mace_md.structures.molecules import IONIC_METALS
from mace_md.structures.structure import read_structure

PIECES = (
    "O N C CC CO C=C C#C C#N CC#N C=O CC=O OC=O CNC CSC CS CC(C)=O c1ccccc1 c1ccncc1 c1ccoc1 c1ccsc1 "
    "C1CCCC1 CF CCl CBr CI FC(F)F ClC(Cl)Cl CP COP(=O)(O)O CS(C)(=O)=O CS(N)(=O)=O [NH4+] C[NH3+] [O-]C=O "
    "CC(=O)[O-] [Na+] [K+] [Cl-] [Br-] [Mg+2] [Ca+2] [Li+] C[N+](=O)[O-] C[N+](C)(C)C NCC(=O)O "
    "C[Si](C)(C)C B(O)(O)O [2H]O[2H] [13CH4] C([2H])([2H])[2H] O=C=O N#N OO"
).split()


@dataclass
class Truth:
    """A molecule, or several, as RDKit has it; positions in A, masses in Da, cell [3, 3] A or None."""

    molecule: Chem.Mol
    numbers: list[int]
    masses: np.ndarray
    positions: np.ndarray
    bonds: set[frozenset[int]]
    charge: int
    cell: np.ndarray | None

    @property
    def symbols(self):
        return [atom.GetSymbol() for atom in self.molecule.GetAtoms()]

    @property
    def has_metal(self):
        return bool(set(self.numbers) & IONIC_METALS)


def random_truth(rng):
    """One to three pieces, joined to one another or side by side, with or without a reduced triclinic box."""
    smiles = ".".join(rng.choice(PIECES) for _ in range(rng.choice([1, 1, 2, 3])))
    contents = from_smiles(smiles, seed=rng.randrange(10**6))
    molecule = Chem.Mol()
    for fragment in Chem.GetMolFrags(Chem.MolFromSmiles(smiles), asMols=True):
        molecule = Chem.CombineMols(molecule, Chem.AddHs(fragment))
    Chem.SanitizeMol(molecule)
    numbers = [atom.GetAtomicNum() for atom in molecule.GetAtoms()]
    assert numbers == [atom.element.atomic_number for atom in contents.topology.atoms()]
    positions = spread(10 * contents.positions, Chem.GetMolFrags(molecule))
    table = Chem.GetPeriodicTable()
    masses = np.array(
        [
            table.GetMassForIsotope(atom.GetAtomicNum(), atom.GetIsotope()) if atom.GetIsotope() else atom.GetMass()
            for atom in molecule.GetAtoms()
        ]
    )
    cell = None
    if rng.random() < 0.6:
        length = np.ptp(positions, axis=0).max() + 12.0
        skew = rng.choice([0, 0.3]), rng.choice([0, -0.2]), rng.choice([0, 0.4])
        cell = length * np.array([[1, 0, 0], [skew[0], 1, 0], [skew[1], skew[2], 1]])
    conformer = Chem.Conformer(len(numbers))
    conformer.SetPositions(np.ascontiguousarray(positions))
    molecule.RemoveAllConformers()
    molecule.AddConformer(conformer)
    bonds = {frozenset((b.GetBeginAtomIdx(), b.GetEndAtomIdx())) for b in molecule.GetBonds()}
    return Truth(molecule, numbers, masses, positions, bonds, Chem.GetFormalCharge(molecule), cell)


def spread(positions, fragments):
    """Molecules beside one another along x, 3 A apart: nothing that is not bonded is near a bond length."""
    positions, start = positions.copy(), 0.0
    for fragment in map(list, fragments):
        positions[fragment] += [start - positions[fragment, 0].min(), 0.0, 0.0]
        start = positions[fragment, 0].max() + 3.0
    return positions


def atoms_of(truth):
    return ase.Atoms(truth.symbols, truth.positions, cell=truth.cell, pbc=truth.cell is not None)


def mdtraj_of(truth):
    topology = mdtraj.Topology()
    residue = topology.add_residue("MOL", topology.add_chain())
    for k, symbol in enumerate(truth.symbols):
        topology.add_atom(f"{symbol}{k + 1}"[:4], mdtraj.element.get_by_symbol(symbol), residue)
    trajectory = mdtraj.Trajectory(0.1 * truth.positions[None], topology)
    if truth.cell is not None:
        trajectory.unitcell_vectors = 0.1 * truth.cell[None]
    return trajectory


def openmm_of(truth):
    topology = app.Topology()
    residue = topology.addResidue("MOL", topology.addChain("A"))
    made = [topology.addAtom(f"{s}{k + 1}", app.Element.getBySymbol(s), residue) for k, s in enumerate(truth.symbols)]
    for bond in truth.molecule.GetBonds():
        topology.addBond(made[bond.GetBeginAtomIdx()], made[bond.GetEndAtomIdx()])
    if truth.cell is not None:
        topology.setPeriodicBoxVectors(0.1 * truth.cell * unit.nanometer)
    return topology


def write_sdf(path, truth):
    path.write_text(Chem.MolToMolBlock(truth.molecule))


def write_sdf_v3000(path, truth):
    path.write_text(Chem.MolToMolBlock(truth.molecule, forceV3000=True))


def write_rdkit_pdb(path, truth):
    path.write_text(Chem.MolToPDBBlock(truth.molecule))


def write_rdkit_xyz(path, truth):
    path.write_text(Chem.MolToXYZBlock(truth.molecule))


def write_numbers_xyz(path, truth):
    rows = [f"{z} {x:.8f} {y:.8f} {w:.8f}" for z, (x, y, w) in zip(truth.numbers, truth.positions, strict=True)]
    path.write_text("\n".join([str(len(rows)), "", *rows]) + "\n")


def write_label_xyz(path, truth):
    rows = [
        f"{s}{k + 1} {x:.8f} {y:.8f} {w:.8f}"
        for k, (s, (x, y, w)) in enumerate(zip(truth.symbols, truth.positions, strict=True))
    ]
    path.write_text("\n".join([str(len(rows)), "", *rows]) + "\n")


def write_extxyz(path, truth):
    atoms = atoms_of(truth)
    atoms.set_masses(truth.masses)
    atoms.info["charge"] = truth.charge
    ase.io.write(path, atoms, format="extxyz", columns=["symbols", "positions", "masses"])


def write_poscar(path, truth):
    ase.io.write(path, atoms_of(truth), format="vasp", direct=False)


def write_ase_cif(path, truth):
    ase.io.write(path, atoms_of(truth), format="cif")


def write_ase_pdb(path, truth):
    ase.io.write(path, atoms_of(truth), format="proteindatabank")


def write_mdtraj_pdb(path, truth):
    mdtraj_of(truth).save_pdb(str(path))


def write_mdtraj_gro(path, truth):
    mdtraj_of(truth).save_gro(str(path), precision=6)


def write_openmm_pdb(path, truth):
    with open(path, "w") as file:
        app.PDBFile.writeFile(openmm_of(truth), 0.1 * truth.positions * unit.nanometer, file)


def write_openmm_cif(path, truth):
    with open(path, "w") as file:
        app.PDBxFile.writeFile(openmm_of(truth), 0.1 * truth.positions * unit.nanometer, file)


def write_mol2(path, truth):
    """SYBYL types with the element only, and the charge of the whole on the first atom."""
    orders = {1.0: "1", 2.0: "2", 3.0: "3", 1.5: "ar"}
    lines = ["@<TRIPOS>MOLECULE", "x", f"{len(truth.numbers)} {len(truth.bonds)} 1", "SMALL", "USER_CHARGES", ""]
    lines.append("@<TRIPOS>ATOM")
    for k, (symbol, (x, y, z)) in enumerate(zip(truth.symbols, truth.positions, strict=True)):
        charge = truth.charge + 0.25 if k == 0 else -0.25 / (len(truth.numbers) - 1)
        charge = truth.charge if len(truth.numbers) == 1 else charge
        lines.append(f"{k + 1} {symbol.upper()}{k + 1} {x:.6f} {y:.6f} {z:.6f} {symbol} 1 MOL {charge:.6f}")
    lines.append("@<TRIPOS>BOND")
    for k, bond in enumerate(truth.molecule.GetBonds(), start=1):
        kind = orders[bond.GetBondTypeAsDouble()]
        lines.append(f"{k} {bond.GetBeginAtomIdx() + 1} {bond.GetEndAtomIdx() + 1} {kind}")
    path.write_text("\n".join(lines) + "\n")


# name of the file, writer, precision in A, and what the format holds: bonds, charge, isotopes, box, order
FORMATS = {
    "sdf": ("a.sdf", write_sdf, 1e-4, "bonds charge isotopes order"),
    "sdf, V3000": ("a.mol", write_sdf_v3000, 1e-4, "bonds charge isotopes order"),
    "pdb of RDKit": ("a.pdb", write_rdkit_pdb, 1e-3, "bonds order"),
    "xyz of RDKit": ("a.xyz", write_rdkit_xyz, 1e-5, "order"),
    "xyz of numbers": ("a.xyz", write_numbers_xyz, 1e-7, "order"),
    "xyz of labels": ("a.xyz", write_label_xyz, 1e-7, "order"),
    "extxyz of ASE": ("a.extxyz", write_extxyz, 1e-7, "charge isotopes box order"),
    "POSCAR of ASE": ("POSCAR", write_poscar, 1e-7, "box order needs-box"),
    "CIF of ASE": ("a.cif", write_ase_cif, 1e-4, "box needs-box"),
    "pdb of ASE": ("a.pdb", write_ase_pdb, 1e-3, "box order"),
    "pdb of mdtraj": ("a.pdb", write_mdtraj_pdb, 1e-3, "box order"),
    "gro of mdtraj": ("a.gro", write_mdtraj_gro, 1e-4, "box order"),
    "pdb of OpenMM": ("a.pdb", write_openmm_pdb, 1e-3, "bonds box order"),
    "mmCIF of OpenMM": ("a.cif", write_openmm_cif, 1e-3, "box order"),
    "mol2": ("a.mol2", write_mol2, 1e-5, "bonds charge order"),
}


def places_modulo_cell(truth, structure):
    """For each atom of the truth the nearest atom of the structure of its element, through the cell."""
    inverse = np.linalg.inv(10 * structure.box)
    numbers = np.array(structure.atomic_numbers)
    found = []
    for number, position in zip(truth.numbers, truth.positions, strict=True):
        fraction = (10 * structure.positions - position) @ inverse
        distance = np.linalg.norm((fraction - np.round(fraction)) @ (10 * structure.box), axis=1)
        distance[numbers != number] = np.inf
        found.append(int(distance.argmin()))
        assert distance[found[-1]] < 2e-3  # A; a CIF of ASE has five digits of the fractions
    return found


def check(truth, structure, precision, holds):
    where = list(range(len(truth.numbers)))
    if "order" in holds:
        assert structure.atomic_numbers == truth.numbers
        offset = 0.0 if truth.cell is None else structure.positions - structure.molecules.offsets
        placed = structure.positions if truth.cell is None else offset
        assert np.allclose(10 * placed, truth.positions, atol=precision, rtol=0)
    else:
        where = places_modulo_cell(truth, structure)
        assert sorted(where) == list(range(len(truth.numbers)))
    masses = structure.masses[where]
    if "isotopes" in holds:
        # two tables of atomic weights: up to 0.03 Da for heavy elements, 0.003 Da below argon
        assert np.allclose(masses, truth.masses, atol=0.03, rtol=0)
        isotopic = np.array([bool(atom.GetIsotope()) for atom in truth.molecule.GetAtoms()])
        assert np.allclose(masses[isotopic], truth.masses[isotopic], atol=1e-5, rtol=0)
    back = {i: k for k, i in enumerate(where)}
    found = {frozenset((back[a.index], back[b.index])) for a, b in structure.topology.bonds()}
    assert found == truth.bonds
    if "charge" in holds:
        assert structure.charge == truth.charge
    if "box" in holds:
        assert (structure.box is None) is (truth.cell is None)
        if truth.cell is not None:
            assert np.linalg.det(10 * structure.box) == pytest.approx(np.linalg.det(truth.cell), rel=2e-4)


def run(tmp_path, seeds, formats=FORMATS):
    for seed in seeds:
        truth = random_truth(random.Random(seed))
        for kind, (name, writer, precision, holds) in formats.items():
            if "needs-box" in holds and truth.cell is None:
                continue
            path = tmp_path / name
            writer(path, truth)
            try:
                check(truth, read_structure(path), precision, holds.split())
            except Exception as error:
                raise AssertionError(f"seed {seed}, {Chem.MolToSmiles(truth.molecule)}, {kind}: {error!r}") from error


def test_random_molecules_through_every_format_are_the_same(tmp_path):
    run(tmp_path, range(40))


@pytest.mark.slow
def test_many_random_molecules_through_every_format_are_the_same(tmp_path):
    run(tmp_path, range(40, 500))
