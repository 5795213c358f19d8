"""Atoms sorted by element, for weights that depend on the element."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mace_md.model.hyperparameters import ModelConfig


class SpeciesGroups(NamedTuple):
    """The atoms of a graph sorted by species, and the way back."""

    order: Tensor  # [n_atoms], atom at each place of the sorted order
    place: Tensor  # [n_atoms], place of each atom in the sorted order
    counts: list[int]  # atoms of each species


def group_by_species(species: Tensor, n_species: int) -> SpeciesGroups:
    """Sort atoms by species [n_atoms]; the order inside a species is kept."""
    order = torch.argsort(species, stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(order.shape[0], device=order.device)
    counts: list[int] = torch.bincount(species, minlength=n_species).tolist()
    return SpeciesGroups(order, place, counts)


def sorted_species(groups: SpeciesGroups, device: torch.device) -> Tensor:
    """Species of the atoms in the sorted order, [n_atoms], int64."""
    counts = torch.tensor(groups.counts, dtype=torch.int64, device=device)
    return torch.repeat_interleave(torch.arange(len(groups.counts), device=device), counts)


def split_by_species(x: Tensor, groups: SpeciesGroups) -> list[Tensor]:
    """Rows of x [n_atoms, ...] of each species, n_species tensors."""
    return list(x.index_select(0, groups.order).split(groups.counts))


def join_species(parts: list[Tensor], groups: SpeciesGroups) -> Tensor:
    """Inverse of `split_by_species`."""
    return torch.cat(parts).index_select(0, groups.place)


def species_axis(name: str, config: ModelConfig) -> int | None:
    """The axis of the tensor `name` of a model's state_dict that runs over elements; None where there is none."""
    if name == "atomic_energies":
        return 1
    if name in ("atomic_numbers", "embedding", "repulsion.charges"):
        return 0
    if name.endswith(("covalent_radii", "skip.weight", "source_embedding", "target_embedding")):
        return 0
    return 0 if name.endswith("contraction.weight") and not config.agnostic_product else None


def sees_one_hot_elements(name: str) -> bool:
    """Whether the tensor `name` is normalised by the number of elements."""
    return name == "embedding" or name.endswith(("skip.weight", "source_embedding", "target_embedding"))
