"""Total charge and spin multiplicity as constants of a run: what they change in a model is done once.

A joint embedding (OMOL-0) adds the same vector to the features of all atoms: it goes into the embedding of the
elements, and an energy that is linear in the embedding into the E0s, so that it costs nothing later (docs/models.md).
"""

from __future__ import annotations

import copy
import logging
import math
from dataclasses import replace

import torch
from torch import nn

from mace_md.errors import InputError
from mace_md.model.build import restore_model
from mace_md.model.families.polar import PolarMACE
from mace_md.model.mace import MACE

_log = logging.getLogger("mace_md")
DEFAULTS = {"charge": 0, "spin": 1}


def settle(model: nn.Module, charge: float | None = None, spin: int | None = None) -> nn.Module:
    """The model for one total charge (e) and spin multiplicity 2S + 1; 0 and 1 where they are None.

    A model that uses neither is returned as it is. Raises InputError for a value that is given to a model that cannot
    use it, or that is outside of what the model was made for. What was taken is in `settled` of the result.
    """
    inputs = tuple(getattr(model, "inputs", ()))
    given = {"charge": charge, "spin": spin}
    for name, value in given.items():
        if value is None or name in inputs:
            continue
        before = getattr(model, "settled", {}).get(name)
        if before is not None and before != value:
            raise InputError(f"{name} {value} was given, but this model was settled for {name} {before} before")
        if before is None and value != DEFAULTS[name]:
            raise InputError(
                f"{name} {value} was given, but this model does not take a {name}: its energies are the same for every "
                f"{name}. Leave it out, or take a model that uses it (`mace-md models list`)"
            )
    if not inputs:
        return model
    before = DEFAULTS | getattr(model, "settled", {})
    taken = {name: before[name] if given[name] is None else given[name] for name in inputs}
    if isinstance(model, PolarMACE):
        settled = _with_buffers(model, taken)
    elif getattr(model, "joint_embedding", None) is not None:
        settled = _folded(model, float(taken.get("charge", 0)), float(taken.get("spin", 1)))
    else:  # a model of dipoles takes the charge with each graph
        return model
    settled.info = getattr(model, "info", None)
    settled.descriptor_statistics = getattr(model, "descriptor_statistics", None)
    settled.settled = taken
    return settled


def _with_buffers(model: PolarMACE, taken: dict) -> PolarMACE:
    settled = copy.deepcopy(model)
    settled.total_charge.fill_(float(taken["charge"]))
    settled.multiplicity.fill_(float(taken["spin"]))
    return settled


@torch.no_grad()
def _folded(model: MACE, charge: float, spin: float) -> MACE:
    joint, config = model.joint_embedding, model.config
    dtype = model.embedding.dtype
    try:
        vector = joint.double().of_systems(torch.tensor([charge]).double(), torch.tensor([spin]).double())
    except RuntimeError as error:
        raise InputError(f"charge {charge:g}, multiplicity {spin:g}: {error}") from None
    finally:
        joint.to(dtype)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items() if not name.startswith("joint_emb")}
    root = math.sqrt(model.n_species)
    embedding = model.embedding.double() / root + vector
    heads = torch.arange(len(config.heads), device=embedding.device)
    energies = [joint.double().energies(embedding, torch.full((model.n_species,), int(h))) for h in heads]
    joint.to(dtype)
    state["embedding"] = (embedding * root).to(dtype)
    state["atomic_energies"] = state["atomic_energies"] + torch.stack(energies)
    return restore_model(replace(config, embeddings=(), embedding_readout=False), state, dtype)
