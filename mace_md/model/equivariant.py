"""Linear maps and readouts of features with another number of channels for each l.

Such features are lists: for l = 0, 1, ... a tensor [n_atoms, 2 l + 1, channels of l], which can be of no channels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mace_md.model.blocks import Gate


def by_l(features: Tensor) -> list[Tensor]:
    """Node features [n_atoms, (L + 1)^2, C] as a list over l."""
    parts: list[Tensor] = []
    l = 0
    while l * l < features.shape[1]:
        parts.append(features[:, l * l : (l + 1) * (l + 1)])
        l += 1
    return parts


class LinearByL(nn.Module):
    """One matrix for each l of the output, with a bias of the scalars if wanted."""

    def __init__(self, n_in: list[int], n_out: list[int], bias: bool = False):
        """n_in, n_out: channels of l = 0, 1, ..."""
        super().__init__()
        rows = [n_in[l] if l < len(n_in) else 0 for l in range(len(n_out))]
        self.weights = nn.ParameterList([torch.randn(n, m) for n, m in zip(rows, n_out, strict=True)])
        self.bias = nn.Parameter(torch.zeros(n_out[0] if bias else 0))
        self.has_bias = bias

    def forward(self, x: list[Tensor]) -> list[Tensor]:
        """Features as of this module's text -> the same, of the channels of the output."""
        out: list[Tensor] = []
        for l, weight in enumerate(self.weights):
            if weight.shape[0] == 0 or l >= len(x):
                out.append(torch.zeros(x[0].shape[0], 2 * l + 1, weight.shape[1], dtype=x[0].dtype, device=x[0].device))
            else:
                out.append(x[l] @ (weight / math.sqrt(weight.shape[0])))
        if self.has_bias:
            out[0] = out[0] + self.bias
        return out


class EquivariantReadout(nn.Module):
    """Numbers for each l from the features of an atom: linear, or with hidden features behind a gate."""

    __constants__ = ["is_linear"]  # TorchScript leaves out the branch that a constant rules out

    def __init__(
        self, n_in: list[int], n_out: list[int], hidden: list[int], scalar_gate: str = "silu", vector_gate: str = "silu"
    ):
        """n_in, n_out, hidden: channels of l = 0, 1, ...; no `hidden` for a linear readout."""
        super().__init__()
        self.is_linear = not hidden
        self.gate = Gate(hidden, scalar_gate, vector_gate) if hidden else nn.Identity()
        self.first = LinearByL(n_in, [sum(hidden), *hidden[1:]]) if hidden else nn.Identity()
        self.last = LinearByL(hidden or n_in, n_out)

    def forward(self, x: list[Tensor]) -> list[Tensor]:
        """Features as of this module's text."""
        if not self.is_linear:
            x = self.gate(self.first(x))
        return self.last(x)
