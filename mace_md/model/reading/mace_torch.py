"""Our model from the records of a mace-torch model: hyper-parameters read off its blocks, weights under our names.

mace-torch stores modules, not hyper-parameters; they are recovered from the shapes and settings of the blocks, and what
has no counterpart here is refused by its name. Normalisations are taken from the file: where its factors differ from
ours (older e3nn, constants rounded to float32), the difference goes into the weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mace_md.model.hyperparameters import INTERACTIONS, InputEmbedding, ModelConfig
from mace_md.model.reading.archive import Archive
from mace_md.model.reading.families import family_settings, known_children
from mace_md.model.reading.module_tree import Block, count_scalars, shown
from mace_md.model.reading.networks import activation_of, biased_sizes, connected_sizes
from mace_md.model.reading.unpickle import Record, Refused, brief
from mace_md.model.reading.weights import read_state, sort_species

LARGEST_ELL = 11  # e3nn has no Wigner 3j symbols beyond
_BASES = {"BesselBasis": "bessel", "GaussianBasis": "gaussian", "ChebychevBasis": "chebyshev"}
_TRANSFORMS = {"AgnesiTransform": "agnesi", "SoftTransform": "soft"}
_FAMILY_OF = {
    "MACE": "energy",
    "ScaleShiftMACE": "energy",
    "MACELES": "latent-ewald",
    "AtomicDipolesMACE": "dipole",
    "EnergyDipolesMACE": "energy-dipole",
    "AtomicDielectricMACE": "dielectric",
    "PolarMACE": "polar",
}
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
    "joint_embedding": "GenericJointEmbedding",
    "embedding_readout": "LinearReadoutBlock",
}
_READOUTS = {  # of the layers before the last, and of the last
    "energy": (("LinearReadoutBlock",), ("LinearReadoutBlock", "NonLinearReadoutBlock", "NonLinearBiasReadoutBlock")),
    "dipole": (("LinearDipoleReadoutBlock",), ("NonLinearDipoleReadoutBlock",)),
    "dielectric": (("LinearDipolePolarReadoutBlock",), ("NonLinearDipolePolarReadoutBlock",)),
}
_READOUTS |= {"latent-ewald": _READOUTS["energy"], "polar": _READOUTS["energy"], "energy-dipole": _READOUTS["dipole"]}


def read_mace_torch(archive: Archive) -> tuple[ModelConfig, dict[str, Tensor], torch.dtype]:
    """Hyper-parameters, weights (a state_dict of our model) and the dtype of a mace-torch model; raises Refused."""
    root = model_record(archive.root)
    model = Block(archive, root, "")
    family = _FAMILY_OF[root.kind]
    _refuse_unknown_blocks(model, family)
    config = _read_config(model, family)
    _refuse_other_constants(model, config)
    weight = model.child("node_embedding.linear").tensors["weight"]
    state = read_state(model, config)
    return config, sort_species(model, state, config), getattr(torch, weight.dtype)


def foreign_class(archive: Archive) -> str | None:
    """Full name of the class of a model that is not one of mace-torch's own modules, None where it is."""
    name = model_record(archive.root).name
    return None if name.rpartition(".")[0] in ("mace.modules.models", "mace.modules.extensions") else name


def model_record(root: Any) -> Record:
    """The model inside the object tree of a file; raises Refused for what holds none, or several."""
    if type(root) is dict:
        _refuse_dict(root)
    if type(root) is Record and root.kind == "LAMMPS_MLIAP_MACE":
        root = root.state.get("model", (root.state.get("_modules") or {}).get("model"))
    if type(root) is list and root and all(type(item) is Record for item in root):
        raise Refused(f"this is a list of {len(root)} models. {_EACH}")
    if type(root) is not Record or root.kind not in _FAMILY_OF:
        raise Refused(f"this is {shown(root)}; the models that can be read are {', '.join(_FAMILY_OF)}.")
    return root


_EACH = "Save each of them in a file of its own: torch.save(model, ...); --committee takes several files."


