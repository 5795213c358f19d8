"""The graph that a MACE model sees, and the conventions that hold everywhere.

An edge points from a sender i to a receiver j. Its vector is

    r_ij = r_j - r_i + S @ cell

with the rows of `cell` the lattice vectors and S the integer image shift of the receiver. Every pair appears in both
directions, once for every periodic image inside the cutoff. Forces are -dE/dr. Lengths are in angstrom, energies in eV.
"""

from typing import NamedTuple, Optional

import torch
from torch import Tensor


class Graph(NamedTuple):
    """One or several atomic systems as one graph."""

    positions: Tensor  # [n_atoms, 3], A
    species: Tensor  # [n_atoms], int64, index into the model's atomic_numbers
    edge_index: Tensor  # [2, n_edges], int64: sender, receiver
    shifts: Tensor  # [n_edges, 3], integers S in the dtype of positions
    batch: Tensor  # [n_atoms], int64, system of each atom
    cell: Tensor  # [n_systems, 3, 3], rows, A; zeros when not periodic
    head: Tensor  # [n_systems], int64, readout head of each system
    charge: Optional[Tensor] = None  # [n_systems], e, total charge, for models that use it; None: 0
    spin: Optional[Tensor] = None  # [n_systems], multiplicity 2S + 1, for models that use it; None: 1


def edge_vectors(graph: Graph) -> Tensor:
    """Vectors from sender to receiver, [n_edges, 3], A."""
    sender, receiver = graph.edge_index[0], graph.edge_index[1]
    cell = graph.cell[graph.batch[sender]]  # [n_edges, 3, 3]
    return graph.positions[receiver] - graph.positions[sender] + torch.einsum("ei,eij->ej", graph.shifts, cell)


def single_graph(positions: Tensor, species: Tensor, edge_index: Tensor, shifts: Tensor, cell: Tensor) -> Graph:
    """A `Graph` of one system with head 0; `cell` is [3, 3]."""
    device = positions.device
    return Graph(
        positions=positions,
        species=species,
        edge_index=edge_index,
        shifts=shifts.to(positions.dtype),
        batch=torch.zeros(len(positions), dtype=torch.int64, device=device),
        cell=cell.to(positions.dtype).reshape(1, 3, 3),
        head=torch.zeros(1, dtype=torch.int64, device=device),
    )


def merge_graphs(graphs: list[Graph]) -> Graph:
    """One graph that holds all systems of `graphs`, without edges between them."""
    atoms = torch.tensor([0] + [len(graph.positions) for graph in graphs[:-1]]).cumsum(0).tolist()
    systems = torch.tensor([0] + [len(graph.cell) for graph in graphs[:-1]]).cumsum(0).tolist()
    return Graph(
        positions=torch.cat([graph.positions for graph in graphs]),
        species=torch.cat([graph.species for graph in graphs]),
        edge_index=torch.cat([graph.edge_index + first for graph, first in zip(graphs, atoms, strict=True)], dim=1),
        shifts=torch.cat([graph.shifts for graph in graphs]),
        batch=torch.cat([graph.batch + first for graph, first in zip(graphs, systems, strict=True)]),
        cell=torch.cat([graph.cell for graph in graphs]),
        head=torch.cat([graph.head for graph in graphs]),
        charge=_joined([(graph.charge, len(graph.cell)) for graph in graphs], 0.0),
        spin=_joined([(graph.spin, len(graph.cell)) for graph in graphs], 1.0),
    )


def _joined(values: list[tuple[Tensor | None, int]], default: float) -> Tensor | None:
    """One value for each system, `default` where a graph has none; None where no graph has any."""
    found = [value for value, _ in values if value is not None]
    if not found:
        return None
    return torch.cat([found[0].new_full((n,), default) if value is None else value for value, n in values])
