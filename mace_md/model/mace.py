"""The MACE model (arXiv 2206.07697): energies of atomic systems; docs/theory.md maps its equations to this file."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mace_md.model.blocks import (
    BiasedReadout,
    Interaction,
    LinearReadout,
    NonLinearInteraction,
    NonLinearReadout,
    Product,
)
from mace_md.model.contraction import SymmetricContraction
from mace_md.model.graph import Graph, edge_vectors
from mace_md.model.hyperparameters import ModelConfig
from mace_md.model.irreps import SymmetricBasis, harmonic_recursion, symmetric_basis
from mace_md.model.joint_embedding import JointEmbedding
from mace_md.model.radial import ZBLRepulsion, make_radial_embedding
from mace_md.model.species import group_by_species


class SphericalHarmonics(nn.Module):
    """Real spherical harmonics up to max_ell by the recursion Y_l = (Y_{l-1} (x) unit vector) D_l."""

    def __init__(self, max_ell: int):
        super().__init__()
        self.max_ell = max_ell
        matrices = [matrix.flatten() for matrix in harmonic_recursion(max_ell)]
        self.register_buffer("recursion", torch.cat([torch.zeros(0, dtype=torch.float64), *matrices]), persistent=False)

    def forward(self, unit: Tensor) -> Tensor:
        """unit [n_edges, 3] -> [n_edges, (max_ell + 1)^2], e3nn's order and "component" normalisation."""
        last = math.sqrt(3.0) * unit
        harmonics = [torch.ones_like(unit[:, :1])]
        if self.max_ell > 0:
            harmonics.append(last)
        start = 0
        for l in range(2, self.max_ell + 1):
            n_in, n_out = 3 * (2 * l - 1), 2 * l + 1
            matrix = self.recursion[start : start + n_in * n_out].reshape(n_in, n_out)
            start += n_in * n_out
            last = (last.unsqueeze(2) * unit.unsqueeze(1)).flatten(1) @ matrix
            harmonics.append(last)
        return torch.cat(harmonics, dim=1)


