"""What the options make of a file: hydrogens, supercells, water and ions; nothing without a line in the log."""

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from openmm import app
from test_structure import write_pdb

from mace_md.config import RunConfig
from mace_md.errors import InputError, UsageError
from mace_md.structures.molecules import pairs_within
from mace_md.structures.preflight import check_contacts, check_hydrogens
from mace_md.structures.prepare import prepare
from mace_md.structures.structure import read_structure

INPUTS = Path(__file__).parent.parent.parent / "systems" / "inputs"


def made(structure=None, **options):
    return prepare(RunConfig(structure=structure, model="unused", seed=options.pop("seed", 5), **options))


def enkephalin(tmp_path, *without, sequence=True, edit=None):
    """The peptide without the atoms (residue number, name) in `without`."""
    lines = []
    for line in (INPUTS / "enkephalin.pdb").read_text().splitlines():
        if line.startswith("ATOM") and (int(line[22:26]), line[12:16].strip()) in without:
            continue
        if line.startswith("SEQRES") and not sequence:
            continue
        lines.append(edit(line) if edit else line)
    path = tmp_path / "peptide.pdb"
    path.write_text("\n".join(lines) + "\n")
    return path


def count(structure, symbol):
    return sum(atom.element.symbol == symbol for atom in structure.topology.atoms())


# ------------------------------------------------------------------------------------------------ hydrogens


def test_hydrogens_of_a_peptide():
    """Tyr-Gly-Gly-Phe-Leu is C28 H37 N5 O7 (PubChem 461776), a zwitterion of the same formula at pH 7."""
    neutral = made(INPUTS / "enkephalin.pdb", hydrogens="add")
    assert [count(neutral, symbol) for symbol in "CHNO"] == [28, 37, 5, 7]
    assert any("37 hydrogens were added (pH 7" in note for note in neutral.notes)
    assert check_hydrogens(neutral) == []
    check_contacts(neutral)


def test_the_same_seed_makes_the_same_structure():
    one, two = (made(INPUTS / "enkephalin.pdb", hydrogens="add") for _ in range(2))
    assert np.array_equal(one.positions, two.positions)
    one, two, other = (made(smiles="CO", solvate=4.0, ion_concentration=1.0, seed=seed) for seed in (5, 5, 6))
    assert np.array_equal(one.positions, two.positions)
    assert one.atomic_numbers == two.atomic_numbers
    assert not np.array_equal(one.positions[:6], other.positions[:6])


@pytest.mark.parametrize("form", ["pdb.gz", "cif"])
def test_missing_atoms_are_found_in_every_form_of_the_file(tmp_path, form):
    import gzip

    path = enkephalin(tmp_path, (4, "CZ"))
    other = tmp_path / f"other.{form}"
    if form == "cif":
        file = app.PDBFile(str(path))
        with open(other, "w") as stream:
            app.PDBxFile.writeFile(file.topology, file.positions, stream, keepIds=True)
    else:
        other.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(InputError, match=r"PHE 4 \(chain A\) lacks CZ") as caught:
        made(other, hydrogens="add")
    assert str(other) in str(caught.value)
    assert count(made(other, hydrogens="add", repair="atoms"), "H") == 37


def test_packed_sdf_gets_its_hydrogens_by_valence(tmp_path):
    import gzip

    from rdkit import Chem
    from rdkit.Chem import AllChem

    ethanol = Chem.AddHs(Chem.MolFromSmiles("CCO"))
    AllChem.EmbedMolecule(ethanol, randomSeed=1)
    block = Chem.MolToMolBlock(Chem.RemoveHs(ethanol))
    (tmp_path / "e.sdf.gz").write_bytes(gzip.compress(block.encode()))
    assert made(tmp_path / "e.sdf.gz", hydrogens="add").atomic_numbers == [6, 6, 8] + [1] * 6


def test_without_asking_nothing_is_added():
    structure = made(INPUTS / "enkephalin.pdb")
    with pytest.raises(InputError, match=r"TYR 1 \(chain A\) has no hydrogens.*--hydrogens add"):
        check_hydrogens(structure)


