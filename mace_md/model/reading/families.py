"""What the families of models have beyond the layers of a MACE: their settings and weights in mace-torch's files."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mace_md.model.hyperparameters import ModelConfig, dipole_outputs
from mace_md.model.reading.module_tree import Block, count_scalars, reshaped, with_prefix
from mace_md.model.reading.networks import activation_of, bias_of, known_activation, linear_by_l, linear_state
from mace_md.model.reading.polar import POLAR_CHILDREN, polar_settings, polar_state
from mace_md.model.reading.unpickle import Refused


def known_children(family: str) -> dict[str, str]:
    """Modules of a family beside those of every MACE, and their kinds."""
    if family == "latent-ewald":
        return {"les": "Les", "les_readouts": "ModuleList"}
    return POLAR_CHILDREN if family == "polar" else {}


def family_settings(model: Block, family: str) -> dict[str, Any]:
    """The `settings` of a `ModelConfig`."""
    if family == "latent-ewald":
        return _latent_ewald_settings(model.child("les"))
    if family in ("dipole", "energy-dipole", "dielectric"):
        return _dipole_settings(model, family)
    return polar_settings(model) if family == "polar" else {}


def family_state(model: Block, config: ModelConfig) -> dict[str, Tensor]:
    """Weights of the readouts, and of what else the family has."""
    readouts = model.child("readouts").children()
    if config.family in ("dipole", "energy-dipole", "dielectric"):
        state = {}
        for i, block in enumerate(readouts):
            n_in, hidden = [config.num_channels] * (config.out_L(i) + 1), config.settings["hidden"]
            n_out = dipole_outputs(config)
            state |= with_prefix(f"readouts.{i}.", _equivariant_readout_state(block, n_in, hidden, n_out))
        if config.family == "dielectric":
            state["change_of_basis"] = model.tensor("change_of_basis")
        return state
    state = _scalar_readouts("readouts", readouts, config)
    if config.family == "latent-ewald":
        state |= _scalar_readouts("charge_readouts", model.child("les_readouts").children(), config)
    return state | (polar_state(model, config) if config.family == "polar" else {})


def _scalar_readouts(name: str, blocks: list[Block], config: ModelConfig) -> dict[str, Tensor]:
    state = {}
    for i, block in enumerate(blocks):
        state |= with_prefix(f"{name}.{i}.", _readout_state(block, len(config.heads), config.num_channels))
    return state


def _readout_state(block: Block, n_heads: int, channels: int) -> dict[str, Tensor]:
    """Of a readout of scalars; what leads there from l > 0 is nothing."""
    if block.kind == "LinearReadoutBlock":
        return {"weight": reshaped(linear_by_l(block.child("linear"))[0], (channels, n_heads), block)}
    if n_heads > 1 and block.setting("num_heads", None) != n_heads:
        raise Refused(f"{block.path} does not keep its {n_heads} heads apart, which is unknown here.")
    biased = block.kind == "NonLinearBiasReadoutBlock"
    first, second = linear_by_l(block.child("linear_1"))[0], linear_by_l(block.child("linear_2"), bias=biased)[0]
    hidden = first.shape[1] // n_heads
    first = reshaped(first, (channels, n_heads, hidden), block).transpose(0, 1).contiguous()
    n_out = second.shape[1] // n_heads
    second = reshaped(second, (n_heads, hidden, n_heads, n_out), block)
    second = torch.stack([second[h, :, h] for h in range(n_heads)])  # a head uses only its own hidden units
    if not biased:
        return {"weight_in": first, "weight_out": second[:, :, 0]}
    middle = reshaped(linear_by_l(block.child("linear_mid"), bias=True)[0], (n_heads, hidden, n_heads, hidden), block)
    return {
        "weight_in": first,
        "weight_middle": torch.stack([middle[h, :, h] for h in range(n_heads)]),
        "bias_middle": bias_of(block.child("linear_mid")).reshape(n_heads, hidden),
        "weight_out": second,
        "bias_out": bias_of(block.child("linear_2")).reshape(n_heads, n_out),
    }


# --- latent Ewald summation ---


def _latent_ewald_settings(les: Block) -> dict[str, Any]:
    for name in ("use_atomwise", "use_fixed_atomic_charges", "use_atomic_alpha", "use_epsilon_r_scaling"):
        if les.setting(name, False) or les.child("ewald").setting(name, False):
            raise Refused(f"its latent Ewald summation was made with {name}, which is unknown here.")
    others = sorted(set(les.modules) - {"atomwise", "ewald", "bec"})
    if others:
        raise Refused(f"its latent Ewald summation has {', '.join(others)}, which is unknown here.")
    ewald = les.child("ewald")
    bec = les.child("bec") if "bec" in les else None
    return {
        "sigma": ewald.number("sigma"),
        "dl": ewald.number("dl"),
        "norm_factor": ewald.number("norm_factor"),
        "remove_self_interaction": bool(ewald.setting("remove_self_interaction", False)),
        "remove_mean": True if bec is None else bool(bec.setting("remove_mean", True)),
        "epsilon_factor": 1.0 if bec is None else bec.number("epsilon_factor"),
    }


# --- dipoles and polarizabilities ---


def gate_functions(gate: Block) -> tuple[str, str]:
    """Activations of the scalars and of the gates, of mace-torch's own gate or of e3nn's."""
    if gate.kind == "GatedEquivariantBlock":
        found = []
        for function, scale in (("_act_scalar", "_scalar_cst"), ("_act_gate", "_gate_cst")):
            value = gate.setting(function, None)
            name = "none" if value is None else known_activation(value, gate.number(scale), gate.path)
            found.append(name)
        return found[0], found[1]
    if gate.kind == "Gate":
        return _acts(gate, "act_scalars"), _acts(gate, "act_gates")
    raise Refused(f"{gate.path} ({gate.kind}) is unknown here.")


def _acts(gate: Block, name: str) -> str:
    acts = gate.child(name).child("acts").children()
    names = {activation_of(act) for act in acts}
    if len(names) > 1:
        raise Refused(f"{gate.path} has several activations, which is unknown here.")
    return names.pop() if names else "none"


def _dipole_settings(model: Block, family: str) -> dict[str, Any]:
    last = model.child("readouts").children()[-1]
    settings: dict[str, Any] = {"hidden": [], "gate": "silu", "scalar_gate": "silu"}
    if "equivariant_nonlin" in last:
        hidden = {l: n for n, l in last.child("linear_2").irreps("irreps_in")}
        scalar, vector = gate_functions(last.child("equivariant_nonlin"))
        settings["hidden"] = [hidden.get(l, 0) for l in range(max(hidden) + 1)]
        settings |= {"gate": vector, "scalar_gate": scalar if hidden.get(0, 0) else vector}
        n_in = count_scalars(last.child("linear_1").irreps("irreps_out"))
        if n_in != sum(settings["hidden"]):
            raise Refused(f"{last.path} has {n_in} scalars and gates for the features {settings['hidden']}.")
    if family == "dielectric":
        settings["polarizability"] = bool(model.setting("use_polarizability", True))
    return settings


def _equivariant_readout_state(block: Block, n_in: list[int], hidden: list[int], n_out: list[int]) -> dict[str, Tensor]:
    if "linear" in block:
        return linear_state("last", block.child("linear"), n_in, n_out)
    state = linear_state("first", block.child("linear_1"), n_in, [sum(hidden), *hidden[1:]])
    return state | linear_state("last", block.child("linear_2"), hidden, n_out)