class MACE(nn.Module):
    """Interaction energies of atoms, and total energies of systems, in eV; positions in angstrom.

    Scriptable, and differentiable twice in the positions. `bases` are the symmetric product bases of the layers; a
    checkpoint brings its own, otherwise an orthonormal one is made. The other families (mace_md.model.families) inherit
    the layers from here.
    """

    long_range: bool = False  # whether energies depend on more than edges within r_max: see `energies` there

    def __init__(self, config: ModelConfig, bases: list[SymmetricBasis] | None = None):
        super().__init__()
        self._config = config.to_dict()
        self.r_max = float(config.r_max)
        self.num_channels, self.n_species = config.num_channels, len(config.atomic_numbers)
        n_heads = len(config.heads)
        radii = _covalent_radii(config.atomic_numbers)
        numbers = torch.tensor(config.atomic_numbers, dtype=torch.int64)
        self.register_buffer("atomic_numbers", numbers)  # [n_species]
        self.register_buffer("atomic_energies", torch.zeros(n_heads, self.n_species, dtype=torch.float64))  # eV
        self.register_buffer("scale", torch.ones(n_heads, dtype=torch.float64))  # [n_heads]
        self.register_buffer("shift", torch.zeros(n_heads, dtype=torch.float64))  # [n_heads], eV
        self.embedding = nn.Parameter(torch.randn(self.n_species, config.num_channels))
        self.joint_embedding = JointEmbedding(config) if config.embeddings else None
        self.harmonics = SphericalHarmonics(config.max_ell)
        self.radial_embedding = make_radial_embedding(
            config.radial_type,
            config.num_bessel,
            config.r_max,
            config.num_polynomial_cutoff,
            config.distance_transform,
            config.apply_cutoff,
            radii,
            config.gaussian_coefficient,
        )
        self.repulsion = ZBLRepulsion(numbers, radii, config.num_polynomial_cutoff) if config.pair_repulsion else None
        self.interactions, self.products = nn.ModuleList(), nn.ModuleList()
        for layer in range(config.num_interactions):
            self.interactions.append(_make_interaction(config, layer))
            out_L = config.out_L(layer)
            basis = bases[layer] if bases else symmetric_basis(config.max_ell, out_L, config.correlation[layer])
            n_weights = 1 if config.agnostic_product else self.n_species
            contraction = SymmetricContraction(basis, n_weights, config.num_channels)
            self.products.append(Product(contraction, out_L, config.num_channels))
        self.readouts = nn.ModuleList(self._make_readouts(config))
        self.first_readout = config.num_interactions - len(self.readouts)

    @property
    @torch.jit.unused
    def config(self) -> ModelConfig:
        """The hyper-parameters."""
        return ModelConfig.from_dict(self._config)

    @property
    @torch.jit.unused
    def inputs(self) -> tuple[str, ...]:
        """What the energy depends on beside the structure: of "charge" and "spin", or names of other inputs."""
        names = {"total_charge": "charge", "total_spin": "spin"}
        return tuple(names.get(embedding.name, embedding.name) for embedding in self.config.embeddings)

    @torch.jit.unused
    def _make_readouts(self, config: ModelConfig) -> list[nn.Module]:
        return make_readouts(config)

    def _apply(self, fn: Callable, recurse: bool = True) -> MACE:
        """Keep E0s in float64 whatever the dtype of the model: they do not fit in float32."""
        energies = self.atomic_energies
        super()._apply(fn, recurse)
        self.atomic_energies = energies.to(self.atomic_energies.device)
        return self

    def node_energies(self, vectors: Tensor, species: Tensor, edge_index: Tensor, head: Tensor) -> Tensor:
        """Interaction energy of every atom (no E0), [n_atoms], eV, in the model's dtype.

        Parameters
        ----------
        vectors : [n_edges, 3], A, from sender to receiver.
        species : [n_atoms], int64.
        edge_index : [2, n_edges], int64: sender, receiver.
        head : [n_atoms], int64.

        A model with further inputs (`inputs`) is settled first: `mace_md.model.settle`.
        """
        if self.joint_embedding is not None:
            raise RuntimeError("this model has further inputs, such as the total charge: settle them first")
        features = self.node_features(vectors, species, edge_index, self._embedded(species))
        return self.energies_of_features(features, vectors, species, edge_index, head)

    def energies_of_features(
        self, features: list[Tensor], vectors: Tensor, species: Tensor, edge_index: Tensor, head: Tensor
    ) -> Tensor:
        """Interaction energy of every atom from the features after each layer; arguments as of `node_energies`."""
        sender, receiver = edge_index[0], edge_index[1]
        energy = torch.zeros(species.shape[0], dtype=vectors.dtype, device=vectors.device)
        repulsion = self.repulsion
        if repulsion is not None:
            r = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
            energy = energy.index_add(0, receiver, repulsion(r, species[sender], species[receiver]))
        for i, readout in enumerate(self.readouts):
            by_head = readout(features[self.first_readout + i][:, 0])
            energy = energy + by_head.gather(1, head.unsqueeze(1)).squeeze(1)
        return self.scale[head] * energy + self.shift[head]

    def layer_features(self, vectors: Tensor, species: Tensor, edge_index: Tensor) -> list[Tensor]:
        """Invariant node features after each layer, [n_atoms, num_channels] each; arguments as of `node_energies`."""
        return [h[:, 0] for h in self.node_features(vectors, species, edge_index, self._embedded(species))]

    def node_features(self, vectors: Tensor, species: Tensor, edge_index: Tensor, embedded: Tensor) -> list[Tensor]:
        """Node features after each layer, [n_atoms, (L + 1)^2, num_channels] each, from those before the first,
        `embedded` [n_atoms, num_channels]; the other arguments as of `node_energies`."""
        sender, receiver = edge_index[0], edge_index[1]
        groups = group_by_species(species, self.n_species)
        r = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)  # [n_edges, 1]
        Y = self.harmonics(vectors / r)
        edge_features, cutoff = self.radial_embedding(r, species[sender], species[receiver])
        h = embedded.unsqueeze(1)
        features: list[Tensor] = []
        for interaction, product in zip(self.interactions, self.products):  # noqa: B905 (TorchScript)
            A, skip = interaction(h, Y, edge_features, cutoff, sender, receiver, groups)
            h = product(A, skip, groups)
            features.append(h)
        return features

    def _embedded(self, species: Tensor) -> Tensor:
        """Features before the first layer, [n_atoms, num_channels], of the elements alone."""
        return (self.embedding / math.sqrt(self.n_species)).index_select(0, species)

    def _embedded_with_inputs(self, graph: Graph) -> Tensor:
        """As `_embedded`, with the further inputs of the systems."""
        h, joint = self._embedded(graph.species), self.joint_embedding
        return h if joint is None else h + joint(graph.batch, graph.cell.shape[0], graph.charge, graph.spin)

    def forward(self, graph: Graph) -> Tensor:
        """Total energy of every system, E0s included, [n_systems], eV, float64."""
        head = graph.head[graph.batch]
        vectors, h = edge_vectors(graph), self._embedded_with_inputs(graph)
        features = self.node_features(vectors, graph.species, graph.edge_index, h)
        energy = self.energies_of_features(features, vectors, graph.species, graph.edge_index, head).to(torch.float64)
        energy = energy + self.atomic_energies[head, graph.species]
        joint = self.joint_embedding
        if joint is not None:
            energy = energy + joint.energies(h, head)
        total = torch.zeros(graph.cell.shape[0], dtype=torch.float64, device=energy.device)
        return total.index_add(0, graph.batch, energy)


