"""Graphs of labelled configurations, built once, and batches of them without padding.

`PackedGraphs` keeps all frames end to end in a few tensors; a batch is gathered from them by index, with no loop over
frames or atoms. `LazyGraphs` builds the graphs of a batch when it is asked for, from data that do not fit in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mace_md.errors import InputError
from mace_md.model.graph import Graph
from mace_md.ops.neighbor_list import neighbor_list
from mace_md.training.configuration import Configuration


class Batch(NamedTuple):
    """Several labelled systems as one graph. Where a label is missing it is zero, and so is its weight."""

    graph: Graph
    num_atoms: Tensor  # [n_systems], int64
    energy: Tensor  # [n_systems], eV, float64
    forces: Tensor  # [n_atoms, 3], eV/A
    stress: Tensor  # [n_systems, 3, 3], eV/A^3
    weight: Tensor  # [n_systems], of the configuration
    energy_weight: Tensor  # [n_systems]
    forces_weight: Tensor  # [n_systems]
    stress_weight: Tensor  # [n_systems]

    def to(self, device: torch.device | str) -> Batch:
        """The same on another device."""
        graph = Graph(*(tensor.to(device, non_blocking=True) for tensor in self.graph))
        return Batch(graph, *(tensor.to(device, non_blocking=True) for tensor in self[1:]))


class PackedGraphs:
    """The graphs and labels of many configurations, end to end, with a cutoff of `r_max`."""

    def __init__(
        self,
        data: Sequence[Configuration],
        *,
        r_max: float,
        atomic_numbers: Sequence[int],
        heads: Sequence[str] = ("Default",),
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ):
        """Raises InputError for an element or head that the model does not have, or an impossible box."""
        species = _SpeciesTable(atomic_numbers)
        packed = [_pack(configuration, r_max, species, heads) for configuration in data]
        self.dtype = dtype
        if not packed:
            raise InputError("there is no labelled frame")
        self._columns = {name: torch.cat([frame[name] for frame in packed]).to(device) for name in packed[0]}
        self.num_atoms, self.num_edges = self._columns["num_atoms"], self._columns["num_edges"]
        self._first_atom = self.num_atoms.cumsum(0) - self.num_atoms
        self._first_edge = self.num_edges.cumsum(0) - self.num_edges

    def __len__(self) -> int:
        return len(self.num_atoms)

    def batch(self, indices: Sequence[int] | Tensor) -> Batch:
        """The systems `indices` as one graph, in that order."""
        frames = torch.as_tensor(indices, dtype=torch.int64, device=self.num_atoms.device)
        column, dtype = self._columns, self.dtype
        num_atoms, num_edges = self.num_atoms[frames], self.num_edges[frames]
        atoms, system = _ranges(self._first_atom[frames], num_atoms)
        edges, system_of_edge = _ranges(self._first_edge[frames], num_edges)
        start = num_atoms.cumsum(0) - num_atoms  # of each system in the batch
        graph = Graph(
            positions=column["positions"][atoms].to(dtype),
            species=column["species"][atoms].to(torch.int64),
            edge_index=column["edge_index"][edges].T.to(torch.int64).contiguous() + start[system_of_edge],
            shifts=column["shifts"][edges].to(dtype),
            batch=system,
            cell=column["cell"][frames].to(dtype),
            head=column["head"][frames],
        )
        return Batch(
            graph,
            num_atoms,
            column["energy"][frames],
            column["forces"][atoms].to(dtype),
            column["stress"][frames].to(dtype),
            *column["weights"][frames].to(dtype).unbind(1),
        )


class LazyGraphs:
    """As `PackedGraphs`, but a batch reads its frames and finds its neighbours when it is asked for."""

    def __init__(self, data: Sequence[Configuration], **how):
        """`how`: r_max, atomic_numbers, heads, dtype, device as for `PackedGraphs`."""
        self._data, self._how = data, how

    def __len__(self) -> int:
        return len(self._data)

    def batch(self, indices: Sequence[int] | Tensor) -> Batch:
        """The systems `indices` as one graph, in that order."""
        some = PackedGraphs([self._data[int(i)] for i in indices], **self._how)
        return some.batch(range(len(some)))


def make_graphs(data: Sequence[Configuration], *, model: torch.nn.Module, device=None) -> PackedGraphs | LazyGraphs:
    """Graphs that fit `model`: in memory for a list (or part of one), built as needed for what is read lazily."""
    how = {
        "r_max": model.r_max,
        "atomic_numbers": model.atomic_numbers.tolist(),
        "heads": model.config.heads,
        "dtype": model.embedding.dtype,
        "device": device or model.embedding.device,
    }
    return LazyGraphs(data, **how) if getattr(data, "is_lazy", False) else PackedGraphs(data, **how)


def iterate_batches(
    graphs: PackedGraphs | LazyGraphs,
    groups: Sequence[Sequence[int]],
    prepare: Callable[[Batch], Any] = lambda batch: batch,
) -> Iterator[Any]:
    """The batches of the index groups in turn, as `prepare` returns them; None for an empty group.

    The next one is made in another thread meanwhile.
    """

    def make(group: Sequence[int]) -> Any:
        return prepare(graphs.batch(group)) if len(group) else None

    with ThreadPoolExecutor(1) as ahead:
        waiting = None
        for group in groups:
            following = ahead.submit(make, group)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()


def find_edges(configuration: Configuration, cutoff: float) -> tuple[Tensor, Tensor, Tensor]:
    """(edge_index [2, n_edges], shifts [n_edges, 3], cell [3, 3]) of a configuration, float64, A.

    A box that repeats along some axes only is closed by vectors along which no image is in reach. Raises InputError.
    """
    positions = torch.from_numpy(np.ascontiguousarray(configuration.positions))
    cell = torch.from_numpy(closed_cell(configuration, cutoff))
    try:
        edge_index, shifts = neighbor_list(positions, cell, any(configuration.pbc), cutoff)
    except RuntimeError as error:
        raise InputError(f"{configuration.where}: {error}") from None
    return edge_index, shifts, cell


def closed_cell(configuration: Configuration, cutoff: float) -> np.ndarray:
    """[3, 3], A: the cell with vectors out of reach along the axes that do not repeat; zeros without any that does."""
    pbc = np.array(configuration.pbc)
    cell = np.array(configuration.cell, dtype=np.float64)
    if pbc.all() or not pbc.any():
        return cell if pbc.any() else np.zeros((3, 3))
    free = ~pbc
    # the orthogonal complement of the periodic vectors, as long as the atoms reach, and more
    complement = np.linalg.svd(cell[pbc])[2][pbc.sum() :]
    extent = np.ptp(configuration.positions @ complement.T, axis=0)
    cell[free] = complement * (extent + 2.5 * cutoff)[:, None]
    return cell


class _SpeciesTable:
    def __init__(self, atomic_numbers: Sequence[int]):
        self.known = sorted(atomic_numbers)
        self._index = np.full(120, -1)
        self._index[list(atomic_numbers)] = np.arange(len(atomic_numbers))

    def __call__(self, configuration: Configuration) -> Tensor:
        index = self._index[configuration.atomic_numbers]
        if (index < 0).any():
            unknown = sorted(set(configuration.atomic_numbers[index < 0].tolist()))
            raise InputError(
                f"{configuration.where}: the model does not know the elements with atomic numbers {unknown}; it knows "
                f"{self.known}"
            )
        return torch.from_numpy(index.astype(np.uint8))


def _pack(configuration: Configuration, r_max: float, species: _SpeciesTable, heads: Sequence[str]) -> dict:
    edge_index, shifts, cell = find_edges(configuration, r_max)
    if len(shifts) and float(shifts.abs().max()) > 127:
        raise InputError(
            f"{configuration.where}: an atom is more than 127 boxes away from another one. Wrap the positions into the "
            "box."
        )
    n = len(configuration.atomic_numbers)
    energy, forces, stress = configuration.energy, configuration.forces, configuration.stress
    weights = [
        configuration.weight,
        configuration.energy_weight * (energy is not None),
        configuration.forces_weight * (forces is not None),
        configuration.stress_weight * (stress is not None),
    ]
    return {
        "num_atoms": torch.tensor([n]),
        "num_edges": torch.tensor([edge_index.shape[1]]),
        "positions": torch.from_numpy(np.array(configuration.positions, dtype=np.float64)),
        "species": species(configuration),
        "edge_index": edge_index.T.to(torch.int32),
        "shifts": shifts.to(torch.int8),
        # of a slab the box of the file, which has the volume that its stress refers to: nothing is shifted along z
        "cell": torch.from_numpy(
            np.array(configuration.cell, dtype=np.float64) if configuration.volume else cell.numpy()
        ).reshape(1, 3, 3),
        "head": torch.tensor([_head(configuration, heads)]),
        "energy": torch.tensor([energy or 0.0], dtype=torch.float64),
        "forces": torch.zeros(n, 3, dtype=torch.float64) if forces is None else torch.from_numpy(np.array(forces)),
        "stress": torch.from_numpy(np.zeros((1, 3, 3)) if stress is None else np.array(stress).reshape(1, 3, 3)),
        "weights": torch.tensor([weights], dtype=torch.float64),
    }


def _head(configuration: Configuration, heads: Sequence[str]) -> int:
    if configuration.head in heads:
        return list(heads).index(configuration.head)
    if configuration.head == "Default" and len(heads) == 1:
        return 0
    raise InputError(f"{configuration.where}: no head '{configuration.head}' in the model; it has {', '.join(heads)}")


def _ranges(first: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """The numbers first[k], ..., first[k] + count[k] - 1 for each k, end to end, and the k of each."""
    which = torch.repeat_interleave(torch.arange(len(count), device=count.device), count)
    offset = first - (count.cumsum(0) - count)
    return torch.arange(len(which), device=count.device) + offset[which], which
