"""Atoms for a model in every form that people have them in, or refused by what they are."""

import numpy as np
import pytest
import torch
from small_model import small_model

from mace_md.errors import InputError
from mace_md.model.chosen_atoms import checked_atoms
from mace_md.model.potential import make_potential

MASK = [False, True, False, True, False]


@pytest.mark.parametrize(
    "atoms",
    [
        [1, 3], (1, 3), {3, 1}, range(1, 4, 2), np.array([1, 3]), np.array([1, 3], dtype=np.int32), MASK,
        np.array(MASK), torch.tensor(MASK), torch.tensor([1, 3]), slice(1, 4, 2), list(np.array([1, 3])),
    ],
)  # fmt: skip
def test_every_form(atoms):
    assert checked_atoms(atoms, 5) == [1, 3]


def test_a_generator_is_read_once_and_for_all():
    assert checked_atoms((i for i in (1, 3)), 5) == [1, 3]
    potential, _ = make_potential(small_model(), [8, 1, 1], periodic=False, atoms=(i for i in (0, 2)))
    expected, _ = make_potential(small_model(), [8, 1, 1], periodic=False, atoms=[0, 2])
    x = torch.tensor([[0.0, 0, 0], [0.1, 0, 0], [0, 0.1, 0]], dtype=torch.float64)
    assert torch.equal(potential(x)[1], expected(x)[1])


def test_atoms_of_a_topology():
    from openmm import app

    topology = app.Topology()
    residue = topology.addResidue("HOH", topology.addChain())
    for name in ("O", "H1", "H2"):
        topology.addAtom(name, app.element.oxygen if name == "O" else app.element.hydrogen, residue)
    assert checked_atoms(list(topology.atoms())[1:], 3) == [1, 2]


@pytest.mark.parametrize(
    "atoms, message",
    [
        ([], "is empty"), ([False] * 5, "is empty"), ([5], "are not there: the system has 5"), ([-1], "are not there"),
        ([1, 1], "named twice"), ([True, False], "a mask of 2 entries; the system has 5"), ("resname LIG", "not str"),
        (3, "not int"), ([1.5], "1.5 is no index"), (np.array([1.0]), "1.0 is no index"),
        ([True, 2], "True is no index"),
        (np.ones((5, 1), dtype=bool), "has the shape .5, 1."), ({1: 2}, "not dict"), (["1"], "'1' is no index"),
    ],
)  # fmt: skip
def test_what_is_no_choice_of_atoms(atoms, message):
    with pytest.raises(InputError, match=message):
        checked_atoms(atoms, 5)
