"""Every input of `systems/` and of the shared folder, against readers that we did not write.

Elements, masses, positions, bonds, charge and box; where a reader differs, the quantity and the reason are listed, and
a difference that is not listed, or is listed and gone, fails.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

import ase.io
import mdtraj
import numpy as np
import pytest

from mace_md.structures.formats.isotopes import Isotope
from mace_md.structures.structure import read_structure

SYSTEMS = Path(__file__).parents[2] / "systems"
SHARED = Path(__file__).parents[3] / "shared"
POSITION = 2e-3  # A, the last digit of a PDB and of a .gro file
BOX = 2e-3  # A
MASS = 0.03  # Da, between tables of atomic weights


@dataclass
class Seen:
    """What a reader makes of a file; None for what it does not say. positions [n, 3] and cell [6] in A and degrees."""

    numbers: list[int] | None = None
    positions: np.ndarray | None = None
    masses: np.ndarray | None = None
    bonds: set[frozenset[int]] | None = None
    charge: float | None = None
    cell: np.ndarray | None = None


def by_ase(path, coordinates):
    atoms = ase.io.read(path)
    masses = atoms.get_masses() if atoms.has("masses") else None
    charge = {key.lower(): value for key, value in atoms.info.items()}.get("charge")
    if charge is None and atoms.has("initial_charges"):
        charge = float(atoms.get_initial_charges().sum())
    return Seen(
        atoms.numbers.tolist(), atoms.positions, masses, None, charge, atoms.cell.cellpar() if atoms.pbc.any() else None
    )


def by_mdtraj(path, coordinates):
    trajectory = mdtraj.load(str(coordinates or path), **({"top": str(path)} if coordinates else {}))
    topology = trajectory.topology
    cell = None
    if trajectory.unitcell_lengths is not None:
        cell = np.concatenate([10 * trajectory.unitcell_lengths[0], trajectory.unitcell_angles[0]])
    numbers = [atom.element.atomic_number for atom in topology.atoms]
    return Seen(numbers, 10 * trajectory.xyz[0], cell=cell)


def by_parmed(path, coordinates):
    parmed = pytest.importorskip("parmed")
    if coordinates is None:
        found = parmed.load_file(str(path), **({"structure": True} if path.suffix == ".mol2" else {}))
    else:
        found = parmed.load_file(str(path), xyz=str(coordinates))
    states_bonds = path.suffix in (".prmtop", ".top", ".mol2")
    bonds = {frozenset((b.atom1.idx, b.atom2.idx)) for b in found.bonds} if states_bonds else None
    if bonds is not None:  # Amber lists a bond between the hydrogens of rigid water
        bonds = {pair for pair in bonds if [found.atoms[i].atomic_number for i in pair] != [1, 1]}
    charge = sum(atom.charge for atom in found.atoms) if path.suffix == ".mol2" else None
    masses = np.array([atom.mass for atom in found.atoms]) if coordinates is not None else None
    numbers = [atom.atomic_number for atom in found.atoms]
    cell = None if found.box is None else np.array(found.box)
    return Seen(numbers, np.array(found.coordinates).reshape(-1, 3), masses, bonds, charge, cell)


def by_mdanalysis(path, coordinates):
    mda = pytest.importorskip("MDAnalysis")
    universe = mda.Universe(str(path))
    atoms = universe.atoms
    numbers = None
    if hasattr(atoms, "elements") and all(atoms.elements):
        numbers = [ase.data.atomic_numbers[symbol.capitalize()] for symbol in atoms.elements]
    cell = None if universe.dimensions is None else np.array(universe.dimensions, dtype=float)
    return Seen(numbers, np.array(atoms.positions, dtype=float), cell=cell)


def by_rdkit(path, coordinates):
    from rdkit import Chem

    molecule = Chem.MolFromMol2File if path.suffix == ".mol2" else Chem.MolFromMolFile
    molecule = molecule(str(path), removeHs=False)
    atoms = list(molecule.GetAtoms())
    return Seen(
        [atom.GetAtomicNum() for atom in atoms],
        molecule.GetConformer().GetPositions(),
        np.array([atom.GetMass() for atom in atoms]),
        {frozenset((b.GetBeginAtomIdx(), b.GetEndAtomIdx())) for b in molecule.GetBonds()},
        Chem.GetFormalCharge(molecule),
    )


READERS = {"ASE": by_ase, "mdtraj": by_mdtraj, "ParmEd": by_parmed, "MDAnalysis": by_mdanalysis, "RDKit": by_rdkit}
# file (below systems/, or shared/), the readers that take it, and the coordinates of a topology
FILES = {
    "systems/inputs/acetic_acid.extxyz": "ASE",
    "systems/inputs/alanine_dipeptide.cif": "mdtraj ParmEd",
    "systems/inputs/alanine_dipeptide.prmtop": "mdtraj ParmEd systems/inputs/alanine_dipeptide.rst7",
    "systems/inputs/aspirin.sdf": "RDKit ASE",
    "systems/inputs/caffeine.xyz": "ASE",
    "systems/inputs/carbon_dioxide.vasp": "ASE",
    "systems/inputs/enkephalin.pdb": "ASE mdtraj ParmEd MDAnalysis",
    "systems/inputs/salt_water.gro": "mdtraj MDAnalysis ParmEd",
    "systems/inputs/salt_water.top": "ParmEd systems/inputs/salt_water.gro",
    "systems/inputs/urea.cif": "ASE",
    "systems/alanine_dipeptide/alanine_dipeptide.pdb": "ASE mdtraj ParmEd MDAnalysis",
    "systems/alanine_dipeptide_water/alanine_dipeptide_water.pdb": "ASE mdtraj ParmEd MDAnalysis",
    "systems/ethanol/ethanol.pdb": "ASE mdtraj ParmEd MDAnalysis",
    "systems/urea/urea.pdb": "ASE mdtraj ParmEd MDAnalysis",
    "systems/water/water.pdb": "ASE mdtraj ParmEd MDAnalysis",
    "shared/systems/alanine_dipeptide_water.pdb": "ASE mdtraj MDAnalysis",
    "shared/systems/toluene.pdb": "ASE mdtraj ParmEd MDAnalysis",
    "shared/systems/water_93.pdb": "ASE mdtraj ParmEd MDAnalysis",
    "shared/systems/water_255.pdb": "mdtraj MDAnalysis",
    "shared/systems/water_777.pdb": "mdtraj",
    "shared/systems/water_2661.pdb": "mdtraj",
    "shared/systems/chignolin_water.pdb": "mdtraj",
    "shared/cases/Charge.xyz": "ASE",
    "shared/cases/bom_cryst.pdb": "MDAnalysis mdtraj ASE",
    "shared/cases/ccd5.cif": "ParmEd mdtraj",
    "shared/cases/charges_col.xyz": "ASE",
    "shared/cases/charmm_cal.gro": "ParmEd mdtraj MDAnalysis",
    "shared/cases/charmm_sod.pdb": "ASE mdtraj ParmEd MDAnalysis",
    "shared/cases/co.xyz": "ASE",
    "shared/cases/cryst_free.pdb": "MDAnalysis",
    "shared/cases/d2o.pdb": "mdtraj ParmEd",
    "shared/cases/hcn.xyz": "ASE",
    "shared/cases/methanol_d3.sdf": "RDKit ASE",
    "shared/cases/microhet.pdb": "ASE mdtraj ParmEd",
    "shared/cases/movie_blank.xyz": "ASE",
    "shared/cases/polyethylene.xyz": "ASE",
    "shared/cases/prec6.gro": "mdtraj MDAnalysis ParmEd",
    "shared/cases/rattled_ethene.xyz": "ASE",
    "shared/cases/sel.vasp": "ASE",
    "shared/cases/tma_acpype.gro": "mdtraj MDAnalysis ParmEd",
    "shared/cases/trimethylamine_prodrg.pdb": "ASE mdtraj ParmEd",
    "shared/cases/vmd_end2.pdb": "mdtraj ASE ParmEd",
    "shared/cases/water.mol2": "RDKit ParmEd MDAnalysis",
    "shared/cases/water_altloc.cif": "ParmEd mdtraj",
}
FIRST_LETTER = "takes the first letter of SOD, CAL, CLA for the element; they are CHARMM's sodium, calcium, chloride"
MARK = "loses the CRYST1 line behind the byte-order mark"
SYMBOLS = "takes two letters for an element where they are a symbol: NA of NAA, CA of CAA"
LOCATIONS = "keeps other alternate locations than the more occupied ones"
DIFFERENCES = {
    ("salt_water.gro", "ParmEd"): {"elements": "Na of the residue NA is nitrogen to it, Cl carbon"},
    ("bom_cryst.pdb", "MDAnalysis"): {"box": MARK},
    ("bom_cryst.pdb", "mdtraj"): {"box": MARK},
    ("bom_cryst.pdb", "ASE"): {"box": MARK},
    ("charmm_cal.gro", "ParmEd"): {"elements": FIRST_LETTER},
    ("charmm_cal.gro", "mdtraj"): {"elements": FIRST_LETTER},
    ("charmm_sod.pdb", "ASE"): {"elements": FIRST_LETTER},
    ("charmm_sod.pdb", "mdtraj"): {"elements": FIRST_LETTER},
    ("charmm_sod.pdb", "ParmEd"): {"elements": FIRST_LETTER},
    ("cryst_free.pdb", "MDAnalysis"): {"box": "takes CRYST1 in its columns only, else no box"},
    ("microhet.pdb", "ASE"): {"atoms": LOCATIONS},
    ("microhet.pdb", "mdtraj"): {"atoms": LOCATIONS},
    ("microhet.pdb", "ParmEd"): {"atoms": LOCATIONS},
    ("trimethylamine_prodrg.pdb", "ASE"): {"elements": SYMBOLS},
    ("vmd_end2.pdb", "ASE"): {"positions": "takes the last of several frames unless asked"},
    ("vmd_end2.pdb", "ParmEd"): {"atoms": "goes on reading behind END: one system of two frames"},
    ("water_altloc.cif", "ParmEd"): {"positions": LOCATIONS},
    ("water_altloc.cif", "mdtraj"): {"positions": LOCATIONS},
}
CASES = [(name, reader) for name, words in FILES.items() for reader in words.split() if reader in READERS]


def in_our_order(structure, seen):
    """Atoms of a crystal are sorted by molecule here: the other's in our order, where they are the same atoms."""
    from scipy.optimize import linear_sum_assignment

    fractions = seen.positions[None] - 10 * structure.positions[:, None]
    fractions = fractions @ np.linalg.inv(10 * structure.box)
    distances = np.linalg.norm((fractions - np.round(fractions)) @ (10 * structure.box), axis=-1)
    _, order = linear_sum_assignment(distances)
    vectors = fractions[np.arange(len(order)), order]
    moved = (structure.positions - structure.molecules.offsets) * 10
    positions = moved + (vectors - np.round(vectors)) @ (10 * structure.box)
    return Seen([seen.numbers[k] for k in order], positions, seen.masses, None, seen.charge, seen.cell)


