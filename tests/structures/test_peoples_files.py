"""Files as other programs write them: byte-order marks, frames, cells, alternate locations."""

from pathlib import Path

import numpy as np
import pytest
from test_elements import WATER, gro_line, pdb_line, symbols

from mace_md.errors import InputError
from mace_md.structures.formats.isotopes import DEUTERIUM
from mace_md.structures.formats.reader import read_contents
from mace_md.structures.structure import read_structure

HOH = [(name[0] + name[2:], tuple(10 * np.array(xyz))) for name, xyz in WATER]  # A
XYZ = "3\n{comment}\nO 0.0 0.0 0.0\nH 0.9572 0.0 0.0\nH -0.24 0.927 0.0\n"
LATTICE = 'Lattice="9 0 0 0 9 0 0 0 9" Properties=species:S:1:pos:R:3 pbc="T T T"'
CRYST = "CRYST1    9.000    9.000    9.000  90.00  90.00  90.00 P 1           1\n"
POSCAR = "water\n1.0\n9 0 0\n0 9 0\n0 0 9\nO H\n1 2\nCartesian\n0 0 0\n0.9572 0 0\n-0.24 0.927 0\n"
MOL2 = """@<TRIPOS>MOLECULE
WAT
3 2 1 0 0
SMALL
USER_CHARGES
@<TRIPOS>ATOM
1 O  0.0 0.0 0.0 {o} 1 WAT -0.8
2 H1 0.9572 0.0 0.0 {h} 1 WAT 0.4
3 H2 -0.24 0.927 0.0 {h} 1 WAT 0.4
@<TRIPOS>BOND
1 1 2 1
2 1 3 1
"""
SITES = "group_PDB id type_symbol label_atom_id label_alt_id label_comp_id label_asym_id label_seq_id "
SITES += "Cartn_x Cartn_y Cartn_z"
SITES = [*SITES.split(), "occupancy", "auth_seq_id", "auth_asym_id", "pdbx_PDB_model_num"]


def mmcif(rows, extra=""):
    return f"data_x\n{extra}loop_\n" + "".join(f"_atom_site.{name}\n" for name in SITES) + "\n".join(rows) + "\n"


def mmcif_water(number=1, alt=".", occupancy=1.0, shift=0.0, elements="OHH", start=1, model=1, name="HOH"):
    return [
        f"HETATM {start + k} {element} {atom} {alt} {name} A . {x + shift:.3f} {y:.3f} {z:.3f} {occupancy} "
        f"{number} A {model}"
        for k, (element, (atom, (x, y, z))) in enumerate(zip(elements, HOH, strict=True))
    ]


def pdb_water(number=1, alt=" ", occupancy=1.0, shift=0.0, elements="OHH", names=("O", "H1", "H2"), residue="HOH"):
    rows = []
    for k, (element, name) in enumerate(zip(elements, names, strict=True)):
        x, y, z = HOH[k][1]
        line = pdb_line(k + 1, f" {name}", residue, number, (x + shift, y, z), element)
        rows.append(line[:16] + alt + line[17:54] + f"{occupancy:6.2f}" + line[60:])
    return "\n".join(rows) + "\n"


def write(path, text, encoding="utf-8"):
    path.write_text(text, encoding=encoding)
    return path


# ------------------------------------------------------------------------------------------------ byte-order marks

MARKED = {
    "a.pdb": CRYST + pdb_water(),
    "a.xyz": XYZ.format(comment=LATTICE),
    "a.extxyz": XYZ.format(comment=LATTICE),
    "a.vasp": POSCAR,
    "a.gro": "t\n3\n" + "\n".join(gro_line(1, "SOL", n, k + 1, x) for k, (n, x) in enumerate(WATER)) + "\n .9 .9 .9\n",
    "a.cif": mmcif(mmcif_water(), "".join(f"_cell.length_{x} 9.0\n" for x in "abc")
                   + "".join(f"_cell.angle_{x} 90.0\n" for x in ("alpha", "beta", "gamma"))),
    "a.mol2": MOL2.format(o="O.3", h="H") + "@<TRIPOS>CRYSIN\n9.0 9.0 9.0 90.0 90.0 90.0 1 1\n",
}  # fmt: skip


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", list(MARKED))
def test_a_byte_order_mark_changes_nothing(tmp_path, name, encoding):
    for ends in ("\n", "\r\n"):
        (tmp_path / name).write_bytes(MARKED[name].replace("\n", ends).encode(encoding))
        structure = read_structure(tmp_path / name)
        assert symbols(structure) == ["O", "H", "H"]
        assert np.allclose(structure.box, 0.9 * np.eye(3), atol=1e-6)


