"""The neighbour list against a brute force written here, against ASE, and the skin rule against the bare list."""

import time

import numpy as np
import pytest
import torch

from mace_md.ops.neighbor_list import VerletList, neighbor_list

SHAPES = ("cubic", "flat", "sheared", "reduced", "tiny", "needle")


def random_cell(rng: np.random.Generator, shape: str) -> np.ndarray:
    if shape == "cubic":
        return np.eye(3) * rng.uniform(3, 12)
    if shape == "flat":
        return np.diag(rng.uniform([8, 8, 1.5], [14, 14, 3]))
    if shape == "tiny":  # smaller than the cutoff: an atom sees several images of itself
        return np.eye(3) * rng.uniform(1.2, 2.5) + rng.normal(0, 0.2, (3, 3))
    if shape == "needle":
        return np.diag([2.0, 2.5, 40.0]) + rng.normal(0, 0.3, (3, 3))
    if shape == "reduced":  # OpenMM's form: lower triangular, off-diagonals at most half the diagonal
        a, b, c = rng.uniform(5, 12, 3)
        return np.array(
            [[a, 0, 0], [rng.uniform(-a, a) / 2, b, 0], [rng.uniform(-a, a) / 2, rng.uniform(-b, b) / 2, c]]
        )
    sheared = rng.normal(0, 6, (3, 3))  # any orientation, any handedness, not reduced
    return sheared if abs(np.linalg.det(sheared)) > 60 else random_cell(rng, shape)


def brute_force(positions: np.ndarray, cell: np.ndarray, periodic: bool, cutoff: float) -> set:
    """Every (sender, receiver, S) inside the cutoff, by looking at every image that could be."""
    reach = np.zeros(3, dtype=int)
    if periodic:
        inverse = np.linalg.inv(cell)
        fractional = positions @ inverse
        spread = np.ptp(fractional, axis=0)
        reach = np.ceil(cutoff * np.linalg.norm(inverse, axis=0) + spread).astype(int)
    found = set()
    grid = np.stack(np.meshgrid(*[np.arange(-k, k + 1) for k in reach], indexing="ij"), -1).reshape(-1, 3)
    offsets = grid @ cell
    for i in range(len(positions)):
        for j in range(len(positions)):
            r = np.linalg.norm(positions[j] - positions[i] + offsets, axis=1)
            for k in np.flatnonzero(r < cutoff):
                if i != j or grid[k].any():
                    found.add((i, j, *(int(s) for s in grid[k])))
    return found


def as_set(edge_index: torch.Tensor, shifts: torch.Tensor) -> set:
    rows = torch.cat((edge_index.T, shifts.round().to(torch.int64)), dim=1).tolist()
    found = {tuple(row) for row in rows}
    assert len(found) == len(rows), "an edge appears twice"
    return found


def listed(positions, cell, periodic, cutoff):
    return neighbor_list(torch.as_tensor(positions), torch.as_tensor(cell), periodic, cutoff)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("all_pairs", [0, 500])
def test_equals_brute_force_in_random_boxes(shape, all_pairs, monkeypatch):
    monkeypatch.setattr("mace_md.ops.neighbor_list._all_pairs_up_to", lambda: all_pairs)
    rng = np.random.default_rng(SHAPES.index(shape))
    for trial in range(16):
        cell = random_cell(rng, shape)
        cutoff = rng.uniform(1.0, 5.0)
        n_atoms = int(rng.integers(1, 14))
        positions = rng.uniform(-1.2, 2.2, (n_atoms, 3)) @ cell  # several images away from the box
        if trial % 3 == 0:
            positions = rng.uniform(0, 1, (n_atoms, 3)) @ cell
        expected = brute_force(positions, cell, True, cutoff)
        assert as_set(*listed(positions, cell, True, cutoff)) == expected, (shape, trial, cell.tolist(), cutoff)


@pytest.mark.parametrize("all_pairs", [0, 500])
def test_equals_brute_force_without_a_box(all_pairs, monkeypatch):
    monkeypatch.setattr("mace_md.ops.neighbor_list._all_pairs_up_to", lambda: all_pairs)
    rng = np.random.default_rng(7)
    for _ in range(25):
        positions = rng.normal(0, rng.uniform(1, 15), (int(rng.integers(1, 25)), 3)) + rng.normal(0, 300, 3)
        cutoff = rng.uniform(1.0, 6.0)
        assert as_set(*listed(positions, np.zeros((3, 3)), False, cutoff)) == brute_force(
            positions, np.zeros((3, 3)), False, cutoff
        )


