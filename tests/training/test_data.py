"""Reading labelled data: the same numbers from every format, in the right units, and clear words for what is wrong."""

import gzip
import re

import ase
import ase.io
import ase.units
import numpy as np
import pytest
from labelled import SHARED, molecules, to_atoms, write_xyz

from mace_md.errors import InputError
from mace_md.training.data import (
    Joined,
    LabelFormat,
    Subset,
    read_configurations,
    read_index,
    split_data,
    take_isolated_atoms,
    write_hdf5,
)

TEXT = 1e-7  # extended XYZ keeps eight decimals of positions and forces


def assert_same(found, expected, atol=TEXT):
    np.testing.assert_array_equal(found.atomic_numbers, expected.atomic_numbers)
    for name in ("positions", "cell", "energy", "forces", "stress"):
        value, wanted = getattr(found, name), getattr(expected, name)
        assert (value is None) == (wanted is None), name
        if wanted is not None:
            np.testing.assert_allclose(value, wanted, rtol=0, atol=atol, err_msg=name)


@pytest.mark.parametrize("keys", [{}, {"energy": "REF_energy", "forces": "REF_forces"}])
@pytest.mark.parametrize("box", [None, 12.0])
def test_extended_xyz(tmp_path, keys, box):
    written = molecules(3, box=box)
    found = read_configurations(write_xyz(tmp_path / "data.xyz", written, **keys))
    for frame, (one, other) in enumerate(zip(found, written, strict=True)):
        assert_same(one, other)
        assert one.frame == frame and one.where.endswith(f"data.xyz, frame {frame} (counted from 0)")
        assert one.pbc == (box is not None,) * 3


def test_compressed_files_are_read_alike(tmp_path):
    plain = write_xyz(tmp_path / "data.xyz", molecules(2))
    packed = tmp_path / "data.xyz.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    for one, other in zip(read_configurations(packed), read_configurations(plain), strict=True):
        assert_same(one, other, atol=0)


def test_weights_heads_and_types_come_along(tmp_path):
    atoms = to_atoms(molecules(1)[0])
    atoms.info |= {"config_weight": 2.0, "config_forces_weight": 0.5, "head": "dft", "config_type": "liquid"}
    ase.io.write(tmp_path / "data.xyz", atoms, format="extxyz")
    (found,) = read_configurations(tmp_path / "data.xyz")
    assert (found.weight, found.energy_weight, found.forces_weight, found.stress_weight) == (2.0, 1.0, 0.5, 1.0)
    assert (found.head, found.config_type) == ("dft", "liquid")


def test_virials_are_minus_stress_times_volume(tmp_path):
    (expected,) = molecules(1, box=11.0)
    atoms = to_atoms(expected)
    del atoms.calc.results["stress"]
    atoms.info["REF_virials"] = -expected.stress * 11.0**3
    ase.io.write(tmp_path / "data.xyz", atoms, format="extxyz")
    (found,) = read_configurations(tmp_path / "data.xyz")
    np.testing.assert_allclose(found.stress, expected.stress, rtol=0, atol=TEXT)


@pytest.mark.parametrize(
    "units, energy, length, forces",
    [
        ({"energy_unit": "kcal/mol"}, ase.units.kcal / ase.units.mol, 1.0, None),
        ({"energy_unit": "kJ/mol", "length_unit": "nm"}, ase.units.kJ / ase.units.mol, 10.0, None),
        ({"energy_unit": "Hartree", "length_unit": "Bohr"}, ase.units.Hartree, ase.units.Bohr, None),
        ({"energy_unit": "Hartree", "forces_unit": "eV/A"}, ase.units.Hartree, 1.0, 1.0),
    ],
)
def test_units_against_those_of_ase(tmp_path, units, energy, length, forces):
    """Relative 1e-6: ASE's constants are CODATA 2014, ours 2018."""
    written = molecules(1)[0]
    (found,) = read_configurations(write_xyz(tmp_path / "data.xyz", [written]), LabelFormat(**units))
    np.testing.assert_allclose(found.energy, written.energy * energy, rtol=1e-6)
    np.testing.assert_allclose(found.positions, written.positions * length, rtol=1e-6, atol=1e-6)
    factor = energy / length if forces is None else forces
    np.testing.assert_allclose(found.forces, written.forces * factor, rtol=1e-6, atol=1e-5)


def test_stress_units(tmp_path):
    written = molecules(1, box=12.0)
    path = write_xyz(tmp_path / "data.xyz", written)
    (found,) = read_configurations(path, LabelFormat(stress_unit="GPa"))
    np.testing.assert_allclose(found.stress, written[0].stress * ase.units.GPa, rtol=1e-6, atol=1e-9)


def test_rmd17_layout(tmp_path):
    written = molecules(4)
    kcal = ase.units.kcal / ase.units.mol
    arrays = {
        "nuclear_charges": written[0].atomic_numbers.astype(np.uint8),
        "coords": np.stack([c.positions for c in written]),
        "energies": np.array([c.energy for c in written]) / kcal,
        "forces": np.stack([c.forces for c in written]) / kcal,
    }
    np.savez(tmp_path / "m.npz", **arrays)
    for one, other in zip(read_configurations(tmp_path / "m.npz"), written, strict=True):
        np.testing.assert_allclose(one.energy, other.energy, rtol=1e-6)
        np.testing.assert_allclose(one.forces, other.forces, rtol=1e-6, atol=1e-9)


