"""The ASE calculator: finite differences of its energy, ASE's signs and units, and the three kinds of periodicity."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from small_model import cluster, small_model

from mace_md.errors import InputError
from mace_md.hosts.ase import ase_calculator
from mace_md.model.potential import isolated_energy, make_potential
from mace_md.ops.energy_forces import LIBRARY
from mace_md.units import EV_TO_KJ_MOL

KERNELS = [
    "reference",
    pytest.param("native", marks=pytest.mark.skipif(not LIBRARY.exists(), reason="the native kernels are not built")),
]
CELL = np.array([[4.6, 0.0, 0.0], [1.0, 5.0, 0.0], [-0.7, 1.1, 4.8]])


def atoms_with_calculator(pbc=True, n_atoms=8, cell=CELL, **options) -> Atoms:
    numbers, positions = cluster(n_atoms)
    atoms = Atoms(numbers, positions, cell=cell, pbc=pbc)
    atoms.calc = ase_calculator(small_model(), **options)
    return atoms


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("pbc", [True, False])
def test_agrees_with_the_potential(pbc, kernels):
    atoms = atoms_with_calculator(pbc, kernels=kernels)
    potential = make_potential(small_model(), atoms.numbers.tolist(), periodic=pbc, kernels="reference")[0]
    energy, forces = potential(torch.as_tensor(atoms.positions) / 10, torch.as_tensor(CELL) / 10)
    total = isolated_energy(small_model(), atoms.numbers.tolist()) + energy.item() / EV_TO_KJ_MOL
    assert atoms.get_potential_energy() == pytest.approx(total, abs=1e-9)
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    assert atoms.get_potential_energies().sum() == pytest.approx(total, abs=1e-9)
    np.testing.assert_allclose(atoms.get_forces(), forces.numpy() / EV_TO_KJ_MOL / 10, atol=1e-9)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("pbc", [True, (True, True, False), (False, False, True), False])
def test_forces_are_the_slope_of_the_energy(pbc, kernels):
    atoms = atoms_with_calculator(pbc, kernels=kernels)
    forces = atoms.get_forces()
    for atom, axis in ((0, 0), (4, 1), (7, 2)):
        energies = []
        for step in (1e-4, -1e-4):
            moved = atoms.copy()
            moved.calc = atoms.calc
            moved.positions[atom, axis] += step
            energies.append(moved.get_potential_energy())
        assert forces[atom, axis] == pytest.approx(-(energies[0] - energies[1]) / 2e-4, abs=1e-6)
    np.testing.assert_allclose(forces.sum(axis=0), 0, atol=1e-10)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("pbc", [True, (True, True, False)])
def test_stress_is_the_slope_of_the_energy_in_the_strain(pbc, kernels):
    atoms = atoms_with_calculator(pbc, kernels=kernels)
    stress = atoms.get_stress(voigt=False)
    assert np.abs(stress).max() > 1e-4
    for i, j in ((0, 0), (2, 2), (0, 1), (1, 2)):
        energies = []
        for step in (1e-5, -1e-5):
            strain = np.eye(3)
            strain[i, j] += step / 2
            strain[j, i] += step / 2
            strained = atoms.copy()
            strained.calc = atoms.calc
            strained.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            energies.append(strained.get_potential_energy())
        slope = (energies[0] - energies[1]) / 2e-5 / atoms.get_volume()
        assert stress[i, j] == pytest.approx(slope, abs=1e-8)


def test_squeezing_costs_energy_when_the_pressure_is_positive():
    """ASE's sign: stress is negative under compression, dE = stress * volume * strain."""
    atoms = atoms_with_calculator()
    atoms.set_cell(CELL * 0.97, scale_atoms=True)
    pressure = -np.trace(atoms.get_stress(voigt=False)) / 3
    before, volume = atoms.get_potential_energy(), atoms.get_volume()
    atoms.set_cell(atoms.cell.array * (1 - 1e-6), scale_atoms=True)
    assert atoms.get_potential_energy() - before == pytest.approx(pressure * (volume - atoms.get_volume()), rel=1e-3)


def test_a_slab_is_a_crystal_with_endless_vacuum():
    """Periodic in two directions equals periodic in three with 60 A of vacuum, wherever the third vector points."""
    slab = atoms_with_calculator((True, True, False))
    tall = CELL.copy()
    tall[2] = [0, 0, 60]
    wide = atoms_with_calculator(True, cell=tall)
    assert slab.get_potential_energy() == pytest.approx(wide.get_potential_energy(), abs=1e-9)
    np.testing.assert_allclose(slab.get_forces(), wide.get_forces(), atol=1e-9)


