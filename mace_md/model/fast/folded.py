"""The folded form of a two-layer MACE: the same function of the positions with far fewer operations.

For a fixed list of elements much of MACE is linear algebra on constants, which is done here once, in float64:

- the features before layer 1 depend on the element only, so embedding, linear_up, the linear map after the sum over
  neighbours and the element-dependent map all go into the radial functions of layer 1;
- the linear map after the product of layer 1 meets linear_up of layer 2, the skip connection and the readouts with
  nothing in between, so each pair becomes one matrix;
- product weights and coupling coefficients become one weight for each monomial.

`FoldedMACE` is the definition of what the native kernels compute, their fallback and their oracle. docs/theory.md has
the algebra. Models that do not have this form raise `CannotFold`, which names the reason.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from mace_md.model.blocks import Interaction, PathSum
from mace_md.model.build import select_species
from mace_md.model.contraction import polynomials
from mace_md.model.irreps import num_components, path_coupling
from mace_md.model.mace import MACE
from mace_md.model.radial import ACTIVATION_SCALES, activate
from mace_md.model.species import SpeciesGroups, group_by_species, join_species, split_by_species


class CannotFold(ValueError):
    """The model does not have the folded form; the message says why."""


class RadialHidden(nn.Module):
    """The part of a layer's radial network before its last, linear, layer; carries the cutoff."""

    def __init__(self, model: MACE, interaction: Interaction):
        super().__init__()
        self.embedding = model.radial_embedding
        self.network = interaction.radial_weights
        self.scale = ACTIVATION_SCALES["silu"]
        self.density_weight = interaction.density_weight  # a parameter, or None

    def forward(self, r: Tensor, species_i: Tensor, species_j: Tensor) -> tuple[Tensor, Tensor]:
        """r [n, 1], A -> hidden features [n, n_hidden] and density [n, 1] (empty when the layer has none)."""
        features, cutoff = self.embedding(r, species_i, species_j)
        hidden = features
        for i, weight in enumerate(self.network.weights):
            if i < self.network.last:
                hidden = self.scale * torch.nn.functional.silu(hidden @ (weight / math.sqrt(weight.shape[0])))
        density = torch.zeros(0, dtype=r.dtype, device=r.device)
        density_weight = self.density_weight
        if density_weight is not None:
            weight = density_weight / math.sqrt(density_weight.shape[0])
            density = torch.tanh((features @ weight) ** 2) * cutoff
        return hidden * cutoff, density


