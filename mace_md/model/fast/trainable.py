"""A MACE for training on a CPU: the same function of positions and weights, over the native sums and products.

`NativeMACE` holds a `MACE` and evaluates it with that model's own weights. Radial networks, linear maps, densities and
readouts stay PyTorch on tensors of pairs and atoms; sums over edges and products are nodes of
`mace_md.ops.training_sums`. docs/decisions/019-training-kernels.md says why this division.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mace_md.errors import InputError
from mace_md.model.blocks import Interaction, Product
from mace_md.model.fast.programs import polynomial_program
from mace_md.model.graph import Graph
from mace_md.model.irreps import num_components
from mace_md.model.mace import MACE, Prediction
from mace_md.ops.energy_forces import load_library
from mace_md.ops.training_sums import Wanted, convolve, geometry, grouped_matmul, product

LANES = 16  # channels are a multiple of the widest vector: 64 bytes of float32


class PreparedGraph(NamedTuple):
    """A `Graph` as the kernels read it: atoms sorted by element, edges by receiver, edges paired."""

    graph: Graph
    index: Tensor  # int32, the argument `graph` of the ops
    type_start: Tensor  # int32 [n_species + 1], first atom of each element
    rows: list[int]  # the same
    atom: Tensor  # [n_atoms], number in `graph` of each sorted atom
    sender: Tensor  # [n_edges], numbers in `graph`
    receiver: Tensor
    shifts: Tensor | None  # [n_edges, 3], None where nothing is periodic
    edge: Tensor  # [n_edges], number in `graph` of each sorted edge
    pair: Tensor  # [n_edges], pair of each sorted edge
    place: Tensor  # [n_edges], sorted number of the receiver
    species: Tensor  # [n_atoms], sorted
    pair_species: Tensor  # [2, n_pairs]
    head: Tensor  # [n_atoms], sorted


def prepare_graph(graph: Graph, n_species: int) -> PreparedGraph:
    """Sort and pair what a graph has. An edge and its reverse are a pair, for which radial functions are the same."""
    species, system = graph.species.numpy(), graph.batch.numpy()
    sender, receiver = graph.edge_index.numpy()
    n_atoms, n_edges, n_systems = len(species), len(sender), len(graph.cell)
    atom = np.argsort(species, kind="stable")
    place = np.empty_like(atom)
    place[atom] = np.arange(n_atoms)
    order = np.argsort(system[atom], kind="stable")  # sorted atoms, system after system
    position = np.empty_like(order)
    position[order] = np.arange(n_atoms)
    edge = np.argsort(position[place[receiver]], kind="stable")
    sender, receiver = sender[edge], receiver[edge]
    shifts = graph.shifts.numpy()[edge]
    periodic = bool(shifts.any())
    pair, second, edge_of_pair = _pairs(place[sender], place[receiver], shifts if periodic else None, n_atoms)
    counts = np.bincount(position[place[receiver]], minlength=n_atoms)
    rows = np.concatenate([[0], np.bincount(species, minlength=n_species).cumsum()])
    index = np.concatenate([
        [n_atoms, n_edges, len(edge_of_pair), n_systems], order, [0], counts.cumsum(),
        [0], np.bincount(system, minlength=n_systems).cumsum(), place[sender], 2 * pair + second, edge_of_pair,
    ])  # fmt: skip
    types = species[atom]
    of_pair = np.stack([species[sender[edge_of_pair]], species[receiver[edge_of_pair]]])
    tensor = torch.from_numpy
    return PreparedGraph(
        graph, tensor(index.astype(np.int32)), tensor(rows.astype(np.int32)), rows.tolist(), tensor(atom),
        tensor(sender), tensor(receiver), tensor(shifts) if periodic else None, tensor(edge), tensor(pair),
        tensor(place[receiver]), tensor(types), tensor(of_pair), graph.head[graph.batch[tensor(atom)]],
    )  # fmt: skip


def _pairs(i: np.ndarray, j: np.ndarray, shifts: np.ndarray | None, n_atoms: int) -> tuple:
    """Pair of each edge, whether it is the pair's second edge, and the first edge of each pair."""
    low, high = np.minimum(i, j), np.maximum(i, j)
    key = low * np.int64(n_atoms) + high
    if shifts is not None:
        image = shifts.astype(np.int64) @ np.array([1 << 18, 1 << 9, 1])
        image = np.where((i > j) | ((i == j) & (image < 0)), -image, image)
        key = key * (1 << 28) + image + (1 << 27)
    _, first, which = np.unique(key, return_index=True, return_inverse=True)
    by_first = np.argsort(first)
    rank = np.empty_like(by_first)
    rank[by_first] = np.arange(len(first))
    return rank[which], first[which] != np.arange(len(i)), first[by_first]


