"""Our model from the records of a mace-torch model: hyper-parameters read off its blocks, weights under our names.

mace-torch stores modules, not hyper-parameters; they are recovered from the shapes and settings of the blocks, and what
has no counterpart here is refused by its name. Normalisations are taken from the file: where its factors differ from
ours (older e3nn, constants rounded to float32), the difference goes into the weights.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from mace_md.model.hyperparameters import INTERACTIONS, ModelConfig
from mace_md.model.irreps import convolution_paths, symmetric_basis_from_tensors
from mace_md.model.radial import ACTIVATION_SCALES
from mace_md.model.reading.archive import Archive
from mace_md.model.reading.module_tree import Block, count_scalars, fields_of, ratio_to, reshaped, shown, with_prefix
from mace_md.model.reading.unpickle import Global, Record, Refused, brief

LARGEST_ELL = 11  # e3nn has no Wigner 3j symbols beyond
_BASES = {"BesselBasis": "bessel", "GaussianBasis": "gaussian", "ChebychevBasis": "chebyshev"}
_TRANSFORMS = {"AgnesiTransform": "agnesi", "SoftTransform": "soft"}
_KNOWN_CHILDREN = {  # what a model is made of; anything else changes its energies in a way that is unknown here
    "node_embedding": "LinearNodeEmbeddingBlock",
    "radial_embedding": "RadialEmbeddingBlock",
    "spherical_harmonics": "SphericalHarmonics",
    "atomic_energies_fn": "AtomicEnergiesBlock",
    "interactions": "ModuleList",
    "products": "ModuleList",
    "readouts": "ModuleList",
    "scale_shift": "ScaleShiftBlock",
    "pair_repulsion_fn": "ZBLBasis",
}


def read_mace_torch(archive: Archive) -> tuple[ModelConfig, dict[str, Tensor], torch.dtype]:
    """Hyper-parameters, weights (a state_dict of our `MACE`) and the dtype of a mace-torch model; raises Refused."""
    _refuse_other_objects(archive.root)
    model = Block(archive, archive.root, "")
    _refuse_unknown_blocks(model)
    config = _read_config(model)
    _refuse_other_constants(model, config)
    weight = model.child("node_embedding.linear").tensors["weight"]
    return config, _read_state(model, config), getattr(torch, weight.dtype)


def _refuse_other_objects(root: Any) -> None:
    if type(root) is dict:
        if {"model", "optimizer"} <= set(root):
            raise Refused("a training checkpoint (weights and optimizer), not a model. Give the `.model` of that run.")
        raise Refused("weights without a model (a state_dict). Save the whole model: torch.save(model, ...).")
    if type(root) is not Record or root.kind not in ("MACE", "ScaleShiftMACE"):
        raise Refused(f"this is {shown(root)}; only MACE and ScaleShiftMACE models can be read.")


def _refuse_unknown_blocks(model: Block) -> None:
    """Refuse what has no counterpart here, by the name of its block."""
    for name in model.modules:
        if _KNOWN_CHILDREN.get(name) != model.child(name).kind:
            raise Refused(f"its block {name} ({model.child(name).kind}) is unknown here.")
    for layer, block in enumerate(model.child("interactions").children()):
        if block.kind not in INTERACTIONS:
            raise Refused(f"its interaction block {block.kind} (layer {layer}) is unknown here.")
    readouts = model.child("readouts").children()
    for block, last in zip(readouts, [False] * (len(readouts) - 1) + [True], strict=True):
        if block.kind not in (("LinearReadoutBlock", "NonLinearReadoutBlock") if last else ("LinearReadoutBlock",)):
            raise Refused(f"its readout block {block.kind} is unknown here.")
    for setting in ("use_so3", "use_edge_irreps_first", "embedding_specs"):
        if model.setting(setting, None):
            raise Refused(f"it was made with {setting}, which is unknown here.")
    _refuse_other_layouts(model, set())


def _refuse_other_layouts(block: Block, seen: set[int]) -> None:
    """`seen`: records that were looked at; a hostile tree can hold the same one more often than can be counted."""
    seen.add(id(block.record))
    for name in block.modules:
        if block.modules[name] is not None and id(block.modules[name]) not in seen:
            _refuse_other_layouts(block.child(name), seen)
    for setting in ("cueq_config", "oeq_config"):
        config = block.setting(setting, None)
        if type(config) is Record and config.state.get("enabled"):
            raise Refused(
                f"its weights are laid out for an accelerator ({setting}). Convert it to e3nn with mace-torch."
            )


def _refuse_other_constants(model: Block, config: ModelConfig) -> None:
    """Refuse settings that our model derives from others, where the file has them otherwise."""
    harmonics = model.child("spherical_harmonics")
    cutoff = model.child("radial_embedding.cutoff_fn")
    rules = {
        "normalisation of its harmonics": (harmonics.setting("normalization", None), "component"),
        "scaling of its harmonics' arguments": (harmonics.setting("normalize", None), True),
        "radius of its cutoff function": (cutoff.number("r_max"), config.r_max),
    }
    if config.pair_repulsion:
        p = int(model.child("pair_repulsion_fn").number("p"))
        rules["exponent of its ZBL cutoff"] = (p, config.num_polynomial_cutoff)
    for layer, product in enumerate(model.child("products").children()):
        if config.is_residual(layer):
            rules[f"skip connection of its layer {layer}"] = (product.setting("use_sc", None), True)
    for what, (found, expected) in rules.items():
        if found != expected:
            raise Refused(f"the {what} is {brief(found)}; only {expected} is known here.")


# --- hyper-parameters ---


def _read_config(model: Block) -> ModelConfig:
    layers = model.child("interactions").children()
    products = model.child("products").children()
    radial = model.child("radial_embedding")
    last = model.child("readouts").children()[-1]
    heads = tuple(model.setting("heads", None) or ("Default",))
    max_ell = len(model.child("spherical_harmonics").irreps("irreps_out")) - 1
    if max_ell > LARGEST_ELL or any(type(head) is not str for head in heads):
        raise Refused(f"it has harmonics up to l = {max_ell}, and heads {[shown(head) for head in heads]}.")
    channels, max_L = _hidden(products)
    edge_channels, edge_max_L = _edge_irreps(layers, channels, max_L)
    sizes = [_sizes(block.child("conv_tp_weights")) for block in layers]
    if any(size[:-1] != sizes[0][:-1] for size in sizes):
        raise Refused(f"its layers have different radial networks: {sizes}.")
    return ModelConfig(
        atomic_numbers=tuple(int(z) for z in model.tensor("atomic_numbers")),
        r_max=model.number("r_max"),
        num_bessel=sizes[0][0],
        num_polynomial_cutoff=int(radial.child("cutoff_fn").number("p")),
        radial_type=_named(_BASES, radial.child("bessel_fn"), "radial basis"),
        distance_transform=(
            _named(_TRANSFORMS, radial.child("distance_transform"), "distance transform")
            if "distance_transform" in radial
            else "none"
        ),
        apply_cutoff=bool(radial.setting("apply_cutoff", True)),
        max_ell=max_ell,
        num_channels=channels,
        max_L=max_L,
        edge_channels=edge_channels,
        edge_max_L=edge_max_L,
        num_interactions=len(layers),
        interactions=tuple(block.kind for block in layers),
        correlation=tuple(_correlation(product) for product in products),
        agnostic_product=bool(model.setting("use_agnostic_product", False)),
        radial_MLP=tuple(sizes[0][1:-1]),
        MLP_channels=count_scalars(last.irreps("hidden_irreps")) // len(heads) if _is_gated(last) else 1,
        gate=_gate(last) if _is_gated(last) else "silu",
        last_readout_only=len(model.child("readouts").children()) < len(layers),
        avg_num_neighbors=tuple(block.number("avg_num_neighbors") for block in layers),
        pair_repulsion="pair_repulsion_fn" in model,
        heads=heads,
    )


def _hidden(products: list[Block]) -> tuple[int, int]:
    """Channels and highest l of the node features between layers."""
    irreps = [product.child("linear").irreps("irreps_out") for product in products]
    for layer, parts in enumerate(irreps):
        expected = [0] if layer == len(products) - 1 else list(range(len(irreps[0])))
        if [l for _, l in parts] != expected or len({mul for mul, _ in parts} | {irreps[0][0][0]}) != 1:
            text = " + ".join(f"{mul}x(l={l})" for mul, l in parts)
            raise Refused(f"the features after its layer {layer} are {text}; every l must have the same channels.")
    return irreps[0][0][0], len(irreps[0]) - 1


def _edge_irreps(layers: list[Block], channels: int, max_L: int) -> tuple[int | None, int | None]:
    """Channels and highest l of the features that travel along edges, None where they are those of the nodes."""
    found = [block.child("linear_up").irreps("irreps_out") for block in layers]
    edge = found[-1]
    if [l for _, l in edge] != list(range(len(edge))) or len({mul for mul, _ in edge}) != 1:
        raise Refused("its edge_irreps have different channels for different l.")
    n, L = edge[0][0], len(edge) - 1
    if found[0] != [(channels, 0)] or any(parts != edge for parts in found[1:]):
        raise Refused("its layers have different edge_irreps.")
    return None if n == channels else n, None if L == (max_L if len(layers) > 1 else 0) else L


def _sizes(network: Block) -> list[int]:
    """Widths of a fully connected network of e3nn."""
    if network.kind != "FullyConnectedNet":
        raise Refused(f"its radial network {network.kind} is unknown here.")
    layers = [network.child(f"layer{i}") for i in range(len(network.modules))]
    for i, layer in enumerate(layers):
        if layer.kind != "_Layer":
            raise Refused(f"{layer.path} ({layer.kind}) is unknown here.")
        if (layer.setting("var_in", 1), layer.setting("var_out", 1)) != (1, 1):
            raise Refused(f"{layer.path} has variances other than 1.")
        if i < len(layers) - 1 and _activation(layer.child("act")) != "silu":
            raise Refused(
                f"{layer.path} has the activation {_activation(layer.child('act'))}; only silu is known here."
            )
    return [layers[0].tensor("weight").shape[0], *(layer.tensor("weight").shape[1] for layer in layers)]


def _correlation(product: Block) -> int:
    contractions = product.child("symmetric_contractions.contractions").children()
    numbers = {sum(name.startswith("U_matrix_") for name in block.tensors) for block in contractions}
    if len(numbers) != 1 or 0 in numbers:
        raise Refused(f"{product.path} has contractions of different degrees: {sorted(numbers)}.")
    return numbers.pop()


def _is_gated(readout: Block) -> bool:
    return readout.kind == "NonLinearReadoutBlock"


def _gate(readout: Block) -> str:
    acts = readout.child("non_linearity").modules.get("acts")
    if acts is None:
        return "none"
    blocks = Block(readout.archive, acts, f"{readout.path}.acts").modules
    if list(blocks) != ["0"]:
        raise Refused(f"{readout.path} has {len(blocks)} activations; one is expected.")
    return _activation(Block(readout.archive, blocks["0"], f"{readout.path}.acts.0")) if blocks["0"] else "none"


def _activation(block: Block) -> str:
    """Name of a normalised activation; refuses another normalisation than ours."""
    function = block.setting("f", None)
    name = function.name.rsplit(".", 1)[-1] if type(function) is Global else shown(function)
    if name not in ACTIVATION_SCALES:
        raise Refused(f"the activation {name} of {block.path} is unknown here.")
    scale = 1.0 if block.setting("_is_id", False) else block.number("cst")
    if abs(scale - ACTIVATION_SCALES[name]) > 1e-12:
        raise Refused(f"the activation {name} is normalised by {scale} instead of {ACTIVATION_SCALES[name]}.")
    return name


def _named(names: dict[str, str], block: Block, what: str) -> str:
    if block.kind not in names:
        raise Refused(f"its {what} {block.kind} is unknown here.")
    return names[block.kind]


# --- weights ---


def _read_state(model: Block, config: ModelConfig) -> dict[str, Tensor]:
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
    for i, block in enumerate(model.child("readouts").children()):
        state |= with_prefix(f"readouts.{i}.", _readout_state(block, n_heads, C))
    return state


def _atomic_energies(model: Block, n_heads: int, n_species: int) -> Tensor:
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
    state = {"linear_up.weight": torch.stack(_linear(block.child("linear_up")))}
    network = block.child("conv_tp_weights")
    for i in range(len(network.modules)):
        state[f"radial_weights.weights.{i}"] = network.child(f"layer{i}").tensor("weight")
    last = f"radial_weights.weights.{len(network.modules) - 1}"
    state[last] = _sort_paths(block.child("conv_tp"), state[last], config, layer)
    for l, weight in enumerate(_linear(block.child("linear"))):
        state[f"convolution.weights.{l}"] = weight
    state["skip.weight"] = _species_linear(block.child("skip_tp"), len(config.atomic_numbers))
    if config.has_density(layer):
        if _sizes(block.child("density_fn")) != [config.num_bessel, 1]:
            raise Refused(f"{block.path}.density_fn has hidden layers, which are unknown here.")
        state["density_weight"] = block.child("density_fn.layer0").tensor("weight")
    return state


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


def _linear(block: Block) -> list[Tensor]:
    """Weights of an e3nn Linear, one matrix [n_in, n_out] for each l of the output, in our normalisation."""
    if block.kind != "Linear" or block.setting("bias_numel", 0):
        raise Refused(f"{block.path} ({block.kind}) is not a linear map without bias.")
    irreps_in, irreps_out = block.irreps("irreps_in"), block.irreps("irreps_out")
    weight, start, rows = block.tensor("weight"), 0, [[] for _ in irreps_out]
    for instruction in block.setting("instructions", ()):
        i_in, i_out, shape, path_weight = fields_of(instruction, 4)
        n = shape[0] * shape[1]
        if irreps_in[i_in][1] != irreps_out[i_out][1] or tuple(shape) != (irreps_in[i_in][0], irreps_out[i_out][0]):
            raise Refused(f"{block.path} has instructions that are unknown here.")
        rows[i_out].append((reshaped(weight[start : start + n], tuple(shape), block), path_weight))
        start += n
    result = []
    for parts in rows:
        fan_in = sum(part.shape[0] for part, _ in parts)
        result.append(torch.cat([part * ratio_to(factor, fan_in**-0.5) for part, factor in parts]))
    return result


def _species_linear(block: Block, n_species: int) -> Tensor:
    """Weights of e3nn's tensor product with one-hot elements, [n_species, n_l, n_in, n_out], in our normalisation."""
    if block.kind != "FullyConnectedTensorProduct":
        raise Refused(f"{block.path} ({block.kind}) is unknown here.")
    in1, out = block.irreps("irreps_in1"), block.irreps("irreps_out")
    weight, start, by_l = block.tensor("weight"), 0, []
    for instruction in block.setting("instructions", ()):
        i1, _, i3, mode, _, path_weight, shape = fields_of(instruction, 7)
        l, n = out[i3][1], math.prod(shape)
        if mode != "uvw" or tuple(shape) != (in1[i1][0], n_species, out[i3][0]) or l != len(by_l) or in1[i1][1] != l:
            raise Refused(f"{block.path} has tensor products that are unknown here ({brief(mode)}, {brief(shape)}).")
        part = reshaped(weight[start : start + n], tuple(shape), block).transpose(0, 1)
        by_l.append(part * ratio_to(path_weight, math.sqrt((2 * l + 1) / (shape[0] * n_species))))
        start += n
    return torch.stack(by_l, dim=1)


