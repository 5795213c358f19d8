"""gro, mol2, mmCIF and xyz as other programs write them: precisions, types, labels, charges, hydrogens."""

import numpy as np
import pytest
from test_elements import WATER, symbols, write_gro, write_pdb
from test_peoples_files import HOH, MOL2, XYZ, mmcif, mmcif_water, write

from mace_md.errors import InputError
from mace_md.structures.formats.isotopes import DEUTERIUM
from mace_md.structures.formats.molfile import from_smiles
from mace_md.structures.preflight import check_hydrogens
from mace_md.structures.structure import assemble, read_structure

# ------------------------------------------------------------------------------------------------ gro, mol2, mmCIF


@pytest.mark.parametrize("digits", [2, 3, 4, 6, 9])
def test_gro_files_of_any_precision(tmp_path, digits):
    places = [(1.23456789, 0.5, 0.25), (1.33028789, 0.5, 0.25), (1.21056789, 0.5927, 0.25)]
    width = digits + 5
    rows = [f"    1SOL  {name:>5s}{k + 1:5d}" + "".join(f"{x:{width}.{digits}f}" for x in xyz)
            for k, (name, xyz) in enumerate(zip(("OW", "HW1", "HW2"), places, strict=True))]  # fmt: skip
    velocities = [row + "".join(f"{x:{width + 1}.{digits + 1}f}" for x in (0.1, -0.2, 0.3)) for row in rows]
    for lines in (rows, velocities):
        text = "\n".join(["water t= 1.0 step= 5", "    3", *lines, " 2.0 2.0 2.0"]) + "\n"
        structure = read_structure(write(tmp_path / "a.gro", text + text.replace("1.2", "0.2")))
        assert np.allclose(structure.positions, places, atol=0.5 * 10.0**-digits + 1e-12)
    assert any("2 frames; number 1 was taken" in note for note in structure.notes)
    assert read_structure(f"{tmp_path / 'a.gro'}@1").positions[0, 0] == pytest.approx(0.23456789, abs=10.0**-digits)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("t\nthree\n", "line 2: a .gro file has the number of atoms there, not 'three'"),
        ("t\n5\n    1SOL     OW    1   0.1   0.1   0.1\n 1 1 1\n", "line 2 announces 5 atoms"),
        ("t\n1\n    1SOL     OW    1   0.1 zero   0.1\n 1 1 1\n", "line 3: no three coordinates"),
        ("t\n1\n    1SOL     OW    1   0.100   0.100   0.100\n a b c\n", "line 4: the box"),
    ],
)
def test_gro_faults_name_their_line(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_structure(write(tmp_path / "a.gro", text))


@pytest.mark.parametrize(
    ("oxygen", "hydrogen"), [("O.3", "H"), ("oh", "ho"), ("ow", "hw"), ("OW", "HW"), ("O.spc", "H.spc")]
)
def test_mol2_of_sybyl_gaff_and_amber_types(tmp_path, oxygen, hydrogen):
    structure = read_structure(write(tmp_path / "a.mol2", MOL2.format(o=oxygen, h=hydrogen)))
    assert symbols(structure) == ["O", "H", "H"]
    assert (structure.charge, structure.topology.getNumBonds()) == (0, 2)
    assert [residue.name for residue in structure.topology.residues()] == ["HOH"]


def test_mol2_charges_hydrogens_and_several_molecules(tmp_path):
    ion = MOL2.format(o="O.3", h="H").replace(" -0.8", " -1.8")
    both = write(tmp_path / "a.mol2", MOL2.format(o="O.3", h="H") + ion)
    assert any("molecule 1 of 2 (WAT) was taken" in note for note in read_structure(both).notes)
    assert read_structure(f"{both}@1").charge == -1
    bare = (
        "@<TRIPOS>MOLECULE\nx\n2 1 0 0 0\nSMALL\nNO_CHARGES\n@<TRIPOS>ATOM\n1 C1 0 0 0 C.3 1 L\n2 C2 1.5 0 0 C.3 1 L\n"
    )
    with pytest.raises(InputError, match="6 hydrogens are implied by the bonds"):
        read_structure(write(tmp_path / "b.mol2", bare + "@<TRIPOS>BOND\n1 1 2 1\n"))
    with pytest.raises(InputError, match=r"line 7: atom C1 has the type Du, which is no element"):
        read_structure(write(tmp_path / "c.mol2", bare.replace("C.3", "Du", 1)))


def test_mmcif_of_few_columns_and_charged_symbols(tmp_path):
    """As small programs write it: no element, no alternate column; and symbols with charges."""
    names = ["id", "label_atom_id", "label_comp_id", "label_asym_id", "label_seq_id", "Cartn_x", "Cartn_y", "Cartn_z"]
    rows = [f"{k + 1} {n} HOH A 1 {x} {y} {z}" for k, (n, (x, y, z)) in enumerate(HOH)]
    text = "data_x\nloop_\n" + "".join(f"_atom_site.{name}\n" for name in names) + "\n".join(rows) + "\n"
    assert symbols(read_structure(write(tmp_path / "a.cif", text))) == ["O", "H", "H"]
    ion = "HETATM 4 ZN2+ ZN . ZN B . 5.0 5.0 5.0 1.0 2 B 1"
    assert symbols(read_structure(write(tmp_path / "b.cif", mmcif([*mmcif_water(), ion])))) == ["O", "H", "H", "Zn"]
    heavy = read_structure(write(tmp_path / "c.cif", mmcif(mmcif_water(elements="ODD"))))
    assert heavy.masses[1:] == pytest.approx([DEUTERIUM] * 2, abs=1e-6)
    with pytest.raises(InputError, match="row 2 of the atoms .id 2.: the coordinate Cartn_x is '[?]'"):
        read_structure(write(tmp_path / "d.cif", mmcif([r.replace("0.957", "?") for r in mmcif_water()])))


# ------------------------------------------------------------------------------------------------ xyz


@pytest.mark.parametrize(
    "species",
    [
        "O H H",
        "8 1 1",
        "O1 H1 H2",
        "OW HW1 HW2",
        "o h h",
        "O D D",
        "O_w H_w H_w",
        "O1A H1A H1B",
        "O+ H H",
        "8.0 1.0 1.0",
    ],
)
def test_xyz_species_of_every_kind(tmp_path, species):
    lines = [f"{s} {x} {y} {z}" for s, (_, (x, y, z)) in zip(species.split(), HOH, strict=True)]
    structure = read_structure(write(tmp_path / "a.xyz", "\n".join(["3", "", *lines]) + "\n"))
    assert symbols(structure) == ["O", "H", "H"]
    mass = DEUTERIUM if "D" in species else 1.00794
    assert structure.masses[1:] == pytest.approx([mass] * 2, abs=1e-4)


def test_xyz_labels_that_might_be_metals(tmp_path):
    """CA at 1.2 A of oxygen is carbon, CA at 2.4 A is calcium; NA and CL of a salt are what they say."""
    for text, wanted in (
        ("3\n\nCA 0 0 0\nO 0 0 1.2\nO 0 0 -1.2\n", ["C", "O", "O"]),
        ("3\n\nCA 0 0 0\nO 0 0 2.4\nO 0 0 -2.4\n", ["Ca", "O", "O"]),
        ("2\n\nNA 0 0 0\nCL 0 0 2.4\n", ["Na", "Cl"]),
        ("2\n\nHO 0 0 0\nO 0 0 0.97\n", ["H", "O"]),
    ):
        assert symbols(read_structure(write(tmp_path / "a.xyz", text))) == wanted


@pytest.mark.parametrize(
    ("comment", "charge", "spin"),
    [
        ("charge=1", 1, None), ("Charge=1 Multiplicity=1", 1, 1), ("CHARGE=-1 SPIN=2", -1, 2),
        ("total_charge=0", 0, None),
        (" energy: -5.07 gnorm: 0.0004 xtb: 6.4", None, None), ("E = -76.4 a.u., i = 1", None, None),
    ],
)  # fmt: skip
def test_charge_and_spin_of_the_comment(tmp_path, comment, charge, spin):
    structure = read_structure(write(tmp_path / "a.xyz", XYZ.format(comment=comment)))
    assert (structure.charge, structure.spin) == (charge, spin)


@pytest.mark.parametrize("comment", ["it's a \"test", 'a="b', "x= =y", "{", '{"energy": -1.0}', "= =", "key='v", "\t"])
def test_comments_may_be_anything(tmp_path, comment):
    assert symbols(read_structure(write(tmp_path / "a.xyz", XYZ.format(comment=comment)))) == ["O", "H", "H"]


def test_cell_lines_behind_the_atoms(tmp_path):
    text = XYZ.format(comment="water") + "VEC1 9.0 0.0 0.0\nVEC2 0.0 9.0 0.0\nVEC3 0.0 0.0 9.0\n"
    structure = read_structure(write(tmp_path / "a.xyz", text))
    assert np.allclose(structure.box, 0.9 * np.eye(3), atol=1e-9)


def test_the_atom_of_an_sdf_that_has_too_many_bonds_is_named(tmp_path):
    from rdkit import Chem

    block = Chem.MolToMolBlock(Chem.AddHs(Chem.MolFromSmiles("C[N+](C)(C)C"))).replace("M  CHG  1   2   1\n", "")
    with pytest.raises(InputError, match="atom 2 N, 4, is greater than permitted"):
        read_structure(write(tmp_path / "a.sdf", block))
    with pytest.raises(InputError, match="describes a component"):
        read_structure(write(tmp_path / "a.cif", "data_x\nloop_\n_chem_comp_atom.comp_id\n_chem_comp_atom.x\nA 1\n"))


def test_charges_of_the_atoms_add_up(tmp_path):
    lines = XYZ.format(comment="Properties=species:S:1:pos:R:3:initial_charges:R:1").splitlines()

    def read(charges, comment=""):
        rows = [f"{line} {q}" for line, q in zip(lines[2:], charges, strict=True)]
        return read_structure(write(tmp_path / "a.xyz", "\n".join([lines[0], lines[1] + comment, *rows]) + "\n"))

    assert read((-0.8, 0.9, 0.9)).charge == 1
    assert read((0, 0, 0), " charge=1").charge == 1
    odd = read((-0.8, 0.9, 0.5))
    assert odd.charge is None and any("add up to +0.600, no whole charge" in note for note in odd.notes)
    with pytest.raises(InputError, match=r"charge=-1, the initial_charges add up to \+1"):
        read((-0.8, 0.9, 0.9), " charge=-1")


def test_blank_lines_between_frames(tmp_path):
    frame = XYZ.format(comment="x")
    path = write(
        tmp_path / "a.xyz", "\n".join([frame, frame.replace("O 0.0", "O 0.1"), frame.replace("O 0.0", "O 0.2")])
    )
    assert read_structure(f"{path}@-1").positions[0, 0] == pytest.approx(0.02, abs=1e-9)
    assert read_structure(f"{path}@1").positions[0, 0] == pytest.approx(0.01, abs=1e-9)
    with pytest.raises(InputError, match="no frame with index 3; the first is @0, the last is @2"):
        read_structure(f"{path}@3")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3\n\nO 0 0 0\nX 1 0 0\nH 0 1 0\n", r"line 4: atom 2 has no chemical element \('X'\)"),
        ("3\n\nO 0 0 0\nH: 1 0 0\nH 0 1 0\n", "line 4: atom 2 has no chemical element"),
        ("3\n\nO 0 0 0\n153 1 0 0\nH 0 1 0\n", "line 4: atom 2 has no chemical element"),
        ("3\n\nO 0 0 0\nH 1 0\nH 0 1 0\n", "line 4: no element and three coordinates"),
        ("2\n\nO 0 0 0\nH 1 0 0\nH 0 1 0\n", "line 5: frame 1 is to begin there"),
        ("4\n\nO 0 0 0\nH 1 0 0\n\nH 0 1 0\n", "line 5 is blank, after 2"),
        ("3 w\n1 O 0.0 0.0 0.0 1 2 3\n2 H 0.9 0.0 0.0 2 1\n3 H -0.2 0.9 0.0 2 1\n", "Tinker file"),
        ('1\nProperties=species:S:1:pos:R:3:masses:R:1\nO 0 0 0 -1\n', "atom 1 .O. has the mass -1 Da"),
    ],
)  # fmt: skip
def test_xyz_faults_name_their_line(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as caught:
        read_structure(write(tmp_path / "a.xyz", text))
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------ hydrogens


def test_no_hydrogens_to_add_is_no_fault(tmp_path):
    """Cyanogen, hexachloroethane, carbon suboxide: all valences are filled, or the atoms lie on a line."""
    for smiles in ("N#CC#N", "ClC(Cl)(Cl)C(Cl)(Cl)Cl", "O=C=C=C=O", "FC(F)=C(F)F"):
        assert check_hydrogens(assemble(from_smiles(smiles, seed=1))) == []
    line = "4\n\nN -1.85 0 0\nC -0.69 0 0\nC 0.69 0 0\nN 1.85 0 0\n"
    assert check_hydrogens(read_structure(write(tmp_path / "a.xyz", line))) == []
    benzene = "6\n\n" + "".join(
        f"C {1.39 * np.cos(k):.4f} {1.39 * np.sin(k):.4f} 0\n" for k in np.arange(6) * np.pi / 3
    )
    with pytest.raises(InputError, match="no hydrogens at all"):
        check_hydrogens(read_structure(write(tmp_path / "b.xyz", benzene)))


@pytest.mark.parametrize(("line", "message"), [("", "names no elements. Add a line"), ("O D\n", "names the isotope D")])
def test_a_poscar_that_ase_cannot_read_says_why(tmp_path, line, message):
    text = f"water\n1.0\n9 0 0\n0 9 0\n0 0 9\n{line}1 2\nCartesian\n0 0 0\n0.9572 0 0\n-0.24 0.927 0\n"
    with pytest.raises(InputError, match=message):
        read_structure(write(tmp_path / "a.vasp", text))


@pytest.mark.parametrize(
    ("name", "message"),
    [("a.pdbqt", "give the PDB"), ("a.mae", "export SDF"), ("a.psf", "animate write pdb"), ("a.dcd", "frame as PDB")],
)
def test_formats_that_are_not_read_say_what_to_give(tmp_path, name, message):
    with pytest.raises(InputError, match=message):
        read_structure(write(tmp_path / name, "x\n"))


def test_writers_of_the_tests_agree(tmp_path):
    """The same water through both of the writers above."""
    one = read_structure(write_gro(tmp_path / "a.gro", [("SOL", WATER)]))
    other = read_structure(write_pdb(tmp_path / "a.pdb", [("HOH", HOH)]))
    assert np.allclose(one.positions, other.positions, atol=1e-3) and symbols(one) == symbols(other)