def test_a_byte_order_mark_before_sdf_is_left_out(tmp_path):
    from rdkit import Chem

    molecule = Chem.AddHs(Chem.MolFromSmiles("O"))
    from rdkit.Chem import AllChem

    AllChem.EmbedMolecule(molecule, randomSeed=1)
    write(tmp_path / "a.sdf", Chem.MolToMolBlock(molecule) + "$$$$\n", "utf-8-sig")
    assert symbols(read_structure(tmp_path / "a.sdf")) == ["O", "H", "H"]


# ------------------------------------------------------------------------------------------------ PDB

FREE_CELLS = [
    "CRYST1 9.0 9.0 9.0 90.0 90.0 90.0 P 1",
    "CRYST1 9 9 9",
    "CRYST1   9.00000   9.00000   9.00000 90 90 90 P 1 1",
]


@pytest.mark.parametrize("cell", FREE_CELLS)
def test_a_cell_out_of_its_columns(tmp_path, cell):
    structure = read_structure(write(tmp_path / "a.pdb", f"{cell}\n{pdb_water()}END\n"))
    assert np.allclose(structure.box, 0.9 * np.eye(3), atol=1e-9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("CRYST1 nine nine nine 90 90 90\n" + pdb_water(), "line 1: CRYST1 has no six numbers"),
        ("HETATM 1 O HOH A 1 0.000 0.000 0.000\n", "line 1: no three coordinates in the columns 31 to 54"),
        ("REMARK\n", "holds no atoms"),
    ],
)
def test_what_a_pdb_file_cannot_say_names_its_line(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as caught:
        read_structure(write(tmp_path / "a.pdb", text))
    assert "\n" not in str(caught.value)


def test_frames_between_end_lines_are_frames(tmp_path):
    """As VMD writes them, each with its own cell; the last frame may lack the END."""
    text = "".join(CRYST.replace("9.000", f"{9 + k}.000", 1) + pdb_water(shift=k) + "END\n" for k in range(3))
    path = write(tmp_path / "a.pdb", text)
    for index, name in ((0, path), (1, f"{path}@1"), (2, f"{path}@-1")):
        structure = read_structure(name)
        assert symbols(structure) == ["O", "H", "H"]
        assert structure.positions[0, 0] == pytest.approx(0.1 * index, abs=1e-9)
        assert structure.box[0, 0] == pytest.approx(0.9 + 0.1 * index, abs=1e-9)
    assert any(
        "3 frames, separated by END; number 1 was taken (another: a.pdb@INDEX)" in n for n in read_structure(path).notes
    )
    assert len(read_structure(f"{write(tmp_path / 'b.pdb', text[:-4])}@2").positions) == 3


def test_two_structures_in_one_file_are_not_guessed_at(tmp_path):
    other = "\n".join(pdb_line(k + 1, f" {n}", "HOH", 1 + k // 3, x) for k, (n, x) in enumerate(2 * HOH[:3])) + "\n"
    path = write(tmp_path / "a.pdb", pdb_water() + "END\n" + other.replace("   0.000", "   5.000", 1) + "END\n")
    with pytest.raises(InputError, match=r"an END line, and more atoms from line 5 on.*3, 6 atoms.*a\.pdb@0"):
        read_structure(path)
    assert len(read_structure(f"{path}@0").positions) == 3


def test_models_may_differ_in_their_atoms(tmp_path):
    """Each model is read by itself: the second has one water more."""
    text = (
        f"MODEL        1\n{pdb_water()}ENDMDL\nMODEL        2\n{pdb_water()}{pdb_water(number=2, shift=4)}ENDMDL\nEND\n"
    )
    path = write(tmp_path / "a.pdb", text)
    assert (len(read_structure(path).positions), len(read_structure(f"{path}@1").positions)) == (3, 6)


def test_bonds_between_frames_belong_to_their_frame(tmp_path):
    """As Open Babel writes several molecules: each with its own CONECT lines, which number its own atoms."""
    one = "\n".join(pdb_line(k + 1, f" C{k + 1}", "LIG", 1, (1.5 * k, 0, 0), "C") for k in range(3)) + "\n"
    text = f"{one}CONECT    1    2\nCONECT    2    3\nEND\n{one}CONECT    1    3\nEND\n"
    path = write(tmp_path / "a.pdb", text)
    pairs = [
        {frozenset((a.index, b.index)) for a, b in read_contents(Path(f"{path}@{k}")).topology.bonds()} for k in (0, 1)
    ]
    assert pairs == [{frozenset((0, 1)), frozenset((1, 2))}, {frozenset((0, 2))}]


# ------------------------------------------------------------------------------------------------ alternates


@pytest.mark.parametrize(("first", "second", "kept"), [(0.3, 0.7, 1), (0.7, 0.3, 0), (0.5, 0.5, 0)])
def test_the_more_occupied_place_is_taken(tmp_path, first, second, kept):
    """Both orders of the lines: all of A then all of B, and atom by atom."""
    blocks = pdb_water(alt="A", occupancy=first), pdb_water(alt="B", occupancy=second, shift=0.5)
    pairs = zip(*(block.splitlines() for block in blocks), strict=True)
    for text in ("".join(blocks), "".join(f"{a}\n{b}\n" for a, b in pairs)):
        structure = read_structure(write(tmp_path / "a.pdb", text + pdb_water(number=2, shift=5)))
        assert symbols(structure) == ["O", "H", "H"] * 2
        assert structure.positions[:3, 0] - structure.positions[3:, 0] == pytest.approx(
            [0.05 * kept - 0.5] * 3, abs=1e-9
        )
        assert any("3 atoms at alternate locations were left out" in note for note in structure.notes)
    rows = mmcif_water(alt="A", occupancy=first), mmcif_water(alt="B", occupancy=second, shift=0.5, start=4)
    for order in (rows[0] + rows[1], [row for pair in zip(*rows, strict=True) for row in pair]):
        text = mmcif(order + mmcif_water(number=2, shift=5, start=7))
        structure = read_structure(write(tmp_path / "a.cif", text))
        assert symbols(structure) == ["O", "H", "H"] * 2
        assert structure.positions[0, 0] == pytest.approx(0.05 * kept, abs=1e-9)
        assert any("3 atoms at alternate locations were left out" in note for note in structure.notes)


def test_two_residues_at_one_number(tmp_path):
    """Microheterogeneity: methanol (0.4) or water (0.6) at one site."""
    methanol = [("C1", (1.4, 0, 0)), ("O1", (0, 0, 0)), ("H4", (-0.3, 0.9, 0))]
    rows = []
    for name, xyz in methanol:
        line = pdb_line(len(rows) + 1, f" {name}", "MOH", 1, xyz, name[0])
        rows.append(line[:16] + "A" + line[17:54] + "  0.40" + line[60:])
    structure = read_structure(write(tmp_path / "a.pdb", "\n".join(rows) + "\n" + pdb_water(alt="B", occupancy=0.6)))
    assert symbols(structure) == ["O", "H", "H"]
    assert [residue.name for residue in structure.topology.residues()] == ["HOH"]
    assert any("B of HOH 1 (chain A), occupancy 0.60" in note for note in structure.notes)


def test_hydrogen_and_deuterium_of_one_site_are_one_atom(tmp_path):
    """Neutron structures: H and D with location ids, or with none and the occupancies 0.2 and 0.8."""
    oxygen, hydrogens = pdb_water().splitlines()[0], pdb_water(occupancy=0.2).splitlines()[1:]
    deuterium = pdb_water(occupancy=0.8, elements="ODD", names=("O", "D1", "D2")).splitlines()[1:]
    plain = "\n".join([oxygen, *hydrogens, *deuterium])
    marked = [line[:16] + alt + line[17:] for alt, lines in (("A", hydrogens), ("B", deuterium)) for line in lines]
    for text in (plain, "\n".join([oxygen, *marked])):
        structure = read_structure(write(tmp_path / "a.pdb", text + "\n"))
        assert symbols(structure) == ["O", "H", "H"]
        assert structure.masses[1:] == pytest.approx([DEUTERIUM] * 2, abs=1e-6)


def test_a_hydrogen_of_the_other_protonation_is_not_added(tmp_path):
    """HD1 belongs to location A, HE2 to B: the kept residue has one of them."""
    rows = []
    for k, (name, alt) in enumerate(
        [("ND1", "A"), ("ND1", "B"), ("NE2", "A"), ("NE2", "B"), ("HD1", "A"), ("HE2", "B")]
    ):
        line = pdb_line(k + 1, f" {name}", "LIG", 1, (1.5 * k, 0, 0), name[0])
        rows.append(line[:16] + alt + line[17:54] + ("  0.60" if alt == "B" else "  0.40") + line[60:])
    structure = read_structure(write(tmp_path / "a.pdb", "\n".join(rows) + "\n"))
    assert [atom.name for atom in structure.topology.atoms()] == ["ND1", "NE2", "HE2"]
