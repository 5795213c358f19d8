"""Weights of a mace-torch model under our names, in our normalisation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mace_md.model.hyperparameters import ModelConfig
from mace_md.model.irreps import convolution_paths, symmetric_basis_from_tensors
from mace_md.model.reading.families import family_state, gate_functions
from mace_md.model.reading.module_tree import Block, fields_of, ratio_to, reshaped, with_prefix
from mace_md.model.reading.networks import biased_state, connected_sizes, linear_by_l
from mace_md.model.reading.unpickle import Refused, brief
from mace_md.model.species import species_axis


def read_state(model: Block, config: ModelConfig) -> dict[str, Tensor]:
    """The weights of `model` under our names; per element in the order of the file."""
    n_species, n_heads, C = len(config.atomic_numbers), len(config.heads), config.num_channels
    scale_shift = model.child("scale_shift") if "scale_shift" in model else None
    embedding = model.child("node_embedding.linear")
    state = {
        "atomic_numbers": torch.tensor(config.atomic_numbers, dtype=torch.int64),
        "atomic_energies": _atomic_energies(model, n_heads, n_species),
        "scale": _per_head(scale_shift, "scale", n_heads, 1.0),
        "shift": _per_head(scale_shift, "shift", n_heads, 0.0),
        "embedding": reshaped(embedding.tensor("weight"), (n_species, C), embedding),
    }
    state |= _radial_state(model.child("radial_embedding"), config)
    if config.pair_repulsion:
        state |= _repulsion_state(model.child("pair_repulsion_fn"), config)
    for layer, block in enumerate(model.child("interactions").children()):
        state |= with_prefix(f"interactions.{layer}.", _interaction_state(block, config, layer))
    _absorb_prefactor(model.child("radial_embedding.bessel_fn"), config, state)
    for layer, block in enumerate(model.child("products").children()):
        state |= with_prefix(f"products.{layer}.", _product_state(block, config, layer))
    if config.embeddings:
        state |= with_prefix("joint_embedding.", _joint_embedding_state(model, config))
    return state | family_state(model, config)


def sort_species(model: Block, state: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """`state` with the elements in ascending order, as they are in `config`; the order of a file can be another."""
    numbers = [int(z) for z in model.tensor("atomic_numbers")]
    order = sorted(range(len(numbers)), key=numbers.__getitem__)
    if order == list(range(len(numbers))):
        return state
    result = dict(state)
    for name, tensor in state.items():
        axis = species_axis(name, config)
        if axis is not None and not name.startswith(("repulsion.", "radial_embedding.")):  # taken by atomic number
            result[name] = tensor.index_select(axis, torch.tensor(order))
    result["atomic_numbers"] = state["atomic_numbers"]
    return result


def _joint_embedding_state(model: Block, config: ModelConfig) -> dict[str, Tensor]:
    joint, state = model.child("joint_embedding"), {}
    for i, embedding in enumerate(config.embeddings):
        embedder = joint.child(f"embedders.{embedding.name}")
        if embedding.kind == "categorical":
            state[f"embedders.{i}.table"] = embedder.tensor("weight")
            continue
        for name, key in (("first", "0"), ("second", "2")):
            layer = embedder.child(key)
            state[f"embedders.{i}.{name}.weight"] = layer.tensor("weight")
            if embedding.bias:
                state[f"embedders.{i}.{name}.bias"] = layer.tensor("bias")
    state["project"] = joint.child("project.0").tensor("weight")
    state["readout"] = torch.zeros(config.num_channels, 0, dtype=torch.float64)
    if config.embedding_readout:
        linear = linear_by_l(model.child("embedding_readout.linear"))
        state["readout"] = linear[0]
    return state


def _atomic_energies(model: Block, n_heads: int, n_species: int) -> Tensor:
    if "atomic_energies_fn" not in model.modules:  # models of dipoles have no energies
        return torch.zeros(n_heads, n_species, dtype=torch.float64)
    block = model.child("atomic_energies_fn")
    energies = torch.atleast_2d(block.tensor("atomic_energies")).double()
    return reshaped(energies, (n_heads, n_species), block)


def _per_head(block: Block | None, name: str, n_heads: int, default: float) -> Tensor:
    if block is None:  # a MACE without scale and shift
        return torch.full((n_heads,), default, dtype=torch.float64)
    return reshaped(torch.atleast_1d(block.tensor(name)).double(), (n_heads,), block)


def _radial_state(block: Block, config: ModelConfig) -> dict[str, Tensor]:
    basis, state = block.child("bessel_fn"), {}
    if config.radial_type == "bessel":
        state["basis.frequencies"] = basis.tensor("bessel_weights")
    elif config.radial_type == "gaussian":
        state["basis.centres"] = basis.tensor("gaussian_weights")
    if config.distance_transform != "none":
        transform = block.child("distance_transform")
        state["transform.covalent_radii"] = transform.tensor("covalent_radii")[list(config.atomic_numbers)]
        if config.distance_transform == "agnesi":
            state["transform.exponents"] = torch.stack([transform.tensor(name) for name in ("q", "p")])
            state["transform.amplitude"] = transform.tensor("a")
        else:
            state["transform.alpha"] = transform.tensor("alpha")
    return with_prefix("radial_embedding.", state)


def _repulsion_state(block: Block, config: ModelConfig) -> dict[str, Tensor]:
    return with_prefix(
        "repulsion.",
        {
            "charges": torch.tensor(config.atomic_numbers, dtype=torch.float64),
            "covalent_radii": block.tensor("covalent_radii")[list(config.atomic_numbers)],
            "coefficients": block.tensor("c"),
            "exponents": torch.tensor([3.2, 0.9423, 0.4028, 0.2016], dtype=torch.float64),
            "a_exp": block.tensor("a_exp"),
            "a_prefactor": block.tensor("a_prefactor"),
        },
    )


def _interaction_state(block: Block, config: ModelConfig, layer: int) -> dict[str, Tensor]:
    state = {"linear_up.weight": _stacked(linear_by_l(block.child("linear_up")))}
    if config.is_nonlinear(layer):
        return state | _nonlinear_state(block, config, layer)
    network = block.child("conv_tp_weights")
    for i in range(len(network.modules)):
        state[f"radial_weights.weights.{i}"] = network.child(f"layer{i}").tensor("weight")
    last = f"radial_weights.weights.{len(network.modules) - 1}"
    state[last] = _sort_paths(block.child("conv_tp"), state[last], config, layer)
    for l, weight in linear_by_l(block.child("linear")).items():
        state[f"convolution.weights.{l}"] = weight
    skip_L = min(config.in_L(layer), config.out_L(layer)) if config.is_residual(layer) else config.max_ell
    skip = _species_linear(block.child("skip_tp"), len(config.atomic_numbers))
    state["skip.weight"] = skip[:, : skip_L + 1]  # what leads to features that are not used is left out
    if config.has_density(layer):
        if connected_sizes(block.child("density_fn")) != [config.num_bessel, 1]:
            raise Refused(f"{block.path}.density_fn has hidden layers, which are unknown here.")
        state["density_weight"] = block.child("density_fn.layer0").tensor("weight")
    return state


def _nonlinear_state(block: Block, config: ModelConfig, layer: int) -> dict[str, Tensor]:
    """Of a RealAgnosticResidualNonLinearInteractionBlock, but for linear_up."""
    state, n_species = {}, len(config.atomic_numbers)
    for name in ("source_embedding", "target_embedding"):
        linear = block.child(name)
        state[name] = reshaped(linear_by_l(linear)[0], (n_species, config.num_channels), linear)
    state |= with_prefix("radial_weights.", biased_state(block.child("conv_tp_weights")))
    last = f"radial_weights.rest.{3 * len(config.radial_MLP) - 1}"
    for name in (f"{last}.weight", f"{last}.bias"):
        columns = state[name].T if state[name].dim() == 2 else state[name].unsqueeze(0)
        columns = _sort_paths(block.child("conv_tp"), columns, config, layer)
        state[name] = (columns.T if state[name].dim() == 2 else columns[0]).contiguous()
    state |= with_prefix("density.", biased_state(block.child("density_fn")))
    _refuse_other_gate(block.child("equivariant_nonlin"), config)
    for l, weight in linear_by_l(block.child("linear_1")).items():
        state[f"linear_1.{l}"] = weight
    for l, weight in linear_by_l(block.child("linear_res")).items():
        if weight.shape[0]:
            state[f"linear_res.{l}"] = weight
    state["linear_2.weight"] = _stacked(linear_by_l(block.child("linear_2")))
    skip = linear_by_l(block.child("skip_tp"))
    state["skip_map.weight"] = _filled(skip, min(config.in_L(layer), config.out_L(layer)), config.num_channels)
    return state | {"alpha": block.tensor("alpha"), "beta": block.tensor("beta")}


def _refuse_other_gate(gate: Block, config: ModelConfig) -> None:
    scalar, vector = gate_functions(gate)
    expected = [(config.num_channels, l) for l in range(1, config.max_ell + 1)]
    if (scalar, vector) != ("silu", "sigmoid") or gate.irreps("irreps_gated") != expected:
        raise Refused(f"{gate.path} is another gate than that of the published models.")


def _stacked(by_l: dict[int, Tensor]) -> Tensor:
    """Matrices of l = 0, 1, ... as one tensor [n_l, n_in, n_out]."""
    return torch.stack([by_l[l] for l in range(len(by_l))])


def _filled(by_l: dict[int, Tensor], max_l: int, channels: int) -> Tensor:
    """As `_stacked`, up to max_l, with zeros where the file has nothing."""
    zeros = torch.zeros(channels, channels, dtype=torch.float64)
    return torch.stack([by_l[l] if len(by_l.get(l, ())) else zeros for l in range(max_l + 1)])


def _sort_paths(product: Block, weight: Tensor, config: ModelConfig, layer: int) -> Tensor:
    """The last radial weight with its columns in our order of paths and our normalisation of them."""
    in1, in2, out = (product.irreps(name) for name in ("irreps_in1", "irreps_in2", "irreps_out"))
    columns, start = {}, 0
    for instruction in product.setting("instructions", ()):
        i1, i2, i3, mode, _, path_weight, shape = fields_of(instruction, 7)
        l1, l2, l3 = in1[i1][1], in2[i2][1], out[i3][1]
        if mode != "uvu" or tuple(shape) != (in1[i1][0], 1) or (l2, l1, l3) in columns:
            raise Refused(f"{product.path} has tensor products that are unknown here ({brief(mode)}, {brief(shape)}).")
        n = in1[i1][0]
        columns[(l2, l1, l3)] = weight[:, start : start + n] * ratio_to(path_weight, math.sqrt(2 * l3 + 1))
        start += n
    paths = convolution_paths(config.max_ell, in1[-1][1], config.max_ell)
    if sorted(columns) != sorted(paths) or start != weight.shape[1]:
        raise Refused(f"{product.path} of layer {layer} has other paths than a MACE of these irreps.")
    # The linear map that follows sums over paths in the order of the file, which must be ours for each l.
    if [p for p in columns if p in paths] != paths:
        raise Refused(f"{product.path} of layer {layer} has its paths in an unknown order.")
    return torch.cat([columns[path] for path in paths], dim=1)


def _species_linear(block: Block, n_species: int) -> Tensor:
    """Weights of e3nn's tensor product with one-hot elements, [n_species, n_l, n_in, n_out], in our normalisation."""
    if block.kind != "FullyConnectedTensorProduct":
        raise Refused(f"{block.path} ({block.kind}) is unknown here.")
    in1, out = block.irreps("irreps_in1"), block.irreps("irreps_out")
    weight, start, by_l = block.tensor("weight"), 0, {}
    for instruction in block.setting("instructions", ()):
        i1, _, i3, mode, _, path_weight, shape = fields_of(instruction, 7)
        l, n = out[i3][1], math.prod(shape)
        if mode != "uvw" or tuple(shape) != (in1[i1][0], n_species, out[i3][0]) or l in by_l or in1[i1][1] != l:
            raise Refused(f"{block.path} has tensor products that are unknown here ({brief(mode)}, {brief(shape)}).")
        part = reshaped(weight[start : start + n], tuple(shape), block).transpose(0, 1)
        by_l[l] = part * ratio_to(path_weight, math.sqrt((2 * l + 1) / (shape[0] * n_species)))
        start += n
    if not by_l:
        raise Refused(f"{block.path} connects nothing.")
    zeros = torch.zeros_like(next(iter(by_l.values())))
    return torch.stack([by_l.get(l, zeros) for l in range(max(by_l) + 1)], dim=1)