def differences(structure, seen):
    """The quantities in which the two differ."""
    found = set()
    count = len(structure.atomic_numbers)
    sizes = [len(x) for x in (seen.numbers, seen.positions) if x is not None]
    if any(size != count for size in sizes):
        return {"atoms"}
    if seen.numbers is not None and list(seen.numbers) != structure.atomic_numbers:
        found.add("elements")
    if seen.masses is not None and not np.allclose(seen.masses, structure.masses, atol=MASS, rtol=0):
        found.add("masses")
    if seen.bonds is not None and seen.bonds != {frozenset((a.index, b.index)) for a, b in structure.topology.bonds()}:
        found.add("bonds")
    if seen.charge is not None and abs(seen.charge - (structure.charge or 0)) > 1e-3:
        found.add("charge")
    if (seen.cell is None) is not (structure.box is None):
        found.add("box")
    elif seen.cell is not None:
        ours = ase.cell.Cell(10 * structure.box).cellpar()
        volume = ase.cell.Cell.fromcellpar(seen.cell).volume
        ratio = volume / abs(np.linalg.det(10 * structure.box))
        if not np.allclose(ours[:3], seen.cell[:3], atol=BOX) or abs(ratio - 1) > 1e-3:
            found.add("box")
    if seen.positions is not None:
        moved = 10 * (structure.positions - structure.molecules.offsets)
        if not np.allclose(moved, seen.positions, atol=POSITION, rtol=0):
            found.add("positions")
    return found


