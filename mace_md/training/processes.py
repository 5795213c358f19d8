"""Training in several processes, started by torchrun: each takes its part of every batch, gradients are added up.

The loss is that of the whole batch: sums of the parts over counts of the whole, so that any number of processes gives
the weights of one, up to rounding. Gradients go round in one piece after the backward pass; they are a few megabytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed
from torch import Tensor

from mace_md.errors import InputError


@dataclass(frozen=True)
class Processes:
    """This process among all that train together."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this one writes files and talks."""
        return self.rank == 0

    def share_of(self, indices: Sequence[int]) -> Sequence[int]:
        """This process's part of a batch; may be empty."""
        return indices[self.rank :: self.size]

    def add_up(self, tensor: Tensor) -> None:
        """Replace the tensor by its sum over all processes."""
        if self.size > 1:
            torch.distributed.all_reduce(tensor)

    def add_up_gradients(self, weights: Sequence[Tensor]) -> None:
        """Replace the gradient of each weight by its sum over all processes; no gradient counts as zero."""
        if self.size == 1:
            return
        gradients = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        torch.distributed.all_reduce(flat)
        sizes = [gradient.numel() for gradient in gradients]
        for weight, part in zip(weights, flat.split(sizes), strict=True):
            weight.grad = part.reshape(weight.shape).clone()

    def any(self, condition: bool) -> bool:
        """Whether the condition holds in any process."""
        if self.size == 1:
            return condition
        flag = torch.tensor([float(condition)], device=_device_of_messages())
        torch.distributed.all_reduce(flag)
        return bool(flag.item() > 0)


def _device_of_messages() -> str:
    return "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"


def device_of(name: str) -> torch.device:
    """The device that a name stands for: auto is this process's GPU where there is one.

    Raises InputError where torch does not know it, or cannot compute on it.
    """
    gpu = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    chosen = name if name != "auto" else gpu if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(chosen)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {name}: {reason}. `mace-md doctor` says what is there.") from None
    return device


@contextmanager
def joined_processes(device: torch.device) -> Iterator[Processes]:
    """The processes that torchrun started (one, without it), connected while open: NCCL on GPUs, Gloo on CPUs."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Processes(torch.distributed.get_rank(), torch.distributed.get_world_size())
    finally:
        torch.distributed.destroy_process_group()
