"""Bad input is refused before anything expensive, with what to do; good input is not."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, graphene, molecule
from water_box import water_pdb

from mace_md.errors import InputError
from mace_md.structures import preflight
from mace_md.structures.structure import read_structure


@pytest.fixture
def read(tmp_path):
    """Write an ase.Atoms and read it as a run would."""

    def write_and_read(atoms, **options):
        path = tmp_path / "structure.extxyz"
        atoms.write(path)
        return read_structure(path, **options)

    return write_and_read


def test_unknown_element_is_refused_by_residue(tmp_path):
    path = water_pdb(tmp_path / "zn.pdb", per_side=1)
    path.write_text(
        path.read_text().replace(
            "END\n", "HETATM    4 ZN   ZN  A 301       5.000   5.000   5.000  1.00  0.00          ZN\nEND\n"
        )
    )
    structure = read_structure(path)
    with pytest.raises(InputError, match=r"element Zn \(residue ZN 301, atom 4\) is not in off, which knows H C O"):
        preflight.check_elements(structure, [1, 6, 8], "off")
    preflight.check_elements(structure, [1, 8, 30], "off")


def test_charge_is_refused_by_a_model_that_cannot_see_it(read):
    ion = Atoms("OH", [[0, 0, 0], [0, 0, 0.96]])
    ion.info["charge"] = -1
    structure = read(ion)
    with pytest.raises(InputError, match=r"charge=-1 in .*: off has no input for the charge.*--charge 0"):
        preflight.check_charge_and_spin(structure, None, None, "off")
    with pytest.raises(InputError, match="--charge 1: off has no input"):
        preflight.check_charge_and_spin(structure, 1, None, "off")
    notes = preflight.check_charge_and_spin(structure, 0, None, "off")
    assert "the file says -1" in notes[0]
    assert preflight.check_charge_and_spin(structure, -1, None, "polar", ("charge",)) == []
    assert preflight.check_charge_and_spin(structure, None, None, "polar", ("charge", "spin")) == ["spin 1 (assumed)"]


def test_spin_is_refused_likewise(read):
    with pytest.raises(InputError, match="--spin 3: off has no input for the spin"):
        preflight.check_charge_and_spin(read(molecule("O2")), None, 3, "off")


def test_charge_and_spin_of_a_file_fit_its_electrons(read):
    """OH has 9 electrons, OH- has 10; a multiplicity of 2 needs an odd number."""
    radical = Atoms("OH", [[0, 0, 0], [0, 0, 0.96]])
    for charge, spin, fits in ((0, 2, True), (-1, 1, True), (0, 1, False), (-1, 2, False), (-1, 3, True)):
        radical.info |= {"charge": charge, "spin": spin}
        if fits:
            assert preflight.check_electrons(read(radical), None) == []
        else:
            with pytest.raises(
                InputError, match=f"{9 - charge} electrons, which cannot have the spin multiplicity {spin}"
            ):
                preflight.check_electrons(read(radical), None)


def test_odd_electrons_are_noted(read):
    hydroxyl = Atoms("OH", [[0, 0, 0], [0, 0, 0.96]])
    assert "if the charge is 0" in preflight.check_electrons(read(hydroxyl), None)[0]
    assert "with the charge +2" in preflight.check_electrons(read(hydroxyl), 2)[0]
    assert preflight.check_electrons(read(hydroxyl), -1) == []
    assert preflight.check_electrons(read(molecule("H2O")), None) == []


def test_water_without_hydrogens_is_refused(tmp_path):
    path = water_pdb(tmp_path / "w.pdb", per_side=2)
    path.write_text("".join(line for line in path.read_text().splitlines(True) if " H2 " not in line))
    with pytest.raises(InputError, match=r"residue HOH 1 \(chain A\) has no hydrogens.*7 more.*--hydrogens add"):
        preflight.check_hydrogens(read_structure(path))


def test_bare_carbon_skeleton_is_refused(read):
    toluene = molecule("C6H6")
    with pytest.raises(InputError, match="no hydrogens at all, and 6 of 6 carbon atoms"):
        preflight.check_hydrogens(read(toluene[[atom.number == 6 for atom in toluene]]))


@pytest.mark.parametrize("name", ["CO2", "CO", "HCN", "C6H6", "CH4", "H2O", "C2H2"])
def test_complete_molecules_pass(read, name):
    assert preflight.check_hydrogens(read(molecule(name))) == []


@pytest.mark.parametrize("atoms", [bulk("C", "diamond", cubic=True), graphene(vacuum=10)], ids=["diamond", "graphene"])
def test_carbon_without_hydrogen_by_nature_passes(read, atoms):
    atoms = atoms.repeat((2, 2, 1)) if len(atoms) == 2 else atoms
    atoms.pbc = True
    assert preflight.check_hydrogens(read(atoms)) == []


def test_overlap_is_refused_with_both_atoms_named(read):
    with pytest.raises(InputError, match=r"atom 1 .* and atom 2 .* are at the same place"):
        preflight.check_contacts(read(Atoms("CCH", [[0, 0, 0], [0, 0, 0], [0, 0, 3]])))
    with pytest.raises(InputError, match=r"are 0\.60 A apart \(1 such pairs\)"):
        preflight.check_contacts(read(Atoms("CCH", [[0, 0, 0], [0, 0, 0.6], [0, 0, 3]])))


def test_overlap_through_the_box_is_seen(read):
    atoms = Atoms("He2", [[0, 0, 0.1], [0, 0, 9.95]], cell=[10, 10, 10], pbc=True)
    with pytest.raises(InputError, match=r"0\.15 A apart"):
        preflight.check_contacts(read(atoms))


def test_shortest_bond_of_chemistry_passes(read):
    assert "0.74 A" in preflight.check_contacts(read(Atoms("H2", [[0, 0, 0], [0, 0, 0.741]])))[0]


def test_coordinates_in_nm_are_caught(read):
    water = molecule("H2O")
    water.positions /= 10
    with pytest.raises(InputError, match="the unit of the coordinates"):
        preflight.check_contacts(read(water))


@pytest.mark.parametrize("side", [6.8, 6.0, 3.1])
def test_box_smaller_than_the_molecule_is_refused(read, side):
    hexane = Atoms("C6", [[1.5 * k, 0, 0] for k in range(6)])
    with pytest.raises(InputError, match=r"periodic image.*The box is smaller than what is in it: give a larger --box"):
        preflight.check_contacts(read(hexane, box=(side, 10, 10)))


@pytest.mark.parametrize("side", [1.0, 2.0, 3.1, 4.0, 4.9, 5.4])
@pytest.mark.parametrize("kind", ["pdb", "xyz"])
def test_molecule_does_not_fold_into_a_box_that_is_too_small(tmp_path, repository, side, kind):
    """With bonds of the file and with found ones: the contact is named as one with an image, at any size."""
    path = repository / "systems" / "alanine_dipeptide" / "alanine_dipeptide.pdb"
    if kind == "xyz":
        from ase.io import read as read_atoms

        atoms, path = read_atoms(path), tmp_path / "alanine.xyz"
        atoms.write(path)
    with pytest.raises(InputError, match=r"periodic image\) are .*The box is smaller than what is in it"):
        preflight.check_contacts(read_structure(path, box=(side, side, side)))


def test_molecule_longer_than_its_box_is_noted(read):
    chain = Atoms("C6", [[1.1 * k, 1.1 * k, 0] for k in range(6)])
    notes = preflight.check_box(read(chain, box=(5.0, 20, 10)), 2.0, npt=False)
    assert any("a molecule 5.5 A long is longer than the box (5.0 A)" in note for note in notes)
    assert not any("longer" in note for note in preflight.check_box(read(chain, box=(6.0, 20, 10)), 2.0, npt=False))


def test_hydrogens_squeezed_together_through_the_box_are_refused(read):
    """Two water molecules, 1.1 A between their hydrogens: no bond, and nothing else is as close."""
    waters = Atoms("OH2OH2", [[0, 0, 1], [0.76, 0, 0.4], [-0.76, 0, 0.4], [0, 0, 8], [0.76, 0, 8.6], [-0.76, 0, 8.6]])
    with pytest.raises(InputError, match=r"periodic image\) are 1\.10 A apart.*The box is smaller"):
        preflight.check_contacts(read(waters, box=(9.3, 9.3, 9.3)))
    assert "0.97 A" in preflight.check_contacts(read(waters, box=(9.3, 9.3, 9.9)))[0]


def test_long_molecule_beside_its_images_passes(read):
    """In a crystal a molecule may be longer than the cell: its images pass at a distance."""
    chain = Atoms("C6", [[1.1 * k, 1.1 * k, 0] for k in range(6)])
    structure = read(chain, box=(5.0, 20, 10))
    assert structure.molecules.count == 1
    assert "1.56 A" in preflight.check_contacts(structure)[0]


def test_box_notes(read, tmp_path):
    water = read_structure(water_pdb(tmp_path / "w.pdb"))
    notes = preflight.check_box(water, 5.0, npt=True)
    assert "density 1.004 g/mL" in notes[0]
    assert any("below twice the cutoff (5 A)" in note for note in notes)
    assert preflight.check_box(water, 4.0, npt=True)[1:] == []
    assert any("below one cutoff" in note for note in preflight.check_box(water, 9.5, npt=True))


def test_width_of_a_skewed_box_is_between_its_faces(read):
    atoms = Atoms("He", cell=[[10, 0, 0], [5, 5, 0], [0, 0, 10]], pbc=True)
    widths = [10 * np.sin(np.pi / 4), 5.0, 10.0]
    expected = " x ".join(f"{x:.2f}" for x in widths)
    note = preflight.check_box(read(atoms), 2.0, npt=False)[0]
    assert sorted(note.split(" A")[0].removeprefix("box: ").split(" x ")) == sorted(expected.split(" x "))


def test_npt_without_box_or_in_a_gas_is_refused(read):
    with pytest.raises(InputError, match="npt needs a periodic box"):
        preflight.check_box(read(molecule("H2O")), 5.0, npt=True)
    with pytest.raises(InputError, match="is a gas"):
        preflight.check_box(read(molecule("H2O"), box=(50, 50, 50)), 5.0, npt=True)


def test_impossible_density_is_refused(read):
    atoms = Atoms("Os2", [[0, 0, 0], [1.2, 1.2, 1.2]], cell=[2.4, 2.4, 2.4], pbc=True)
    with pytest.raises(InputError, match="above any matter"):
        preflight.check_box(read(atoms), 5.0, npt=False)


def test_long_step_with_hydrogen_is_noted(tmp_path):
    water = read_structure(water_pdb(tmp_path / "w.pdb"))
    assert "2 fs is long for hydrogen" in preflight.check_timestep(water.masses, 2.0)[0]
    assert preflight.check_timestep(water.masses, 1.0) == []


def test_shape_of_a_box_of_water_is_not_held(tmp_path):
    water = read_structure(water_pdb(tmp_path / "water.pdb"))
    (said,) = preflight.check_shape(water, "anisotropic")
    assert said.startswith("warning: --barostat anisotropic on water") and "--barostat isotropic" in said
    bulk("NaCl", "rocksalt", a=5.64, cubic=True).write(tmp_path / "salt.extxyz")
    salt = read_structure(tmp_path / "salt.extxyz")
    assert all(note.startswith("note: ") for note in preflight.check_shape(salt, "flexible"))
    bulk("Si", cubic=True).write(tmp_path / "silicon.extxyz")
    assert preflight.check_shape(read_structure(tmp_path / "silicon.extxyz"), "flexible") == []  # bonds hold it
