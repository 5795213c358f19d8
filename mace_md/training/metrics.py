"""Errors and loss of a model in training, summed batch by batch on the device, and over processes.

`comparison.py` looks closer, at predictions of a finished model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from mace_md.model.mace import MACE, Prediction
from mace_md.training.batches import Batch, LazyGraphs, PackedGraphs, iterate_batches
from mace_md.training.evaluators import Evaluator, make_evaluator
from mace_md.training.loss import Loss

# Rows of the sums: |error|, error^2, count of each quantity; then the three terms of the loss and their counts.
_QUANTITIES = ("energy", "energy_per_atom", "forces", "stress")


@dataclass(frozen=True)
class ValidationErrors:
    """Mean absolute and root-mean-square errors, in eV and A; NaN where there is no label."""

    loss: float
    mae: dict[str, float]  # energy (per system), energy_per_atom, forces (per component), stress (per component)
    rmse: dict[str, float]

    def columns(self) -> dict[str, float]:
        """For a table, in meV, meV/A, meV/A^3; quantities without labels left out."""
        named = {"loss": self.loss}
        for name in _QUANTITIES:
            unit = {"forces": "meV_per_A", "stress": "meV_per_A3"}.get(name, "meV")
            for kind, values in (("mae", self.mae), ("rmse", self.rmse)):
                if values[name] == values[name]:
                    named[f"{kind}_{name}_{unit}"] = 1000.0 * values[name]
        return named


def evaluate_errors(
    model: MACE,
    graphs: PackedGraphs | LazyGraphs,
    loss: Loss,
    batch_size: int = 20,
    share: tuple[int, int] = (0, 1),
    add_up: Callable[[Tensor], None] = lambda sums: None,
    evaluator: Evaluator | None = None,
) -> ValidationErrors:
    """Errors and loss over all frames, weights of frames counted in the loss only.

    share : (rank, number of processes): every process takes its part of the batches, and `add_up` sums over processes.
    evaluator : of `model`; plain PyTorch, if there is none.
    """
    evaluator = evaluator or make_evaluator(model, "reference")
    groups = [range(i, min(i + batch_size, len(graphs))) for i in range(0, len(graphs), batch_size)]
    sums = torch.zeros(len(_QUANTITIES) + 1, 6, dtype=torch.float64, device=model.embedding.device)
    with _weights_held(model):
        prepared = iterate_batches(
            graphs, groups[share[0] :: share[1]], lambda batch: (batch, evaluator.prepare(batch.graph))
        )
        for batch, graph in prepared:
            prediction = evaluator.predict(graph, stress=loss.with_stress)
            _accumulate(sums, batch, prediction, loss)
    add_up(sums)
    return _errors(sums.cpu())


@contextmanager
def _weights_held(model: torch.nn.Module) -> Iterator[None]:
    """While open, no gradients of the weights are recorded: positions are differentiated once, and that is cheaper."""
    free = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in free:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in free:
            weight.requires_grad_(True)


def _accumulate(sums: Tensor, batch: Batch, prediction: Prediction, loss: Loss) -> None:
    terms = loss.terms(batch, prediction)
    sums[-1, :3] += terms.sums.detach()
    sums[-1, 3:] += terms.counts
    energy = (prediction.energy - batch.energy).detach()
    known = batch.energy_weight > 0
    _add(sums[0], energy[known])
    _add(sums[1], (energy / batch.num_atoms)[known])
    _add(sums[2], (prediction.forces - batch.forces)[(batch.forces_weight > 0)[batch.graph.batch]])
    if prediction.stress is not None:
        _add(sums[3], (prediction.stress - batch.stress)[batch.stress_weight > 0])


def _add(row: Tensor, error: Tensor) -> None:
    error = error.detach().to(torch.float64)
    row[0] += error.abs().sum()
    row[1] += error.square().sum()
    row[2] += error.numel()


def _errors(sums: Tensor) -> ValidationErrors:
    mae, rmse = {}, {}
    for name, row in zip(_QUANTITIES, sums, strict=False):
        mae[name] = float(row[0] / row[2])  # 0 / 0 is NaN: no label
        rmse[name] = float((row[1] / row[2]).sqrt())
    return ValidationErrors(float((sums[-1, :3] / sums[-1, 3:].clamp(min=1.0)).sum()), mae, rmse)


def index_groups(order: Sequence[int], batch_size: int) -> list[list[int]]:
    """`order` cut into batches."""
    return [[int(i) for i in order[start : start + batch_size]] for start in range(0, len(order), batch_size)]