def why_not_native(model: MACE) -> str | None:
    """Why a model cannot be trained with the native kernels, or None where it can."""
    config = model.config
    if model.embedding.device.type != "cpu":
        return f"the model is on {model.embedding.device.type}; these kernels are for CPUs"
    if config.max_ell not in (2, 3):
        return f"max_ell is {config.max_ell}; there are kernels for 2 and 3"
    if config.max_L > 2:
        return f"max_L is {config.max_L}; there are kernels up to 2"
    if max(config.correlation) > 3:
        return "the correlation is above 3"
    try:
        load_library()
    except InputError as error:
        return str(error)
    if not hasattr(torch.ops.mace_md, "train_geometry"):
        return "the native kernels were built from older sources, without those for training: build them again"
    return None


class NativeMACE(nn.Module):
    """Evaluates and differentiates `model` with its own weights; raises InputError for what `why_not_native` names."""

    def __init__(self, model: MACE):
        super().__init__()
        reason = why_not_native(model)
        if reason is not None:
            raise InputError(f"no native kernels for the training of this model: {reason}")
        self.model = model
        self.layers = [
            _Layer(interaction, contraction, model.config.max_ell, first=i == 0)
            for i, (interaction, contraction) in enumerate(zip(model.interactions, model.products, strict=True))
        ]

    def predict(
        self, graph: Graph | PreparedGraph, forces: bool = True, stress: bool = False, training: bool = False
    ) -> Prediction:
        """As `mace_md.model.mace.predict`; with `training` the result can be differentiated in the weights, once."""
        prepared = graph if isinstance(graph, PreparedGraph) else prepare_graph(graph, self.model.n_species)
        graph = prepared.graph
        positions = graph.positions.detach().requires_grad_(forces or stress)
        cell, strained, inputs = graph.cell, positions, [positions] if forces else []
        if stress:
            strain = torch.zeros_like(cell).requires_grad_(True)
            symmetric = 0.5 * (strain + strain.transpose(1, 2))
            strained = positions + torch.einsum("ni,nij->nj", positions, symmetric[graph.batch])
            cell = cell + cell @ symmetric
            inputs.append(strain)
        wanted = Wanted()
        with torch.enable_grad():
            energy = self._energies(prepared, strained, cell, wanted)
        if not inputs:
            wanted.weights = True
            return Prediction(energy if training else energy.detach(), None, None)
        gradients = list(torch.autograd.grad(energy.sum(), inputs, create_graph=training))
        wanted.weights = True
        dE_dr = gradients.pop(0) if forces else None
        volume = torch.linalg.det(graph.cell).abs().reshape(-1, 1, 1)
        volume = torch.where(volume > 0, volume, torch.inf)
        return Prediction(
            energy if training else energy.detach(),
            None if dE_dr is None else -dE_dr,
            gradients[0] / volume if stress else None,
        )

    def _energies(self, prepared: PreparedGraph, positions: Tensor, cell: Tensor, wanted: Wanted) -> Tensor:
        graph, model = prepared.graph, self.model
        vectors = positions.index_select(0, prepared.receiver) - positions.index_select(0, prepared.sender)
        if prepared.shifts is not None:
            of_edge = cell[graph.batch[prepared.sender]]
            vectors = vectors + torch.einsum("ei,eij->ej", prepared.shifts.to(vectors.dtype), of_edge)
        energy = self._node_energies(prepared, vectors, wanted).to(torch.float64)
        energy = energy + model.atomic_energies[prepared.head, prepared.species]
        total = torch.zeros(graph.cell.shape[0], dtype=torch.float64)
        return total.index_add(0, graph.batch[prepared.atom], energy)

    def _node_energies(self, prepared: PreparedGraph, vectors: Tensor, wanted: Wanted) -> Tensor:
        model, head = self.model, prepared.head
        r, Y = geometry(wanted, prepared.index, vectors, model.harmonics.max_ell)
        species_i, species_j = prepared.pair_species
        features, cutoff = model.radial_embedding(r, species_i, species_j)
        scalars = (model.embedding / math.sqrt(model.n_species)).index_select(0, prepared.species)
        h = [scalars.unsqueeze(1)]
        energy = torch.zeros(len(scalars), dtype=vectors.dtype)
        repulsion = model.repulsion
        if repulsion is not None:
            by_pair = repulsion(r, species_i, species_j)
            energy = energy.index_add(0, prepared.place, by_pair.index_select(0, prepared.pair))
        for i, layer in enumerate(self.layers):
            h = layer(wanted, prepared, h, Y, features, cutoff)
            if i >= model.first_readout:
                by_head = model.readouts[i - model.first_readout](h[0].squeeze(1))
                energy = energy + by_head.gather(1, head.unsqueeze(1)).squeeze(1)
        return model.scale[head] * energy + model.shift[head]


