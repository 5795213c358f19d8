"""Bad data are found, by frame, with the remedy; good data pass."""

from dataclasses import replace

import numpy as np
import pytest
from labelled import SHARED, molecules

from mace_md.errors import InputError
from mace_md.training.checks import check_data, electronic_energy, work_and_energy
from mace_md.training.data import read_configurations
from mace_md.units import BOHR_TO_ANGSTROM, EV_TO_KJ_MOL, HARTREE_TO_EV, KCAL_MOL_TO_EV


def spoiled(frame: int = 7, **changes):
    data = molecules(30)
    data[frame] = replace(data[frame], file="train.xyz", frame=frame, **changes)
    return data


def scaled(energy: float = 1.0, length: float = 1.0, forces: float = 1.0):
    return [
        replace(c, energy=c.energy * energy, positions=c.positions * length, forces=c.forces * forces)
        for c in molecules(60)
    ]


def with_nan(array, row):
    array = np.array(array)
    array[row, 1] = np.nan
    return array


def test_good_data_pass():
    assert check_data(molecules(60), atomic_numbers=[1, 6, 8]) == []


@pytest.mark.parametrize(
    "data, message",
    [
        (
            lambda: spoiled(energy=None),
            "train.xyz, frame 7 (counted from 0): no energy. Name its key with --energy-key",
        ),
        (lambda: spoiled(forces=None), "frame 7 (counted from 0): no forces"),
        (lambda: spoiled(energy=np.nan), "frame 7 (counted from 0): energy is not a finite number"),
        (
            lambda: spoiled(forces=with_nan(molecules(1)[0].forces, 2)),
            "forces of atom 2 (counted from 0) is not a finite",
        ),
        (lambda: spoiled(positions=with_nan(molecules(1)[0].positions, 4)), "positions of atom 4"),
        (lambda: spoiled(positions=molecules(1)[0].positions[[0, 1, 2, 3, 4, 1]]), "atoms 5 and 1"),
        (lambda: spoiled(atomic_numbers=np.array([8, 6, 1, 1, 17, 1])), "tiny does not know Cl; it knows H, C, O"),
        (lambda: scaled(length=0.1), "Are positions in nm? Give --length-unit nm"),
        (lambda: scaled(length=1 / BOHR_TO_ANGSTROM), "Are positions in Bohr?"),
        (lambda: scaled(energy=1 / KCAL_MOL_TO_EV), "Are energies in kcal/mol?"),
        (lambda: scaled(energy=EV_TO_KJ_MOL), "Are energies in kJ/mol?"),
        (lambda: scaled(energy=1 / HARTREE_TO_EV), "Are energies in Hartree?"),
        (lambda: scaled(forces=EV_TO_KJ_MOL * 10), "Are forces in kcal/mol/A or kJ/mol/nm?"),
        (lambda: scaled(forces=1 / KCAL_MOL_TO_EV), "Are energies and forces in units that belong together?"),
        (lambda: scaled(forces=1 / HARTREE_TO_EV), "Are energies and forces in units that belong together?"),
        (lambda: scaled(forces=-1.0), "Are the forces gradients, of the wrong sign?"),
        (lambda: spoiled(energy=molecules(1)[0].energy / KCAL_MOL_TO_EV), "of other frames of the same atoms"),
        (list, "there is no labelled frame"),
    ],
)
def test_bad_data_are_refused(data, message):
    with pytest.raises(InputError) as error:
        check_data(data(), atomic_numbers=[1, 6, 8], model="tiny")
    assert message in str(error.value)


def test_doubts_can_be_overruled_but_not_impossibilities():
    (remark,) = check_data(scaled(forces=-1.0), doubtful="warn")
    assert "wrong sign" in remark
    with pytest.raises(InputError, match="not a finite number"):
        check_data(spoiled(energy=np.inf), doubtful="warn")


def test_labels_that_nobody_needs_may_be_missing():
    data = [replace(c, forces=None) for c in molecules(5)]
    assert check_data(data, require=("energy",)) == []


def test_the_statistical_atom_against_exact_energies():
    """Non-relativistic ground states, Hartree (Chakravorty et al., PRA 47, 3649, 1993): H to 8 %, others to 1.5 %."""
    exact = {1: -0.5, 6: -37.845, 7: -54.589, 8: -75.067, 10: -128.938, 18: -527.540}
    for z, energy in exact.items():
        assert electronic_energy(np.array([z])) / HARTREE_TO_EV == pytest.approx(energy, rel=0.08 if z == 1 else 0.015)


def test_work_of_harmonic_forces_is_the_energy_difference_whatever_the_orientation():
    """Small steps in a harmonic energy between pairs: the trapezoidal rule is nearly exact."""
    rng = np.random.default_rng(0)
    data = []
    for c in molecules(60, spread=0.01):
        rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        rotation *= np.sign(np.linalg.det(rotation))
        data.append(replace(c, positions=c.positions @ rotation + 5.0, forces=c.forces @ rotation))
    slope, correlation, n_pairs = work_and_energy(data)
    assert n_pairs > 15 and slope == pytest.approx(1.0, abs=0.02) and correlation > 0.999


@pytest.mark.skipif(not SHARED.exists(), reason="reference data are not here")
@pytest.mark.parametrize(
    "name", ["acac/train_300K.xyz.gz", "rmd17/rmd17_ethanol_train_01.npz", "3bpa/train_mixedT.xyz.gz"]
)
def test_published_data_pass(name):
    data = read_configurations(SHARED / name)
    assert check_data(data) == []
    wrong = [replace(c, forces=c.forces / KCAL_MOL_TO_EV) for c in data]
    with pytest.raises(InputError, match="units that belong together"):
        check_data(wrong)
