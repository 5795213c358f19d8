"""The losses, as mace-torch defines them: sums over labels, each divided by the number of its entries.

A frame counts `weight` times; its energy, forces and stress count `energy_weight`, ... times, 0 for no label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from mace_md.model.mace import Prediction
from mace_md.training.batches import Batch

_FORCE_STEPS = ((100.0, 1.0), (200.0, 0.7), (300.0, 0.4), (float("inf"), 0.1))  # eV/A: factors of the Huber delta


class LossTerms(NamedTuple):
    """Sums over the entries of a batch and their numbers, so that batches can be put together exactly."""

    sums: Tensor  # [3]: energy, forces, stress, weights of the loss included
    counts: Tensor  # [3]: entries of each


@dataclass(frozen=True)
class Loss:
    """A loss on the energy per atom (eV), force components (eV/A) and stress components (eV/A^3)."""

    energy_weight: float = 1.0
    forces_weight: float = 100.0
    stress_weight: float = 0.0
    kind: str = "mse"  # mse, huber, universal
    huber_delta: float = 0.01

    @property
    def with_stress(self) -> bool:
        """Whether the stress is needed."""
        return self.stress_weight > 0

    def terms(self, batch: Batch, prediction: Prediction) -> LossTerms:
        """The three sums and counts; stress is 0 without a weight for it."""
        n = batch.num_atoms
        energy = self._energy(batch, prediction.energy / n, batch.energy / n)
        forces = self._forces(batch, prediction.forces)
        sums = [self.energy_weight * energy.sum(), self.forces_weight * forces.sum().to(torch.float64)]
        counts = [energy.numel(), forces.numel(), 1]
        if self.with_stress:
            weight = batch.stress_weight.reshape(-1, 1, 1)
            stress = self._shape(batch.stress, prediction.stress, weight, batch.weight.reshape(-1, 1, 1))
            sums.append(self.stress_weight * stress.sum().to(torch.float64))
            counts[2] = stress.numel()
        else:
            sums.append(torch.zeros_like(sums[0]))
        return LossTerms(torch.stack(sums), torch.tensor(counts, dtype=torch.float64, device=n.device))

    def _energy(self, batch: Batch, found: Tensor, label: Tensor) -> Tensor:
        weight = batch.energy_weight.to(torch.float64)
        return self._shape(label, found, weight, batch.weight.to(torch.float64))

    def _forces(self, batch: Batch, found: Tensor) -> Tensor:
        atoms = batch.graph.batch
        weight, frame_weight = batch.forces_weight[atoms, None], batch.weight[atoms, None]
        if self.kind != "universal":
            return self._shape(batch.forces, found, weight, frame_weight)
        size = (weight * batch.forces).norm(dim=1, keepdim=True)
        result = torch.zeros_like(found)
        for limit, factor in reversed(_FORCE_STEPS):
            part = self._huber(batch.forces, found, weight, factor * self.huber_delta)
            result = torch.where(size < limit, part, result)
        return frame_weight * result

    def _shape(self, label: Tensor, found: Tensor, weight: Tensor, frame_weight: Tensor) -> Tensor:
        if self.kind == "mse":
            return frame_weight * weight * (label - found).square()
        return frame_weight * self._huber(label, found, weight, self.huber_delta)

    @staticmethod
    def _huber(label: Tensor, found: Tensor, weight: Tensor, delta: float) -> Tensor:
        # The weight stands inside: a label that counts half is compared as if both numbers were half as large.
        return huber_loss(weight * found, weight * label, reduction="none", delta=delta)

    def __call__(self, batch: Batch, prediction: Prediction) -> Tensor:
        """The loss of the batch, a float64 scalar."""
        terms = self.terms(batch, prediction)
        return (terms.sums / terms.counts).sum()
