"""Elements out of names: ions of every force field, ligands, columns, masses; contradictions are refused."""

import re
from pathlib import Path

import ase.build
import numpy as np
import pytest

from mace_md.errors import InputError
from mace_md.structures.formats.ions import ion_of
from mace_md.structures.formats.reader import read_contents
from mace_md.structures.structure import read_structure

INPUTS = Path(__file__).parents[2] / "systems" / "inputs"
WATER = [("OW", (0.0, 0.0, 0.0)), ("HW1", (0.09572, 0.0, 0.0)), ("HW2", (-0.024, 0.0927, 0.0))]  # nm
# residue and atom name of one-atom residues: CHARMM-GUI, GROMACS (all its force fields), Amber, OPLS, the PDB
IONS = [
    ("SOD", "SOD", "Na"), ("POT", "POT", "K"), ("CAL", "CAL", "Ca"), ("CES", "CES", "Cs"), ("RUB", "RUB", "Rb"),
    ("LIT", "LIT", "Li"), ("BAR", "BAR", "Ba"), ("CLA", "CLA", "Cl"), ("ZN2", "ZN", "Zn"), ("MG", "MG", "Mg"),
    ("CU", "CU", "Cu"), ("NI", "NI", "Ni"), ("CD", "CD", "Cd"), ("CO", "CO", "Co"), ("SR", "SR", "Sr"),
    ("PB", "PB", "Pb"), ("HG", "HG", "Hg"), ("NA", "NA", "Na"), ("NA+", "NA+", "Na"), ("Na+", "Na+", "Na"),
    ("CL-", "CL-", "Cl"), ("Cl-", "Cl-", "Cl"), ("K+", "K+", "K"), ("CA2+", "CA2+", "Ca"), ("CA", "CA", "Ca"),
    ("ION", "CA", "Ca"), ("ION", "NA+", "Na"), ("IOD", "I", "I"), ("IOD", "IOD", "I"), ("F", "F", "F"),
    ("CIO", "Cs+", "Cs"), ("FE2", "FE", "Fe"), ("MN", "MN", "Mn"), ("CU1", "CU", "Cu"), ("YB", "YB", "Yb"),
    ("GD3", "GD", "Gd"), ("3CO", "CO", "Co"), ("CAD", "CD", "Cd"), ("BR", "BR", "Br"), ("XE", "XE", "Xe"),
    ("IM", "Cl-", "Cl"), ("AG", "AG", "Ag"), ("TL", "TL", "Tl"), ("AL", "AL", "Al"), ("LA", "LA", "La"),
]  # fmt: skip


def gro_line(number, residue, name, serial, xyz):
    return f"{number:5d}{residue:<5s}{name:>5s}{serial:5d}" + "".join(f"{x:8.3f}" for x in xyz)


def write_gro(path, residues, box=2.0):
    """residues: (name, [(atom name, nm)])."""
    lines, serial = [], 0
    for number, (residue, atoms) in enumerate(residues, start=1):
        for name, xyz in atoms:
            serial += 1
            lines.append(gro_line(number, residue, name, serial, xyz))
    path.write_text("\n".join(["t", str(serial), *lines, f"{box:10.5f}{box:10.5f}{box:10.5f}"]) + "\n")
    return path


def pdb_line(serial, name, residue, number, xyz, element=""):
    """`name` as the four characters of the columns 13 to 16."""
    coordinates = "".join(f"{x:8.3f}" for x in xyz)
    return f"HETATM{serial:5d} {name:<4s} {residue:<4s}A{number:4d}    {coordinates}  1.00  0.00          {element:>2s}"


def write_pdb(path, residues, aligned=True, elements=None):
    """residues: (name, [(atom name, A)]); one-letter elements in column 14 when `aligned`."""
    lines = []
    for number, (residue, atoms) in enumerate(residues, start=1):
        for name, xyz in atoms:
            column = name if not aligned or len(name) == 4 or aligned_left(name, elements) else f" {name}"
            element = "" if elements is None else elements.get(name, "")
            lines.append(pdb_line(len(lines) + 1, column, residue, number, xyz, element))
    path.write_text("\n".join([*lines, "END"]) + "\n")
    return path


def aligned_left(name, elements):
    return elements is not None and len(elements.get(name, "")) == 2


def symbols(structure):
    return [atom.element.symbol for atom in structure.topology.atoms()]