def _make_interaction(config: ModelConfig, layer: int) -> nn.Module:
    in_L = config.in_L(layer)
    edge_L = in_L if config.edge_max_L is None else min(in_L, config.edge_max_L)
    # The first layer sends scalars only: all its channels travel, unless the file says otherwise.
    reduced = (layer > 0 or config.edge_channels_first) and config.edge_channels is not None
    shape = {
        "n_species": len(config.atomic_numbers),
        "num_channels": config.num_channels,
        "max_ell": config.max_ell,
        "in_L": in_L,
        "edge_L": edge_L,
        "edge_channels": config.edge_channels if reduced else config.num_channels,
        "out_L": config.out_L(layer),
        "radial_sizes": [config.num_bessel, *config.radial_MLP],
    }
    if config.is_nonlinear(layer):
        return NonLinearInteraction(**shape)
    return Interaction(
        **shape,
        residual=config.is_residual(layer),
        density=config.has_density(layer),
        avg_num_neighbors=config.avg_num_neighbors[layer],
    )


def make_readouts(config: ModelConfig) -> list[nn.Module]:
    """The readouts of the scalars after each layer, one number for each head."""
    n_heads = len(config.heads)
    last = config.num_interactions - 1
    if last == 0:
        return [LinearReadout(config.num_channels, n_heads)]
    linear = [] if config.last_readout_only else [LinearReadout(config.num_channels, n_heads) for _ in range(last)]
    kind = BiasedReadout if config.bias_readout else NonLinearReadout
    return [*linear, kind(config.num_channels, config.MLP_channels, n_heads, config.gate)]


def _covalent_radii(atomic_numbers: tuple[int, ...]) -> Tensor:
    """Covalent radii as ASE has them (Cordero 2008), [n_species], A, float64."""
    from ase.data import covalent_radii

    return torch.tensor([covalent_radii[z] for z in atomic_numbers], dtype=torch.float64)


class Prediction(NamedTuple):
    """What a model says of the systems of a graph."""

    energy: Tensor  # [n_systems], eV, float64, E0s included
    forces: Tensor | None  # [n_atoms, 3], eV/A
    stress: Tensor | None  # [n_systems, 3, 3], eV/A^3; positive when the system wants to contract


def predict(
    model: nn.Module, graph: Graph, forces: bool = True, stress: bool = False, training: bool = False
) -> Prediction:
    """Energies and, by differentiation, forces -dE/dr and stress (dE/d strain) / volume (0 without a box).

    `training` keeps the graph of the derivatives, so that a loss on forces can be differentiated.
    """
    positions = graph.positions if graph.positions.requires_grad else graph.positions.detach().requires_grad_(forces)
    cell, inputs = graph.cell, [positions] if forces else []
    strained = positions
    if stress:
        strain = torch.zeros_like(cell).requires_grad_(True)
        symmetric = 0.5 * (strain + strain.transpose(1, 2))
        strained = positions + torch.einsum("ni,nij->nj", positions, symmetric[graph.batch])
        cell = cell + cell @ symmetric
        inputs.append(strain)
    with torch.enable_grad():
        energy = model(graph._replace(positions=strained, cell=cell))
    if not inputs:
        return Prediction(energy, None, None)
    gradients = list(torch.autograd.grad(energy.sum(), inputs, create_graph=training))
    dE_dr = gradients.pop(0) if forces else None
    volume = torch.linalg.det(graph.cell).abs().reshape(-1, 1, 1)
    volume = torch.where(volume > 0, volume, torch.inf)
    return Prediction(
        energy if training else energy.detach(),
        None if dE_dr is None else -dE_dr,
        gradients[0] / volume if stress else None,
    )