@pytest.mark.parametrize(("name", "reader"), CASES, ids=[f"{Path(n).name}-{r}" for n, r in CASES])
def test_another_reader_sees_the_same(name, reader):
    root = {"systems": SYSTEMS, "shared": SHARED}[name.partition("/")[0]]
    path = root / name.partition("/")[2]
    if not root.is_dir():
        pytest.skip("the shared folder is not here")
    coordinates = next((SYSTEMS.parent / word for word in FILES[name].split() if "/" in word), None)
    structure = read_structure(path, **({} if coordinates is None else {"coordinates_file": coordinates}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seen = READERS[reader](path, coordinates)
    if path.name == "urea.cif":
        seen = in_our_order(structure, seen)
    found = differences(structure, seen)
    listed = DIFFERENCES.get((Path(name).name, reader), {})
    assert found == set(listed), f"{name} and {reader}: {found}, listed {listed}"


def test_every_input_is_compared_or_another_test_has_it():
    """No input of systems/ is forgotten."""
    known = {Path(name).name for name in FILES} | {Path(w).name for words in FILES.values() for w in words.split()}
    inputs = {path.name for path in (SYSTEMS / "inputs").iterdir() if path.suffix not in (".py", ".md")}
    assert inputs - known <= {"tip4p.gro"}  # refused for its virtual sites; with them dropped it is in test_formats


def test_masses_are_those_of_elements_unless_a_file_says_otherwise():
    if not SHARED.is_dir():
        pytest.skip("the shared folder is not here")
    heavy = {"d2o.pdb", "d2o.xyz", "methanol_d3.sdf"}
    for path in sorted((SHARED / "cases").iterdir()):
        if path.suffix not in (".pdb", ".sdf", ".mol2", ".gro"):
            continue
        structure = read_structure(path)
        assert any(isinstance(atom.element, Isotope) for atom in structure.topology.atoms()) is (path.name in heavy)
        plain = np.array([ase.data.atomic_masses[z] for z in structure.atomic_numbers])
        if path.name not in heavy:
            assert np.allclose(structure.masses, plain, atol=MASS, rtol=0)