def test_blocks_and_splits_change_nothing(monkeypatch):
    rng = np.random.default_rng(3)
    cell = np.diag([9.0, 10.0, 11.0])
    positions = np.concatenate((rng.uniform(0, 9, (60, 3)), rng.normal(4, 0.3, (60, 3))))  # one cell much fuller
    whole = as_set(*listed(positions, cell, True, 3.0))
    monkeypatch.setattr("mace_md.ops.neighbor_list._all_pairs_up_to", lambda: 0)
    for limit in (1, 700, 5000):
        monkeypatch.setattr("mace_md.ops.neighbor_list._candidates_at_once", lambda limit=limit: limit)
        assert as_set(*listed(positions, cell, True, 3.0)) == whole


@pytest.mark.parametrize("periodic", [True, False])
def test_equals_ase(periodic):
    from ase import Atoms
    from ase.neighborlist import neighbor_list as ase_list

    rng = np.random.default_rng(11)
    for n_atoms, size in ((30, 9.0), (700, 20.0)):  # both paths
        cell = np.eye(3) * size + rng.normal(0, 1.0, (3, 3))
        positions = rng.uniform(-0.5, 1.5, (n_atoms, 3)) @ cell
        i, j, shift = ase_list("ijS", Atoms(f"H{n_atoms}", positions, cell=cell, pbc=periodic), 4.0)
        expected = {(int(a), int(b), *map(int, s)) for a, b, s in zip(i, j, shift, strict=True)}
        assert as_set(*listed(positions, cell, periodic, 4.0)) == expected


def test_scripted_is_the_same_and_keeps_dtypes():
    rng = np.random.default_rng(5)
    scripted = torch.jit.script(neighbor_list)
    for n_atoms, periodic in ((20, True), (20, False), (800, True), (800, False)):
        cell = torch.eye(3, dtype=torch.float64) * 18
        positions = torch.tensor(rng.uniform(0, 18, (n_atoms, 3)))
        for dtype in (torch.float32, torch.float64):
            ours = neighbor_list(positions.to(dtype), cell, periodic, 4.0)
            theirs = scripted(positions.to(dtype), cell, periodic, 4.0)
            assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])
            assert ours[0].dtype == torch.int64 and ours[1].dtype == dtype
            assert (ours[0][1].diff() >= 0).all(), "edges are sorted by receiver"


def test_edge_vectors_follow_the_sign_convention():
    cell = torch.diag(torch.tensor([10.0, 10.0, 10.0], dtype=torch.float64))
    positions = torch.tensor([[0.5, 0, 0], [9.5, 0, 0]], dtype=torch.float64)
    edge_index, shifts = neighbor_list(positions, cell, True, 2.0)
    vectors = positions[edge_index[1]] - positions[edge_index[0]] + shifts @ cell
    by_pair = {(int(a), int(b)): v[0].item() for a, b, v in zip(*edge_index, vectors, strict=True)}
    assert by_pair == {(0, 1): -1.0, (1, 0): 1.0}


@pytest.mark.parametrize("n_atoms", [0, 1])
@pytest.mark.parametrize("periodic", [True, False])
def test_no_atom_and_one_atom(n_atoms, periodic):
    cell = torch.eye(3, dtype=torch.float64) * 3
    edge_index, shifts = neighbor_list(torch.zeros(n_atoms, 3), cell, periodic, 3.1)
    images = 6 if periodic and n_atoms else 0
    assert edge_index.shape == (2, images) and shifts.shape == (images, 3)


def test_far_from_the_origin_and_far_apart_costs_nothing():
    """Two molecules 10^9 A apart and 10^7 A from the origin: the same edges, without a grid between them."""
    rng = np.random.default_rng(2)
    molecule = rng.uniform(0, 12, (400, 3))
    one = as_set(*listed(molecule, np.zeros((3, 3)), False, 4.0))
    start = time.perf_counter()
    moved = np.concatenate((molecule + 1e7, molecule + [1e9, -1e9, 1e9]))
    two = as_set(*listed(moved, np.zeros((3, 3)), False, 4.0))
    assert two == one | {(i + 400, j + 400, *s) for i, j, *s in one}
    assert time.perf_counter() - start < 5.0  # a dense grid would need 10^25 cells


