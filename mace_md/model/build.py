"""Models from hyper-parameters, and models made from other models."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import torch
from torch import Tensor

from mace_md.errors import InputError
from mace_md.model.families import make_model
from mace_md.model.hyperparameters import ModelConfig
from mace_md.model.irreps import SymmetricBasis, count_couplings, symmetric_basis
from mace_md.model.mace import MACE
from mace_md.model.species import sees_one_hot_elements, species_axis

__all__ = [
    "ModelConfig",
    "bases_from_state",
    "build_model",
    "restore_model",
    "select_head",
    "select_species",
    "soften_products",
    "with_heads",
]


def build_model(config: ModelConfig, seed: int | None = None, dtype: torch.dtype = torch.float64) -> MACE:
    """A model with random weights; `seed` makes them repeatable without touching torch's global generator."""
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        return make_model(config).to(dtype)


@torch.no_grad()
def soften_products(model: MACE) -> None:
    """Make the initial product weights as small as mace-torch's, which divides by the number of all its paths.

    Its full basis has 23 cubic paths to l = 0 and 51 to l = 1, for our independent 8 and 12: with our own numbers the
    cubic terms would start three to five times as large.
    """
    config = model.config
    for layer, product in enumerate(model.products):
        sizes = symmetric_basis(config.max_ell, config.out_L(layer), config.correlation[layer]).path_sizes
        blocks = [(L, d) for L in range(config.out_L(layer) + 1) for d in range(1, config.correlation[layer] + 1)]
        start = 0
        for (L, degree), size in zip(blocks, sizes, strict=True):
            if size:
                factor = size / count_couplings(config.max_ell, L, degree)
                product.contraction.weight[:, start : start + size] *= factor
            start += size


def restore_model(config: ModelConfig, state: dict[str, Tensor], dtype: torch.dtype | None = None) -> MACE:
    """The model with the weights of `state` (a `state_dict`), its own product bases included.

    Raises InputError when a tensor is missing, unknown, or of another shape than `config` says.
    """
    if dtype is None:
        dtype = state["embedding"].dtype if "embedding" in state else torch.float64
    model = make_model(config, bases_from_state(config, state)).to(dtype)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]]
        raise InputError(f"weights do not fit the hyper-parameters: {'; '.join(lines[:3])}") from None
    return model


def bases_from_state(config: ModelConfig, state: dict[str, Tensor]) -> list[SymmetricBasis]:
    """The symmetric product basis of every layer, from a `state_dict`."""
    bases = []
    for layer in range(config.num_interactions):
        prefix = f"products.{layer}.contraction."
        try:
            factors = state[prefix + "factors"].T
            sizes = state[prefix + "term_sizes"].tolist()
            coupling = state[prefix + "coupling"].double()
        except KeyError as error:
            raise InputError(f"the model file has no tensor {error}") from None
        bases.append(SymmetricBasis(factors, sizes, coupling, [coupling.shape[1]]))
    return bases


def select_head(model: MACE, head: str) -> MACE:
    """A model with only the readout head named `head`; raises InputError that lists the heads when there is none."""
    heads = model.config.heads
    if head not in heads:
        raise InputError(f"no head {head!r} in this model; its heads: {', '.join(heads)}")
    if len(heads) == 1:
        return model
    h = heads.index(head)
    state = dict(model.state_dict())
    for name in ("atomic_energies", "scale", "shift"):
        state[name] = state[name][h : h + 1]
    for name, readout in _readouts_by_head(model):
        if hasattr(readout, "weight"):
            state[f"{name}.weight"] = readout.weight[:, h : h + 1]
        for part in ("weight_in", "weight_middle", "bias_middle", "weight_out", "bias_out"):
            if hasattr(readout, part):
                norm = math.sqrt(len(heads)) if part in ("weight_middle", "weight_out") else 1.0
                state[f"{name}.{part}"] = getattr(readout, part)[h : h + 1] / norm
    if model.joint_embedding is not None and model.config.embedding_readout:
        state["joint_embedding.readout"] = model.joint_embedding.readout[:, h : h + 1]
    return restore_model(replace(model.config, heads=(head,)), _detached(state))


def with_heads(model: MACE, heads: tuple[str, ...]) -> MACE:
    """A model whose readout heads `heads` all give the energies of the single head of `model`: to train them apart."""
    if len(model.config.heads) != 1:
        raise InputError(f"the model has the heads {', '.join(model.config.heads)}; choose one of them first")
    n = len(heads)
    state = dict(model.state_dict())
    for name in ("atomic_energies", "scale", "shift"):
        state[name] = state[name].repeat_interleave(n, dim=0)
    for name, readout in _readouts_by_head(model):
        if hasattr(readout, "weight"):
            state[f"{name}.weight"] = readout.weight.repeat(1, n)
        for part in ("weight_in", "weight_middle", "bias_middle", "weight_out", "bias_out"):
            if hasattr(readout, part):
                norm = math.sqrt(n) if part in ("weight_middle", "weight_out") else 1.0
                state[f"{name}.{part}"] = getattr(readout, part).repeat_interleave(n, dim=0) * norm
    if model.joint_embedding is not None and model.config.embedding_readout:
        state["joint_embedding.readout"] = model.joint_embedding.readout.repeat(1, n)
    return restore_model(replace(model.config, heads=tuple(heads)), _detached(state))


def select_species(model: MACE, atomic_numbers: list[int]) -> MACE:
    """The same model for fewer elements: smaller and faster, energies unchanged.

    Raises InputError when the model does not know one of `atomic_numbers`.
    """
    known = model.config.atomic_numbers
    missing = sorted(set(atomic_numbers) - set(known))
    if missing:
        raise InputError(f"the model does not know the elements with atomic numbers {missing}; it knows {list(known)}")
    kept = sorted(set(atomic_numbers))
    if tuple(kept) == known:
        return copy.deepcopy(model)
    index = torch.tensor([known.index(z) for z in kept])
    # weights that see one-hot elements are normalised by the number of elements
    norm = math.sqrt(len(kept) / len(known))
    state = dict(model.state_dict())
    for name, tensor in state.items():
        axis = species_axis(name, model.config)
        if axis is not None:
            state[name] = tensor.index_select(axis, index) * (norm if sees_one_hot_elements(name) else 1)
    smaller = restore_model(replace(model.config, atomic_numbers=tuple(kept)), _detached(state))
    for name in ("total_charge", "multiplicity"):  # of POLAR models, which are no part of their weights
        if name in dict(model.named_buffers(recurse=False)):
            getattr(smaller, name).copy_(getattr(model, name))
    return smaller


def _readouts_by_head(model: MACE) -> list[tuple[str, torch.nn.Module]]:
    """Name and module of every readout that has one number for each head."""
    lists = [name for name in ("readouts", "charge_readouts") if hasattr(model, name)]
    return [(f"{name}.{i}", readout) for name in lists for i, readout in enumerate(getattr(model, name))]


def _detached(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in state.items()}
