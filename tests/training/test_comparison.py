"""Errors against numbers worked out by hand, and against sums over frames done the slow way."""

from dataclasses import replace

import numpy as np
import pytest

from mace_md.training.comparison import compare, errors_of, join
from tests.training.labelled import molecules


def test_errors_of_numbers_that_can_be_done_by_hand():
    errors = errors_of(np.array([3.0, 0.0, -4.0, 1.0]), np.array([2.0, 0.0, -2.0, 4.0]), relative=True)
    assert errors.count == 4
    assert errors.mae == pytest.approx(1.5, abs=1e-15)  # (1 + 0 + 2 + 3) / 4
    assert errors.rmse == pytest.approx(np.sqrt(14 / 4), abs=1e-15)
    assert errors.mean == pytest.approx(-1.0, abs=1e-15)  # (1 + 0 - 2 - 3) / 4
    assert errors.largest == 3.0
    assert errors.relative_mae == pytest.approx(100 * 6 / 8, abs=1e-12)
    assert errors.relative_rmse == pytest.approx(100 * np.sqrt(14 / 24), abs=1e-12)
    assert errors_of(np.zeros(0), np.zeros(0)) is None


@pytest.fixture
def pair():
    """Frames of two sizes and types, one without forces, and predictions that are wrong by known random numbers."""
    rng = np.random.default_rng(0)
    labelled = [replace(c, config_type="small") for c in molecules(3, n_atoms=4)]
    labelled += [replace(c, config_type="large") for c in molecules(2, n_atoms=7, box=20.0)]
    labelled[0] = replace(labelled[0], forces=None)
    predicted = [
        replace(
            c, energy=c.energy + rng.normal(), forces=rng.normal(size=c.positions.shape), stress=rng.normal(size=(3, 3))
        )
        for c in labelled
    ]
    return labelled, predicted


def test_each_quantity_is_what_its_definition_says(pair):
    labelled, predicted = pair
    errors = compare(labelled, predicted).errors()
    energy = np.array([p.energy - c.energy for c, p in zip(*pair, strict=True)])
    sizes = np.array([4, 4, 4, 7, 7])
    assert errors["energy"].mae == pytest.approx(1000 * np.abs(energy).mean(), rel=1e-9)
    assert errors["energy_per_atom"].rmse == pytest.approx(1000 * np.sqrt(((energy / sizes) ** 2).mean()), rel=1e-9)
    forces = np.concatenate([(p.forces - c.forces).ravel() for c, p in list(zip(*pair, strict=True))[1:]])
    assert errors["forces"].count == 3 * (4 + 4 + 7 + 7)
    assert errors["forces"].rmse == pytest.approx(1000 * np.sqrt((forces**2).mean()), rel=1e-9)
    assert errors["stress"].count == 2 * 9  # only the boxes have one


def test_groups_divide_the_whole(pair):
    comparison = compare(*pair)
    types = comparison.by_config_type()
    assert list(types) == ["small", "large"]
    for groups in ([each["forces"] for each in types.values()], list(comparison.by_element().values())):
        whole = comparison.errors()["forces"]
        assert sum(g.count for g in groups) == whole.count
        assert sum(g.count * g.mae for g in groups) == pytest.approx(whole.count * whole.mae, rel=1e-12)
        assert sum(g.count * g.rmse**2 for g in groups) == pytest.approx(whole.count * whole.rmse**2, rel=1e-12)


def test_the_worst_force_is_found_where_it_is(pair):
    labelled, predicted = pair
    forces = predicted[3].forces.copy()
    forces[5] += 50.0
    predicted[3] = replace(predicted[3], forces=forces)
    frame, atom, size = compare(labelled, predicted).worst_force()
    assert (frame, atom) == (3, 5)
    assert size == pytest.approx(1000 * np.linalg.norm(forces[5] - labelled[3].forces[5]), rel=1e-12)


def test_joining_is_comparing_all_at_once(pair):
    labelled, predicted = pair
    parts = [compare(labelled[:2], predicted[:2]), compare(labelled[2:], predicted[2:])]
    assert join(parts).errors() == compare(labelled, predicted).errors()
    assert join(parts).by_element() == compare(labelled, predicted).by_element()
