"""The neighbour list of the native op against ASE's, while atoms and box move."""

import numpy as np
import pytest
from ase import Atoms
from native import BASE, TRICLINIC, Native, edges_of, make_model, needs_library, random_atoms

pytestmark = needs_library
R_MAX = BASE["r_max"]
MODEL = {"kind": "scalars", "num_channels": 1, "correlation": (1, 1)}


def as_rows(edge_index, vectors):
    rows = np.column_stack([edge_index.T.numpy(), vectors.numpy()])
    return rows[np.lexsort(np.round(rows, 6).T)]


def assert_same_edges(native, atoms):
    """Every directed edge once, with its own vector; returns how often the list was built so far."""
    edge_index, vectors, builds = native.neighbors(atoms)
    found, expected = as_rows(edge_index, vectors), as_rows(*edges_of(atoms, R_MAX))
    assert found.shape == expected.shape
    assert np.array_equal(found[:, :2], expected[:, :2])
    assert np.abs(found[:, 2:] - expected[:, 2:]).max(initial=0) < 1e-9
    return builds


@pytest.mark.parametrize(
    "cell",
    [None, TRICLINIC, np.eye(3) * 12.0, np.diag([2.1, 30.0, 9.0]), [[6, 0, 0], [-2.9, 5, 0], [2.8, -2.4, 7]]],
    ids=["free", "triclinic", "cubic", "flat", "skewed"],
)
def test_list_through_a_random_walk(cell, engine):
    rng = np.random.default_rng(0)
    n_atoms = 40 if cell is not None and np.linalg.det(cell) > 600 else 10
    native, atoms = (
        Native(make_model(**MODEL), engine=engine),
        random_atoms(n_atoms, cell=None if cell is None else np.array(cell, float)),
    )
    builds = 0
    for _ in range(30):
        builds = assert_same_edges(native, atoms)
        atoms.positions += rng.normal(scale=0.03, size=atoms.positions.shape)
        if cell is not None and rng.random() < 0.3:
            atoms.wrap()
    assert 1 < builds < 20  # it is rebuilt when it must be, and reused otherwise


def test_list_survives_a_barostat(engine):
    rng = np.random.default_rng(1)
    native, atoms = Native(make_model(**MODEL), engine=engine), random_atoms(40, cell=np.eye(3) * 12.0)
    for _ in range(40):
        builds = assert_same_edges(native, atoms)
        scale = 1 + rng.normal(scale=0.004)
        atoms.set_cell(atoms.cell.array * scale, scale_atoms=True)
    assert builds < 12
    atoms.set_cell(atoms.cell.array @ np.array([[1, 0.02, 0], [0, 1, 0.03], [0, 0, 0.98]]), scale_atoms=True)
    assert_same_edges(native, atoms)


def test_one_atom_that_jumps_rebuilds(engine):
    native, atoms = Native(make_model(**MODEL), engine=engine), random_atoms(40, cell=np.eye(3) * 12.0)
    first = assert_same_edges(native, atoms)
    atoms.positions[7] += [0.2, 0.1, 0.0]  # 2 * 0.224 A < skin
    assert assert_same_edges(native, atoms) == first
    atoms.positions[7] += [0.1, 0.0, 0.0]
    assert assert_same_edges(native, atoms) == first + 1


def test_atoms_in_a_huge_volume(engine):
    native = Native(make_model(**MODEL), engine=engine)
    atoms = Atoms("CO", positions=[[0, 0, 0], [3e4, 3e4, 3e4]]) + random_atoms(5)
    assert_same_edges(native, atoms)
    assert_same_edges(native, Atoms("CO", positions=[[0, 0, 0], [0, 0, 1.1]], cell=np.eye(3) * 3e4, pbc=True))