def test_missing_heavy_atoms_are_named_and_built_on_request(tmp_path):
    path = enkephalin(tmp_path, (4, "CZ"), (4, "CE1"), (5, "OXT"))
    with pytest.raises(
        InputError, match=r"PHE 4 \(chain A\) lacks CE1 CZ, LEU 5 \(chain A\) lacks OXT.*--repair atoms"
    ):
        made(path, hydrogens="add")
    built = made(path, hydrogens="add", repair="atoms")
    assert [count(built, symbol) for symbol in "CHNO"] == [28, 37, 5, 7]
    assert any("built from templates: PHE 4 (chain A) lacks CE1 CZ" in note for note in built.notes)
    check_contacts(built)


def test_missing_residue_of_the_sequence(tmp_path):
    gone = [(3, name) for name in ("N", "CA", "C", "O")]
    path = enkephalin(tmp_path, *gone)
    with pytest.raises(InputError, match=r"missing inside a chain: GLY after GLY 2 \(chain A\).*--repair residues"):
        made(path, hydrogens="add", repair="atoms")
    built = made(path, hydrogens="add", repair="residues")
    assert [residue.name for residue in built.topology.residues()] == ["TYR", "GLY", "GLY", "PHE", "LEU"]
    assert [count(built, symbol) for symbol in "CHNO"] == [28, 37, 5, 7]


def test_broken_chain_without_a_sequence_is_refused(tmp_path):
    """A missing loop, or two chains of one name without TER: neither end would get its end group."""
    path = enkephalin(tmp_path, *[(3, name) for name in ("N", "CA", "C", "O")], sequence=False)
    with pytest.raises(InputError, match=r"chain A is broken between GLY 2 and PHE 4 .*TER line"):
        made(path, hydrogens="add")


def test_missing_residues_at_an_end_are_said(tmp_path):
    path = enkephalin(tmp_path, *[(1, n) for n in "N CA C O CB CG CD1 CD2 CE1 CE2 CZ OH".split()])
    built = made(path, hydrogens="add")
    assert any("not in the file, and not added: 1 at the start of chain A" in note for note in built.notes)
    assert count(built, "C") == 19


def test_residue_without_template_is_refused(tmp_path):
    carbons = [("C1", "LIG", 9, (30, 0, 0), "C"), ("C2", "LIG", 9, (31.5, 0, 0), "C")]
    path = write_pdb(tmp_path / "l.pdb", carbons)
    with pytest.raises(InputError, match=r"LIG 9 \(chain A\): not a standard residue, so no template"):
        made(path, hydrogens="add")


def test_alternate_locations_take_the_first_with_its_hydrogens(tmp_path):
    def split(line):
        if line.startswith("ATOM") and line[12:16].strip() == "OH":
            return line[:16] + "A" + line[17:] + "\n" + line[:16] + "B" + line[17:38] + "   9.999" + line[46:]
        return line

    built = made(enkephalin(tmp_path, edit=split), hydrogens="add")
    assert [count(built, symbol) for symbol in "CHNO"] == [28, 37, 5, 7]
    assert any("1 atoms at alternate locations were left out" in note for note in built.notes)


def test_histidine_tautomer_is_said(tmp_path):
    from rdkit import Chem
    from rdkit.Chem import AllChem

    molecule = Chem.AddHs(Chem.MolFromSequence("GHG"), addResidueInfo=True)
    AllChem.EmbedMolecule(molecule, randomSeed=1)
    block = Chem.MolToPDBBlock(Chem.RemoveHs(molecule), flavor=4)
    path = tmp_path / "his.pdb"
    path.write_text("".join(line for line in block.splitlines(True) if line.startswith(("ATOM", "TER"))) + "END\n")
    built = made(path, hydrogens="add")
    assert any("protonation chosen: HIS 2 as HI" in note for note in built.notes)
    acid = made(path, hydrogens="add", ph=3.0)
    assert any("HIS 2 as HIP" in note for note in acid.notes)
    assert count(acid, "H") == count(built, "H") + 1


# ------------------------------------------------------------------------------------------------ supercell


