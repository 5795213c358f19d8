"""What people have in files arrives with its residues, box and molecules, and what was assumed is said."""

import ase.build
import ase.io
import numpy as np
import pytest
from ase import Atoms
from openmm import app, unit
from water_box import water_pdb

from mace_md.errors import InputError
from mace_md.structures.molecules import find_molecules, minimum_image
from mace_md.structures.structure import read_structure

ATOM = (
    "ATOM  {serial:5d} {name:<4s}{alt}{residue:3s} A{number:4d}    {x:8s}{y:8s}{z:8s}  1.00  0.00          "
    "{element:>2s}\n"
)


def write_pdb(path, atoms, head=""):
    """atoms: (name, residue, number, xyz, element) with options alt; coordinates as text keep their form."""
    lines = [head]
    for serial, (name, residue, number, xyz, element, *alt) in enumerate(atoms, 1):
        x, y, z = (value if isinstance(value, str) else f"{value:8.3f}" for value in xyz)
        padded = name if len(name) == 4 else " " + name
        lines.append(
            ATOM.format(
                serial=serial, name=padded, residue=residue, number=number, x=x, y=y, z=z, element=element,
                alt=alt[0] if alt else " ",
            )
        )  # fmt: skip
    path.write_text("".join(lines) + "END\n")
    return path


METHANE = [
    ("C", "LIG", 1, (0, 0, 0), "C"),
    ("H1", "LIG", 1, (0.63, 0.63, 0.63), "H"),
    ("H2", "LIG", 1, (-0.63, -0.63, 0.63), "H"),
    ("H3", "LIG", 1, (0.63, -0.63, -0.63), "H"),
    ("H4", "LIG", 1, (-0.63, 0.63, -0.63), "H"),
]


def test_pdb_keeps_residues_chains_and_bonds(tmp_path):
    structure = read_structure(water_pdb(tmp_path / "w.pdb", per_side=2))
    residues = list(structure.topology.residues())
    assert [residue.name for residue in residues] == ["HOH"] * 8
    assert [residue.id for residue in residues] == [str(k) for k in range(1, 9)]
    assert structure.topology.getNumBonds() == 16
    assert np.allclose(structure.box, 0.62 * np.eye(3))
    assert "8 molecules (8 of 3 atoms) from 16 bonds of the file" in structure.notes[-1]


def test_ligand_without_conect_gets_bonds_by_distance(tmp_path):
    structure = read_structure(write_pdb(tmp_path / "m.pdb", METHANE))
    assert sorted((a.index, b.index) for a, b in structure.topology.bonds()) == [(0, 1), (0, 2), (0, 3), (0, 4)]
    assert structure.box is None
    assert "4 bonds found by distance" in structure.notes[-1]


def test_conect_records_are_kept(tmp_path):
    path = write_pdb(tmp_path / "m.pdb", METHANE)
    text = path.read_text().replace("ATOM  ", "HETATM").replace("END\n", "CONECT    1    2    3    4    5\nEND\n")
    path.write_text(text)
    assert "4 bonds of the file" in read_structure(path).notes[-1]


def test_alternate_locations_and_missing_elements_are_said(tmp_path):
    atoms = [
        *METHANE[:4],
        ("H4", "LIG", 1, (-0.63, 0.63, -0.63), "", "A"),
        ("H4", "LIG", 1, (-0.7, 0.6, -0.6), "", "B"),
    ]
    structure = read_structure(write_pdb(tmp_path / "m.pdb", atoms))
    assert structure.atomic_numbers == [6, 1, 1, 1, 1]
    assert any("alternate locations" in note and "1 atoms" in note for note in structure.notes)
    assert any("no element column" in note for note in structure.notes)


def test_first_model_is_taken_and_said_and_another_can_be_asked_for(tmp_path):
    path = tmp_path / "two.pdb"
    shifted = [(n, r, k, (x + 5, y, z), e) for n, r, k, (x, y, z), e in METHANE]
    models = [write_pdb(tmp_path / "one.pdb", atoms).read_text().replace("END\n", "") for atoms in (METHANE, shifted)]
    path.write_text("".join(f"MODEL     {k}\n{text}ENDMDL\n" for k, text in enumerate(models, 1)) + "END\n")
    structure = read_structure(path)
    assert structure.positions[0, 0] == pytest.approx(0.0)
    assert any("has 2 models; number 1 was taken" in note for note in structure.notes)
    assert read_structure(f"{path}@1").positions[0, 0] == pytest.approx(0.5)
    assert read_structure(f"{path}@-1").positions[0, 0] == pytest.approx(0.5)
    with pytest.raises(InputError, match=r"no frame with index 2; it has 2 \(0 to 1\)"):
        read_structure(f"{path}@2")


def test_placeholder_cell_is_no_box(tmp_path):
    head = "CRYST1    1.000    1.000    1.000  90.00  90.00  90.00 P 1           1\n"
    structure = read_structure(write_pdb(tmp_path / "nmr.pdb", METHANE, head))
    assert structure.box is None
    assert any("placeholder" in note for note in structure.notes)