@pytest.mark.parametrize(("residue", "name", "symbol"), IONS, ids=[f"{r}-{n}" for r, n, _ in IONS])
def test_ions_by_their_names(tmp_path, residue, name, symbol):
    gro = read_structure(write_gro(tmp_path / "a.gro", [("SOL", WATER), (residue, [(name, (1.0, 1.0, 1.0))])]))
    assert symbols(gro) == ["O", "H", "H", symbol]
    if len(name) <= 4:
        waters = [("HOH", [(n[0] + n[2:], 10 * np.array(x)) for n, x in WATER]), (residue, [(name, (10, 10, 10))])]
        for aligned in (True, False):
            pdb = read_structure(write_pdb(tmp_path / "a.pdb", waters, aligned))
            assert symbols(pdb) == ["O", "H", "H", symbol]
    shown = next(note for note in gro.notes if "elements were guessed" in note)
    assert f"{name} -> {symbol} (1)" in shown


def test_ions_that_share_a_residue_number(tmp_path):
    """Packing programs give all ions one number; they are residues of one atom for all that."""
    lines = [gro_line(1, "SOD", "SOD", k + 1, (0.5 * k, 0, 0)) for k in range(3)]
    (tmp_path / "a.gro").write_text("\n".join(["t", "3", *lines, " 2 2 2"]) + "\n")
    structure = read_structure(tmp_path / "a.gro")
    assert symbols(structure) == ["Na"] * 3 and structure.topology.getNumResidues() == 3
    rows = [pdb_line(k + 1, "SOD", "SOD", 1, (5.0 * k, 0, 0)) for k in range(3)]
    (tmp_path / "a.pdb").write_text("\n".join(rows) + "\nEND\n")
    assert symbols(read_structure(tmp_path / "a.pdb")) == ["Na"] * 3


def molecule(name, names=None):
    """(atom name, A) of a molecule of ASE, and its symbols; names by element and number unless given."""
    atoms = ase.build.molecule(name)
    found = atoms.get_chemical_symbols()
    if names is None:
        names = [f"{symbol.upper()}{k + 1}" for k, symbol in enumerate(found)]
    return list(zip(names, atoms.positions.tolist(), strict=True)), found


CASES = {
    "PRODRG amine": (*molecule("C3H9N", ["NAA", "CAB", "CAC", "CAD", *(f"HA{x}" for x in "EFGHIJKLM")]),),
    "NA of a ligand": (*molecule("C3H9N", ["NA", "CA", "CB", "CD", *(f"HA{x}" for x in "EFGHIJKLM")]),),
    "methyl chloride": (*molecule("CH3Cl", ["CA", "CL", "HA", "HB", "HC"]),),
    "PRODRG chloride": (*molecule("CH3Cl", ["CAA", "CLAB", "HAC", "HAD", "HAE"]),),
    "silane": (*molecule("CH3SiH3", ["C1", "SI", *(f"H{k}" for k in range(1, 7))]),),
    "thiol": (*molecule("CH3SH", ["CE", "SD", "HD", "HA1", "HA2", "HA3"]),),
}


@pytest.mark.parametrize("kind", list(CASES))
def test_ligands_without_an_element_column(tmp_path, kind):
    """Names that might be metals are not where a bond is 1.5 A long; chlorine and silicon are themselves."""
    atoms, wanted = CASES[kind]
    elements = {name: symbol for (name, _), symbol in zip(atoms, wanted, strict=True)}
    rows = [
        pdb_line(k, f" {name}" if len(elements[name]) == 1 and len(name) < 4 else name, "LIG", 1, xyz)
        for k, (name, xyz) in enumerate(atoms, start=1)
    ]
    (tmp_path / "aligned.pdb").write_text("\n".join(rows) + "\nEND\n")
    assert symbols(read_structure(tmp_path / "aligned.pdb")) == wanted
    assert symbols(read_structure(write_pdb(tmp_path / "left.pdb", [("LIG", atoms)], aligned=False))) == wanted
    nm = [(name, 0.1 * np.array(xyz)) for name, xyz in atoms]
    structure = read_structure(write_gro(tmp_path / "a.gro", [("LIG", nm)]))
    assert symbols(structure) == wanted


def test_iron_of_a_heme_and_selenium_of_a_protein(tmp_path):
    """Fe-N 2.0 A, C-N 1.38 A of the ring; Se-C 1.95 A in selenomethionine; PB of a nucleotide is phosphorus."""
    heme = [
        ("FE", (0, 0, 0)),
        ("NA", (2.0, 0, 0)),
        ("NB", (0, 2.0, 0)),
        ("C1A", (2.8, 1.1, 0)),
        ("C4A", (2.8, -1.1, 0)),
    ]
    selenium = [("CG", (0, 0, 0)), ("SE", (1.95, 0, 0)), ("CE", (2.2, 1.93, 0))]
    phosphate = [("PB", (0, 0, 0)), ("O1B", (1.5, 0, 0)), ("O3B", (0, 1.6, 0)), ("PG", (1.2, 2.7, 0))]
    for k, (residue, atoms, wanted) in enumerate(
        [("HEM", heme, "Fe N N C C"), ("MSE", selenium, "C Se C"), ("ATP", phosphate, "P O O P")]
    ):
        nm = [(name, 0.1 * np.array(xyz)) for name, xyz in atoms]
        assert symbols(read_structure(write_gro(tmp_path / f"{k}.gro", [(residue, nm)]))) == wanted.split()
        pdb = write_pdb(tmp_path / f"{k}.pdb", [(residue, atoms)], aligned=False)
        assert symbols(read_structure(pdb)) == wanted.split()


