"""What evaluates a model in training: the native kernels or plain PyTorch, and the proof that they agree."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mace_md.errors import InputError, SafetyStop
from mace_md.model.fast.trainable import NativeMACE, prepare_graph, why_not_native
from mace_md.model.graph import Graph
from mace_md.model.mace import MACE, Prediction, predict
from mace_md.training.batches import Batch
from mace_md.training.loss import Loss

log = logging.getLogger("mace_md")

# Largest deviation of a gradient from that of the plain model in float64, relative to the largest of its parameter. In
# float32 it is rounding, of sums that cancel to different degrees.
GRADIENT_LIMIT = {torch.float64: 1e-9, torch.float32: 1e-3}
# A parameter whose gradients are smaller than this part of the largest of all is judged by that: they may cancel.
_FLOOR = 1e-3
_FRAMES_CHECKED = 2


@dataclass(frozen=True)
class Evaluator:
    """Predicts energies, forces and stresses of graphs with the weights that the model has at the time."""

    name: str  # "native" or "reference"
    reason: str
    prepare: Callable[[Graph], Any]  # what does not depend on weights, for `predict`
    predict: Callable[..., Prediction]  # arguments as `mace_md.model.mace.predict`, after the prepared graph


def make_evaluator(model: MACE, kernels: str = "auto") -> Evaluator:
    """The evaluator that `kernels` names: "auto" (native where they can), "native" or "reference".

    Raises InputError for "native" when they cannot evaluate the model.
    """
    reason = why_not_native(model) if kernels != "reference" else "asked for"
    if reason is not None and kernels == "native":
        raise InputError(f"--kernels native: {reason}. Give --kernels auto.")
    if reason is not None:
        return Evaluator("reference", reason, lambda graph: graph, lambda graph, **how: predict(model, graph, **how))
    native = NativeMACE(model)
    reason = "asked for" if kernels == "native" else "they can train this model"
    return Evaluator("native", reason, lambda graph: prepare_graph(graph, model.n_species), native.predict)


def loss_gradients(model: MACE, evaluator: Evaluator, batch: Batch, loss: Loss) -> list[Tensor]:
    """Gradient of the loss of a batch in every trained weight of `model`; zeros where it does not depend on one."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    prediction = evaluator.predict(evaluator.prepare(batch.graph), stress=loss.with_stress, training=True)
    found = torch.autograd.grad(loss(batch, prediction), weights, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True)]


def check_gradients(model: MACE, evaluator: Evaluator, batch: Batch, loss: Loss) -> float:
    """Compare the gradients of a batch with those of the plain model in float64; returns the largest deviation.

    NaN where the plain model's own gradients are no numbers.

    Raises SafetyStop, with the parameter, when it is above `GRADIENT_LIMIT`.
    """
    exact = copy.deepcopy(model).double()
    plain = make_evaluator(exact, "reference")
    wanted = loss_gradients(exact, plain, _in_double(batch), loss)
    if not all(bool(gradient.isfinite().all()) for gradient in wanted):
        return math.nan  # of the plain model too: the first step says what to do about it
    found = loss_gradients(model, evaluator, batch, loss)
    names = [name for name, weight in model.named_parameters() if weight.requires_grad]
    largest = max(float(gradient.abs().max()) for gradient in wanted)
    limit, worst = GRADIENT_LIMIT[model.embedding.dtype], 0.0
    for name, right, mine in zip(names, wanted, found, strict=True):
        size = max(float(right.abs().max()), _FLOOR * largest, 1e-300)
        deviation = float((right - mine.double()).abs().max()) / size
        if not deviation <= limit:
            raise SafetyStop(
                f"self-check: the gradient of {name} from the {evaluator.name} kernels is off by {deviation:.1e} of "
                f"its size; {limit:.0e} is allowed. Train with --kernels reference, and report this, please."
            )
        worst = max(worst, deviation)
    return worst


def check_at_start(model: MACE, evaluator: Evaluator, graphs: Any, loss: Loss) -> None:
    """The check of `check_gradients` on the first frames of `graphs`, and a line in the log on what evaluates."""
    log.info("kernels: %s (%s)", evaluator.name, evaluator.reason)
    if evaluator.name == "reference":
        return
    batch = graphs.batch(range(min(_FRAMES_CHECKED, len(graphs))))
    deviation = check_gradients(model, evaluator, batch, loss)
    log.info(
        "self-check: gradients of all weights agree with the plain model to %.1e (limit %.0e)",
        deviation, GRADIENT_LIMIT[model.embedding.dtype],
    )  # fmt: skip


def _in_double(batch: Batch) -> Batch:
    graph = batch.graph
    graph = graph._replace(positions=graph.positions.double(), shifts=graph.shifts.double(), cell=graph.cell.double())
    floats = {name: getattr(batch, name).double() for name in batch._fields if name not in ("graph", "num_atoms")}
    return batch._replace(graph=graph, **floats)
