"""Isotopes weigh what their file says, and what is written of them and of long names is read by others."""

import ase.io
import mdtraj
import numpy as np
import pytest
from test_peoples_files import XYZ, mmcif, mmcif_water, pdb_water, write

from mace_md.errors import InputError
from mace_md.md.files.reporters import write_topology
from mace_md.md.files.trajectory import Frame, open_trajectory
from mace_md.structures.formats.isotopes import DEUTERIUM
from mace_md.structures.formats.molfile import from_smiles
from mace_md.structures.structure import assemble, read_structure


def methanol_d3():
    return assemble(from_smiles("[2H]C([2H])([2H])O", seed=1))


def test_isotopes_of_smiles_sdf_cif_and_extxyz(tmp_path):
    from rdkit import Chem
    from rdkit.Chem import AllChem

    d3 = 12.0107 + 15.9994 + 1.00794 + 3 * DEUTERIUM
    assert methanol_d3().masses.sum() == pytest.approx(d3, abs=1e-3)
    assert assemble(from_smiles("[13CH4]", seed=1)).masses[0] == pytest.approx(13.00335484, abs=1e-6)
    molecule = Chem.AddHs(Chem.MolFromSmiles("[2H]C([2H])([2H])O"))
    AllChem.EmbedMolecule(molecule, randomSeed=1)
    for kekulize in (False, True):  # V2000 with M ISO, V3000 with MASS
        block = Chem.MolToMolBlock(molecule, forceV3000=kekulize)
        assert read_structure(write(tmp_path / "a.mol", block)).masses.sum() == pytest.approx(d3, abs=1e-3)
    cell = "".join(f"_cell_length_{x} 9\n" for x in "abc") + "".join(
        f"_cell_angle_{x} 90\n" for x in ("alpha", "beta", "gamma")
    )
    sites = "O1 O 0 0 0\nD1 D 0.1063 0 0\nD2 D -0.0267 0.103 0\n"
    names = "".join(f"_atom_site_{x}\n" for x in ("label", "type_symbol", "fract_x", "fract_y", "fract_z"))
    crystal = f"data_x\n{cell}_symmetry_space_group_name_H-M 'P 1'\nloop_\n{names}{sites}"
    assert read_structure(write(tmp_path / "a.cif", crystal)).masses[1:] == pytest.approx([DEUTERIUM] * 2, abs=1e-6)
    rows = [f"{line} {m}" for line, m in zip(XYZ.splitlines()[2:], (17.99916, 1.00783, 2.01410), strict=True)]
    text = "\n".join(["3", "Properties=species:S:1:pos:R:3:masses:R:1", *rows]) + "\n"
    structure = read_structure(write(tmp_path / "a.extxyz", text))
    assert structure.masses == pytest.approx([17.99916, 1.00794, 2.01410], abs=1e-5)
    assert any("isotopes, by the masses of the file" in note for note in structure.notes)
    with pytest.raises(InputError, match="C has no isotope 99"):
        from_smiles("[99CH4]", seed=1)


@pytest.mark.parametrize(
    ("species", "masses"),
    [
        ("O 2H 2H", [15.9994, DEUTERIUM, DEUTERIUM]), ("18O H H", [17.9991596, 1.00794, 1.00794]),
        ("O H(iso=2) H", [15.9994, DEUTERIUM, 1.00794]), ("O T H", [15.9994, 3.0160493, 1.00794]),
        ("1O 2H 3H", [15.9994, 1.00794, 1.00794]),
    ],
)  # fmt: skip
def test_isotopes_in_the_species_of_an_xyz_file(tmp_path, species, masses):
    """The last one counts its atoms."""
    rows = [f"{word} {line[1:]}" for word, line in zip(species.split(), XYZ.splitlines()[2:], strict=True)]
    structure = read_structure(write(tmp_path / "a.xyz", "\n".join(["3", "", *rows]) + "\n"))
    assert structure.masses == pytest.approx(masses, abs=1e-4)


def test_masses_survive_solvation_and_repetition():
    from mace_md.structures.solvent import Solvent, solvate
    from mace_md.structures.supercell import repeat

    wet = solvate(methanol_d3(), Solvent(padding=3.0), seed=1)
    assert sorted(wet.masses[:6])[1:4] == pytest.approx([DEUTERIUM] * 3, abs=1e-6)
    twice = repeat(wet, (2, 1, 1))
    assert twice.masses.sum() == pytest.approx(2 * wet.masses.sum(), abs=1e-9)


