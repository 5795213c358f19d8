"""Batches are the same graphs as those made one by one."""

from dataclasses import replace

import ase
import ase.neighborlist
import numpy as np
import pytest
import torch
from labelled import molecules
from small_model import small_model

from mace_md.errors import InputError
from mace_md.model.graph import edge_vectors, merge_graphs, single_graph
from mace_md.model.mace import predict
from mace_md.ops.neighbor_list import neighbor_list
from mace_md.training.batches import LazyGraphs, PackedGraphs, find_edges, iterate_batches

HOW = {"r_max": 3.5, "atomic_numbers": [1, 6, 8]}


@pytest.fixture(scope="module")
def data():
    return [*molecules(3), *molecules(2, n_atoms=8, box=5.0), *molecules(2, n_atoms=4)]


@pytest.mark.parametrize("kind", [PackedGraphs, LazyGraphs])
def test_a_batch_is_the_merged_graphs(data, kind):
    chosen = [4, 0, 6, 3]
    batch = kind(data, **HOW).batch(chosen)
    graphs = []
    for c in (data[i] for i in chosen):
        positions, cell = torch.tensor(c.positions), torch.tensor(c.cell)
        species = torch.tensor([[1, 6, 8].index(z) for z in c.atomic_numbers])
        graphs.append(single_graph(positions, species, *neighbor_list(positions, cell, any(c.pbc), 3.5), cell))
    for name, found, expected in zip(batch.graph._fields, batch.graph, merge_graphs(graphs), strict=True):
        assert found is expected is None if expected is None else torch.equal(found, expected), name
    assert batch.num_atoms.tolist() == [8, 6, 4, 8]
    assert batch.energy.tolist() == [data[i].energy for i in chosen]
    np.testing.assert_array_equal(batch.forces, np.concatenate([data[i].forces for i in chosen]))
    assert batch.stress_weight.tolist() == [1.0, 0.0, 0.0, 1.0]
    model = small_model()
    together = predict(model, batch.graph).energy
    alone = torch.cat([predict(model, graph).energy for graph in graphs])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-9)  # energies of 1e4 eV in float64


def test_missing_labels_have_no_weight(data):
    batch = PackedGraphs([replace(data[0], energy=None, weight=3.0), replace(data[1], forces=None)], **HOW).batch(
        [0, 1]
    )
    assert batch.energy_weight.tolist() == [0.0, 1.0] and batch.forces_weight.tolist() == [1.0, 0.0]
    assert batch.weight.tolist() == [3.0, 1.0]


@pytest.mark.parametrize("kind", [PackedGraphs, LazyGraphs])
def test_batches_come_in_order(data, kind):
    groups = [[0, 1], [5], [3, 2, 4]]
    sizes = [batch.energy.tolist() for batch in iterate_batches(kind(data, **HOW), groups)]
    assert sizes == [[data[i].energy for i in group] for group in groups]


@pytest.mark.parametrize("pbc", [(True, True, False), (False, True, False), (True, True, True)])
def test_boxes_that_repeat_along_some_axes_against_ase(pbc):
    rng = np.random.default_rng(1)
    cell = np.diag([4.0, 5.0, 6.0]) + 0.5 * np.tril(rng.normal(size=(3, 3)), -1)
    atoms = ase.Atoms("C8", rng.uniform(0, 6, (8, 3)), cell=cell, pbc=pbc)
    c = replace(molecules(1)[0], atomic_numbers=atoms.numbers, positions=atoms.positions, cell=cell, pbc=pbc)
    edge_index, shifts, closed = find_edges(c, 3.5)
    graph = single_graph(torch.tensor(c.positions), torch.zeros(8, dtype=torch.int64), edge_index, shifts, closed)
    lengths = edge_vectors(graph).norm(dim=1).sort().values
    expected = np.sort(ase.neighborlist.neighbor_list("d", atoms, 3.5))
    np.testing.assert_allclose(lengths, expected, rtol=0, atol=1e-12)


def test_what_does_not_fit_the_model_is_refused(data):
    with pytest.raises(InputError, match=r"does not know the elements with atomic numbers \[8\]"):
        PackedGraphs(data, r_max=3.5, atomic_numbers=[1, 6])
    with pytest.raises(InputError, match="no head 'dft' in the model; it has Default"):
        PackedGraphs([replace(data[0], head="dft")], **HOW)
    with pytest.raises(InputError, match="do not span a volume"):
        PackedGraphs([replace(data[0], pbc=(True, True, True))], **HOW)
