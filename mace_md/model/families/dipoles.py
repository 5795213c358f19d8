"""Models of dipoles and polarizabilities: AtomicDipolesMACE, EnergyDipolesMACE, AtomicDielectricMACE of mace-torch.

Dipoles come out in e A for every one of them. AtomicDipolesMACE and EnergyDipolesMACE were trained on Debye: what their
readouts give is divided by 4.8032 D/(e A); charges that a data set gives for the atoms (`Qs`) are 0 here.
"""

from __future__ import annotations

from typing import NamedTuple, Optional

import torch
from torch import Tensor, nn

from mace_md.errors import InputError
from mace_md.model.equivariant import EquivariantReadout, by_l
from mace_md.model.graph import Graph, edge_vectors
from mace_md.model.hyperparameters import ModelConfig, dipole_outputs
from mace_md.model.irreps import SymmetricBasis
from mace_md.model.mace import MACE
from mace_md.units import DEBYE_PER_E_ANGSTROM


class Response(NamedTuple):
    """What a model of dipoles says of the systems of a graph."""

    dipole: Tensor  # [n_systems, 3], e A
    polarizability: Optional[Tensor]  # [n_systems, 3, 3], in the unit of the training data
    charges: Optional[Tensor]  # [n_atoms], e


class DipoleMACE(MACE):
    """See the text of this module. Only the family "energy-dipole" has energies."""

    def __init__(self, config: ModelConfig, bases: list[SymmetricBasis] | None = None):
        super().__init__(config, bases)
        self.family = config.family
        self.unit = 1.0 if config.family == "dielectric" else 1.0 / DEBYE_PER_E_ANGSTROM  # e A of what readouts give
        self.with_polarizability = bool(config.settings.get("polarizability", False))
        if config.family == "dielectric":
            self.register_buffer("change_of_basis", torch.zeros(6, 3, 3, dtype=torch.float64))

    @property
    @torch.jit.unused
    def inputs(self) -> tuple[str, ...]:
        """As `MACE.inputs`."""
        return ("charge",) if self.config.family == "dielectric" else ()

    @torch.jit.unused
    def _make_readouts(self, config: ModelConfig) -> list[nn.Module]:
        C, last, settings = config.num_channels, config.num_interactions - 1, config.settings
        readouts: list[nn.Module] = []
        for layer in range(config.num_interactions):
            gated = layer == last and last > 0
            readouts.append(
                EquivariantReadout(
                    [C] * (config.out_L(layer) + 1),
                    dipole_outputs(config),
                    list(settings["hidden"]) if gated else [],
                    settings["scalar_gate"],
                    settings["gate"],
                )
            )
        return readouts

    def outputs(self, vectors: Tensor, species: Tensor, edge_index: Tensor) -> list[Tensor]:
        """Sums of the readouts of all layers, for l = 0, 1, 2: [n_atoms, 2 l + 1, n]; arguments of `node_energies`."""
        features = self.node_features(vectors, species, edge_index, self._embedded(species))
        total: list[Tensor] = []
        for i, readout in enumerate(self.readouts):
            parts = readout(by_l(features[i]))
            total = parts if i == 0 else [a + b for a, b in zip(total, parts)]  # noqa: B905 (TorchScript)
        return total

    def node_energies(self, vectors: Tensor, species: Tensor, edge_index: Tensor, head: Tensor) -> Tensor:
        """As `MACE.node_energies`; raises RuntimeError for a model without energies."""
        if self.family != "energy-dipole":
            raise RuntimeError("this model gives dipoles, no energies: it cannot drive a simulation")
        return self.outputs(vectors, species, edge_index)[0][:, 0, 0]

    def forward(self, graph: Graph) -> Tensor:
        """As `MACE.forward`; raises RuntimeError for a model without energies."""
        head = graph.head[graph.batch]
        energy = self.node_energies(edge_vectors(graph), graph.species, graph.edge_index, head).to(torch.float64)
        energy = energy + self.atomic_energies[head, graph.species]
        total = torch.zeros(graph.cell.shape[0], dtype=torch.float64, device=energy.device)
        return total.index_add(0, graph.batch, energy)

    def response(self, graph: Graph) -> Response:
        """Dipoles, and polarizabilities where the model has them, of the systems of `graph`, float64.

        The dipole of a system with a net charge refers to the origin. Positions are taken as they are: give molecules
        whole. In a box the dipole of "dielectric" models is that of these images.
        """
        parts = self.outputs(edge_vectors(graph), graph.species, graph.edge_index)
        n, batch = graph.cell.shape[0], graph.batch
        dipole = _per_system(parts[1][:, :, 0], batch, n)
        if self.family != "dielectric":
            return Response(dipole * self.unit, None, None)
        charges = parts[0][:, 0, 0].to(torch.float64)
        counts = _per_system(torch.ones_like(charges), batch, n)
        total = torch.zeros_like(counts) if graph.charge is None else graph.charge.to(torch.float64)
        excess = (_per_system(charges, batch, n) - total) / counts
        charges = charges - excess[batch]
        dipole = dipole + _per_system(charges.unsqueeze(1) * graph.positions.to(torch.float64), batch, n)
        if not self.with_polarizability:
            return Response(dipole, None, charges)
        spherical = torch.cat([parts[0][:, 0, 1:2], parts[2][:, :, 0]], dim=1)
        tensor = torch.einsum("ni,ijk->njk", _per_system(spherical, batch, n), self.change_of_basis.to(torch.float64))
        return Response(dipole, tensor, charges)


def _per_system(values: Tensor, batch: Tensor, n_systems: int) -> Tensor:
    """Sum of the values [n_atoms, ...] of each system, float64."""
    total = torch.zeros([n_systems, *values.shape[1:]], dtype=torch.float64, device=values.device)
    return total.index_add(0, batch, values.to(torch.float64))


def require_dipoles(model: nn.Module) -> DipoleMACE:
    """`model`, if it gives dipoles; raises InputError."""
    if not isinstance(model, DipoleMACE):
        raise InputError("this model gives energies, no dipoles: take a model of dipoles (`mace-md models list`)")
    return model
