"""The blocks of a MACE layer: equivariant linear maps, convolution, interaction, product, readouts.

Node features are tensors [n_atoms, (max_L + 1)^2, num_channels]: component (l, m) second, channel last. Weights follow
e3nn's parametrisation (unit normal, divided by sqrt(fan-in) when used), so that trained weights carry over as they are
and training behaves as in mace-torch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mace_md.model.contraction import SymmetricContraction
from mace_md.model.irreps import component_slice, convolution_paths, num_components, path_coupling
from mace_md.model.radial import ACTIVATION_SCALES, BiasedMLP, RadialMLP, activate
from mace_md.model.species import SpeciesGroups, join_species, sorted_species, split_by_species


def _mix(x: Tensor, weight: Tensor) -> Tensor:
    """Mix channels separately for each l: x [n, (L + 1)^2, C_in], weight [L' + 1, C_in, C_out] with L' <= L."""
    return torch.cat([x[:, l * l : (l + 1) * (l + 1)] @ weight[l] for l in range(weight.shape[0])], dim=1)


class EquivariantLinear(nn.Module):
    """Channel mixing with one matrix for each l."""

    def __init__(self, max_L: int, n_in: int, n_out: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(max_L + 1, n_in, n_out))

    def forward(self, x: Tensor) -> Tensor:
        """[n_atoms, >= (max_L + 1)^2, n_in] -> [n_atoms, (max_L + 1)^2, n_out]."""
        return _mix(x, self.weight / math.sqrt(self.weight.shape[1]))


class SpeciesLinear(nn.Module):
    """Channel mixing with one matrix for each l and element (e3nn's tensor product with one-hot elements)."""

    def __init__(self, max_L: int, n_species: int, n_in: int, n_out: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_species, max_L + 1, n_in, n_out))

    def forward(self, x: Tensor, groups: SpeciesGroups) -> Tensor:
        """[n_atoms, >= (max_L + 1)^2, n_in] -> [n_atoms, (max_L + 1)^2, n_out]."""
        weight = self.weight / math.sqrt(self.weight.shape[0] * self.weight.shape[2])
        parts = split_by_species(x, groups)
        return join_species([_mix(part, weight[z]) for z, part in enumerate(parts)], groups)


class PathSum(nn.Module):
    """sum_j R_path(r_ij) (Y(r_ij) (x) h_j)_path for all paths (the inner sum of eq. 8); constants only, no weights."""

    def __init__(self, max_ell: int, in_L: int):
        super().__init__()
        self.max_ell = max_ell
        self.paths: list[tuple[int, int, int]] = convolution_paths(max_ell, in_L, max_ell)
        couplings = [path_coupling(*path).permute(0, 2, 1) for path in self.paths]  # [edge, out, in]
        self.register_buffer("coupling", _block_coupling(self.paths, couplings, max_ell), persistent=False)
        self.block_sizes: list[int] = [(2 * l_in + 1) * (2 * l_out + 1) for _, l_in, l_out in self.paths]
        self.in_sizes: list[int] = [2 * l + 1 for l in range(in_L + 1)]

    def forward(self, h: Tensor, Y: Tensor, R: Tensor, sender: Tensor, receiver: Tensor) -> list[Tensor]:
        """For each l_out, the paths to it side by side: [n_atoms, 2 l_out + 1, n_paths of l_out * C].

        h [n_atoms, (in_L + 1)^2, C], Y [n_edges, (max_ell + 1)^2], R [n_edges, n_paths, C].
        """
        h_sender = h.index_select(0, sender).split(self.in_sizes, dim=1)
        blocks = (Y @ self.coupling).split(self.block_sizes, dim=1)  # every path's matrix, for every edge
        weights = R.unbind(1)
        by_l: list[list[Tensor]] = [[] for _ in range(self.max_ell + 1)]
        for i, (_, l_in, l_out) in enumerate(self.paths):
            block = blocks[i].reshape(-1, 2 * l_out + 1, 2 * l_in + 1)
            weighted = h_sender[l_in] * weights[i].unsqueeze(1)
            edge_message = block * weighted if l_in == 0 else torch.bmm(block, weighted)
            message = torch.zeros(h.shape[0], 2 * l_out + 1, h.shape[2], dtype=h.dtype, device=h.device)
            by_l[l_out].append(message.index_add(0, receiver, edge_message))
        return [torch.cat(messages, dim=2) for messages in by_l]


class Convolution(nn.Module):
    """The sum over neighbours of all paths, then one linear map for each l (eq. 8)."""

    def __init__(self, max_ell: int, in_L: int, n_in: int, n_out: int):
        super().__init__()
        self.path_sum = PathSum(max_ell, in_L)
        self.num_paths = len(self.path_sum.paths)
        counts = [sum(path[2] == l for path in self.path_sum.paths) for l in range(max_ell + 1)]
        self.weights = nn.ParameterList([torch.randn(count * n_in, n_out) for count in counts])

    def forward(self, h: Tensor, Y: Tensor, R: Tensor, sender: Tensor, receiver: Tensor) -> Tensor:
        """Messages before normalisation, [n_atoms, (max_ell + 1)^2, n_out]; arguments as for `PathSum`."""
        messages = self.path_sum(h, Y, R, sender, receiver)
        mixed = []
        for l, weight in enumerate(self.weights):
            mixed.append(messages[l] @ (weight / math.sqrt(weight.shape[0])))
        return torch.cat(mixed, dim=1)


def _block_coupling(paths: list[tuple[int, int, int]], couplings: list[Tensor], max_ell: int) -> Tensor:
    """The couplings of all paths side by side: [(max_ell + 1)^2, sum of (2 l_out + 1)(2 l_in + 1)]."""
    columns = []
    for (l_edge, _, _), coupling in zip(paths, couplings, strict=True):
        block = torch.zeros(num_components(max_ell), coupling[0].numel(), dtype=torch.float64)
        block[component_slice(l_edge)] = coupling.flatten(1)
        columns.append(block)
    return torch.cat(columns, dim=1)


class Interaction(nn.Module):
    """One message-passing step: A-features of every atom from its neighbours' features (eq. 8).

    Four kinds, by mace-torch's names. The skip connection goes around the block (Residual), or the messages are mixed
    by an element-dependent map. The sum over neighbours is divided by their average number or, for the Density kinds,
    by one plus a learned density.
    """

    def __init__(
        self,
        *,
        n_species: int,
        num_channels: int,
        max_ell: int,
        in_L: int,
        edge_L: int,
        edge_channels: int,
        out_L: int,
        radial_sizes: list[int],
        residual: bool,
        density: bool,
        avg_num_neighbors: float,
    ):
        super().__init__()
        self.residual, self.density = residual, density
        self.norm = 1.0 if density else float(avg_num_neighbors)
        self.edge_channels = edge_channels
        self.linear_up = EquivariantLinear(edge_L, num_channels, edge_channels)
        self.convolution = Convolution(max_ell, edge_L, edge_channels, num_channels)
        self.num_paths = self.convolution.num_paths
        self.radial_weights = RadialMLP([*radial_sizes, self.num_paths * edge_channels])
        skip_L = min(in_L, out_L) if residual else max_ell
        self.skip = SpeciesLinear(skip_L, n_species, num_channels, num_channels)
        self.density_weight = nn.Parameter(torch.randn(radial_sizes[0], 1)) if density else None

    def forward(
        self,
        h: Tensor,
        Y: Tensor,
        edge_features: Tensor,
        cutoff: Tensor,
        sender: Tensor,
        receiver: Tensor,
        groups: SpeciesGroups,
    ) -> tuple[Tensor, Tensor]:
        """A-features [n_atoms, (max_ell + 1)^2, C] and the skip connection (empty when there is none)."""
        R = (self.radial_weights(edge_features) * cutoff).reshape(-1, self.num_paths, self.edge_channels)
        A = self.convolution(self.linear_up(h), Y, R, sender, receiver)
        weight = self.density_weight
        if weight is not None:
            edge_density = torch.tanh((edge_features @ (weight / math.sqrt(weight.shape[0]))) ** 2) * cutoff
            density = torch.zeros(h.shape[0], 1, dtype=h.dtype, device=h.device).index_add(0, receiver, edge_density)
            A = A / (density + 1.0).unsqueeze(-1)
        else:
            A = A / self.norm
        if self.residual:
            return A, self.skip(h, groups)
        return self.skip(A, groups), torch.zeros(0, dtype=h.dtype, device=h.device)


class Gate(nn.Module):
    """Scalars through an activation, and every feature of l > 0 times a number that comes from a scalar of its own.

    The scalars of the input are [n_scalars of the output | gates of l = 1 | gates of l = 2 | ...].
    """

    def __init__(self, channels: list[int], scalar_gate: str, vector_gate: str):
        """channels: of l = 0, 1, ... of the output."""
        super().__init__()
        self.channels, self.scalar_gate, self.vector_gate = channels, scalar_gate, vector_gate
        self.scalar_scale, self.vector_scale = ACTIVATION_SCALES[scalar_gate], ACTIVATION_SCALES[vector_gate]

    @property
    def num_scalars(self) -> int:
        """Scalars of the input."""
        return sum(self.channels)

    def forward(self, parts: list[Tensor]) -> list[Tensor]:
        """For each l, [n_atoms, 2 l + 1, channels]; of l = 0 [n_atoms, 1, num_scalars] at the input."""
        pieces = parts[0].split(self.channels, dim=2)
        out = [self.scalar_scale * activate(pieces[0], self.scalar_gate)]
        for l, part in enumerate(parts):
            if l > 0:
                out.append(part * (self.vector_scale * activate(pieces[l], self.vector_gate)))
        return out


class NonLinearInteraction(nn.Module):
    """The interaction block of MH-0/1, OMOL-0 and POLAR-1 (mace-torch's RealAgnosticResidualNonLinearInteractionBlock).

    u_i = L_1 (sum_j R_ij Y_ij (x) h_j) / (alpha + beta d_i) + L_res h_i,  A_i = L_2 Gate(u_i), and a plain linear skip
    connection. The radial network sees both elements, and the density d_i is learned.
    """

    def __init__(
        self,
        *,
        n_species: int,
        num_channels: int,
        max_ell: int,
        in_L: int,
        edge_L: int,
        edge_channels: int,
        out_L: int,
        radial_sizes: list[int],
    ):
        super().__init__()
        self.edge_channels = edge_channels
        self.source_embedding = nn.Parameter(1e-3 * (2.0 * torch.rand(n_species, num_channels) - 1.0))
        self.target_embedding = nn.Parameter(1e-3 * (2.0 * torch.rand(n_species, num_channels) - 1.0))
        self.linear_up = EquivariantLinear(edge_L, num_channels, edge_channels)
        self.path_sum = PathSum(max_ell, edge_L)
        self.num_paths = len(self.path_sum.paths)
        n_in = radial_sizes[0] + 2 * num_channels
        self.radial_weights = BiasedMLP([n_in, *radial_sizes[1:], self.num_paths * edge_channels])
        self.density = BiasedMLP([n_in, 64, 1])
        self.gate = Gate([num_channels] * (max_ell + 1), "silu", "sigmoid")
        counts = [sum(path[2] == l for path in self.path_sum.paths) for l in range(max_ell + 1)]
        widths = [self.gate.num_scalars] + [num_channels] * max_ell
        self.linear_1 = nn.ParameterList(
            [torch.randn(count * edge_channels, width) for count, width in zip(counts, widths, strict=True)]
        )
        self.linear_res = nn.ParameterList([torch.randn(edge_channels, width) for width in widths[: edge_L + 1]])
        self.linear_2 = EquivariantLinear(max_ell, num_channels, num_channels)
        self.skip_map = EquivariantLinear(min(in_L, out_L), num_channels, num_channels)
        self.alpha = nn.Parameter(torch.tensor(20.0))
        self.beta = nn.Parameter(torch.tensor(0.0))

    def forward(
        self,
        h: Tensor,
        Y: Tensor,
        edge_features: Tensor,
        cutoff: Tensor,
        sender: Tensor,
        receiver: Tensor,
        groups: SpeciesGroups,
    ) -> tuple[Tensor, Tensor]:
        """As `Interaction.forward`."""
        up = self.linear_up(h)
        R, edge_density = self._radial(edge_features, cutoff, sender, receiver, groups)
        messages = self.path_sum(up, Y, R, sender, receiver)
        density = torch.zeros(h.shape[0], 1, dtype=h.dtype, device=h.device).index_add(0, receiver, edge_density)
        norm = (density * self.beta + self.alpha).unsqueeze(2)
        parts: list[Tensor] = []
        for l, weight in enumerate(self.linear_1):
            parts.append(messages[l] @ (weight / math.sqrt(weight.shape[0])) / norm)
        for l, weight in enumerate(self.linear_res):
            parts[l] = parts[l] + up[:, l * l : (l + 1) * (l + 1)] @ (weight / math.sqrt(weight.shape[0]))
        A = self.linear_2(torch.cat(self.gate(parts), dim=1))
        return A, self.skip_map(h)

    def _radial(
        self, edge_features: Tensor, cutoff: Tensor, sender: Tensor, receiver: Tensor, groups: SpeciesGroups
    ) -> tuple[Tensor, Tensor]:
        """Radial weights [n_edges, n_paths, C] and density [n_edges, 1].

        What the first linear layers make of the elements is the same for all edges of a pair of elements.
        """
        species = sorted_species(groups, edge_features.device).index_select(0, groups.place)
        n, C = edge_features.shape[1], self.source_embedding.shape[1]
        norm = 1.0 / math.sqrt(self.source_embedding.shape[0])
        species_sender, species_receiver = species.index_select(0, sender), species.index_select(0, receiver)
        hidden: list[Tensor] = []
        for first in (self.radial_weights.first, self.density.first):
            source = norm * self.source_embedding @ first.weight[:, n : n + C].t() + first.bias
            target = norm * self.target_embedding @ first.weight[:, n + C :].t()
            x = edge_features @ first.weight[:, :n].t()
            hidden.append(x + source.index_select(0, species_sender) + target.index_select(0, species_receiver))
        R = (self.radial_weights.rest(hidden[0]) * cutoff).reshape(-1, self.num_paths, self.edge_channels)
        return R, torch.tanh(self.density.rest(hidden[1]) ** 2) * cutoff


class Product(nn.Module):
    """Many-body features and the update of the node: h' = W B(A) + skip (eqs. 10 to 12)."""

    def __init__(self, contraction: SymmetricContraction, out_L: int, num_channels: int):
        super().__init__()
        self.contraction = contraction
        self.linear = EquivariantLinear(out_L, num_channels, num_channels)

    def forward(self, A: Tensor, skip: Tensor, groups: SpeciesGroups) -> Tensor:
        """A [n_atoms, (max_ell + 1)^2, C] -> node features [n_atoms, (out_L + 1)^2, C]."""
        h = self.linear(self.contraction(A, groups))
        if skip.dim() == 1:
            return h
        n_skip = skip.shape[1]  # a skip from scalars reaches the scalars only
        return torch.cat([h[:, :n_skip] + skip, h[:, n_skip:]], dim=1)


class LinearReadout(nn.Module):
    """Energy of every atom, for every head, linear in its invariant features (eq. 13, t < T)."""

    def __init__(self, num_channels: int, n_heads: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_channels, n_heads))

    def forward(self, scalars: Tensor) -> Tensor:
        """[n_atoms, C] -> [n_atoms, n_heads]."""
        return scalars @ (self.weight / math.sqrt(self.weight.shape[0]))