def test_cost_is_linear_in_the_number_of_candidates(monkeypatch):
    """Counted, not timed: distances evaluated per atom do not grow with the number of atoms at fixed density."""
    counted = []
    original = torch.repeat_interleave

    def counting(values, repeats):
        result = original(values, repeats)
        counted.append(result.numel())
        return result

    monkeypatch.setattr(torch, "repeat_interleave", counting)
    per_atom = []
    for n_atoms in (2000, 8000):
        counted.clear()
        size = (n_atoms / 0.1) ** (1 / 3)
        positions = np.random.default_rng(0).uniform(0, size, (n_atoms, 3))
        listed(positions, np.eye(3) * size, True, 5.0)
        per_atom.append(sum(counted) / 2 / n_atoms)
    assert per_atom[1] == pytest.approx(per_atom[0], rel=0.2)
    assert per_atom[1] < 6 * 52  # 52 neighbours within 5 A at 0.1 atoms per cubic A


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("periodic", [True, False])
def test_positions_that_are_not_numbers_are_loud(bad, periodic):
    positions = torch.zeros(3, 3)
    positions[1, 2] = bad
    for function in (neighbor_list, torch.jit.script(neighbor_list)):
        with pytest.raises((RuntimeError, torch.jit.Error), match="position of atom 1 is not a usable number"):
            function(positions, torch.eye(3) * 10, periodic, 3.0)


def test_a_bad_box_is_loud():
    positions = torch.zeros(3, 3)
    flat = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 1, 0]])
    with pytest.raises(RuntimeError, match="do not span a volume"):
        neighbor_list(positions, flat, True, 3.0)
    with pytest.raises(RuntimeError, match="Is the box in the right unit"):
        neighbor_list(positions, torch.eye(3) * 0.1, True, 5.0)
    with pytest.raises(RuntimeError, match="position of atom 1 is not a usable number"):
        neighbor_list(torch.linspace(0, 1e30, 600)[:, None].expand(600, 3), flat, False, 5.0)


# ---------------------------------------------------------------------------------------------- the skin


def rows(edge_index, vectors):
    """Sorted (sender, receiver, vector) rows: images are compared by their vectors."""
    table = torch.cat((edge_index.T.double(), vectors), dim=1).tolist()
    return sorted(tuple(round(x, 6) for x in row) for row in table)


def current_edges(verlet, positions, cell):
    return rows(*verlet(positions, cell))


def bare_edges(positions, cell, periodic, cutoff):
    edge_index, shifts = neighbor_list(positions, cell, periodic, cutoff)
    return rows(edge_index, positions[edge_index[1]] - positions[edge_index[0]] + shifts @ cell)


def assert_same_edges(found, expected):
    assert [row[:2] for row in found] == [row[:2] for row in expected]
    if expected:
        np.testing.assert_allclose(np.array(found), np.array(expected), atol=3e-6)


@pytest.mark.parametrize("periodic", [True, False])
def test_two_atoms_approaching_are_never_missed(periodic):
    """1.30 -> 0.92 with a cutoff of 1.0 and a skin of 0.2: each atom moves by less than the skin, the pair by more."""
    cell = torch.eye(3, dtype=torch.float64) * 8
    for move in ("one", "both"):
        verlet = VerletList(1.0, 0.2, periodic)
        for r in np.arange(1.30, 0.919, -0.01):
            left = -(1.30 - r) / 2 if move == "both" else 0.0
            positions = torch.tensor([[-left, 0, 0], [r - left, 0, 0]], dtype=torch.float64)
            assert verlet(positions, cell)[0].shape[1] == (2 if r < 1.0 else 0), r
        # and the one big step that a list which waits for a move of the whole skin would sleep through
        verlet = VerletList(1.0, 0.2, periodic)
        assert verlet(torch.tensor([[0.0, 0, 0], [1.30, 0, 0]]), cell)[0].shape[1] == 0
        assert verlet(torch.tensor([[0.19, 0, 0], [1.11, 0, 0]]), cell)[0].shape[1] == 2


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("scripted", [True, False])
def test_random_walks_are_followed_and_the_skin_is_used(periodic, scripted):
    rng = np.random.default_rng(1)
    cell = torch.tensor([[9.0, 0, 0], [2.0, 8.0, 0], [-3.0, 1.0, 8.5]], dtype=torch.float64)
    positions = torch.tensor(rng.uniform(0, 1, (40, 3))) @ cell
    verlet = VerletList(3.0, 0.6, periodic)
    if scripted:
        verlet = torch.jit.script(verlet)
    for _ in range(60):
        positions = positions + torch.tensor(rng.normal(0, 0.03, (40, 3)))
        assert_same_edges(current_edges(verlet, positions, cell), bare_edges(positions, cell, periodic, 3.0))
    assert 3 <= int(verlet.builds) <= 30