class FoldedMACE(nn.Module):
    """Interaction energies of atoms for one head of a two-layer MACE; drop-in for `MACE.node_energies`.

    T elements, C channels, C2 channels of the second convolution, L the highest l that travels along its edges.
    Features are [atom, component, channel]; energies in eV, lengths in A.

    Buffers: radial0_weight [T (receiver) or 1, T (sender), max_ell + 1, n_hidden, C]; radial1_weight [n_hidden,
    n_paths * C2]; factors0/1 and sizes0/1, the monomials; weight0/1 [T or 1, n_terms, C]; W_h [L + 1, C, C2];
    bias_h [T, C2]; W_a[l] [T or 1, n_paths of l * C2, C]; readout0 [C]; readout0_bias [T]; W_r [C, n_mlp];
    W_s [T, C, n_mlp]; b_r [T, n_mlp]; v_r [n_mlp].
    """

    def __init__(self, model: MACE):
        super().__init__()
        _refuse(model)
        model = copy.deepcopy(model).to(torch.float64).requires_grad_(False)
        config, (first, second) = model.config, model.interactions
        self.r_max, self.n_species, self.max_ell = model.r_max, model.n_species, config.max_ell
        self.num_channels, self.edge_channels, self.gate = model.num_channels, second.edge_channels, config.gate
        self.edge_L = second.linear_up.weight.shape[0] - 1
        self.register_buffer("atomic_numbers", model.atomic_numbers)
        self.register_buffer("scale", model.scale[:1])
        self.register_buffer("shift", model.shift[:1])
        self.harmonics, self.repulsion = model.harmonics, model.repulsion
        self.hidden0, self.hidden1 = RadialHidden(model, first), RadialHidden(model, second)
        self.has_density0, self.has_density1 = first.density, second.density
        self.path_sum: PathSum = second.convolution.path_sum
        self.num_paths = second.convolution.num_paths
        self.radial_by_pair = config.distance_transform != "none"
        self.radial0_by_sender = first.residual and not self.radial_by_pair
        self._fold_layer_1(model)
        self._fold_layer_2(model)
        self._fold_readouts(model)

    # --- algebra, once ---------------------------------------------------------------------------------------------

    @torch.jit.unused
    def _fold_layer_1(self, model: MACE) -> None:
        first, product, second = model.interactions[0], model.products[0], model.interactions[1]
        embedding = model.embedding / math.sqrt(self.n_species)  # [T, C]
        up = embedding @ _scaled(first.linear_up.weight)[0]  # [T, C_e]
        last = first.radial_weights.weights[-1]
        last = (last / math.sqrt(last.shape[0])).reshape(len(last), self.max_ell + 1, -1)  # [n_hidden, l, C_e]
        by_l = []
        for l, weight in enumerate(first.convolution.weights):
            sign = path_coupling(l, 0, l)[0, 0, 0]  # the coupling of a scalar with Y_l is a multiple of the identity
            matrix = sign * weight / math.sqrt(weight.shape[0]) / first.norm  # [C_e, C]
            matrix = matrix.unsqueeze(0)
            if not first.residual:
                matrix = matrix @ _species_scaled(first.skip.weight)[:, l]  # [T (receiver), C_e, C]
            by_l.append(torch.einsum("hc,jc,ick->ijhk", last[:, l], up, matrix))
        self.register_buffer("radial0_weight", torch.stack(by_l, dim=2))
        n_outputs = num_components(self.edge_L)
        self._set_polynomial("0", product, n_outputs)
        mix = _scaled(product.linear.weight)  # [max_L + 1, C, C]
        self.register_buffer("W_h", mix[: self.edge_L + 1] @ _scaled(second.linear_up.weight))
        constant = torch.zeros(self.n_species, self.num_channels, dtype=torch.float64)
        if first.residual:
            constant = torch.einsum("zc,zck->zk", embedding, _species_scaled(first.skip.weight)[:, 0])
        self._scalars = (mix[0], constant)  # h_1 scalars = M0[0] @ mix + constant[z]; used by the folds that follow
        self.register_buffer("bias_h", constant @ _scaled(second.linear_up.weight)[0])

    @torch.jit.unused
    def _fold_layer_2(self, model: MACE) -> None:
        second = model.interactions[1]
        last = second.radial_weights.weights[-1]
        self.register_buffer("radial1_weight", last / math.sqrt(last.shape[0]))
        mixing = []
        for l, weight in enumerate(second.convolution.weights):
            matrix = (weight / math.sqrt(weight.shape[0]) / second.norm).unsqueeze(0)
            if not second.residual:
                matrix = matrix @ _species_scaled(second.skip.weight)[:, l]
            mixing.append(nn.Parameter(matrix.contiguous(), requires_grad=False))
        self.W_a = nn.ParameterList(mixing)
        self._set_polynomial("1", model.products[1], 1)

    @torch.jit.unused
    def _fold_readouts(self, model: MACE) -> None:
        mix, constant = self._scalars
        del self._scalars
        skip = torch.zeros(self.n_species, self.num_channels, self.num_channels, dtype=torch.float64)
        if model.interactions[1].residual:
            skip = _species_scaled(model.interactions[1].skip.weight)[:, 0]
        readout0 = torch.zeros(self.num_channels, dtype=torch.float64)
        if len(model.readouts) == 2:
            readout0 = model.readouts[0].weight[:, 0] / math.sqrt(self.num_channels)
        last = model.readouts[-1]
        W_in = last.weight_in[0] / math.sqrt(last.weight_in.shape[1])
        self.register_buffer("readout0", mix @ readout0)
        self.register_buffer("readout0_bias", constant @ readout0)
        self.register_buffer("W_r", _scaled(model.products[1].linear.weight)[0] @ W_in)
        self.register_buffer("W_s", mix @ skip @ W_in)
        self.register_buffer("b_r", torch.einsum("zc,zck->zk", constant, skip @ W_in))
        v_r = last.weight_out[0] / math.sqrt(last.weight_out.shape[1]) * ACTIVATION_SCALES[self.gate]
        self.register_buffer("v_r", v_r)

    @torch.jit.unused
    def _set_polynomial(self, name: str, product: nn.Module, n_outputs: int) -> None:
        """Keep the monomials of the first `n_outputs` outputs of a product, with one weight for each."""
        contraction = product.contraction
        n_terms = sum(contraction.sizes[:n_outputs])
        setattr(self, "sizes" + name, contraction.sizes[:n_outputs])
        self.register_buffer("factors" + name, contraction.factors[:, :n_terms].clone())
        self.register_buffer("weight" + name, contraction.term_weights()[:, :n_terms].clone())

    # --- evaluation ------------------------------------------------------------------------------------------------

    def node_energies(self, vectors: Tensor, species: Tensor, edge_index: Tensor, head: Tensor) -> Tensor:
        """Interaction energy of every atom (no E0), [n_atoms], eV; as `MACE.node_energies`, but `head` is unused."""
        sender, receiver = edge_index[0], edge_index[1]
        groups = group_by_species(species, self.n_species)
        r = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
        Y = self.harmonics(vectors / r)
        species_i, species_j = species[sender], species[receiver]

        A0 = self.layer_1(r, Y, species, sender, receiver, groups)
        M0 = polynomials(A0, self.weight0, self.factors0, self.sizes0, groups)
        H = _mix_components(M0, self.W_h) + torch.nn.functional.pad(
            self.bias_h[species].unsqueeze(1), [0, 0, 0, M0.shape[1] - 1]
        )
        A1 = self.layer_2(r, Y, H, species, sender, receiver, groups)
        M1 = polynomials(A1, self.weight1, self.factors1, self.sizes1, groups)
        energy = self.readout(M0[:, 0], M1[:, 0], species, groups)
        repulsion = self.repulsion
        if repulsion is not None:
            energy = energy.index_add(0, receiver, repulsion(r, species_i, species_j))
        return self.scale * energy + self.shift

    def layer_1(
        self, r: Tensor, Y: Tensor, species: Tensor, sender: Tensor, receiver: Tensor, groups: SpeciesGroups
    ) -> Tensor:
        """A of layer 1, [n_atoms, (max_ell + 1)^2, C].

        The sum over neighbours runs over the hidden radial features, separately for each element of the neighbours; the
        last radial layer, with all that is folded into it, follows once for each atom.
        """
        n_atoms, n_types = species.shape[0], self.n_species
        hidden, edge_density = self.hidden0(r, species[sender], species[receiver])
        n_hidden, n_Y = hidden.shape[1], Y.shape[1]
        sums = torch.zeros(n_atoms * n_types, n_Y, n_hidden, dtype=Y.dtype, device=Y.device)
        products = Y.unsqueeze(2) * hidden.unsqueeze(1)
        sums = sums.index_add(0, receiver * n_types + species[sender], products)
        sums = sums.reshape(n_atoms, n_types, n_Y, n_hidden).transpose(1, 2).reshape(n_atoms, n_Y, n_types * n_hidden)
        if self.radial0_weight.shape[0] == 1:
            A = self._layer_1_mix(sums, 0)
        else:
            parts = split_by_species(sums, groups)
            A = join_species([self._layer_1_mix(part, z) for z, part in enumerate(parts)], groups)
        return _normalise(A, edge_density, receiver)

    def _layer_1_mix(self, sums: Tensor, z: int) -> Tensor:
        weights = self.radial0_weight[z].transpose(0, 1).flatten(1, 2)  # [max_ell + 1, T * n_hidden, C]
        return _mix_components(sums, weights)

    def layer_2(
        self,
        r: Tensor,
        Y: Tensor,
        H: Tensor,
        species: Tensor,
        sender: Tensor,
        receiver: Tensor,
        groups: SpeciesGroups,
    ) -> Tensor:
        """A of layer 2, [n_atoms, (max_ell + 1)^2, C]."""
        hidden, edge_density = self.hidden1(r, species[sender], species[receiver])
        R = (hidden @ self.radial1_weight).reshape(-1, self.num_paths, self.edge_channels)
        messages = self.path_sum(H, Y, R, sender, receiver)
        mixed = []
        for l, weight in enumerate(self.W_a):
            if weight.shape[0] == 1:
                mixed.append(messages[l] @ weight[0])
            else:
                parts = split_by_species(messages[l], groups)
                mixed.append(join_species([part @ weight[z] for z, part in enumerate(parts)], groups))
        return _normalise(torch.cat(mixed, dim=1), edge_density, receiver)

    def readout(self, M0: Tensor, M1: Tensor, species: Tensor, groups: SpeciesGroups) -> Tensor:
        """Energy of every atom before scale and shift, from the scalar products [n_atoms, C] of both layers."""
        parts = split_by_species(M0, groups)
        skip = join_species([part @ self.W_s[z] + self.b_r[z] for z, part in enumerate(parts)], groups)
        hidden = activate(M1 @ self.W_r + skip, self.gate)
        return M0 @ self.readout0 + self.readout0_bias[species] + hidden @ self.v_r

    # --- radial functions as functions of the distance, for tables ---------------------------------------------------

    @torch.jit.unused
    def radial_features(self, layer: int, r: Tensor, i: int, j: int) -> tuple[Tensor, Tensor]:
        """Hidden radial features [n, n_hidden] of an edge from an atom of type j to one of type i in layer 0 or 1, and
        what it adds to the density there, [n, 1] (empty when the layer has none); r [n], A."""
        sender, receiver = (torch.full(r.shape, z, dtype=torch.int64) for z in (j, i))
        return (self.hidden1 if layer else self.hidden0)(r.unsqueeze(1), sender, receiver)

    @torch.jit.unused
    def radial_weights(self, layer: int, i: int, j: int) -> Tensor:
        """From the hidden radial features to the radial functions, [functions, n_hidden, channels].

        The functions of layer 0 are those of l = 0 ... max_ell, for channels of A; those of layer 1 belong to the paths
        of `path_sum`, for channels of H.
        """
        if layer == 0:
            return self.radial0_weight[i if len(self.radial0_weight) > 1 else 0, j]
        return self.radial1_weight.reshape(-1, self.num_paths, self.edge_channels).transpose(0, 1)

    @torch.jit.unused
    def has_density(self, layer: int) -> bool:
        """Whether the sums of layer 0 or 1 are divided by a density."""
        return bool(self.has_density1 if layer else self.has_density0)


