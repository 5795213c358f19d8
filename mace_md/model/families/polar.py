"""POLAR-1: a MACE with atomic charges and dipoles of both spins that see their own field (arXiv 2602.19411).

Total charge and spin multiplicity are inputs. Written from the paper and from mace-torch's PolarMACE.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mace_md.model.blocks import BiasedReadout, Gate
from mace_md.model.equivariant import LinearByL, by_l
from mace_md.model.families.polar_fields import PolarFields
from mace_md.model.graph import Graph, edge_vectors
from mace_md.model.hyperparameters import ModelConfig
from mace_md.model.irreps import SymmetricBasis
from mace_md.model.mace import MACE
from mace_md.model.radial import BiasedMLP

_HIDDEN = 32  # features of each l in the readout of a field update


class Invariants(nn.Module):
    """sum over l of the products of the features of two kinds, weighted for each pair of channels: [n, C]."""

    def __init__(self, n_channels: int, L: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(L + 1, n_channels, n_channels))

    def forward(self, x: list[Tensor], y: list[Tensor]) -> Tensor:
        """x, y: for each l, [n, 2 l + 1, C]."""
        total = torch.zeros(x[0].shape[0], x[0].shape[2], dtype=x[0].dtype, device=x[0].device)
        for l in range(self.weight.shape[0]):
            total = total + (x[l] * (y[l] @ self.weight[l].t())).sum(dim=1)
        return total


class FieldUpdate(nn.Module):
    """One step: new charges, dipoles and shares of the missing charge from features, fields and sources."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        C, settings = config.num_channels, config.settings
        L, source_L = config.last_L, int(settings["source_L"])
        channels, n_fields = [C] * (L + 1), 2 * len(settings["widths"])
        self.of_fields = LinearByL([n_fields] * (int(settings["field_L"]) + 1), channels)
        self.of_features = LinearByL(channels, channels)
        self.of_sources = LinearByL([2] * (source_L + 1), channels)
        self.source_embedding = nn.Parameter(torch.randn(len(config.atomic_numbers), C))
        self.invariants = Invariants(C, L)
        self.network = BiasedMLP([2 * C, 64, 64, 64, C])
        self.scale = nn.Parameter(torch.randn(L + 1, C, C))
        hidden = [_HIDDEN] * (source_L + 1)
        self.gate = Gate(hidden, "silu", "sigmoid")
        widths = [sum(hidden), *hidden[1:]]
        self.first = LinearByL(channels, widths)
        self.middle = LinearByL(hidden, widths, bias=True)
        self.last = LinearByL(hidden, [4, 2][: source_L + 1], bias=True)

    def forward(self, x: list[Tensor], fields: list[Tensor], sources: list[Tensor], species: Tensor) -> list[Tensor]:
        """x for each l [n, 2 l + 1, C], fields [n, 2 l + 1, 2 n_widths], sources [n, 2 l + 1, 2] -> [n, 1, 4] (both
        charges, both shares) and [n, 3, 2] (both dipoles)."""
        a, b, c = self.of_fields(fields), self.of_features(x), self.of_sources(sources)
        mixed = [a[l] + b[l] + c[l] for l in range(len(x))]
        elements = (self.source_embedding / math.sqrt(self.source_embedding.shape[0])).index_select(0, species)
        factors = self.network(torch.cat([self.invariants(x, mixed), elements], dim=1))
        scaled = [x[l] * (factors @ self.scale[l].t()).unsqueeze(1) for l in range(len(x))]
        return self.last(self.gate(self.middle(self.gate(self.first(scaled)))))


