"""g(r) against an ideal gas, a lattice, and mdtraj's own."""

import mdtraj
import numpy as np
import pytest
from known_systems import WATER, gas, waters

from mace_md.analysis.distribution import PairCounter, first_minimum, rdf
from mace_md.errors import InputError

SKEW = np.array([[2.0, 0.0, 0.0], [0.7, 1.9, 0.0], [-0.4, 0.5, 1.8]])


def trajectory_of(topology, positions, boxes):
    found = mdtraj.Trajectory(positions.astype(np.float32), topology)
    found.unitcell_vectors = np.broadcast_to(boxes, (len(positions), 3, 3))
    return found


@pytest.mark.parametrize("box", [2.0 * np.eye(3), SKEW], ids=["cube", "triclinic"])
def test_an_ideal_gas_has_no_structure(rng, box):
    """Counts in each bin are Poisson's: (found - expected) / sqrt(expected) has a variance of one (two species)."""
    positions = rng.uniform(size=(300, 100, 3)) @ box
    found = rdf(trajectory_of(gas(100), positions, box), "index 0 to 49", "index 50 to 99", bin_width=0.02)
    expected = found.counts / np.maximum(found.g, 1e-9)
    z = ((found.counts - expected) / np.sqrt(np.maximum(expected, 1)))[expected > 10]
    assert abs(np.mean(z)) < 3 / np.sqrt(len(z))
    assert abs(np.mean(z**2) - 1) < 3 * np.sqrt(2 / len(z))
    covered = np.abs(found.g - 1)[5:] < found.g_error[5:]
    assert 0.8 < covered.mean() <= 1.0


def test_equal_groups_count_each_pair_both_ways(rng):
    """N (N - 1) pairs: the coordination number at r is N - 1 times the share of the volume."""
    positions = rng.uniform(size=(200, 60, 3)) * 2.0
    found = rdf(trajectory_of(gas(60), positions, 2 * np.eye(3)), "all")
    assert found.num_pairs == 60 * 59
    inside = 59 * 4 / 3 * np.pi * found.r_end[-1] ** 3 / 8.0
    assert abs(found.coordination[-1] - inside) < 4 * np.sqrt(inside / (200 * 60 / 2))


def test_neighbours_of_a_lattice():
    """Simple cubic: 6, then 12, then 8 neighbours, where they are."""
    grid = np.array(np.meshgrid(*[np.arange(6)] * 3)).reshape(3, -1).T * 0.3
    found = rdf(trajectory_of(gas(216), grid[None], 1.8 * np.eye(3)), "all", bin_width=0.01)
    at = dict(zip(np.round(found.r_end, 3), found.coordination, strict=True))
    assert abs(at[0.35] - 6) < 1e-9 and abs(at[0.45] - 18) < 1e-9 and abs(at[0.55] - 26) < 1e-9


def test_it_is_mdtrajs_where_that_is_right(rng):
    """mdtraj.compute_rdf of pairs between molecules, with the same bins."""
    positions = (rng.uniform(size=(40, 30, 1, 3)) * 1.8 + WATER).reshape(40, 90, 3)
    trajectory = trajectory_of(waters(30), positions, 1.8 * np.eye(3))
    found = rdf(trajectory, "name O", "element H", r_max=0.9, bin_width=0.03)
    pairs = [(i, j) for i in range(0, 90, 3) for j in range(90) if j % 3 and j // 3 != i // 3]
    r, g = mdtraj.compute_rdf(trajectory, np.array(pairs), r_range=(0, 0.9), n_bins=30)
    assert np.allclose(found.r, r, atol=1e-6)
    assert np.abs(found.g - g).max() < 1e-4 * g.max() + 1e-6
    assert found.excluded == 60


def test_ranges_beyond_half_the_box_are_refused(rng):
    positions = rng.uniform(size=(3, 10, 3)) @ SKEW
    counter = PairCounter(gas(10), np.arange(10), np.arange(10), 1.0)
    with pytest.raises(InputError, match=r"g\(r\) up to 10.00 A: the shortest height of the box is 17.9.* A.*--r-max"):
        counter.add(positions.astype(np.float32), np.repeat(SKEW[None], 3, axis=0))
    trajectory = mdtraj.Trajectory(positions.astype(np.float32), gas(10))
    with pytest.raises(InputError, match="has none"):
        rdf(trajectory, "all")


def test_many_frames_need_no_more_memory(rng):
    """Histograms are added up in pairs, and the errors stay."""
    counter = PairCounter(gas(10), np.arange(10), np.arange(10), 0.9, 0.1)
    for _ in range(20):
        counter.add(
            rng.uniform(0, 2, size=(100, 10, 3)).astype(np.float32), np.repeat(2 * np.eye(3)[None], 100, axis=0)
        )
    assert len(counter._rows) < 400
    found = counter.result()
    assert found.num_frames == 2000 and found.counts.sum() > 0
    assert np.mean(np.abs(found.g - 1)[2:] < found.g_error[2:]) > 0.5


def test_the_first_shell_ends_at_the_minimum():
    class Found:
        r = np.arange(0.001, 0.9, 0.002)
        g = 1 + 2 * np.exp(-(((r - 0.28) / 0.02) ** 2)) - 0.5 * np.exp(-(((r - 0.35) / 0.03) ** 2)) - (r < 0.24)

    assert abs(first_minimum(Found) - 0.352) < 0.01