class NonLinearReadout(nn.Module):
    """Energy of every atom, for every head, by a network with one hidden layer for each head (eq. 13, t = T)."""

    def __init__(self, num_channels: int, hidden: int, n_heads: int, gate: str):
        super().__init__()
        self.gate, self.scale = gate, ACTIVATION_SCALES[gate]
        self.weight_in = nn.Parameter(torch.randn(n_heads, num_channels, hidden))
        self.weight_out = nn.Parameter(torch.randn(n_heads, hidden))

    def forward(self, scalars: Tensor) -> Tensor:
        """[n_atoms, C] -> [n_atoms, n_heads]."""
        n_heads, n_in, hidden = self.weight_in.shape
        x = torch.einsum("nc,hcm->nhm", scalars, self.weight_in / math.sqrt(n_in))
        x = self.scale * activate(x, self.gate)
        # mace-torch normalises by the hidden units of all heads, of which a head uses only its own
        return torch.einsum("nhm,hm->nh", x, self.weight_out / math.sqrt(n_heads * hidden))


class BiasedReadout(nn.Module):
    """As `NonLinearReadout` with a second hidden layer, biases in it and at the output, and n_out numbers for a head.

    mace-torch's NonLinearBiasReadoutBlock.
    """

    def __init__(self, num_channels: int, hidden: int, n_heads: int, gate: str, n_out: int = 1):
        super().__init__()
        self.gate, self.scale = gate, ACTIVATION_SCALES[gate]
        self.weight_in = nn.Parameter(torch.randn(n_heads, num_channels, hidden))
        self.weight_middle = nn.Parameter(torch.randn(n_heads, hidden, hidden))
        self.bias_middle = nn.Parameter(torch.zeros(n_heads, hidden))
        self.weight_out = nn.Parameter(torch.randn(n_heads, hidden, n_out))
        self.bias_out = nn.Parameter(torch.zeros(n_heads, n_out))

    def forward(self, scalars: Tensor) -> Tensor:
        """[n_atoms, C] -> [n_atoms, n_heads * n_out]."""
        n_heads, n_in, hidden = self.weight_in.shape
        norm = math.sqrt(n_heads * hidden)  # as mace-torch, see `NonLinearReadout`
        x = torch.einsum("nc,hcm->nhm", scalars, self.weight_in / math.sqrt(n_in))
        x = self.scale * activate(x, self.gate)
        x = self.bias_middle + torch.einsum("nhm,hmk->nhk", x, self.weight_middle / norm)
        x = self.scale * activate(x, self.gate)
        return (self.bias_out + torch.einsum("nhm,hmo->nho", x, self.weight_out / norm)).flatten(1)
