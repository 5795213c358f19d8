"""Each format arrives with what its file states: residues, bonds, charges, box; and its mistakes have a message."""

import gzip
import re
from pathlib import Path

import ase.build
import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.spacegroup import crystal
from test_structure import METHANE, write_pdb

from mace_md.errors import InputError
from mace_md.structures.formats.molfile import from_smiles
from mace_md.structures.preflight import check_contacts
from mace_md.structures.structure import assemble, read_structure

INPUTS = Path(__file__).parent.parent.parent / "systems" / "inputs"
MINERALS = Path(ase.__file__).parent / "test" / "testdata" / "minerals"


def one_line(caught, path=None):
    assert "\n" not in str(caught.value)
    if path is not None:
        assert str(path) in str(caught.value)


# ------------------------------------------------------------------------------------------------ PDB and mmCIF


def test_atoms_with_one_name_are_all_read(tmp_path):
    """Programs without atom names write C H H H H; OpenMM alone would take the last three for alternates."""
    atoms = [(symbol, "LIG", 1, xyz, symbol) for _, _, _, xyz, symbol in METHANE]
    structure = read_structure(write_pdb(tmp_path / "m.pdb", atoms))
    assert structure.atomic_numbers == [6, 1, 1, 1, 1]
    assert np.allclose(10 * structure.positions, [xyz for _, _, _, xyz, _ in METHANE], atol=1e-3)
    assert len({atom.name for atom in structure.topology.atoms()}) == 5
    assert any("3 atoms had the name of another" in note for note in structure.notes)


def test_ase_pdb_of_a_liquid_is_complete(tmp_path):
    """ase.io writes every atom into one residue, named by its element."""
    water = ase.build.molecule("H2O")
    box = Atoms(cell=[9, 9, 9], pbc=True)
    for shift in np.ndindex(3, 3, 3):
        one = water.copy()
        one.translate(np.array(shift) * 3.0)
        box += one
    box.write(tmp_path / "w.pdb")
    structure = read_structure(tmp_path / "w.pdb")
    assert structure.atomic_numbers == [8, 1, 1] * 27
    assert structure.molecules.count == 27
    assert [residue.name for residue in structure.topology.residues()] == ["HOH"] * 27


def test_insertion_codes_and_negative_numbers_are_kept(tmp_path):
    text = write_pdb(tmp_path / "m.pdb", METHANE).read_text()
    lines = [
        line[:22] + "  -52"[-4:] + "A" + line[27:] if line.startswith("ATOM") else line for line in text.splitlines()
    ]
    (tmp_path / "m.pdb").write_text("\n".join(lines) + "\n")
    residue = next(read_structure(tmp_path / "m.pdb").topology.residues())
    assert (residue.id, residue.insertionCode) == ("-52", "A")


def test_model_lines_without_number_are_read(tmp_path):
    body = write_pdb(tmp_path / "one.pdb", METHANE).read_text().replace("END\n", "")
    path = tmp_path / "two.pdb"
    path.write_text(f"MODEL\n{body}ENDMDL\nMODEL 2\n{body}ENDMDL\nEND\n")
    assert any("has 2 models" in note for note in read_structure(path).notes)


@pytest.mark.parametrize("group", ["P 21 21 21", "C 1 2 1"])
def test_asymmetric_unit_is_not_taken_for_a_periodic_system(tmp_path, group):
    head = f"CRYST1   30.000   30.000   30.000  90.00  90.00  90.00 {group:<11s}   4\n"
    path = write_pdb(tmp_path / "m.pdb", METHANE, head)
    with pytest.raises(InputError, match=f"symmetry {group}.*--solvate 10.*--periodic no") as caught:
        read_structure(path)
    one_line(caught, path)
    assert read_structure(path, periodic="no").box is None
    assert read_structure(path, box=(20, 20, 20)).box is not None
    path.write_text(path.read_text().replace(f"{group:<11s}", f"{'P 1':<11s}"))
    assert read_structure(path).box is not None


def test_mmcif_asymmetric_unit_is_refused(tmp_path):
    path = tmp_path / "a.cif"
    text = (INPUTS / "alanine_dipeptide.cif").read_text()
    head, _, rest = text.partition("loop_")
    cell = "\n".join(f"_cell.length_{x} 20.0" for x in "abc") + "\n"
    cell += "\n".join(f"_cell.angle_{x} 90.0" for x in ("alpha", "beta", "gamma"))
    path.write_text(f"{head}{cell}\n_symmetry.space_group_name_H-M 'P 1 21 1'\nloop_{rest}")
    with pytest.raises(InputError, match="symmetry P 1 21 1"):
        read_structure(path)


