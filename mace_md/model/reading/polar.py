"""Settings and weights of POLAR-1 models (mace-torch's PolarMACE, with the constants of graph-longrange)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from mace_md.model.hyperparameters import ModelConfig
from mace_md.model.reading.module_tree import Block, fields_of, ratio_to, reshaped, with_prefix
from mace_md.model.reading.networks import activation_of, bias_of, biased_state, linear_by_l, linear_state
from mace_md.model.reading.unpickle import Refused

POLAR_CHILDREN = {
    "lr_source_maps": "ModuleList",
    "electric_potential_descriptor": "GTOElectrostaticFeatures",
    "fukui_source_map": "NonLinearBiasReadoutBlock",
    "field_dependent_charges_maps": "ModuleList",
    "local_electron_energy": "OneBodyMLPFieldReadout",
    "external_field_contribution": "DisplacedGTOExternalFieldBlock",
    "coulomb_energy": "GTOElectrostaticEnergy",
    "layer_feature_mixer": "MultiLayerFeatureMixer",
}


def polar_settings(model: Block) -> dict[str, Any]:
    """The `settings` of a `ModelConfig`; refuses what the published models do not have."""
    sigma, widths = model.number("atomic_multipoles_smearing_width"), model.setting("field_feature_widths", None)
    source_L, field_L = int(model.number("atomic_multipoles_max_l")), int(model.number("field_feature_max_l"))
    if max(source_L, field_L) > 1 or not widths or any(type(w) not in (int, float) for w in widths):
        raise Refused(f"its multipoles or field features (l = {source_L}, {field_L}) are unknown here.")
    for name in ("quadrupole_feature_corrections",):
        if model.setting(name, False):
            raise Refused(f"it was made with {name}, which is unknown here.")
    for block in model.child("field_dependent_charges_maps").children():
        if block.kind != "AgnosticEmbeddedOneBodyVariableUpdate":
            raise Refused(f"its field update {block.kind} is unknown here.")
    if any(block.setting("zero_charges", False) for block in model.child("lr_source_maps").children()):
        raise Refused("it was made with zero_charges, which is unknown here.")
    share = model.child("fukui_source_map")
    acts = share.child("non_linearity.acts").children()
    return {
        "sigma": sigma,
        "widths": [float(w) for w in widths],
        "k_max": model.number("kspace_cutoff"),
        "source_L": source_L,
        "field_L": field_L,
        "steps": int(model.number("num_recursion_steps")),
        "field_self": bool(model.setting("field_si", False)),
        "energy_self": bool(model.setting("include_electrostatic_self_interaction", False)),
        "local_energy": bool(model.setting("add_local_electron_energy", False)),
        "share_hidden": linear_by_l(share.child("linear_1"))[0].shape[1],
        "share_gate": activation_of(acts[0]) if acts else "none",
    }


def polar_state(model: Block, config: ModelConfig) -> dict[str, Tensor]:
    """Weights of all but the layers and the readouts of energies."""
    C, L, settings = config.num_channels, config.last_L, config.settings
    channels, sources = [C] * (L + 1), [2] * (settings["source_L"] + 1)
    state = {}
    for i, block in enumerate(model.child("lr_source_maps").children()):
        state |= linear_state(f"source_maps.{i}", block.child("linear"), channels, sources)
    for i, block in enumerate(model.child("layer_feature_mixer.linears").children()):
        state |= linear_state(f"mixers.{i}", block, channels, channels)
    state |= with_prefix("shares.", _share_state(model.child("fukui_source_map"), config))
    for i, block in enumerate(model.child("field_dependent_charges_maps").children()):
        state |= with_prefix(f"updates.{i}.", _update_state(block, config))
    if settings["local_energy"]:
        state |= with_prefix("local_energy.", _local_energy_state(model.child("local_electron_energy"), config))
    n = len(settings["widths"])
    norms = model.tensor("field_feature_norms")
    parts = [norms[:n], norms[n:].reshape(n, 3)[:, 0]] if settings["field_L"] else [norms[:n]]
    state["field_norms"] = torch.stack(parts).double()
    return state | with_prefix("fields.", _field_constants(model, settings))


def _share_state(block: Block, config: ModelConfig) -> dict[str, Tensor]:
    middle, last = (linear_by_l(block.child(name), bias=True)[0] for name in ("linear_mid", "linear_2"))
    return {
        "weight_in": linear_by_l(block.child("linear_1"))[0].unsqueeze(0),
        "weight_middle": middle.unsqueeze(0),
        "bias_middle": bias_of(block.child("linear_mid")).unsqueeze(0),
        "weight_out": last.unsqueeze(0),
        "bias_out": bias_of(block.child("linear_2")).unsqueeze(0),
    }


def _update_state(block: Block, config: ModelConfig) -> dict[str, Tensor]:
    C, L, settings = config.num_channels, config.last_L, config.settings
    channels, hidden = [C] * (L + 1), [32] * (settings["source_L"] + 1)
    widths = [sum(hidden), *hidden[1:]]
    embedding, readout = block.child("potential_embedding"), block.child("readout")
    fields = [2 * len(settings["widths"])] * (settings["field_L"] + 1)
    state = linear_state("of_fields", embedding.child("potential_linear"), fields, channels)
    state |= linear_state("of_features", embedding.child("node_feats_linear"), channels, channels)
    sources = [2] * (settings["source_L"] + 1)
    state |= linear_state("of_sources", embedding.child("charge_embedding"), sources, channels)
    source = block.child("source_embedding")
    state["source_embedding"] = reshaped(linear_by_l(source)[0], (len(config.atomic_numbers), C), source)
    state["invariants.weight"] = _paths(block.child("dot_products"), C, L)
    state["scale"] = _paths(block.child("tp_out"), C, L)
    state |= with_prefix("network.", biased_state(block.child("nonlinearity")))
    state |= linear_state("first", readout.child("linear_1"), channels, widths)
    state |= linear_state("middle", readout.child("linear_mid"), hidden, widths, bias=True)
    return state | linear_state(
        "last", readout.child("linear_2"), hidden, [4, 2][: settings["source_L"] + 1], bias=True
    )


def _local_energy_state(block: Block, config: ModelConfig) -> dict[str, Tensor]:
    C, L, settings = config.num_channels, config.last_L, config.settings
    channels, fields = [C] * (L + 1), [2 * len(settings["widths"])] * (settings["field_L"] + 1)
    sources = [2] * (settings["source_L"] + 1)
    state = linear_state("of_sources", block.child("linear_up_q"), sources, channels, bias=True)
    state |= linear_state("of_fields", block.child("linear_up_v"), fields, channels, bias=True)
    state["with_sources.weight"] = _paths(block.child("dot_products_q"), C, L)
    state["with_fields.weight"] = _paths(block.child("dot_products_v"), C, L)
    return state | with_prefix("network.", biased_state(block.child("mlp")))


def _paths(product: Block, C: int, L: int) -> Tensor:
    """Weights of a sparse product, [L + 1, C, C], with all its factors: l x l -> 0, or l x 0 -> l."""
    if product.kind not in ("SparseUvuTensorProduct", "TensorProduct"):
        raise Refused(f"{product.path} ({product.kind}) is unknown here.")
    in1, weight, start = product.irreps("irreps_in1"), product.tensor("weight"), 0
    result = torch.zeros(L + 1, C, C, dtype=torch.float64)
    for instruction in product.setting("instructions", ()):
        i1, _, _, mode, _, path_weight, shape = fields_of(instruction, 7)
        l = in1[i1][1]
        if mode != "uvu" or tuple(shape) != (C, C) or l > L:
            raise Refused(f"{product.path} has products that are unknown here.")
        part = reshaped(weight[start : start + C * C], (C, C), product)
        result[l] = part * float(path_weight) / math.sqrt(2 * l + 1)
        start += C * C
    return result


def _field_constants(model: Block, settings: dict[str, Any]) -> dict[str, Tensor]:
    """Constants of the electrostatics as the file has them, which float32 files have rounded."""
    features, energy = model.child("electric_potential_descriptor"), model.child("coulomb_energy")
    n, widths = len(settings["widths"]), torch.tensor(settings["widths"], dtype=torch.float64)
    real, result = features.child("realspace_features"), {"widths": widths}
    if real.number("offset") != 0.1 or energy.child("realspace_energy").number("offset") != 0.02:
        raise Refused("its displaced charges are at other distances than those of the published models.")
    result["pair_widths"] = real.tensor("total_width_factors")
    result["field_scale"] = _basis_factors(features.child("feature_basis"), n)
    density = _basis_factors(features.child("density_basis"), 1)[:, 0]
    result["source_scale"] = torch.tensor([ratio_to(float(x), 1.0) for x in density], dtype=torch.float64)
    result["field_own"] = _own(features.child("self_interaction_terms"), n)
    result["energy_own"] = _own(energy.child("self_interaction_terms"), 1)[:, 0]
    pair = torch.zeros(2, n, dtype=torch.float64)
    pair[0], pair[1] = real.tensor("l0_factors"), real.tensor("l1_factors") * 0.1
    return result | {"pair_scale": pair}


def _basis_factors(basis: Block, n: int) -> Tensor:
    """Factors of l = 0 and 1 of a Gaussian basis in reciprocal space, [2, n]; 0 for an l that it does not have."""
    scale, radial = basis.tensor("cl_scale"), basis.child("radial_spline")
    result = torch.zeros(2, n, dtype=torch.float64)
    result[0] = scale[:, 0] * radial.tensor("pref0") / math.sqrt(4.0 * math.pi)
    if scale.shape[1] > 1:
        result[1] = scale[:, 1] * radial.tensor("pref1") * math.sqrt(3.0 / (4.0 * math.pi))
    return result


def _own(block: Block, n: int) -> Tensor:
    """Field of a unit source at itself, [2, n], of l = 0 and 1."""
    constants = block.tensor("overlap_constants")
    result = torch.zeros(2, n, dtype=torch.float64)
    result[0] = constants[:n]
    if len(constants) > n:
        result[1] = constants[n:].reshape(n, 3)[:, 0]
    return result