class LocalElectronEnergy(nn.Module):
    """Energy of an atom from its features and the charges and fields at the end, [n]."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        C, settings = config.num_channels, config.settings
        channels, n_fields = [C] * (config.last_L + 1), 2 * len(settings["widths"])
        self.of_sources = LinearByL([2] * (int(settings["source_L"]) + 1), channels, bias=True)
        self.of_fields = LinearByL([n_fields] * (int(settings["field_L"]) + 1), channels, bias=True)
        self.with_sources, self.with_fields = Invariants(C, config.last_L), Invariants(C, config.last_L)
        self.network = BiasedMLP([2 * C, 128, 128, 128, 1])

    def forward(self, h: list[Tensor], sources: list[Tensor], fields: list[Tensor]) -> Tensor:
        """Arguments as of `FieldUpdate.forward`."""
        q = self.with_sources(h, self.of_sources(sources))
        v = self.with_fields(h, self.of_fields(fields))
        return self.network(torch.cat([q, v], dim=1)).squeeze(1)


class PolarMACE(MACE):
    """See the text of this module. `total_charge` (e) and `multiplicity` (2S + 1) hold for `energies`."""

    long_range: bool = True

    def __init__(self, config: ModelConfig, bases: list[SymmetricBasis] | None = None):
        super().__init__(config, bases)
        settings, n = config.settings, config.num_interactions
        C, L, self.source_L = config.num_channels, config.last_L, int(settings["source_L"])
        channels = [C] * (L + 1)
        self.source_maps = nn.ModuleList([LinearByL(channels, [2] * (self.source_L + 1)) for _ in range(n)])
        self.mixers = nn.ModuleList([LinearByL(channels, channels) for _ in range(n)])
        self.shares = BiasedReadout(C, int(settings["share_hidden"]), 1, str(settings["share_gate"]), n_out=2)
        self.updates = nn.ModuleList([FieldUpdate(config) for _ in range(int(settings["steps"]))])
        self.local_energy = LocalElectronEnergy(config) if settings["local_energy"] else None
        self.fields = PolarFields(settings)
        self.n_steps = int(settings["steps"])
        norms = torch.ones(int(settings["field_L"]) + 1, len(settings["widths"]), dtype=torch.float64)
        self.register_buffer("field_norms", norms)  # [n_l, n_widths]
        self.register_buffer("total_charge", torch.zeros([], dtype=torch.float64), persistent=False)
        self.register_buffer("multiplicity", torch.ones([], dtype=torch.float64), persistent=False)

    @property
    @torch.jit.unused
    def inputs(self) -> tuple[str, ...]:
        """As `MACE.inputs`."""
        return ("charge", "spin")

    def local_parts(
        self, vectors: Tensor, species: Tensor, edge_index: Tensor, head: Tensor
    ) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor], Tensor]:
        """What edges alone give: energies [n], features after the last layer and their mixture over layers (for each
        l), sources before any field (for each l, [n, 2 l + 1, 2]), and shares of the missing charge [n, 2].

        Here, and in all that follows, vectors have the order (y, z, x).
        """
        features = self.node_features(vectors[:, [1, 2, 0]], species, edge_index, self._embedded(species))
        energy = torch.zeros(species.shape[0], dtype=vectors.dtype, device=vectors.device)
        mixed: list[Tensor] = []
        sources: list[Tensor] = []
        for i, (source_map, mixer) in enumerate(zip(self.source_maps, self.mixers)):  # noqa: B905 (TorchScript)
            parts = by_l(features[i])
            more, further = mixer(parts), source_map(parts)
            mixed = more if i == 0 else [a + b for a, b in zip(mixed, more)]  # noqa: B905 (TorchScript)
            sources = further if i == 0 else [a + b for a, b in zip(sources, further)]  # noqa: B905 (TorchScript)
        n_readouts = len(self.readouts)
        for i, readout in enumerate(self.readouts):
            for layer in range(len(features)):
                if n_readouts == 1 or layer == i:  # a single readout is for every layer
                    by_head = readout(features[layer][:, 0])
                    energy = energy + by_head.gather(1, head.unsqueeze(1)).squeeze(1)
        last = by_l(features[len(features) - 1])
        energy = self.scale[head] * energy + self.shift[head]
        return energy, last, mixed, sources, self.shares(features[len(features) - 1][:, 0])

    def with_total(self, sources: list[Tensor], shares: Tensor, charge: Tensor, multiplicity: Tensor) -> list[Tensor]:
        """Sources of one system whose charges of both spins add up to the total: what is missing is shared out."""
        spins = multiplicity - 1.0
        wanted = torch.stack([0.5 * (charge + spins), 0.5 * (charge - spins)])
        norm = shares.to(torch.float64).sum(dim=0)
        norm = torch.where(norm == 0.0, torch.ones_like(norm), norm)
        missing = wanted - sources[0].to(torch.float64).sum(dim=[0, 1])
        more = (shares.to(torch.float64) / norm * missing).to(shares.dtype).unsqueeze(1)
        return [sources[0] + more] + sources[1:]

    def polarized(
        self,
        local: list[list[Tensor]],
        shares: Tensor,
        species: Tensor,
        positions: Tensor,
        cell: Tensor,
        charge: Tensor,
        multiplicity: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Sources [n, 4, 2] of one system at the end, local electron energy [n] and electrostatic energy (eV).

        local: features after the last layer, their mixture, and sources, as `local_parts` gives them.
        """
        last, mixed = local[0], local[1]
        sources = self.with_total(local[2], shares, charge, multiplicity)
        before = sources
        fields: list[Tensor] = []
        dtype = shares.dtype
        for update in self.updates:
            fields = self._normalised(self.fields.features(self._dense(sources), positions, cell), dtype)
            change = update(mixed, fields, sources, species)
            more = [change[0][:, :, :2]] + change[1:]
            moved = [sources[l] + more[l] for l in range(len(sources))]
            sources = self.with_total(moved, change[0][:, 0, 2:], charge, multiplicity)
        own = torch.zeros_like(shares[:, 0])
        local_energy = self.local_energy
        if local_energy is not None:
            own = local_energy(last, [a + b for a, b in zip(sources, before)], fields)  # noqa: B905 (TorchScript)
        dense = self._dense(sources)
        return dense, own.to(torch.float64), self.fields.energy(dense.sum(dim=2), positions, cell)

    def _dense(self, sources: list[Tensor]) -> Tensor:
        """[n, 4, 2] in float64; dipoles of a model without are 0."""
        charges = sources[0].to(torch.float64)
        if len(sources) > 1:
            return torch.cat([charges, sources[1].to(torch.float64)], dim=1)
        return torch.nn.functional.pad(charges, [0, 0, 0, 3])

    def _normalised(self, fields: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
        """Features [n, 2 l + 1, 2, n_widths] divided by their norms, as [n, 2 l + 1, 2 n_widths] in `dtype`."""
        out: list[Tensor] = []
        for l, field in enumerate(fields):
            out.append((field / self.field_norms[l]).flatten(2).to(dtype))
        return out

    def energies(
        self, vectors: Tensor, positions: Tensor, cell: Tensor, species: Tensor, edge_index: Tensor, head: Tensor
    ) -> Tensor:
        """As `LatentEwaldMACE.energies`."""
        energy, last, mixed, sources, shares = self.local_parts(vectors, species, edge_index, head)
        _, local, field = self.polarized(
            [last, mixed, sources], shares, species, positions, cell, self.total_charge, self.multiplicity
        )
        return torch.cat([energy.to(torch.float64) + local, field.reshape(1)])

    def node_energies(self, vectors: Tensor, species: Tensor, edge_index: Tensor, head: Tensor) -> Tensor:
        """Raises RuntimeError: energies of this family need positions and box, see `energies`."""
        raise RuntimeError("the energies of POLAR models need positions and box, not edges alone")

    @torch.jit.unused
    def systems(self, graph: Graph) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Total energy of every system (as `forward`), and for each its atoms' sources [n, 4] and indices."""
        head, n_systems = graph.head[graph.batch], graph.cell.shape[0]
        energy, last, mixed, sources, shares = self.local_parts(
            edge_vectors(graph), graph.species, graph.edge_index, head
        )
        node = energy.to(torch.float64) + self.atomic_energies[head, graph.species]
        total = torch.zeros(n_systems, dtype=torch.float64, device=node.device).index_add(0, graph.batch, node)
        more, found = [], []
        for system in range(n_systems):
            atoms = torch.nonzero(graph.batch == system).squeeze(1)
            charge = self.total_charge if graph.charge is None else graph.charge[system].double()
            multiplicity = self.multiplicity if graph.spin is None else graph.spin[system].double()
            dense, local, field = self.polarized(
                [[x[atoms] for x in parts] for parts in (last, mixed, sources)], shares[atoms],
                graph.species[atoms], graph.positions[atoms].double(), graph.cell[system].double(), charge,
                multiplicity,
            )  # fmt: skip
            more.append(local.sum() + field)
            found.append((dense.sum(dim=2), atoms))
        return total + torch.stack(more), found

    @torch.jit.unused
    def forward(self, graph: Graph) -> Tensor:
        """Total energy of every system, E0s included, [n_systems], eV, float64."""
        return self.systems(graph)[0]