def test_a_molecule_needs_no_cell_and_has_no_stress():
    molecule = atoms_with_calculator(False, cell=None)
    assert np.isfinite(molecule.get_potential_energy())
    with pytest.raises(PropertyNotImplementedError, match="three cell vectors"):
        molecule.get_stress()


def test_one_calculator_follows_the_atoms_it_is_given():
    calculator = ase_calculator(small_model())
    energies = []
    for n_atoms in (3, 8):
        numbers, positions = cluster(n_atoms)
        energies.append(calculator.get_potential_energy(Atoms(numbers, positions)))
        fresh = Atoms(numbers, positions, calculator=ase_calculator(small_model()))
        assert energies[-1] == pytest.approx(fresh.get_potential_energy(), abs=1e-10)


def test_float32_is_close():
    single, double = atoms_with_calculator(dtype="float32"), atoms_with_calculator()
    assert single.get_forces().dtype == np.float64
    np.testing.assert_allclose(single.get_forces(), double.get_forces(), atol=1e-4)


def test_unknown_elements_are_refused():
    atoms = Atoms("CNH", np.eye(3), calculator=ase_calculator(small_model()))
    with pytest.raises(InputError, match="does not know N; it was trained on H, C, O"):
        atoms.get_potential_energy()


# --- what people call it with ---


@pytest.mark.parametrize("pbc, axes", [(True, "x, y, z"), ((False, False, True), "z")])
def test_a_periodic_direction_needs_a_cell_vector(pbc, axes):
    atoms = atoms_with_calculator(pbc, cell=None)
    with pytest.raises(InputError, match=f"pbc is True along {axes}, but there is no cell vector"):
        atoms.get_potential_energy()


@pytest.mark.parametrize("dtype", ["float32", torch.float32, np.float32, np.dtype("float32"), "torch.float32"])
def test_every_name_of_a_precision(dtype):
    assert next(ase_calculator(small_model(), dtype=dtype).model.parameters()).dtype == torch.float32


@pytest.mark.parametrize("dtype", ["single", np.int32, float, torch.float16])
def test_other_precisions_are_refused(dtype):
    with pytest.raises(InputError, match="dtype is 'float32' or 'float64', not"):
        ase_calculator(small_model(), dtype=dtype)


@pytest.mark.parametrize("model, kind", [(["a.mace", "b.mace"], "list of 2"), ((), "tuple of 0"), (None, "NoneType")])
def test_several_models_are_refused_by_what_they_are(model, kind):
    with pytest.raises(InputError, match=f"not a {kind}"):
        ase_calculator(model)


def test_a_copy_of_a_calculator_calculates():
    atoms = atoms_with_calculator(False)
    again = atoms.copy()
    again.calc = copy.deepcopy(atoms.calc)
    assert again.get_potential_energy() == atoms.get_potential_energy()


@pytest.mark.parametrize("kernels", KERNELS)
def test_first_evaluations_in_four_threads(kernels, tmp_path, monkeypatch):
    """Fresh calculators, nothing packed before: the same numbers as one after the other, to the last bit."""
    monkeypatch.setenv("MACE_MD_CACHE", str(tmp_path))
    numbers, positions = cluster(8)
    frames = [np.asarray(positions) + 0.01 * np.random.default_rng(i).normal(size=(8, 3)) for i in range(4)]

    def evaluate(frame, model, start=None):
        atoms = Atoms(numbers, frame, calculator=ase_calculator(model, kernels=kernels))
        if start is not None:
            start.wait()
        return atoms.get_potential_energy(), atoms.get_forces()

    model, start = small_model(), threading.Barrier(4)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda frame: evaluate(frame, model, start), frames))
    for (energy, forces), frame in zip(found, frames, strict=True):
        expected = evaluate(frame, model)
        assert energy == expected[0]
        np.testing.assert_array_equal(forces, expected[1])


def test_a_band_of_images_in_parallel():
    from ase.mep import NEB

    numbers, positions = cluster(8)
    rng = np.random.default_rng(0)
    images = [Atoms(numbers, np.asarray(positions) + 0.02 * rng.normal(size=(8, 3))) for _ in range(6)]
    bands = {}
    for parallel in (True, False):
        for image in images:
            image.calc = ase_calculator(small_model())
        bands[parallel] = NEB(images, parallel=parallel, method="improvedtangent").get_forces()
    np.testing.assert_array_equal(bands[True], bands[False])