def _absorb_prefactor(basis: Block, config: ModelConfig, state: dict[str, Tensor]) -> None:
    """Put the rounding of the Bessel prefactor of a float32 file into the weights that multiply the basis."""
    if config.radial_type != "bessel":
        return
    factor = ratio_to(basis.number("prefactor"), math.sqrt(2.0 / config.r_max))
    for layer in range(config.num_interactions):
        for name in ("radial_weights.weights.0", "density_weight"):
            if f"interactions.{layer}.{name}" in state:
                state[f"interactions.{layer}.{name}"] = state[f"interactions.{layer}.{name}"] * factor


def _product_state(block: Block, config: ModelConfig, layer: int) -> dict[str, Tensor]:
    contractions = block.child("symmetric_contractions.contractions").children()
    nu, L_out = config.correlation[layer], config.out_L(layer)
    tensors, weights = [], []
    for L, contraction in enumerate(contractions):
        by_degree = [contraction.tensor(f"U_matrix_{degree}") for degree in range(1, nu + 1)]
        tensors.append([U if L else U.unsqueeze(0) for U in by_degree])
        lower = contraction.child("weights") if nu > 1 else None
        weights += [lower.tensor(str(nu - 1 - degree)) for degree in range(1, nu)] if lower else []
        weights.append(contraction.tensor("weights_max"))
    if len(contractions) != L_out + 1:
        raise Refused(f"{block.path} has products for {len(contractions)} values of L instead of {L_out + 1}.")
    basis = symmetric_basis_from_tensors(tensors)
    return {
        "contraction.factors": basis.factors.T.contiguous(),
        "contraction.term_sizes": torch.tensor(basis.sizes, dtype=torch.int64),
        "contraction.coupling": basis.coupling,
        "contraction.weight": torch.cat(weights, dim=1),
        "linear.weight": torch.stack(_linear(block.child("linear"))),
    }


def _readout_state(block: Block, n_heads: int, channels: int) -> dict[str, Tensor]:
    if block.kind == "LinearReadoutBlock":
        return {"weight": reshaped(_linear(block.child("linear"))[0], (channels, n_heads), block)}
    if n_heads > 1 and block.setting("num_heads", None) != n_heads:
        raise Refused(f"{block.path} does not keep its {n_heads} heads apart, which is unknown here.")
    first, second = (_linear(block.child(name))[0] for name in ("linear_1", "linear_2"))
    hidden = first.shape[1] // n_heads
    first = reshaped(first, (channels, n_heads, hidden), block)
    second = reshaped(second, (n_heads, hidden, n_heads), block)
    return {
        "weight_in": first.transpose(0, 1).contiguous(),
        "weight_out": torch.stack([second[h, :, h] for h in range(n_heads)]),
    }