def test_protein_names_are_read_by_their_first_letter(tmp_path):
    names = "N CA C O CB CG CD NE CZ NH1 NH2 HA HB1 HG1 HD1 HE HH11 1HB 2HG1 OXT SD SG CE NZ HZ1 OG1".split()
    atoms = [(name, (0.5 * k, 0, 0)) for k, name in enumerate(names)]
    wanted = [name.strip("0123456789")[0] for name in names]
    for residue in ("ALA", "HSD", "NARG", "CYX"):
        assert symbols(read_contents(write_gro(tmp_path / "a.gro", [(residue, atoms)], box=30.0))) == wanted


@pytest.mark.parametrize(
    ("atoms", "residue", "elements", "message"),
    [
        ([("SOD", (0, 0, 0))], "SOD", {"SOD": "S"}, r"line 1 \(SOD, residue SOD\).*states the element S.*is Na"),
        ([("CAL", (0, 0, 0))], "CAL", {"CAL": "C"}, "states the element C.*is Ca"),
        ([("CA", (0, 0, 0))], "CA", {"CA": "C"}, "states the element C.*is Ca"),
        (
            [("NAA", (0, 0, 0)), ("CAA", (1.47, 0, 0))], "LIG", {"NAA": "NA", "CAA": "C"},
            "states the element Na, but CAA is 1.47 A away, as from N",
        ),
    ],
)  # fmt: skip
def test_an_element_column_that_contradicts_is_refused(tmp_path, atoms, residue, elements, message):
    path = write_pdb(tmp_path / "a.pdb", [(residue, atoms)], elements=elements)
    with pytest.raises(InputError, match=message) as caught:
        read_structure(path)
    assert "\n" not in str(caught.value)


def test_a_name_that_says_nothing_is_refused(tmp_path):
    """A first letter would make sulfur of SXX; nothing bonds to it, so nothing would notice."""
    with pytest.raises(InputError, match=r"no element can be read from the name of atom 1 \(SXX, residue SXX 1"):
        read_structure(write_gro(tmp_path / "a.gro", [("SXX", [("SXX", (0, 0, 0))])]))
    (tmp_path / "a.pdb").write_text(pdb_line(1, "SXX", "SXX", 1, (0, 0, 0)) + "\nEND\n")
    with pytest.raises(InputError, match="atom SXX: no chemical element"):
        read_structure(tmp_path / "a.pdb")


def test_the_table_of_ions_does_not_name_organic_elements():
    for name in ("C1", "N", "O1", "H", "S", "P", "CAA", "HOH", "ALA", "LIG", "UNK"):
        assert ion_of(name) is None, name


# ------------------------------------------------------------------------------------------------ masses of a topology

TOP = """[ defaults ]
1 2 yes 0.5 0.8333
[ atomtypes ]
{types}
[ moleculetype ]
LIG 3
[ atoms ]
{atoms}
[ bonds ]
{bonds}
[ system ]
x
[ molecules ]
LIG 1
"""


def write_top(path, atoms, bonds=(), numbers=None):
    """atoms: (name, mass); one type each, with an atomic number where `numbers` gives it."""
    types, rows = [], []
    for k, (name, mass) in enumerate(atoms, start=1):
        number = "" if numbers is None else f"{numbers[k - 1]} "
        types.append(f"t{k} t{k} {number}0.0 0.0 A 0.3 0.3")
        rows.append(f"{k} t{k} 1 LIG {name} {k} 0.0 {mass}")
    pairs = "\n".join(f"{i} {j} 1" for i, j in bonds)
    path.write_text(TOP.format(types="\n".join(types), atoms="\n".join(rows), bonds=pairs))
    nm = [(name, (0.15 * k, 0.0, 0.0)) for k, (name, _) in enumerate(atoms)]
    return read_structure(path, coordinates_file=write_gro(path.with_suffix(".gro"), [("LIG", nm)], box=5.0))