def test_packed_file_is_the_file(tmp_path):
    path = write_pdb(tmp_path / "m.pdb", METHANE)
    (tmp_path / "m.pdb.gz").write_bytes(gzip.compress(path.read_bytes()))
    packed = read_structure(tmp_path / "m.pdb.gz")
    assert [residue.name for residue in packed.topology.residues()] == ["LIG"]
    assert np.array_equal(packed.positions, read_structure(path).positions)
    (tmp_path / "bad.pdb.gz").write_bytes(gzip.compress(path.read_bytes())[:60])
    with pytest.raises(InputError, match=r"bad\.pdb\.gz: cannot be unpacked") as caught:
        read_structure(tmp_path / "bad.pdb.gz")
    one_line(caught)


# ------------------------------------------------------------------------------------------------ SDF and SMILES


def test_sdf_keeps_bonds_orders_and_formal_charges(tmp_path):
    from rdkit import Chem

    molecule = embed("C[NH2+]CC(=O)[O-]", tmp_path / "sarcosine.sdf")
    structure = read_structure(tmp_path / "sarcosine.sdf")
    bonds = {frozenset((b[0].index, b[1].index)): b.order for b in structure.topology.bonds()}
    expected = {
        frozenset((b.GetBeginAtomIdx(), b.GetEndAtomIdx())): int(b.GetBondTypeAsDouble()) for b in molecule.GetBonds()
    }
    assert bonds == expected
    charges = {atom.name: atom.formalCharge for atom in structure.topology.atoms() if atom.formalCharge}
    assert charges == {"N": 1, "O2": -1}
    assert (structure.charge, structure.spin) == (Chem.GetFormalCharge(molecule), 1)
    assert any("formal charges N2 +1, O6 -1; total charge +0" in note for note in structure.notes)


def embed(smiles, path=None, hydrogens=True):
    from rdkit import Chem
    from rdkit.Chem import AllChem

    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(molecule, randomSeed=1)
    molecule = molecule if hydrogens else Chem.RemoveHs(molecule)
    if path is not None:
        with Chem.SDWriter(str(path)) as writer:
            writer.write(molecule)
    return molecule


def test_sdf_with_several_molecules_says_which(tmp_path):
    for name in ("CO", "CCO"):
        embed(name, tmp_path / f"{name}.sdf")
    path = tmp_path / "both.sdf"
    path.write_text((tmp_path / "CO.sdf").read_text() + (tmp_path / "CCO.sdf").read_text())
    first = read_structure(path)
    assert len(first.positions) == 6
    assert any("molecule 1 of 2 was taken (another: both.sdf@INDEX)" in note for note in first.notes)
    assert len(read_structure(f"{path}@1").positions) == 9
    with pytest.raises(InputError, match=r"no molecule with index 2; it has 2 \(0 to 1\)"):
        read_structure(f"{path}@2")


def test_sdf_without_hydrogens_needs_a_word(tmp_path):
    embed("CCO", tmp_path / "dry.sdf", hydrogens=False)
    with pytest.raises(InputError, match="6 hydrogens are implied by the valences.*--hydrogens add"):
        read_structure(tmp_path / "dry.sdf")
    wet = read_structure(tmp_path / "dry.sdf", add_hydrogens=True)
    assert wet.atomic_numbers == [6, 6, 8] + [1] * 6
    assert 0.9 < float(check_contacts(wet)[0].split(", ")[-1].split()[0]) < 1.15  # A: O-H and C-H bonds


def test_drawing_is_not_a_structure(tmp_path):
    from rdkit import Chem
    from rdkit.Chem import AllChem

    molecule = Chem.MolFromSmiles("CC(C)CO")
    AllChem.Compute2DCoords(molecule)
    Chem.MolToMolFile(molecule, str(tmp_path / "flat.mol"))
    with pytest.raises(InputError, match=r"a drawing in the plane.*--smiles 'CC\(C\)CO'"):
        read_structure(tmp_path / "flat.mol", add_hydrogens=True)


@pytest.mark.parametrize(
    "content", ["", "\n\n\n  0  0\nM  END\n", "hello\n", "a\nb\nc\n  2  1  0  0  0  0 V2000\nM  END\n"]
)
def test_bad_sdf_is_refused(tmp_path, content):
    (tmp_path / "bad.sdf").write_text(content)
    with pytest.raises(InputError) as caught:
        read_structure(tmp_path / "bad.sdf")
    one_line(caught, tmp_path / "bad.sdf")