def _refuse_dict(root: dict) -> None:
    if {"model", "optimizer"} <= set(root):
        raise Refused("a training checkpoint (weights and optimizer), not a model. Give the `.model` of that run.")
    if root and all(type(value) is Record for value in root.values()):
        raise Refused(f"this is a dict of {len(root)} models ({', '.join(map(str, list(root)[:8]))}). {_EACH}")
    raise Refused("weights without a model (a state_dict). Save the whole model: torch.save(model, ...).")


def _refuse_unknown_blocks(model: Block, family: str) -> None:
    """Refuse what has no counterpart here, by the name of its block."""
    _refuse_other_layouts(model, set())
    missing = [name for name in known_children(family) if name not in model.modules]
    if missing:
        raise Refused(f"this {model.kind} has no {missing[0]}; it is no complete model.")
    known = _KNOWN_CHILDREN | known_children(family)
    for name in model.modules:
        if known.get(name) != model.child(name).kind:
            raise Refused(f"its block {name} ({model.child(name).kind}) is unknown here.")
    for layer, block in enumerate(model.child("interactions").children()):
        if block.kind not in INTERACTIONS:
            raise Refused(f"its interaction block {block.kind} (layer {layer}) is unknown here.")
    readouts = model.child("readouts").children()
    if not readouts:
        raise Refused("it has no readouts: mace-torch makes such a model of one layer with use_last_readout_only.")
    before, last = _READOUTS[family]
    for i, block in enumerate(readouts):
        if block.kind not in (last if i == len(readouts) - 1 else before) and not (i == 0 and block.kind in before):
            raise Refused(f"its readout block {block.kind} is unknown here, in a {model.kind}.")
    if model.setting("use_so3", None):
        raise Refused("it was made with use_so3, which is unknown here.")
    if model.setting("embedding_specs", None) and "joint_embedding" not in model:
        raise Refused("it was made with embedding_specs, but has no joint_embedding.")


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


def _read_config(model: Block, family: str) -> ModelConfig:
    layers = model.child("interactions").children()
    products = model.child("products").children()
    radial = model.child("radial_embedding")
    last = model.child("readouts").children()[-1]
    heads = tuple(model.setting("heads", None) or ("Default",))
    max_ell = len(model.child("spherical_harmonics").irreps("irreps_out")) - 1
    if max_ell > LARGEST_ELL or any(type(head) is not str for head in heads):
        raise Refused(f"it has harmonics up to l = {max_ell}, and heads {[shown(head) for head in heads]}.")
    channels, max_L, last_L = _hidden(products, family)
    bias_readout = last.kind == "NonLinearBiasReadoutBlock"
    edge_channels, edge_max_L = _edge_irreps(layers, channels, max_L)
    sizes = [_sizes(block.child("conv_tp_weights"), block.kind, 2 * channels) for block in layers]
    if any(size[:-1] != sizes[0][:-1] for size in sizes):
        raise Refused(f"its layers have different radial networks: {sizes}.")
    return ModelConfig(
        atomic_numbers=tuple(sorted(int(z) for z in model.tensor("atomic_numbers"))),
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
        edge_channels_first=bool(model.setting("use_edge_irreps_first", False)) and edge_channels is not None,
        last_L=last_L,
        bias_readout=bias_readout,
        gaussian_coefficient=_gaussian_coefficient(radial.child("bessel_fn")),
        embeddings=_embeddings(model),
        embedding_readout="embedding_readout" in model,
        family=family,
        settings=family_settings(model, family),
    )


def _gaussian_coefficient(basis: Block) -> float | None:
    return basis.number("coeff") if basis.kind == "GaussianBasis" and "coeff" in basis else None


