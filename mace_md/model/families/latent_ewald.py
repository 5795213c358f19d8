"""MACELES: a MACE with latent charges and their electrostatic energy (Cheng, npj Comput. Mater. 11, 80 (2025)).

A second set of readouts gives every atom a charge that nobody trained on; energies get the electrostatic energy of
these charges, each smeared to a Gaussian. The constants are those of the file. Written from the equations, not from
`les`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mace_md.model.electrostatics import KSpaceSum, smeared_pair_energy
from mace_md.model.graph import Graph, edge_vectors
from mace_md.model.hyperparameters import ModelConfig
from mace_md.model.irreps import SymmetricBasis
from mace_md.model.mace import MACE, make_readouts


class LatentEwald(nn.Module):
    """Energy of latent charges (eV, float64), in a box by a sum over k, without one over pairs."""

    def __init__(self, sigma: float, dl: float, norm_factor: float, remove_self_interaction: bool, **_of_born_charges):
        """sigma: width of the Gaussians (A); 2 pi / dl: the largest |k| (1/A); norm_factor: 1/(2 eps_0), eV A / e^2."""
        super().__init__()
        self.sigma, self.norm_factor, self.remove_self = float(sigma), float(norm_factor), bool(remove_self_interaction)
        self.self_energy = self.norm_factor / (self.sigma * (2.0 * math.pi) ** 1.5)  # of a unit charge
        self.k_space = KSpaceSum(sigma, 2.0 * math.pi / dl, dl)

    def forward(self, charges: Tensor, positions: Tensor, cell: Tensor) -> Tensor:
        """charges [n] (e), positions [n, 3] and cell [3, 3] (A; zeros: no box), all float64 -> energy, a scalar."""
        own = self.self_energy * (charges * charges).sum()
        if bool((cell == 0.0).all()):
            energy = smeared_pair_energy(charges, positions, math.sqrt(2.0) * self.sigma)
            energy = self.norm_factor / (2.0 * math.pi) * energy
            return energy if self.remove_self else energy + own
        energy = self.norm_factor * self.k_space(charges, positions, cell)
        return energy - own if self.remove_self else energy


class LatentEwaldMACE(MACE):
    """See the text of this module. The energies of atoms are those of the short-ranged part."""

    long_range: bool = True

    def __init__(self, config: ModelConfig, bases: list[SymmetricBasis] | None = None):
        super().__init__(config, bases)
        self.charge_readouts = nn.ModuleList(make_readouts(config))
        self.ewald = LatentEwald(**config.settings)

    def energies_and_charges(
        self, vectors: Tensor, species: Tensor, edge_index: Tensor, head: Tensor, embedded: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Short-ranged energy (eV) and latent charge (e) of every atom, [n_atoms]; arguments as of `node_features`."""
        features = self.node_features(vectors, species, edge_index, embedded)
        charges = torch.zeros(species.shape[0], dtype=vectors.dtype, device=vectors.device)
        for i, readout in enumerate(self.charge_readouts):
            by_head = readout(features[self.first_readout + i][:, 0])
            charges = charges + by_head.gather(1, head.unsqueeze(1)).squeeze(1)
        return self.energies_of_features(features, vectors, species, edge_index, head), charges

    def energies(
        self, vectors: Tensor, positions: Tensor, cell: Tensor, species: Tensor, edge_index: Tensor, head: Tensor
    ) -> Tensor:
        """Energy of one system, as parts [n_atoms + 1] (eV, float64): of the atoms, and of their latent charges.

        vectors in the model's dtype, positions [n, 3] and cell [3, 3] (zeros: no box) in float64, A.
        """
        local, charges = self.energies_and_charges(vectors, species, edge_index, head, self._embedded(species))
        long_range = self.ewald(charges.to(torch.float64), positions, cell)
        return torch.cat([local.to(torch.float64), long_range.reshape(1)])

    def forward(self, graph: Graph) -> Tensor:
        """Total energy of every system, E0s included, [n_systems], eV, float64."""
        head, n_systems = graph.head[graph.batch], graph.cell.shape[0]
        embedded = self._embedded_with_inputs(graph)
        local, charges = self.energies_and_charges(edge_vectors(graph), graph.species, graph.edge_index, head, embedded)
        energy = local.to(torch.float64) + self.atomic_energies[head, graph.species]
        joint = self.joint_embedding
        if joint is not None:
            energy = energy + joint.energies(embedded, head)
        total = torch.zeros(n_systems, dtype=torch.float64, device=energy.device).index_add(0, graph.batch, energy)
        positions, cell, q = graph.positions.to(torch.float64), graph.cell.to(torch.float64), charges.to(torch.float64)
        long_range: list[Tensor] = []
        for system in range(n_systems):
            atoms = torch.nonzero(graph.batch == system).squeeze(1)
            long_range.append(self.ewald(q[atoms], positions[atoms], cell[system]).reshape(1))
        return total + torch.cat(long_range)


def born_charges(model: LatentEwaldMACE, graph: Graph) -> Tensor:
    """Born effective charges of one system, [n_atoms, 3, 3] in e: Z_iab = dP_a / dr_ib.

    P is sum_i q_i r_i without a box. In a box it is defined for each cell vector by the phases of the charges, and the
    phase of the atom is taken off its derivative, so that Z does not depend on the choice of images (Zhong, Kim, King
    and Cheng, arXiv:2504.05169). The mean charge is taken off first, and P is multiplied by sqrt(epsilon_factor), where
    the file says so.
    """
    settings = model.config.settings
    positions = graph.positions.detach().double().requires_grad_(True)
    moved = graph._replace(positions=positions)
    head, cell = graph.head[graph.batch], graph.cell[0].double()
    embedded = model._embedded_with_inputs(moved)
    vectors = edge_vectors(moved._replace(cell=graph.cell.double(), shifts=graph.shifts.double()))
    vectors = vectors.to(embedded.dtype)
    _, charges = model.energies_and_charges(vectors, graph.species, graph.edge_index, head, embedded)
    charges = charges.double()
    if settings.get("remove_mean", True):
        charges = charges - charges.mean()
    factor = math.sqrt(settings.get("epsilon_factor", 1.0))
    if bool((cell == 0).all()):
        rows = [_gradient((charges * positions[:, a]).sum(), positions) for a in range(3)]
        return factor * torch.stack(rows, dim=1).detach()
    phase = 2.0 * math.pi * (positions @ torch.linalg.inv(cell))  # [n, 3]
    rows = []
    for c in range(3):
        cosine, sine = torch.cos(phase[:, c]), torch.sin(phase[:, c])
        # P_c = sum q exp(i phase) / (2 pi i); the real part of exp(-i phase_i) dP_c/dr_i
        real, imaginary = (charges * sine).sum() / (2.0 * math.pi), -(charges * cosine).sum() / (2.0 * math.pi)
        d_real, d_imaginary = _gradient(real, positions), _gradient(imaginary, positions)
        rows.append(cosine.unsqueeze(1) * d_real + sine.unsqueeze(1) * d_imaginary)
    return factor * torch.einsum("ca,cnb->nab", cell, torch.stack(rows)).detach()


def _gradient(value: Tensor, positions: Tensor) -> Tensor:
    return torch.autograd.grad(value, positions, retain_graph=True)[0]