@pytest.mark.parametrize(
    ("smiles", "charge", "spin", "molecules"),
    [("O", 0, 1, 1), ("CC(=O)[O-].[Na+]", 0, 1, 2), ("[NH4+]", 1, 1, 1), ("[CH3]", 0, 2, 1), ("CCO.O.O", 0, 1, 3)],
)
def test_smiles_gives_atoms_charge_and_spin(smiles, charge, spin, molecules):
    structure = assemble(from_smiles(smiles, seed=3))
    assert (structure.charge, structure.spin, structure.molecules.count) == (charge, spin, molecules)
    check_contacts(structure)
    again = assemble(from_smiles(smiles, seed=3))
    assert np.array_equal(structure.positions, again.positions)


def test_smiles_geometry_is_a_molecule():
    """Ethanol: bond lengths of a relaxed structure, and the stereochemistry as written."""
    from rdkit import Chem

    structure = assemble(from_smiles("CCO", seed=1))
    lengths = [
        10 * np.linalg.norm(structure.positions[b[0].index] - structure.positions[b[1].index])
        for b in structure.topology.bonds()
    ]
    assert 0.95 < min(lengths) and max(lengths) < 1.55
    for written in ("C[C@H](F)Cl", "C[C@@H](F)Cl"):
        notes = from_smiles(written, seed=1).notes
        assert not any("stereo" in note for note in notes)
    note = next(note for note in from_smiles("CC(F)Cl", seed=1).notes if "stereochemistry" in note)
    assert Chem.CanonSmiles(note.rpartition(" ")[2]) in {Chem.CanonSmiles(s) for s in ("C[C@H](F)Cl", "C[C@@H](F)Cl")}


@pytest.mark.parametrize("smiles", ["CC(", "C(C)(C)(C)(C)C", "C*", "", "hello", "c1cccc1"])
def test_bad_smiles_is_refused(smiles):
    with pytest.raises(InputError, match="--smiles: ") as caught:
        from_smiles(smiles, seed=1)
    one_line(caught)


# ------------------------------------------------------------------------------------------------ AMBER


def test_amber_equals_the_pdb_it_was_made_from():
    structure = read_structure(INPUTS / "alanine_dipeptide.prmtop", coordinates_file=INPUTS / "alanine_dipeptide.rst7")
    pdb = read_structure(INPUTS.parent / "alanine_dipeptide" / "alanine_dipeptide.pdb")
    assert structure.atomic_numbers == pdb.atomic_numbers
    assert np.allclose(structure.positions, pdb.positions, atol=1e-4)
    assert [r.name for r in structure.topology.residues()] == ["ACE", "ALA", "NME"]
    bonds = [sorted(sorted((a.index, b.index)) for a, b in s.topology.bonds()) for s in (structure, pdb)]
    assert bonds[0] == bonds[1]


def test_repartitioned_masses_are_seen(tmp_path):
    text = (INPUTS / "alanine_dipeptide.prmtop").read_text()
    head, section, rest = text.partition("%FLAG MASS")
    block, flag, tail = rest.partition("%FLAG")
    path = tmp_path / "hmr.prmtop"
    heavier, changed = re.subn(r"1\.007\d+E\+00", "3.02400000E+00", block)
    assert changed == 12
    path.write_text(head + section + heavier + flag + tail)
    structure = read_structure(path, coordinates_file=INPUTS / "alanine_dipeptide.rst7")
    assert any("repartitioned masses (hydrogen up to 3.024 Da); they are not used" in note for note in structure.notes)
    assert structure.masses.min() == pytest.approx(1.00795, abs=1e-4)