def _absorb_prefactor(basis: Block, config: ModelConfig, state: dict[str, Tensor]) -> None:
    """Put the rounding of the Bessel prefactor of a float32 file into the weights that multiply the basis."""
    if config.radial_type != "bessel":
        return
    factor = ratio_to(basis.number("prefactor"), math.sqrt(2.0 / config.r_max))
    for layer in range(config.num_interactions):
        for name in ("radial_weights.weights.0", "density_weight"):
            if f"interactions.{layer}.{name}" in state:
                state[f"interactions.{layer}.{name}"] = state[f"interactions.{layer}.{name}"] * factor
        for name in ("radial_weights.first.weight", "density.first.weight"):
            if f"interactions.{layer}.{name}" in state:
                state[f"interactions.{layer}.{name}"][:, : config.num_bessel] *= factor


def _product_state(block: Block, config: ModelConfig, layer: int) -> dict[str, Tensor]:
    contractions = block.child("symmetric_contractions.contractions").children()
    nu, L_out = config.correlation[layer], config.out_L(layer)
    present = [l for _, l in block.child("linear").irreps("irreps_out")]
    if len(contractions) != len(present):
        raise Refused(f"{block.path} has products for {len(contractions)} values of L instead of {len(present)}.")
    n = (config.max_ell + 1) ** 2
    tensors, weights = [], []
    for L in range(L_out + 1):
        if L not in present:
            tensors.append([torch.zeros(2 * L + 1, *[n] * degree, 0).double() for degree in range(1, nu + 1)])
            continue
        contraction = contractions[present.index(L)]
        by_degree = [contraction.tensor(f"U_matrix_{degree}") for degree in range(1, nu + 1)]
        tensors.append([U if L else U.unsqueeze(0) for U in by_degree])
        lower = contraction.child("weights") if nu > 1 else None
        weights += [lower.tensor(str(nu - 1 - degree)) for degree in range(1, nu)] if lower else []
        weights.append(contraction.tensor("weights_max"))
    basis = symmetric_basis_from_tensors(tensors)
    return {
        "contraction.factors": basis.factors.T.contiguous(),
        "contraction.term_sizes": torch.tensor(basis.sizes, dtype=torch.int64),
        "contraction.coupling": basis.coupling,
        "contraction.weight": torch.cat(weights, dim=1),
        "linear.weight": _filled(linear_by_l(block.child("linear")), L_out, config.num_channels),
    }