class _Layer:
    """One layer of the model: the weights are those of its blocks."""

    def __init__(self, interaction: Interaction, product_block: Product, max_ell: int, first: bool):
        self.interaction, self.product = interaction, product_block
        path_sum, contraction = interaction.convolution.path_sum, product_block.contraction
        self.coupling = path_sum.coupling
        self.paths = path_table(path_sum.paths)
        program, order = polynomial_program(contraction.factors, contraction.sizes, num_components(max_ell))
        self.program = torch.from_numpy(program)
        self.couplings = contraction.coupling[torch.tensor(order, dtype=torch.int64)]
        self.first = first

    def __call__(
        self, wanted: Wanted, prepared: PreparedGraph, h: list[Tensor], Y: Tensor, features: Tensor, cutoff: Tensor
    ) -> list[Tensor]:
        """Features after the layer, [n_atoms, 2 L + 1, C] for each L, from those before it."""
        A = self._messages(wanted, prepared, h, Y, features, cutoff)
        interaction, skip = self.interaction, self.interaction.skip.weight
        skip = skip / math.sqrt(skip.shape[0] * skip.shape[2])
        if not interaction.residual:
            A = [self._by_species(wanted, prepared, x, skip[:, l]) for l, x in enumerate(A)]
        A = [_pad(x) for x in A]
        weights = _pad(self.couplings @ self.product.contraction.weight)
        n_types, channels = weights.shape[0], skip.shape[2]
        start = prepared.type_start if n_types > 1 else prepared.type_start[[0, -1]]
        mixing = self.product.linear.weight / math.sqrt(channels)
        values = product(wanted, self.program, start, A, weights)
        after = [x[..., :channels] @ mixing[L] for L, x in enumerate(values)]
        if interaction.residual:
            for l in range(min(skip.shape[1], len(h), len(after))):
                after[l] = after[l] + self._by_species(wanted, prepared, h[l], skip[:, l])
        return after

    def _messages(self, wanted, prepared, h, Y, features, cutoff) -> list[Tensor]:
        interaction, channels = self.interaction, self.interaction.edge_channels
        network = interaction.radial_weights
        hidden = features
        for i, weight in enumerate(network.weights):
            if i < network.last:
                hidden = network.scale * torch.nn.functional.silu(hidden @ (weight / math.sqrt(weight.shape[0])))
        last = network.weights[-1]
        R = (hidden * cutoff) @ (last / math.sqrt(last.shape[0]))
        R = _pad(R.reshape(-1, interaction.num_paths, channels))
        up = interaction.linear_up.weight / math.sqrt(interaction.linear_up.weight.shape[1])
        sent = [h[l] @ up[l] for l in range(up.shape[0])]
        sent = _pad(sent[0] if len(sent) == 1 else torch.cat(sent, dim=1))
        blocks = Y @ self.coupling
        messages = convolve(wanted, prepared.index, self.paths, blocks, sent, R, h_moves=not self.first)
        A = []
        for l, weight in enumerate(interaction.convolution.weights):
            x = messages[l]
            if R.shape[2] != channels:
                x = x.reshape(*x.shape[:2], -1, R.shape[2])[..., :channels].flatten(2)
            A.append(x @ (weight / (math.sqrt(weight.shape[0]) * interaction.norm)))
        density_weight = interaction.density_weight
        if density_weight is None:
            return A
        weight = density_weight / math.sqrt(density_weight.shape[0])
        by_pair = torch.tanh((features @ weight) ** 2) * cutoff
        density = torch.zeros(len(A[0]), 1, dtype=Y.dtype).index_add(
            0, prepared.place, by_pair.index_select(0, prepared.pair)
        )
        return [x / (density + 1.0).unsqueeze(-1) for x in A]

    @staticmethod
    def _by_species(wanted: Wanted, prepared: PreparedGraph, x: Tensor, weight: Tensor) -> Tensor:
        width = x.shape[1]
        rows = [width * row for row in prepared.rows]
        return grouped_matmul(wanted, rows, x.flatten(0, 1), weight).reshape(-1, width, weight.shape[2])


def path_table(paths: list[tuple[int, int, int]]) -> Tensor:
    """Paths (l_edge, l_in, l_out) as the ops read them, int64 [n_paths, 6]; their blocks are [out, in], end to end."""
    rows, block, index = [], 0, [0, 0, 0, 0]
    for _, l_in, l_out in paths:
        rows.append([2 * l_in + 1, 2 * l_out + 1, l_in * l_in, block, l_out, index[l_out]])
        index[l_out] += 1
        block += (2 * l_in + 1) * (2 * l_out + 1)
    return torch.tensor(rows, dtype=torch.int64)


def _pad(x: Tensor) -> Tensor:
    """Channels (the last dimension) filled up with zeros to whole vectors."""
    missing = -x.shape[-1] % LANES
    return torch.nn.functional.pad(x, (0, missing)) if missing else x