def test_mmcif_equals_pdb(tmp_path):
    structure = read_structure(water_pdb(tmp_path / "w.pdb", per_side=2))
    with open(tmp_path / "w.cif", "w") as file:
        app.PDBxFile.writeFile(structure.topology, structure.positions * unit.nanometer, file)
    other = read_structure(tmp_path / "w.cif")
    assert np.allclose(other.positions, structure.positions, atol=1e-4)
    assert np.allclose(other.box, structure.box, atol=1e-4)
    assert [residue.name for residue in other.topology.residues()] == ["HOH"] * 8


def test_xyz_of_water_becomes_water_residues(tmp_path):
    pdb = read_structure(water_pdb(tmp_path / "w.pdb", per_side=2))
    atoms = Atoms(pdb.atomic_numbers, 10 * pdb.positions)
    atoms.write(tmp_path / "w.xyz")
    structure = read_structure(tmp_path / "w.xyz")
    assert [residue.name for residue in structure.topology.residues()] == ["HOH"] * 8
    assert [atom.name for atom in structure.topology.atoms()][:3] == ["O", "H1", "H2"]


@pytest.mark.parametrize(("key", "value"), [("charge", -1), ("total_charge", 2)])
def test_extxyz_gives_charge_spin_and_cell(tmp_path, key, value):
    atoms = Atoms("OH", [[0, 0, 0], [0, 0, 0.96]], cell=[[10, 0, 0], [2, 9, 0], [1, 1, 8]], pbc=True)
    atoms.info |= {key: value, "spin": 2}
    atoms.write(tmp_path / "ion.extxyz")
    structure = read_structure(tmp_path / "ion.extxyz")
    assert (structure.charge, structure.spin) == (value, 2)
    assert np.allclose(10 * structure.box, [[10, 0, 0], [2, 9, 0], [1, 1, 8]])


def test_fractional_charge_in_a_file_is_refused(tmp_path):
    atoms = Atoms("OH", [[0, 0, 0], [0, 0, 0.96]])
    atoms.info["charge"] = 0.5
    atoms.write(tmp_path / "ion.extxyz")
    with pytest.raises(InputError, match=r"charge=0\.5 .* is not a whole number"):
        read_structure(tmp_path / "ion.extxyz")


@pytest.mark.parametrize("form", ["cif", "vasp", "extxyz"])
def test_crystals_are_endless_and_periodic(tmp_path, form):
    crystal = ase.build.bulk("Si", "diamond", a=5.43, cubic=True)
    path = tmp_path / ("POSCAR" if form == "vasp" else f"si.{form}")
    ase.io.write(path, crystal, format=form)
    structure = read_structure(path)
    assert structure.box[0, 0] == pytest.approx(0.543)
    assert structure.molecules.networks == (0,)
    assert any("endless" in note for note in structure.notes)
    assert structure.topology.getNumBonds() == 0


@pytest.mark.parametrize("seed", range(5))
def test_any_cell_is_brought_to_openmms_form_without_changing_a_distance(tmp_path, seed):
    """Rotated, left-handed and skewed cells: all minimum-image distances stay, and the volume."""
    rng = np.random.default_rng(seed)
    cell = rng.normal(size=(3, 3)) * 3 + 8 * np.eye(3)[rng.permutation(3)]
    atoms = Atoms("He6", rng.uniform(0, 1, (6, 3)) @ cell, cell=cell, pbc=True)
    atoms.write(tmp_path / "he.extxyz")
    structure = read_structure(tmp_path / "he.extxyz")
    turned = Atoms("He6", 10 * structure.positions, cell=10 * structure.box, pbc=True)
    assert np.allclose(turned.get_all_distances(mic=True), atoms.get_all_distances(mic=True), atol=1e-5)
    assert turned.get_volume() == pytest.approx(abs(np.linalg.det(cell)), rel=1e-6)
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = structure.box
    assert ay == az == bz == 0.0
    assert abs(2 * bx) <= ax * 1.000001
    assert abs(2 * cy) <= by * 1.000001


def test_slab_is_refused_with_advice(tmp_path):
    atoms = Atoms("He", cell=[5, 5, 20], pbc=(True, True, False))
    atoms.write(tmp_path / "slab.extxyz")
    with pytest.raises(InputError, match="periodic along x, y only.*vacuum"):
        read_structure(tmp_path / "slab.extxyz")


def test_box_options(tmp_path):
    path = write_pdb(tmp_path / "m.pdb", METHANE)
    assert np.allclose(read_structure(path, box=(20, 21, 22)).box, np.diag([2.0, 2.1, 2.2]))
    triclinic = read_structure(path, box=(20, 20, 20, 90, 90, 60)).box
    assert abs(triclinic[1, 0]) == pytest.approx(1.0)  # +-a/2 span the same lattice
    with pytest.raises(InputError, match="has no box"):
        read_structure(path, periodic="yes")
    wet = water_pdb(tmp_path / "w.pdb")
    assert read_structure(wet, periodic="no").box is None


