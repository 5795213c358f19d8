"""Results of the CUDA kernels do not depend, to the last bit, on when and in which order their list was built.

A run that is continued from a checkpoint builds it at other positions than the run that wrote the checkpoint.
"""

import numpy as np
import pytest
import torch
from native import TRICLINIC, Native, make_model, needs_library, random_atoms

pytestmark = needs_library
SKIN = 0.5  # A
DOUBLE, SINGLE = torch.float64, torch.float32
CELLS = {"free": None, "many images": TRICLINIC, "cubic": np.eye(3) * 8.2, "dense": np.eye(3) * 2.0}
LARGE, SMALL = 0, 1024
CASES = [  # together: every kind of sum, every way to find candidates; the dense one has more than fit shared memory
    ("vectors", "free", DOUBLE, SMALL), ("vectors", "many images", SINGLE, LARGE),
    ("density", "many images", DOUBLE, SMALL), ("density", "cubic", SINGLE, SMALL),
    ("density", "cubic", DOUBLE, LARGE), ("density", "free", SINGLE, LARGE), ("scalars", "dense", DOUBLE, SMALL),
]  # fmt: skip


def displaced(atoms, seed):
    """Every atom moved by 0.4 skins in a direction of its own: together less than what makes a list rebuild."""
    moved = atoms.copy()
    directions = np.random.default_rng(seed).normal(size=atoms.positions.shape)
    moved.positions += 0.4 * SKIN * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    return moved


def elsewhere(atoms):
    """All atoms moved by one vector of 0.4 skins, and each by lattice vectors: their cells have another order."""
    moved = atoms.copy()
    moved.positions += 0.4 * SKIN * np.array([0.6, 0.0, -0.8])
    if atoms.pbc.any():
        moved.positions += np.random.default_rng(3).integers(-3, 4, size=(len(atoms), 3)) @ atoms.cell.array
    return moved


def assert_same_bits(found, expected):
    assert found[0] == expected[0]
    assert np.array_equal(found[1], expected[1]) and np.array_equal(found[2], expected[2])


@pytest.mark.parametrize("engine", ["emulated", pytest.param("cuda", marks=pytest.mark.gpu)], indirect=True)
@pytest.mark.parametrize(("kind", "cell", "dtype", "small_system"), CASES)
def test_the_place_where_the_list_was_built_changes_no_bit(engine, kind, cell, dtype, small_system, monkeypatch):
    atoms = random_atoms(8 if cell == "dense" else 24, cell=CELLS[cell], spacing=0.75)
    model = make_model(kind, num_channels=3)
    atoms.wrap()

    def native():
        return Native(model, dtype, engine=engine, skin=SKIN, small_system=small_system)

    first = native()
    expected = first(atoms)
    candidates = set()
    for before in (displaced(atoms, 1), displaced(atoms, 2), elsewhere(atoms)):
        other = native()
        other(before)
        assert_same_bits(other(atoms), expected)
        assert other.status().n_builds == 1
        candidates.add(other.status().n_candidates)
    assert len(candidates | {first.status().n_candidates}) > 1  # these were other lists
    assert cell != "dense" or min(candidates) > 256 * len(atoms)
    monkeypatch.setenv("EMULATED_ORDER", "reverse")
    assert_same_bits(native()(atoms), expected)
    assert_same_bits(other(atoms), expected)
