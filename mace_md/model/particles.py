"""The particles of a potential: which atoms a model acts on, what they are to it, and in which precision."""

from collections.abc import Sequence
from typing import Any, Optional

import torch
from torch import Tensor, nn

from mace_md.errors import InputError


class GradientsOn:
    """torch.enable_grad() for code that is scripted: TorchScript knows only no_grad."""

    def __init__(self) -> None:
        self.before = False

    def __enter__(self) -> None:
        self.before = torch.is_grad_enabled()
        torch.set_grad_enabled(True)

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        torch.set_grad_enabled(self.before)


def check_particles(positions: Tensor, n_particles: int, box: Optional[Tensor], periodic: bool) -> None:
    """Raise RuntimeError for another number of particles than the potential was made for, and for a missing box."""
    if positions.size(0) != n_particles:
        raise RuntimeError(f"this potential was made for {n_particles} particles, the system has {positions.size(0)}")
    if periodic and box is None:
        raise RuntimeError("this potential is periodic, but it was given no box")


def model_dtype(model: nn.Module) -> torch.dtype:
    """The dtype that a model computes in: that of its first weight."""
    for weight in model.parameters():
        return weight.dtype
    return torch.float64


def species_of(model: nn.Module, atomic_numbers: Sequence[int]) -> Tensor:
    """Index of each atom in the model's `atomic_numbers`, int64. Raises InputError for an element it does not know."""
    known = {int(z): index for index, z in enumerate(torch.as_tensor(model.atomic_numbers).tolist())}
    unknown = sorted({int(z) for z in atomic_numbers} - set(known))
    if unknown:
        raise InputError(
            f"the model does not know {_symbols(unknown)}; it was trained on {_symbols(sorted(known))}. "
            "Choose another model (`mace-md models list`) or leave those atoms out of its region"
        )
    return torch.tensor([known[int(z)] for z in atomic_numbers], dtype=torch.int64)


def _symbols(atomic_numbers: Sequence[int]) -> str:
    from ase.data import chemical_symbols

    names = [chemical_symbols[z] if 0 < z < len(chemical_symbols) else f"element {z}" for z in atomic_numbers]
    return ", ".join(names)