@pytest.mark.skipif(not SHARED.exists(), reason="reference data are not here")
def test_real_files():
    acac = read_configurations(SHARED / "acac" / "train_300K.xyz.gz")
    assert len(acac) == 500 and acac[0].energy == pytest.approx(-9391.45554428476, abs=1e-8)
    assert not any(acac[0].pbc) and not acac[0].cell.any()
    ethanol = read_configurations(SHARED / "rmd17" / "rmd17_ethanol_train_01.npz")
    assert len(ethanol) == 1000 and len(ethanol[0].atomic_numbers) == 9
    assert -4220 < ethanol[0].energy < -4200  # eV; ethanol, PBE
    atoms, isolated = take_isolated_atoms(read_configurations(SHARED / "acac" / "isolated_atoms.xyz"))
    assert len(atoms) == 0 and sorted(int(c.atomic_numbers[0]) for c in isolated) == [1, 6, 8]


def test_hdf5_gives_back_what_was_written(tmp_path):
    written = [*molecules(3, box=10.0), *molecules(2, n_atoms=4)]
    assert write_hdf5(written, tmp_path / "data.h5") == 5
    found = read_configurations(tmp_path / "data.h5")
    assert len(found) == 5 and found.atom_counts().tolist() == [6, 6, 6, 4, 4]
    for one, other in zip(found, written, strict=True):
        assert_same(one, other, atol=0)
    with pytest.raises(InputError, match="the file exists"):
        write_hdf5(written, tmp_path / "data.h5")
    with pytest.raises(IndexError):
        found[5]


def test_hdf5_keeps_missing_labels_apart_from_broken_ones(tmp_path):
    from dataclasses import replace

    first, second = molecules(2)
    broken = np.array(second.forces)
    broken[1, 2] = np.nan
    write_hdf5([replace(first, forces=None, energy=None), replace(second, forces=broken)], tmp_path / "data.h5")
    found = read_configurations(tmp_path / "data.h5")
    assert found[0].forces is None and found[0].energy is None and found[0].stress is None
    assert np.isnan(found[1].forces).sum() == 1


def test_several_files_are_one_after_the_other(tmp_path):
    a, b = molecules(3), molecules(2, seed=1)
    write_hdf5(a, tmp_path / "a.h5"), write_hdf5(b, tmp_path / "b.h5")
    joined = read_configurations([tmp_path / "a.h5", tmp_path / "b.h5"])
    assert isinstance(joined, Joined) and joined.is_lazy and len(joined) == 5
    for one, other in zip(joined, [*a, *b], strict=True):
        assert_same(one, other, atol=0)
    assert_same(joined[-1], b[-1], atol=0)


@pytest.mark.parametrize(
    "labels, message",
    [
        (LabelFormat(energy_key="enrgy"), "no frame has energy under the key 'enrgy'. Keys that are there: energy"),
        (LabelFormat(forces_key="force"), "no frame has forces under the key 'force'. Keys that are there: forces"),
        (LabelFormat(energy_unit="cal"), "unknown unit of energy 'cal'; expected one of eV"),
        (LabelFormat(stress_unit="psi"), "unknown unit of stress 'psi'"),
    ],
)
def test_wrong_names_are_answered_with_the_right_ones(tmp_path, labels, message):
    path = write_xyz(tmp_path / "data.xyz", molecules(1))
    with pytest.raises(InputError, match=re.escape(message)):
        read_configurations(path, labels)


def test_two_candidates_are_not_guessed_between(tmp_path):
    atoms = to_atoms(molecules(1)[0])
    atoms.info["REF_energy"] = 1.0
    ase.io.write(tmp_path / "data.xyz", atoms, format="extxyz")
    with pytest.raises(InputError, match="energy could be REF_energy or energy. Say which with --energy-key"):
        read_configurations(tmp_path / "data.xyz")
    assert read_configurations(tmp_path / "data.xyz", LabelFormat(energy_key="REF_energy"))[0].energy == 1.0


@pytest.mark.parametrize(
    "name",
    ["empty.xyz", "damaged.xyz", "properties.xyz", "damaged.npz", "damaged.h5", "absent.xyz", "absent.h5"],
)
def test_unreadable_files(tmp_path, name):
    path = tmp_path / name
    text = {"empty": "", "properties": "1\nProperties=T\nC 0 0 0\n"}.get(path.stem, "3\nnothing\nC 0 0\n")
    if not name.startswith("absent"):
        path.write_text(text)
    with pytest.raises(InputError, match=name):
        read_configurations(path)


# --- splits ---


def test_split_by_fraction_count_and_index():
    data = molecules(20)
    for how, size in (({"fraction": 0.25}, 5), ({"count": 3}, 3), ({"index": [19, 0, 0]}, 2), ({}, 1)):
        train, valid = split_data(data, **how, seed=3)
        assert isinstance(train, Subset) and len(valid) == size
        assert sorted(train.indices + valid.indices) == list(range(20))
        assert split_data(data, **how, seed=3)[1].indices == valid.indices
    assert split_data(data, count=8, seed=3)[1].indices != split_data(data, count=8, seed=4)[1].indices


@pytest.mark.parametrize("how", [{"count": 20}, {"fraction": 1.0}, {"index": []}, {"index": [20]}, {"index": [-1]}])
def test_impossible_splits(how):
    with pytest.raises(InputError, match="frames"):
        split_data(molecules(20), **how)


def test_index_files(tmp_path):
    (tmp_path / "index.txt").write_text("3\n1, 2\n")
    assert read_index(tmp_path / "index.txt") == [3, 1, 2]
    (tmp_path / "index.txt").write_text("first")
    with pytest.raises(InputError, match="frame numbers only"):
        read_index(tmp_path / "index.txt")