@pytest.mark.parametrize(
    ("name", "mass", "symbol"),
    [
        ("NA", 22.99, "Na"), ("NA", 14.01, "N"), ("CA", 40.08, "Ca"), ("CA", 12.011, "C"), ("CL1", 35.45, "Cl"),
        ("FE", 55.845, "Fe"), ("F", 18.998, "F"), ("CU", 63.55, "Cu"), ("X1", 12.01, "C"), ("HO", 1.008, "H"),
        ("SOD", 22.98977, "Na"), ("POT", 39.0983, "K"), ("CD2", 12.01, "C"), ("CD", 112.4, "Cd"), ("D", 2.014, "H"),
    ],
)  # fmt: skip
def test_the_mass_column_of_a_topology_decides(tmp_path, name, mass, symbol):
    assert symbols(write_top(tmp_path / "a.top", [(name, mass)])) == [symbol]


@pytest.mark.parametrize(
    ("name", "mass", "number", "message"),
    [
        ("C1", 14.007, None, r"atom 1 \(C1, residue LIG, mass 14.007 Da\): the mass is that of N"),
        ("C1", 15.035, None, r"mass 15.035 Da.*united atom CH3.*all-atom"),
        ("CB", 14.027, None, r"mass 14.027 Da.*united atom CH2"),
        ("SOD", 32.06, 11, r"SOD, residue LIG, mass 32.06 Da\): the atomic number is 11 \(Na\)"),
        ("NB1", 72.0, None, r"mass 72 Da"),
    ],
)
def test_a_mass_that_contradicts_the_name_is_refused(tmp_path, name, mass, number, message):
    with pytest.raises(InputError, match=message) as caught:
        write_top(tmp_path / "a.top", [(name, mass)], numbers=None if number is None else [number])
    assert "\n" not in str(caught.value)


def test_repartitioned_masses_of_a_topology_do_not_change_elements(tmp_path):
    """NH of 11.99 Da is nitrogen, not carbon: its hydrogen weighs 3.024 Da."""
    atoms = [("N1", 14.007 - 2.016), ("H1", 3.024), ("C1", 12.011 - 3 * 2.016), *((f"H{k}", 3.024) for k in (2, 3, 4))]
    bonds = [(1, 2), (1, 3), (3, 4), (3, 5), (3, 6)]
    for numbers in (None, [7, 1, 6, 1, 1, 1]):
        structure = write_top(tmp_path / "a.top", atoms, bonds, numbers)
        assert symbols(structure) == ["N", "H", "C", "H", "H", "H"]
        assert structure.masses.sum() == pytest.approx(14.0067 + 12.0107 + 4 * 1.00794, abs=2e-3)  # tables differ
        assert any("repartitioned masses (hydrogen up to 3.024 Da); they are not used" in n for n in structure.notes)


def test_deuterium_of_a_topology_weighs_what_it_says(tmp_path):
    atoms = [("O", 15.9994), ("D1", 2.014), ("H2", 1.008)]
    structure = write_top(tmp_path / "a.top", atoms, [(1, 2), (1, 3)])
    assert symbols(structure) == ["O", "H", "H"]
    assert structure.masses[1:] == pytest.approx([2.014, 1.008], abs=1e-3)


def test_an_old_prmtop_without_atomic_numbers(tmp_path):
    """The mass decides there too: a nitrogen called NA1 is no sodium."""
    text = (INPUTS / "alanine_dipeptide.prmtop").read_text()
    head, _, rest = text.partition("%FLAG ATOMIC_NUMBER")
    old = head + "%FLAG" + rest.partition("%FLAG")[2]
    assert "ATOMIC_NUMBER" not in old and "N   " in old
    wanted = symbols(
        read_structure(INPUTS / "alanine_dipeptide.prmtop", coordinates_file=INPUTS / "alanine_dipeptide.rst7")
    )
    for name, content in (
        ("a.prmtop", old),
        ("b.prmtop", "\ufeff" + old.replace("N   ", "NA1 ").replace("CA  ", "CL  ")),
    ):
        (tmp_path / name).write_text(content, encoding="utf-8")
        structure = read_structure(tmp_path / name, coordinates_file=INPUTS / "alanine_dipeptide.rst7")
        assert symbols(structure) == wanted
    with pytest.raises(InputError, match=r"N, residue .*mass 12.01"):
        (tmp_path / "c.prmtop").write_text(re.sub(r"1\.40\d+E\+01", "1.20100000E+01", old))
        read_structure(tmp_path / "c.prmtop", coordinates_file=INPUTS / "alanine_dipeptide.rst7")


def test_drude_particles_are_no_deuterium(tmp_path):
    nm = [*WATER, ("DOW", WATER[0][1])]
    with pytest.raises(InputError, match=r"no element can be read from the name of atom 4 \(DOW"):
        read_structure(write_gro(tmp_path / "a.gro", [("SOL", nm)]))
