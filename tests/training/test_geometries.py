"""Geometries from every kind of file are where they were written, and what cannot be read says what to do."""

import ase.io
import numpy as np
import pytest
from ase.build import molecule as build

from mace_md.errors import InputError
from mace_md.training.data import read_configurations
from mace_md.training.geometries import named, numbers_from_smiles, read_geometries
from mace_md.training.hdf5 import write_hdf5
from mace_md.training.writing import write_configurations
from tests.training.labelled import molecules

h5py = pytest.importorskip("h5py")


def spice(path, unit="nanometers", smiles=b"[H:2][O:1][H:3]", **datasets) -> np.ndarray:
    """A file in SPICE's layout with five conformations of water; their positions, A."""
    positions = build("H2O").positions[None] + np.random.default_rng(0).normal(scale=0.02, size=(5, 3, 3))
    with h5py.File(path, "w") as file:
        group = file.create_group("water")
        factor = {"nanometers": 0.1, "bohr": 1 / 0.529177210903, "furlong": 1.0}[unit]
        group["conformations"] = positions * factor
        group["conformations"].attrs["units"] = unit
        group.create_dataset("smiles", data=[smiles], dtype=h5py.string_dtype())
        for name, value in datasets.items():
            group[name] = value
    return positions


@pytest.mark.parametrize("unit", ["nanometers", "bohr"])
def test_spice_layout_in_the_unit_that_the_file_states(tmp_path, unit):
    pytest.importorskip("rdkit")
    positions = spice(tmp_path / "it.hdf5", unit)
    found = list(read_geometries(tmp_path / "it.hdf5", every=2))
    assert [c.atomic_numbers.tolist() for c in found] == [[8, 1, 1]] * 3
    assert {c.config_type for c in found} == {"water"}
    np.testing.assert_allclose([c.positions for c in found], positions[::2], atol=1e-9)


def test_spice_layout_with_atomic_numbers_needs_no_smiles(tmp_path):
    spice(tmp_path / "it.hdf5", smiles=b"nonsense", atomic_numbers=np.array([8, 1, 1]))
    assert next(read_geometries(tmp_path / "it.hdf5")).atomic_numbers.tolist() == [8, 1, 1]


@pytest.mark.parametrize(
    "how, message",
    [
        ({"smiles": b"O"}, "water: 'O' is not a SMILES whose atoms are numbered"),
        ({"unit": "furlong"}, "furlong.*--length-unit"),
        ({"atomic_numbers": np.array([8, 1])}, "2 atoms, conformations of shape"),
    ],
)
def test_a_damaged_spice_file_says_what_is_wrong(tmp_path, how, message):
    pytest.importorskip("rdkit")
    spice(tmp_path / "it.hdf5", **how)
    with pytest.raises(InputError, match=message):
        list(read_geometries(tmp_path / "it.hdf5"))


def test_smiles_in_the_order_of_the_map():
    pytest.importorskip("rdkit")
    assert numbers_from_smiles("[H:3][N+:1]([H:2])([H:4])[H:5].[Cl-:6]").tolist() == [7, 1, 1, 1, 1, 17]


def test_a_trajectory_needs_a_topology_and_keeps_its_box(tmp_path, repository):
    mdtraj = pytest.importorskip("mdtraj")
    water = mdtraj.load(str(repository / "systems" / "water" / "water.pdb"))
    (tmp_path / "there").mkdir()
    path = tmp_path / "there" / "trajectory.dcd"
    mdtraj.join([water] * 3).save_dcd(str(path))
    with pytest.raises(InputError, match="--topology"):
        next(read_geometries(path))
    water.save_pdb(str(tmp_path / "there" / "topology.pdb"))  # where `mace-md run` has it
    frames = list(read_geometries(path))
    assert len(frames) == 3 and frames[0].pbc == (True, True, True)
    np.testing.assert_allclose(frames[2].positions, 10.0 * water.xyz[0], atol=1e-4)
    np.testing.assert_allclose(frames[2].cell, 10.0 * water.unitcell_vectors[0], atol=1e-4)
    assert named(frames[0], None, "x").config_type == "trajectory"


@pytest.mark.parametrize("name", ["it.xyz", "it.h5"])
def test_what_is_written_is_what_training_reads(tmp_path, name):
    data = [*molecules(3), *molecules(2, box=11.0)]
    assert write_configurations(data, tmp_path / name) == 5
    for before, after in zip(data, read_configurations(tmp_path / name), strict=True):
        assert after.energy == before.energy and after.pbc == before.pbc
        np.testing.assert_allclose(after.positions, before.positions, atol=1e-8)  # eight decimals in extended XYZ
        np.testing.assert_allclose(after.forces, before.forces, atol=1e-8)
        assert (after.stress is None) == (before.stress is None)
        if before.stress is not None:
            np.testing.assert_allclose(after.stress, before.stress, atol=1e-12)
    with pytest.raises(InputError, match="exists"):
        write_configurations(data, tmp_path / name)
    assert [c.energy for c in read_geometries(tmp_path / name, every=2)] == [c.energy for c in data[::2]]


def test_mace_torch_keys_are_what_is_written(tmp_path):
    (one,) = molecules(1)
    write_configurations([one], tmp_path / "it.xyz")
    atoms = ase.io.read(tmp_path / "it.xyz")
    assert atoms.info["REF_energy"] == one.energy and atoms.arrays["REF_forces"].shape == (6, 3)


def test_no_half_written_file_is_left(tmp_path):
    def broken():
        yield from molecules(2)
        raise InputError("stop")

    for name in ("it.xyz", "it.h5"):
        with pytest.raises(InputError, match="stop"):
            write_configurations(broken(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="suffix"):
        write_configurations([], tmp_path / "it.csv")
    write_hdf5(molecules(1), tmp_path / "other.h5")


def test_a_folder_is_called_a_folder(tmp_path):
    with pytest.raises(InputError, match="this is a folder; give the file inside it"):
        list(read_geometries(tmp_path))
