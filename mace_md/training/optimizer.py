"""Adam for MACE's weights, the moving average of the weights, and which weights stay as they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mace_md.errors import InputError

PARTS = ("embedding", "interactions", "products", "readouts")


def freeze_parts(model: nn.Module, parts: Sequence[str]) -> None:
    """Exclude parts of a model from training; raises InputError for a part that is not one, or when none is left."""
    for part in parts:
        if not any(_is_in(name, part) for name, _ in model.named_parameters()):
            layers = [f"{name}.{i}" for name in PARTS for i in range(len(getattr(model, name))) if name != "embedding"]
            raise InputError(f"no part '{part}' to freeze; the parts are {', '.join((*PARTS, *layers))}")
    for name, weight in model.named_parameters():
        weight.requires_grad_(not any(_is_in(name, part) for part in parts))
    if not any(weight.requires_grad for weight in model.parameters()):
        raise InputError(f"--freeze {','.join(parts)} leaves nothing to train")


def _is_in(name: str, part: str) -> bool:
    return name == part or name.startswith(part + ".")


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Weights with and without decay, as mace-torch divides them.

    Decay is for the linear maps behind the convolutions and for everything in the products: there many weights say
    nearly the same. Embedding, radial networks, element-dependent skips and readouts have none.
    """
    decayed, others = [], []
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            with_decay = name.startswith("products.") or ".convolution.weights." in name
            (decayed if with_decay else others).append(weight)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def make_optimizer(model: nn.Module, kind: str, lr: float, weight_decay: float, amsgrad: bool) -> torch.optim.Optimizer:
    """AdamW (decay apart from the gradient: Loshchilov and Hutter 2019) or Adam (decay in the gradient)."""
    cls = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[kind]
    return cls(parameter_groups(model, weight_decay), lr=lr, amsgrad=amsgrad, fused=True)


class MovingAverage:
    """Exponential moving average of the trained weights: w' <- d w' + (1 - d) w, d = min(decay, (1 + n) / (10 + n))."""

    def __init__(self, model: nn.Module, decay: float):
        self.decay, self.updates = decay, 0
        self._weights = [weight for weight in model.parameters() if weight.requires_grad]
        self.average = [weight.detach().clone() for weight in self._weights]

    @torch.no_grad()
    def update(self) -> None:
        """Move the average after a step."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.average, [weight.detach() for weight in self._weights], 1.0 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """While open, the model has the averaged weights."""
        trained = [weight.detach().clone() for weight in self._weights]
        self._write(self.average)
        try:
            yield
        finally:
            self._write(trained)

    @torch.no_grad()
    def _write(self, values: list[Tensor]) -> None:
        for weight, value in zip(self._weights, values, strict=True):
            weight.copy_(value)

    def state_dict(self) -> dict:
        """For a checkpoint."""
        return {"updates": self.updates, "average": self.average}

    def load_state_dict(self, state: dict) -> None:
        """Continue from a checkpoint."""
        self.updates = state["updates"]
        for mine, saved in zip(self.average, state["average"], strict=True):
            mine.copy_(saved)