def test_molecule_cut_by_the_box_is_made_whole(tmp_path):
    """Atoms move by lattice vectors only, and end a bond length apart."""
    path = water_pdb(tmp_path / "w.pdb", per_side=2)
    whole = read_structure(path)
    moved = 10 * (whole.positions + [0.58, 0.31, 0.0])  # so that hydrogens reach over a face
    wrapped = Atoms(whole.atomic_numbers, moved, cell=10 * whole.box, pbc=True)
    wrapped.wrap()
    wrapped.write(tmp_path / "wrapped.extxyz")
    structure = read_structure(tmp_path / "wrapped.extxyz")
    i, j = structure.molecules.bonds.T
    lengths = np.linalg.norm(structure.positions[i] - structure.positions[j], axis=1)
    assert np.allclose(lengths, 0.0957, atol=1e-3)
    shifts = (structure.positions - wrapped.positions / 10) @ np.linalg.inv(structure.box)
    assert np.allclose(shifts, np.round(shifts), atol=1e-9)
    assert np.abs(shifts).max() > 0.5
    assert any("made whole" in note for note in structure.notes)


def test_gap_in_a_chain_is_not_a_bond():
    """OpenMM joins residues that follow one another even when a loop between them is missing."""
    topology = app.Topology()
    chain = topology.addChain()
    carbon = app.Element.getBySymbol("C")
    atoms = [topology.addAtom("C", carbon, topology.addResidue("ALA", chain)) for _ in range(2)]
    topology.addBond(*atoms)
    molecules, notes = find_molecules(topology, np.array([[0, 0, 0], [1.2, 0, 0]]), None)
    assert molecules.count == 2
    assert any("not used (a gap?)" in note for note in notes)


def test_hydrogen_bond_and_ion_do_not_join_molecules(tmp_path):
    """A short hydrogen bond (1.35 A) and a sodium ion at 2.3 A of an oxygen stay apart from the water."""
    positions = [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0], [2.31, 0, 0], [2.6, 0.9, 0], [2.6, -0.5, 0.8], [0, -2.3, 0]]
    Atoms("OHHOHHNa", positions).write(tmp_path / "w.xyz")
    structure = read_structure(tmp_path / "w.xyz")
    assert structure.molecules.groups() == [[0, 1, 2], [3, 4, 5], [6]]


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        ([("C", "LIG", 1, (" NaN    ", 0, 0), "C"), *METHANE[1:]], r"coordinates of atom 1 \(C, residue LIG 1\)"),
        ([("C", "LIG", 1, ("********", 0, 0), "C")], "line 1: no three coordinates in the columns 31 to 54"),
        ([], "holds no atoms|cannot be read"),
        ([("M", "HOH", 1, (0, 0, 0), "EP")], "residue HOH 1 .chain A., atom M: a virtual site.*--virtual-sites drop"),
        ([("QQ", "LIG", 1, (0, 0, 0), "")], "residue LIG 1 .chain A., atom QQ: no chemical element"),
    ],
    ids=["nan", "stars", "no atoms", "virtual site", "no element"],
)
def test_bad_pdb_is_refused_in_one_line(tmp_path, atoms, message):
    path = write_pdb(tmp_path / "bad.pdb", atoms)
    with pytest.raises(InputError, match=message) as caught:
        read_structure(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.pdb", b""),
        ("empty.xyz", b""),
        ("random.xyz", bytes(range(256)) * 4),
        ("random.pdb", bytes(range(256)) * 4),
        ("text.cif", b"<html><body>404</body></html>"),
        ("short.xyz", b"5\nwater\nO 0 0 0\n"),
        ("absurd.xyz", b"99999999924\nwater\nO 0 0 0\n"),
        ("second.xyz", b"1\n\nO 0 0 0\n77777777777\n\nO 0 0 0\n"),
        ("box.extxyz", b'1\nLattice="1e300 0 0 0 1e300 0 0 0 1e300" pbc="T T T"\nO 0 0 0\n'),
        ("far.xyz", b"2\n\nO 0 0 1e82\nH 0 0 1\n"),
        ("nan.xyz", b"2\n\nO 0 0 nan\nH 0 0 1\n"),
        ("unknown.what", b"hello"),
        ("dummy.xyz", b"2\n\nO 0 0 0\nX 0 0 1\n"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_structure(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="there is no such file"):
        read_structure(tmp_path / "nothing.pdb")


def test_minimum_image_of_short_vectors_is_found_in_a_skewed_box():
    rng = np.random.default_rng(0)
    box = np.array([[1.0, 0, 0], [0.45, 0.9, 0], [-0.4, 0.3, 1.1]])
    short = rng.uniform(-0.2, 0.2, (200, 3))
    assert np.allclose(minimum_image(short + rng.integers(-3, 4, (200, 3)) @ box, box), short)