def test_supercell_of_a_molecular_crystal():
    """Per cell everything stays: atoms, molecules, density, shortest distances between molecules."""
    one, many = made(INPUTS / "urea.cif"), made(INPUTS / "urea.cif", supercell=(2, 1, 3))
    assert many.molecules.count == 6 * one.molecules.count
    assert np.allclose(many.box, one.box * np.array([[2], [1], [3]]))
    numbers = [residue.id for residue in many.topology.residues()]
    assert len(set(numbers)) == len(numbers) == 12

    def neighbours(structure):
        _, _, distances, _ = pairs_within(structure.positions, structure.box, 0.3)
        return np.sort(distances)

    assert np.allclose(neighbours(many), np.sort(np.tile(neighbours(one), 6)), atol=1e-9)
    assert any("supercell 2 x 1 x 3: 16 atoms became 96" in note for note in many.notes)


def test_supercell_of_a_network_keeps_its_neighbours(tmp_path):
    from ase.build import bulk

    bulk("Si", "diamond", a=5.43).write(tmp_path / "si.extxyz")
    many = made(tmp_path / "si.extxyz", supercell=(3, 3, 3))
    i, _, _, _ = pairs_within(many.positions, many.box, 0.25)
    assert np.bincount(i).tolist() == [4] * 54
    assert many.molecules.networks == (0,)


def test_supercell_multiplies_the_charge_and_needs_a_box(tmp_path):
    ion = Atoms("Na", cell=[9, 9, 9], pbc=True)
    ion.info["charge"] = 1
    ion.write(tmp_path / "na.extxyz")
    assert made(tmp_path / "na.extxyz", supercell=(2, 2, 1)).charge == 4
    with pytest.raises(InputError, match="--supercell repeats a periodic box, and this has none"):
        made(INPUTS / "caffeine.xyz", supercell=(2, 2, 2))


# ------------------------------------------------------------------------------------------------ water and ions


@pytest.mark.parametrize("shape", ["cube", "dodecahedron", "octahedron"])
def test_water_surrounds_the_molecule(shape):
    wet = made(smiles="CCO", solvate=5.0, box_shape=shape)
    names = [residue.name for residue in wet.topology.residues()]
    assert names[0] == "MOL" and set(names[1:]) == {"HOH"}
    check_contacts(wet)
    dry = made(smiles="CCO")
    assert np.ptp(wet.positions[:9] - dry.positions, axis=0).max() < 1e-6  # the solute moved as one body
    density = wet.masses.sum() * 1.66053906660e-3 / np.linalg.det(wet.box)
    assert 0.95 < density < 1.02  # g/mL
    # no gap: every point of the box is within 4.5 A of an atom
    grid = np.stack(np.meshgrid(*[np.linspace(0, 1, 6, endpoint=False)] * 3), -1).reshape(-1, 3) @ wet.box
    i, j, _, _ = pairs_within(np.concatenate([grid, wet.positions]), wet.box, 0.45)
    assert len(set(i[(i < len(grid)) & (j >= len(grid))].tolist())) == len(grid)


def test_images_of_the_solute_are_apart():
    wet = made(smiles="C1CCCCC1", solvate=4.0)
    solute = wet.positions[:18]
    i, j, distances, vectors = pairs_within(solute, wet.box, 0.7)
    other = np.abs(solute[j] - solute[i] - vectors).max(axis=1) > 1e-6
    assert not other.any()  # 4 A on each side, less what the box was drawn together


def test_charged_residues_are_balanced(tmp_path):
    """Gly-Lys at pH 7 is a cation: one chloride."""
    from rdkit import Chem
    from rdkit.Chem import AllChem

    molecule = Chem.AddHs(Chem.MolFromSequence("GK"), addResidueInfo=True)
    AllChem.EmbedMolecule(molecule, randomSeed=1)
    block = Chem.MolToPDBBlock(Chem.RemoveHs(molecule), flavor=4)
    path = tmp_path / "gk.pdb"
    path.write_text("".join(line for line in block.splitlines(True) if line.startswith(("ATOM", "TER"))) + "END\n")
    wet = made(path, hydrogens="add", solvate=2.0)
    assert (count(wet, "Na"), count(wet, "Cl"), wet.charge) == (0, 1, 0)
    assert any("charge of the solute +1 (Amber residue templates); 1 Cl-" in note for note in wet.notes)