def test_what_is_written_of_isotopes_is_read_by_others(tmp_path):
    """ASE takes the masses from the trajectory; ASE and mdtraj find hydrogen in the topology; ours is read again."""
    structure = methanol_d3()
    writer = open_trajectory("extxyz", tmp_path / "t.extxyz", structure.topology, 0.5, 1)
    writer.append(Frame(0, 0.0, structure.positions, None, -1.0, velocities=0 * structure.positions))
    atoms = ase.io.read(tmp_path / "t.extxyz")
    assert atoms.numbers.tolist() == structure.atomic_numbers
    assert atoms.get_masses() == pytest.approx(structure.masses, abs=1e-7)
    assert np.allclose(atoms.positions, 10 * structure.positions, atol=1e-7)
    assert read_structure(tmp_path / "t.extxyz").masses == pytest.approx(structure.masses, abs=1e-7)
    path = write_topology(tmp_path, structure)
    assert ase.io.read(path).numbers.tolist() == structure.atomic_numbers
    assert [atom.element.atomic_number for atom in mdtraj.load_topology(str(path)).atoms] == structure.atomic_numbers


def test_d2o_of_a_pdb_file_is_written_so_that_ase_reads_it(tmp_path):
    text = pdb_water(elements="ODD", names=("O", "D1", "D2"))
    structure = read_structure(write(tmp_path / "a.pdb", text))
    path = write_topology(tmp_path, structure)
    assert ase.io.read(path).numbers.tolist() == [8, 1, 1]
    assert mdtraj.load(str(path)).topology.atom(1).element.symbol == "H"


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("HOH A   1 ", "TIP4A   1 ", ""), (" LIG ", " LIGX", "the residue name LIGX"), ("A   1 ", "A9999 ", ""),
        ("A   1 ", "A   1 ", ""),
    ],
)  # fmt: skip
def test_names_that_a_pdb_file_cannot_hold_go_to_mmcif(tmp_path, caplog, old, new, what):
    text = pdb_water(residue="LIG" if "LIG" in old else "HOH").replace(old, new)
    structure = read_structure(write(tmp_path / "a.pdb", text))
    caplog.set_level("INFO", logger="mace_md")
    path = write_topology(tmp_path, structure)
    assert path.suffix == (".cif" if what else ".pdb")
    assert (f"topology.cif in place of topology.pdb: {what}" in caplog.text) is bool(what)
    again, described = read_structure(path), mdtraj.load_topology(str(path))
    for topology in (structure.topology, again.topology):
        assert [residue.name for residue in topology.residues()] == [residue.name for residue in described.residues]
    assert np.allclose(again.positions, structure.positions, atol=1e-4)


def test_a_chain_without_a_name_is_read_again_from_mmcif(tmp_path):
    structure = read_structure(write(tmp_path / "a.pdb", pdb_water(residue="LIGX").replace("LIGX A", "LIGX  ")))
    path = write_topology(tmp_path, structure)
    assert path.name == "topology.cif" and len(read_structure(path).positions) == 3


def test_long_numbers_and_chains_go_to_mmcif(tmp_path):
    rows = mmcif_water(number=12001, name="A1LU6")
    for text, name in (
        (mmcif(rows), "topology.cif"),
        (mmcif([row.replace(" A . ", " AA . ").replace(" A 1", " AA 1") for row in mmcif_water()]), "topology.cif"),
        (mmcif(mmcif_water(number=-999)), "topology.pdb"),
        (mmcif([row.replace(" H1 ", " H1ABC ") for row in mmcif_water(name="LIG")]), "topology.cif"),
    ):
        structure = read_structure(write(tmp_path / "a.cif", text))
        path = write_topology(tmp_path, structure)
        assert path.name == name
        again = read_structure(path)
        for one, other in zip(structure.topology.atoms(), again.topology.atoms(), strict=True):
            assert (one.name, one.residue.name, one.residue.id) == (other.name, other.residue.name, other.residue.id)
            assert one.residue.chain.id == other.residue.chain.id