def test_coordinates_that_do_not_belong_are_refused(tmp_path):
    prmtop = INPUTS / "alanine_dipeptide.prmtop"
    with pytest.raises(InputError, match=r"holds no coordinates. Give them with --coordinates .*rst7"):
        read_structure(prmtop)
    with pytest.raises(InputError, match="there is no such file"):
        read_structure(prmtop, coordinates_file=tmp_path / "no.rst7")
    lines = (INPUTS / "alanine_dipeptide.rst7").read_text().splitlines()
    short = tmp_path / "short.rst7"
    short.write_text("\n".join([lines[0], "   20", *lines[2:12]]) + "\n")
    with pytest.raises(InputError, match="has 22 atoms, but .* has coordinates of 20"):
        read_structure(prmtop, coordinates_file=short)
    mixed = tmp_path / "mixed.rst7"  # as if in nm and read as A, the other way round
    numbers = 10 * np.array([float(line[k : k + 12]) for line in lines[2:] for k in range(0, len(line), 12)])
    rows = ["".join(f"{x:12.6f}" for x in numbers[k : k + 6]) for k in range(0, len(numbers), 6)]
    mixed.write_text("\n".join([*lines[:2], *rows]) + "\n")
    with pytest.raises(
        InputError, match=r"21 of 21 bonds are far longer than bonds are. The coordinates belong to other"
    ):
        read_structure(prmtop, coordinates_file=mixed)
    with pytest.raises(InputError, match=r"--coordinates .*aspirin\.sdf: cannot be read as an inpcrd"):
        read_structure(prmtop, coordinates_file=INPUTS / "aspirin.sdf")
    with pytest.raises(InputError, match="coordinates without elements. Give the topology"):
        read_structure(INPUTS / "alanine_dipeptide.rst7")
    with pytest.raises(InputError, match="has coordinates of its own"):
        read_structure(INPUTS / "aspirin.sdf", coordinates_file=short)


# ------------------------------------------------------------------------------------------------ GROMACS


def test_gromacs_pair_and_gro_alone_agree():
    pair = read_structure(INPUTS / "salt_water.top", coordinates_file=INPUTS / "salt_water.gro")
    alone = read_structure(INPUTS / "salt_water.gro")
    assert pair.atomic_numbers == alone.atomic_numbers
    assert np.array_equal(pair.positions, alone.positions)
    assert np.allclose(np.diag(pair.box), 1.6)
    names = [residue.name for residue in pair.topology.residues()]
    assert (names.count("HOH"), names.count("NA"), names.count("CL")) == (127, 1, 1)
    assert pair.molecules.count == alone.molecules.count == 129
    assert any("elements were guessed" in note for note in alone.notes)


def test_virtual_sites_are_dropped_only_when_asked():
    with pytest.raises(InputError, match=r"atom MW: a virtual site.*102 more.*--virtual-sites drop"):
        read_structure(INPUTS / "tip4p.gro")
    structure = read_structure(INPUTS / "tip4p.gro", virtual_sites="drop")
    assert structure.atomic_numbers == [8, 1, 1] * 103
    assert any("103 virtual sites were left out, as asked" in note for note in structure.notes)


def test_missing_include_is_named(tmp_path):
    (tmp_path / "a.top").write_text('#include "my.ff/forcefield.itp"\n')
    (tmp_path / "a.gro").write_text("t\n1\n    1LIG      C    1   0.000   0.000   0.000\n 1 1 1\n")
    with pytest.raises(InputError, match=r"the file 'my\.ff/forcefield\.itp'.*--include") as caught:
        read_structure(tmp_path / "a.top", coordinates_file=tmp_path / "a.gro")
    one_line(caught)
    folder = tmp_path / "elsewhere" / "my.ff"
    folder.mkdir(parents=True)
    (folder / "forcefield.itp").write_text(
        "[ defaults ]\n1 2 yes 0.5 0.83\n[ atomtypes ]\nC 6 12.01 0.0 A 0.3 0.4\n"
        "[ moleculetype ]\nLIG 3\n[ atoms ]\n1 C 1 LIG C 1 0.0 12.01\n[ system ]\nx\n[ molecules ]\nLIG 1\n"
    )
    found = read_structure(tmp_path / "a.top", coordinates_file=tmp_path / "a.gro", include=tmp_path / "elsewhere")
    assert found.atomic_numbers == [6]


def test_gro_and_top_of_different_length_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"has 383 atoms .*, but .* has 412"):
        read_structure(INPUTS / "salt_water.top", coordinates_file=INPUTS / "tip4p.gro")


# ------------------------------------------------------------------------------------------------ CIF