def test_atoms_wrapped_by_the_host_do_not_break_or_rebuild_it():
    rng = np.random.default_rng(4)
    cell = torch.tensor([[6.0, 0, 0], [1.5, 5.5, 0], [-1.0, 2.0, 6.5]], dtype=torch.float64)  # < 2 x cutoff
    positions = torch.tensor(rng.uniform(0, 1, (25, 3))) @ cell
    verlet = VerletList(4.0, 0.5, True)
    verlet(positions, cell)
    for _ in range(20):
        lattice = torch.tensor(rng.integers(-3, 4, (25, 3)), dtype=torch.float64) @ cell
        found = current_edges(verlet, positions + lattice, cell)
        assert_same_edges(found, bare_edges(positions, cell, True, 4.0))
    assert int(verlet.builds) == 1


def test_drift_of_the_whole_system_costs_no_rebuild():
    positions = torch.tensor(np.random.default_rng(0).uniform(0, 6, (20, 3)))
    verlet = VerletList(3.0, 0.4, False)
    for step in range(50):
        verlet(positions + 5.0 * step, torch.zeros(3, 3))
    assert int(verlet.builds) == 1


def test_box_changes_are_followed():
    """Affine scaling, molecules scaled rigidly, shear, and an unscaled box under the same atoms."""
    rng = np.random.default_rng(6)
    cell0 = torch.tensor([[7.0, 0, 0], [1.0, 7.5, 0], [0.5, -1.0, 8.0]], dtype=torch.float64)
    start = torch.tensor(rng.uniform(0, 1, (30, 3))) @ cell0
    for kind in ("affine", "molecules", "shear", "box only"):
        verlet = VerletList(3.0, 0.5, True)
        positions, cell = start, cell0
        builds = 0
        for _ in range(40):
            strain = torch.tensor(np.diag(rng.normal(0, 0.004, 3)))
            if kind == "shear":
                strain = torch.tensor(rng.normal(0, 0.004, (3, 3)))
            deformation = torch.eye(3, dtype=torch.float64) + strain
            new_cell = cell @ deformation
            if kind == "molecules":
                centres = positions.reshape(10, 3, 3).mean(dim=1)
                positions = positions + (centres @ strain).repeat_interleave(3, dim=0)
            elif kind != "box only":
                positions = positions @ deformation
            cell = new_cell
            assert_same_edges(current_edges(verlet, positions, cell), bare_edges(positions, cell, True, 3.0))
            builds = int(verlet.builds)
        assert builds < 40, kind


def test_a_list_is_rebuilt_for_other_atoms_and_nan_is_loud():
    verlet = VerletList(3.0, 0.5, False)
    cell = torch.zeros(3, 3)
    assert verlet(torch.zeros(1, 3), cell)[0].shape == (2, 0)
    assert verlet(torch.tensor([[0.0, 0, 0], [1.0, 0, 0]]), cell)[0].shape == (2, 2)
    assert verlet(torch.zeros(0, 3), cell)[0].shape == (2, 0)
    verlet(torch.tensor([[0.0, 0, 0], [1.0, 0, 0]]), cell)
    with pytest.raises(RuntimeError, match="atom 1 is not a usable number"):
        verlet(torch.tensor([[0.0, 0, 0], [float("nan"), 0, 0]]), cell)


def test_zero_skin_is_the_bare_list():
    positions = torch.tensor(np.random.default_rng(8).uniform(0, 5, (12, 3)))
    verlet, nowhere = VerletList(2.5, 0.0, False), torch.zeros(3, 3, dtype=torch.float64)
    for step in range(4):
        moved = positions + 0.01 * step * torch.arange(12)[:, None]
        assert_same_edges(current_edges(verlet, moved, nowhere), bare_edges(moved, nowhere, False, 2.5))
    assert int(verlet.builds) == 4


@pytest.mark.parametrize(("n_atoms", "periodic"), [(40, True), (700, True), (700, False)])
def test_the_order_of_a_list_does_not_depend_on_when_it_was_built(n_atoms, periodic):
    """Sums over it are then the same to the last bit after a restart, at which the list is built anew."""
    generator = torch.Generator().manual_seed(4)
    box = torch.tensor([[22.0, 0.0, 0.0], [3.0, 21.0, 0.0], [-2.0, 4.0, 23.0]], dtype=torch.float64)
    before = torch.rand(n_atoms, 3, dtype=torch.float64, generator=generator) @ box * 1.2 - 3.0  # some outside the box
    now = before + 0.4 * (torch.rand(n_atoms, 3, dtype=torch.float64, generator=generator) - 0.5)
    used, fresh = VerletList(4.0, 1.0, periodic), VerletList(4.0, 1.0, periodic)
    used(before, box)
    (edges, vectors), (new_edges, new_vectors) = used(now, box), fresh(now, box)
    assert int(used.builds) == int(fresh.builds) == 1
    assert edges.shape[1] > 10 and torch.equal(edges, new_edges)
    assert torch.equal(vectors, new_vectors)