def fold(model: MACE, atomic_numbers: list[int] | None = None) -> FoldedMACE:
    """The folded form of `model` in float64, for the given elements only.

    Raises CannotFold, with the reason, when the model does not have this form.
    """
    _refuse(model)
    return FoldedMACE(model if atomic_numbers is None else select_species(model, atomic_numbers))


def _refuse(model: MACE) -> None:
    """Raise CannotFold when the algebra above does not hold for `model`."""
    config = model.config
    if config.num_interactions != 2:
        raise CannotFold(f"the model has {config.num_interactions} layers; the folded form is for two")
    if config.family != "energy":
        raise CannotFold(f"the folded form is for energies of edges alone, not for the family {config.family}")
    if any(config.is_nonlinear(layer) for layer in range(2)):
        raise CannotFold("its NonLinear interaction blocks have a gate inside the layer")
    if config.embeddings:
        raise CannotFold("it has further inputs, such as the total charge, which are not settled")
    if config.bias_readout:
        raise CannotFold("its readout has two hidden layers")
    if len(config.heads) != 1:
        raise CannotFold(f"the model has {len(config.heads)} heads; select one of {', '.join(config.heads)}")


def _scaled(weight: Tensor) -> Tensor:
    """Weights [L + 1, n_in, n_out] of an EquivariantLinear with their normalisation."""
    return weight / math.sqrt(weight.shape[1])


def _species_scaled(weight: Tensor) -> Tensor:
    """Weights [T, L + 1, n_in, n_out] of a SpeciesLinear with their normalisation."""
    return weight / math.sqrt(weight.shape[0] * weight.shape[2])


def _mix_components(x: Tensor, weights: Tensor) -> Tensor:
    """x [n, (L + 1)^2, n_in] times one matrix for each l, weights [L + 1, n_in, n_out]."""
    return torch.cat([x[:, l * l : (l + 1) * (l + 1)] @ weights[l] for l in range(weights.shape[0])], dim=1)


def _normalise(A: Tensor, edge_density: Tensor, receiver: Tensor) -> Tensor:
    """A divided by one plus the density around each atom, if the layer has one."""
    if edge_density.numel() == 0:
        return A
    density = torch.zeros(A.shape[0], 1, dtype=A.dtype, device=A.device).index_add(0, receiver, edge_density)
    return A / (1.0 + density).unsqueeze(2)