def test_cif_is_the_crystal_ase_builds():
    """Urea: the cell of the published sites and ASE's own P -42_1m, as a set of atoms."""
    structure = read_structure(INPUTS / "urea.cif")
    sites = [(0, 0.5, 0.3260), (0, 0.5, 0.5953), (0.1459, 0.6459, 0.1766), (0.2575, 0.7575, 0.2827)]
    sites += [(0.1441, 0.6441, -0.0380)]
    expected = crystal("CONHH", sites, spacegroup=113, cellpar=[5.565, 5.565, 4.684, 90, 90, 90])
    assert len(structure.positions) == len(expected) == 16
    ours = Atoms(structure.atomic_numbers, 10 * structure.positions, cell=10 * structure.box, pbc=True)
    for atom in expected:
        same = ours[[a.index for a in ours if a.symbol == atom.symbol]] + Atoms([atom])
        assert same.get_distances(-1, range(len(same) - 1), mic=True).min() < 1e-3  # A
    assert structure.molecules.count == 2
    assert [len(list(residue.atoms())) for residue in structure.topology.residues()] == [8, 8]
    assert any("5 sites became 16 atoms" in note for note in structure.notes)


@pytest.mark.skipif(not MINERALS.is_dir(), reason="ASE was installed without its test data")
@pytest.mark.parametrize(("name", "count"), [("cod_9001665", 18), ("cod_1010995", 8), ("cod_9017338", 12)])
def test_published_cifs(name, count):
    structure = read_structure(MINERALS / f"{name}.cif")
    assert len(structure.positions) == count
    check_contacts(structure)


def urea(tmp_path, *edits):
    text = (INPUTS / "urea.cif").read_text()
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "urea.cif"
    path.write_text(text)
    return path


def test_partial_occupancy_is_refused(tmp_path):
    path = urea(tmp_path, ("0.6459 0.1766 1", "0.6459 0.1766 0.5"))
    with pytest.raises(InputError, match=r"1 sites are occupied in part \(N1 0\.5\)") as caught:
        read_structure(path)
    one_line(caught, path)


def test_disorder_groups_are_refused(tmp_path):
    lines = []
    for line in (INPUTS / "urea.cif").read_text().splitlines():
        if line.startswith("  H2 "):
            line += " 2"
        elif line.startswith(("  C1 ", "  O1 ", "  N1 ", "  H1 ")):
            line += " ."
        lines += [line, *(["  _atom_site_disorder_group"] if "_atom_site_occupancy" in line else [])]
    (tmp_path / "urea.cif").write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=r"1 sites are disordered \(H2 in group 2\)"):
        read_structure(tmp_path / "urea.cif")


def test_missing_hydrogens_of_a_cif_are_seen_by_its_formula(tmp_path):
    path = urea(tmp_path, ("  H2 H 0.1441 0.6441 -0.0380 1\n", ""))
    with pytest.raises(InputError, match=r"the formula in the file is C H4 N2 O, but .* C2 H4 N4 O2.*--hydrogens keep"):
        read_structure(path)
    assert len(read_structure(path, complete=False).positions) == 12


def test_special_position_with_few_digits_is_one_atom(tmp_path):
    """x = 0.001 where the mirror asks for 0: the images are 0.01 A apart, and are one carbon."""
    structure = read_structure(urea(tmp_path, ("C1 C 0.0000 0.5000", "C1 C 0.0010 0.5030")))
    assert sorted(structure.atomic_numbers) == [1] * 8 + [6] * 2 + [7] * 4 + [8] * 2
    assert any("fell together and were merged" in note for note in structure.notes)


def test_sites_that_coincide_are_refused(tmp_path):
    path = urea(
        tmp_path,
        ("  H2 H 0.1441 0.6441 -0.0380 1\n", "  H2 H 0.1441 0.6441 -0.0380 1\n  H3 H 0.1443 0.6443 -0.0300 1\n"),
        ("C H4 N2 O", "C H6 N2 O"),
    )
    with pytest.raises(InputError, match=r"sites 5 \(H\) and 6 \(H\) are 0\.04 A apart"):
        read_structure(path)


# ------------------------------------------------------------------------------------------------ xyz and POSCAR


def test_extxyz_of_a_dimer_has_charge_and_spin():
    structure = read_structure(INPUTS / "acetic_acid.extxyz")
    assert (structure.charge, structure.spin, structure.molecules.count) == (0, 1, 2)


def test_poscar_of_carbon_dioxide_has_four_molecules():
    structure = read_structure(INPUTS / "carbon_dioxide.vasp")
    assert structure.molecules.count == 4
    assert np.linalg.det(structure.box) == pytest.approx(0.5624**3, rel=1e-6)


def test_a_folder_is_called_a_folder(tmp_path):
    with pytest.raises(InputError, match="this is a folder; give the structure file inside it"):
        read_structure(tmp_path)