@pytest.mark.parametrize(
    ("options", "sodium", "chloride"),
    [
        ({"smiles": "CC(=O)[O-]", "solvate": 4.0}, 1, 0),
        ({"smiles": "C[NH3+]", "solvate": 4.0}, 0, 1),
        ({"smiles": "C", "solvate": 4.0}, 0, 0),
        ({"smiles": "C", "solvate": 4.0, "solute_charge": 2}, 0, 2),
        ({"smiles": "C[NH3+]", "solvate": 4.0, "neutralize": "no"}, 0, 0),
    ],
)
def test_ions_balance_the_charge(options, sodium, chloride):
    wet = made(**options)
    assert (count(wet, "Na"), count(wet, "Cl")) == (sodium, chloride)
    charge = 1 if options.get("neutralize") == "no" else 0
    assert wet.charge == charge


def test_salt_concentration_and_choice_of_ions():
    wet = made(smiles="C", solvate=9.0, ion_concentration=1.0, positive_ion="K+", negative_ion="Br-")
    water = sum(residue.name == "HOH" for residue in wet.topology.residues())
    pairs = count(wet, "K")
    assert pairs == count(wet, "Br") == round((water + 2 * pairs) / 55.4) > 3
    ions = [atom.index for atom in wet.topology.atoms() if atom.element.symbol in ("K", "Br")]
    _, _, distances, _ = pairs_within(wet.positions[ions], wet.box, 0.45)
    assert len(distances) == 0


def test_charge_of_the_solute_is_found_or_asked_for():
    wet = made(INPUTS / "alanine_dipeptide.cif", solvate=2.0)
    assert any("charge of the solute +0 (Amber residue templates)" in note for note in wet.notes)
    ligand = made(INPUTS / "acetic_acid.extxyz", solvate=3.0)
    assert any("charge of the solute +0 (the file)" in note for note in ligand.notes)
    with pytest.raises(InputError, match=r"the charge of residue MOL 1 .* is not known.*--solute-charge"):
        made(INPUTS / "caffeine.xyz", solvate=3.0)
    assert made(INPUTS / "caffeine.xyz", solvate=3.0, solute_charge=0).charge == 0
    assert made(INPUTS / "caffeine.xyz", solvate=3.0, neutralize="no").charge is None


def test_asymmetric_unit_can_be_solvated(tmp_path):
    head = "CRYST1   30.000   30.000   30.000  90.00  90.00  90.00 P 21 21 21    4\n"
    path = tmp_path / "p.pdb"
    molecule = INPUTS.parent / "alanine_dipeptide" / "alanine_dipeptide.pdb"
    path.write_text(head + molecule.read_text())
    wet = made(path, solvate=2.0)
    assert wet.box is not None and count(wet, "O") > 20


def test_too_many_ions_are_refused():
    with pytest.raises(InputError, match=r"have no room for 40 Na\+ and 0 Cl-"):
        made(smiles="C", solvate=3.0, solute_charge=-40)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "structure is missing"),
        ({"structure": "a.pdb", "smiles": "C"}, "give --smiles or structure, not both"),
        ({"smiles": "C", "solvate": 5, "box": (9, 9, 9)}, "give --solvate, which makes the box, or --box"),
        ({"smiles": "C", "solvate": 5, "periodic": "no"}, "does not go with --periodic no"),
        ({"smiles": "C", "box_shape": "cube"}, "--box-shape needs --solvate"),
        ({"smiles": "C", "ph": 7}, "--ph needs hydrogens = add"),
        ({"smiles": "C", "supercell": (2, 2)}, "expected 3 values"),
        ({"smiles": "C", "supercell": (2, 2, 0)}, "must be at least 1"),
    ],
)
def test_options_that_contradict_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        RunConfig(model="unused", **options)


def test_lengths_of_the_margin_have_units():
    from mace_md.config import load_config

    config = load_config(
        RunConfig, ["--smiles", "CCO", "--model", "m", "--solvate", "1.2nm", "--ion-concentration", "150 mM"]
    )
    assert config.solvate == pytest.approx(12.0)
    assert config.ion_concentration == pytest.approx(0.15)
    assert config.output == Path("CCO-run")


def test_chains_and_residues_survive_solvation():
    wet = made(INPUTS / "alanine_dipeptide.cif", solvate=3.0)
    assert [residue.name for residue in wet.topology.residues()][:4] == ["ACE", "ALA", "NME", "HOH"]
    assert isinstance(wet.topology, app.Topology)
    dry = read_structure(INPUTS / "alanine_dipeptide.cif")
    assert [a.name for a in dry.topology.atoms()] == [a.name for a in wet.topology.atoms()][:22]