def _embeddings(model: Block) -> tuple[InputEmbedding, ...]:
    """The further inputs of the model, in the order in which their vectors are joined."""
    if "joint_embedding" not in model:
        return ()
    specs, found = model.child("joint_embedding").setting("specs", None), []
    for name, spec in specs.items() if type(specs) is dict else ():
        if type(name) is not str or type(spec) is not dict:
            raise Refused("its embedding_specs are unreadable.")
        found.append(
            InputEmbedding(
                name=name,
                kind=spec.get("type"),
                per=spec.get("per"),
                size=int(spec.get("emb_dim", 0)),
                num_classes=int(spec.get("num_classes") or 0),
                offset=int(spec.get("offset") or 0),
                in_size=int(spec.get("in_dim") or 0),
                bias=bool(spec.get("use_bias", True)),
            )
        )
    if not found:
        raise Refused("its block joint_embedding (GenericJointEmbedding) has no specs that can be read.")
    return tuple(found)


def _hidden(products: list[Block], family: str) -> tuple[int, int, int]:
    """Channels and highest l of the node features between layers, and highest l after the last.

    Where energies are read from scalars, what else the last layer has is of no use.
    """
    irreps = [product.child("linear").irreps("irreps_out") for product in products]
    only_scalars = family in ("energy", "latent-ewald")
    last = irreps[-1][:1] if only_scalars else irreps[-1]
    for layer, parts in enumerate([*irreps[:-1], last]):
        channels = {mul for mul, _ in parts} | {irreps[0][0][0]}
        expected = [l for _, l in parts] if layer == len(products) - 1 else list(range(len(irreps[0])))
        if [l for _, l in parts] != expected or len(channels) != 1 or (only_scalars and parts[0][1] != 0):
            text = " + ".join(f"{mul}x(l={l})" for mul, l in parts)
            raise Refused(f"the features after its layer {layer} are {text}; every l must have the same channels.")
    max_L = len(irreps[0]) - 1 if len(irreps) > 1 else 0
    return irreps[0][0][0], max_L, max(l for _, l in last)


def _edge_irreps(layers: list[Block], channels: int, max_L: int) -> tuple[int | None, int | None]:
    """Channels and highest l of the features that travel along edges, None where they are those of the nodes."""
    found = [block.child("linear_up").irreps("irreps_out") for block in layers]
    edge = found[-1]
    if [l for _, l in edge] != list(range(len(edge))) or len({mul for mul, _ in edge}) != 1:
        raise Refused("its edge_irreps have different channels for different l.")
    n, L = edge[0][0], len(edge) - 1
    if found[0] not in ([(channels, 0)], [(n, 0)]) or any(parts != edge for parts in found[1:]):
        raise Refused("its layers have different edge_irreps.")
    return None if n == channels else n, None if L == (max_L if len(layers) > 1 else 0) else L


def _sizes(network: Block, kind: str, n_elements: int) -> list[int]:
    """Widths of a radial network; of the NonLinear blocks without the inputs that describe the two elements."""
    if "NonLinear" in kind:
        sizes = biased_sizes(network)
        return [sizes[0] - n_elements, *sizes[1:]]
    return connected_sizes(network)


def _correlation(product: Block) -> int:
    contractions = product.child("symmetric_contractions.contractions").children()
    numbers = {sum(name.startswith("U_matrix_") for name in block.tensors) for block in contractions}
    if len(numbers) != 1 or 0 in numbers:
        raise Refused(f"{product.path} has contractions of different degrees: {sorted(numbers)}.")
    return numbers.pop()


def _is_gated(readout: Block) -> bool:
    return readout.kind in ("NonLinearReadoutBlock", "NonLinearBiasReadoutBlock")


def _gate(readout: Block) -> str:
    acts = readout.child("non_linearity").modules.get("acts")
    if acts is None:
        return "none"
    blocks = Block(readout.archive, acts, f"{readout.path}.acts").modules
    if list(blocks) != ["0"]:
        raise Refused(f"{readout.path} has {len(blocks)} activations; one is expected.")
    return activation_of(Block(readout.archive, blocks["0"], f"{readout.path}.acts.0")) if blocks["0"] else "none"


def _named(names: dict[str, str], block: Block, what: str) -> str:
    if block.kind not in names:
        raise Refused(f"its {what} {block.kind} is unknown here.")
    return names[block.kind]
