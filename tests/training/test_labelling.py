"""Labels are the model's: those of its ASE calculator, and slopes of the energy, by both kinds of kernels."""

import numpy as np
import pytest
import torch
from ase import Atoms

import mace_md
from mace_md.errors import InputError
from mace_md.ops.energy_forces import LIBRARY
from mace_md.training.configuration import Configuration
from mace_md.training.labelling import Labeller, elements_of
from tests.small_model import cluster, small_model

KERNELS = ["reference", pytest.param("native", marks=pytest.mark.skipif(not LIBRARY.exists(), reason="not built"))]


def frames() -> list[Configuration]:
    """Clusters of several sizes, the same ones in boxes (some with several images in reach), and a lone atom."""
    found = []
    for seed, n_atoms in enumerate((5, 9, 9, 14)):
        numbers, positions = cluster(n_atoms, seed=seed)
        for box in (None, 7.5 + seed, 4.1 if n_atoms == 9 else 12.0):
            cell = np.zeros((3, 3)) if box is None else box * np.eye(3) + np.diag([0.4, 0.3], k=1)
            found.append(Configuration(np.array(numbers), positions, cell, pbc=(box is not None,) * 3))
    found.append(Configuration(np.array([8]), np.zeros((1, 3)), np.zeros((3, 3))))
    slab = found[1]
    return [*found, Configuration(slab.atomic_numbers, slab.positions, slab.cell, pbc=(True, True, False))]


@pytest.mark.parametrize("kernels", KERNELS)
def test_labels_are_those_of_the_ase_calculator(kernels):
    model, data = small_model(), frames()
    labeller = Labeller(model, elements_of(data), kernels)
    assert labeller.choice.name == kernels
    calculator = mace_md.ase_calculator(model, kernels="reference")
    for configuration, labelled in zip(data, labeller(data), strict=True):
        atoms = Atoms(
            configuration.atomic_numbers, configuration.positions, cell=configuration.cell, pbc=configuration.pbc
        )
        atoms.calc = calculator
        # the tables of the native kernels are good to 1e-8 eV/A; energies are sums over up to 14 atoms
        assert labelled.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-7)
        np.testing.assert_allclose(labelled.forces, atoms.get_forces(), atol=1e-7)
        if any(configuration.pbc):  # of a slab too: the volume is that of its box
            np.testing.assert_allclose(labelled.stress, atoms.get_stress(voigt=False), atol=1e-9)
        else:
            assert labelled.stress is None


@pytest.mark.parametrize("kernels", KERNELS)
def test_forces_and_stress_are_slopes_of_the_energy(kernels):
    model = small_model()
    numbers, positions = cluster(8, seed=3)
    cell, step, rng = 5.0 * np.eye(3), 1e-4, np.random.default_rng(0)

    labeller = Labeller(model, {1, 6, 8}, kernels)

    def labels(x, cell):
        return next(labeller([Configuration(np.array(numbers), x, cell, (True,) * 3)]))

    found, direction, strain = labels(positions, cell), rng.normal(size=positions.shape), rng.normal(size=(3, 3))
    strain = (strain + strain.T) / 2
    ends = [labels(positions + sign * step * direction, cell).energy for sign in (1, -1)]
    assert -(found.forces * direction).sum() == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-4)
    deformed = [np.eye(3) + sign * step * strain for sign in (1, -1)]
    ends = [labels(positions @ d, cell @ d).energy for d in deformed]
    assert (found.stress * strain).sum() * 125.0 == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-3)


def test_an_element_the_model_lacks_is_refused():
    with pytest.raises(InputError, match="does not know Fe"):
        Labeller(small_model(), [1, 26])


def test_batches_of_the_reference_do_not_change_the_labels(monkeypatch):
    data = frames()
    labeller = Labeller(small_model(dtype=torch.float32), elements_of(data), "reference")
    together = list(labeller(data))
    monkeypatch.setattr("mace_md.training.labelling._ATOMS_AT_ONCE", 1)
    for one, other in zip(labeller(data), together, strict=True):
        assert one.energy == pytest.approx(other.energy, abs=1e-4)  # float32 of some 10 eV
        np.testing.assert_allclose(one.forces, other.forces, atol=1e-4)
