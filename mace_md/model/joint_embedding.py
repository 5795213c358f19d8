"""Further inputs of a model, such as the total charge and the spin multiplicity, as a part of its node embedding."""

from __future__ import annotations

import math
from typing import Optional

import torch
from torch import Tensor, nn

from mace_md.errors import InputError
from mace_md.model.hyperparameters import InputEmbedding, ModelConfig

DEFAULTS = {"total_charge": 0.0, "total_spin": 1.0}  # e; multiplicity 2S + 1


class JointEmbedding(nn.Module):
    """What is added to the features of every atom before the first layer: silu(W [e_1 | e_2 | ...]).

    One vector e for each input: a row of a table (categorical), or a network (continuous). mace-torch's
    GenericJointEmbedding. Inputs other than the total charge and the spin multiplicity are not known here.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        for embedding in config.embeddings:
            if embedding.name not in DEFAULTS or embedding.per != "graph":
                raise InputError(
                    f"the model has the input {embedding.name} (for each {embedding.per}), which cannot be given here: "
                    "total_charge and total_spin for each graph can. Use the model with mace-torch"
                )
        self.names: list[str] = [embedding.name for embedding in config.embeddings]
        self.embedders = nn.ModuleList([make_embedder(embedding) for embedding in config.embeddings])
        size = sum(embedding.size for embedding in config.embeddings)
        self.project = nn.Parameter(torch.randn(config.num_channels, size) / math.sqrt(size))
        self.with_energy = config.embedding_readout
        n_heads = len(config.heads)
        self.readout = nn.Parameter(torch.randn(config.num_channels, n_heads if config.embedding_readout else 0))

    def of_systems(self, charge: Tensor, spin: Tensor) -> Tensor:
        """charge (e) and spin (multiplicity) [n_systems] -> what is added to the features of their atoms, [n, C]."""
        vectors: list[Tensor] = []
        for i, embedder in enumerate(self.embedders):
            vectors.append(embedder(charge if self.names[i] == "total_charge" else spin))
        return torch.nn.functional.silu(torch.cat(vectors, dim=1) @ self.project.t())

    def forward(self, batch: Tensor, n_systems: int, charge: Optional[Tensor], spin: Optional[Tensor]) -> Tensor:
        """[n_atoms, C] for atoms of the systems `batch`; charge 0 and multiplicity 1 where they are not given."""
        dtype, device = self.project.dtype, self.project.device
        Q = torch.zeros(n_systems, dtype=dtype, device=device) if charge is None else charge.to(dtype)
        M = torch.ones(n_systems, dtype=dtype, device=device) if spin is None else spin.to(dtype)
        return self.of_systems(Q, M).index_select(0, batch)

    def energies(self, embedded: Tensor, head: Tensor) -> Tensor:
        """Energy of every atom (eV, float64) that is linear in its features before the first layer, 0 without one."""
        if not self.with_energy:
            return torch.zeros(embedded.shape[0], dtype=torch.float64, device=embedded.device)
        by_head = embedded @ (self.readout / math.sqrt(self.readout.shape[0]))
        return by_head.gather(1, head.unsqueeze(1)).squeeze(1).to(torch.float64)


class CategoricalEmbedder(nn.Module):
    """A row of a table."""

    def __init__(self, embedding: InputEmbedding):
        super().__init__()
        self.offset = embedding.offset
        self.table = nn.Parameter(torch.randn(embedding.num_classes, embedding.size))

    def forward(self, value: Tensor) -> Tensor:
        """[n] -> [n, size]."""
        row = torch.round(value).to(torch.int64) + self.offset
        if bool((row < 0).any()) or bool((row >= self.table.shape[0]).any()):
            raise RuntimeError("a total charge or a spin multiplicity is outside of what the model was made for")
        return self.table.index_select(0, row)


class ContinuousEmbedder(nn.Module):
    """A network with one hidden layer."""

    def __init__(self, embedding: InputEmbedding):
        super().__init__()
        if embedding.in_size != 1:
            raise InputError(f"the input {embedding.name} has {embedding.in_size} numbers; 1 is known here")
        self.first = nn.Linear(1, embedding.size, bias=embedding.bias)
        self.second = nn.Linear(embedding.size, embedding.size, bias=embedding.bias)

    def forward(self, value: Tensor) -> Tensor:
        """[n] -> [n, size]."""
        return self.second(torch.nn.functional.silu(self.first(value.unsqueeze(1))))


def make_embedder(embedding: InputEmbedding) -> nn.Module:
    """The module that turns values of an input into vectors."""
    return (CategoricalEmbedder if embedding.kind == "categorical" else ContinuousEmbedder)(embedding)
