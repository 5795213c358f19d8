"""Modules of a torch file as blocks with children, tensors and settings, read from their inert records.

Files of 2022-23 hold plain numbers, lists and numpy scalars where newer ones hold buffers; `Block.tensor` reads both.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from mace_md.model.reading.archive import Archive
from mace_md.model.reading.unpickle import Record, Refused, TensorRecord

_DEEPEST = 30  # modules inside modules; real models have about 8


class Block:
    """A module of the file, with its children, numbers and settings by name."""

    def __init__(self, archive: Archive, record: Any, path: str):
        if type(record) is not Record:
            raise Refused(f"{path} is not a module but {shown(record)}; this is no complete MACE model.")
        if path.count(".") > _DEEPEST:
            raise Refused("its modules contain one another without end.")
        self.archive, self.record, self.path, self.kind = archive, record, path, record.kind
        self.modules = _as_dict(record.state.get("_modules"))
        self.tensors = {**_as_dict(record.state.get("_buffers")), **_as_dict(record.state.get("_parameters"))}

    def __contains__(self, name: str) -> bool:
        return self.modules.get(name, self.tensors.get(name, self.record.state.get(name))) is not None

    def child(self, name: str) -> Block:
        """The module `name`; dots go deeper."""
        first, _, rest = name.partition(".")
        if first not in self.modules:
            raise Refused(f"{self.path} ({self.kind}) has no {first}; this is no complete MACE model.")
        block = Block(self.archive, self.modules[first], f"{self.path}.{first}" if self.path else first)
        return block.child(rest) if rest else block

    def children(self) -> list[Block]:
        """The members of a ModuleList, in order."""
        return [self.child(name) for name in sorted(self.modules, key=int)]

    def tensor(self, name: str) -> Tensor:
        """Parameter, buffer or plain number `name`, float64 (or as stored, for integers)."""
        value = self.tensors.get(name, self.record.state.get(name))
        tensor = self.archive.tensor(value) if type(value) is TensorRecord else _tensor(value, f"{self.path}.{name}")
        return tensor.double() if tensor.is_floating_point() else tensor

    def number(self, name: str) -> float:
        """A single number."""
        return float(self.tensor(name))

    def setting(self, name: str, default: Any) -> Any:
        """A plain attribute, as data."""
        return self.record.state.get(name, default)

    def irreps(self, name: str) -> list[tuple[int, int]]:
        """Multiplicity and l of every part of the irreps `name`; refuses unnatural parity."""
        return _irreps(self.record.state.get(name), f"{self.path}.{name}")


def ratio_to(found: Any, expected: float) -> float:
    """found / expected; exactly 1 where they agree to rounding, so that weights stay bit for bit."""
    ratio = float(_tensor(found, "a path weight")) / expected
    return 1.0 if abs(ratio - 1.0) < 1e-14 else ratio


def fields_of(instruction: Any, n: int) -> tuple:
    """The `n` fields of an e3nn instruction (a named tuple)."""
    if type(instruction) is not Record or len(instruction.args) != n:
        raise Refused(f"its tensor products are described by {shown(instruction)}, which is unknown here.")
    return instruction.args


def _irreps(value: Any, path: str) -> list[tuple[int, int]]:
    """Multiplicity and l of every part of e3nn Irreps, as records or as text."""
    parts = _irreps_of_text(value) if type(value) is str else _irreps_of_record(value)
    if parts is None:
        raise Refused(f"{path} is {shown(value)} instead of irreps.")
    for mul, l, parity in parts:
        if parity != (-1) ** l:
            raise Refused(f"{path} contains {mul}x{l}{'e' if parity == 1 else 'o'}; only natural parity is known here.")
    return [(mul, l) for mul, l, _ in parts]


def _irreps_of_text(text: str) -> list[tuple[int, int, int]] | None:
    parts = []
    for part in text.replace(" ", "").split("+"):
        mul, _, irrep = part.rpartition("x")
        if not irrep[:-1].isdigit() or irrep[-1:] not in ("e", "o") or not (mul or "1").isdigit():
            return None
        parts.append((int(mul or 1), int(irrep[:-1]), 1 if irrep[-1] == "e" else -1))
    return parts


def _irreps_of_record(value: Any) -> list[tuple[int, int, int]] | None:
    """Irreps are tuples of (mul, Irrep), which are tuples of (l, parity), each pickled with the tuple as argument."""
    try:
        parts = []
        for item in value.args[0]:
            mul, irrep = item.args[0]
            l, parity = irrep.args[0]
            parts.append((mul, l, parity))
    except (AttributeError, IndexError, TypeError, ValueError):
        return None
    return parts if all(type(n) is int for part in parts for n in part) else None


def count_scalars(irreps: list[tuple[int, int]]) -> int:
    """Number of scalars in irreps."""
    return sum(mul for mul, l in irreps if l == 0)


def _tensor(value: Any, path: str) -> Tensor:
    """A number, a list of numbers, or a numpy scalar, as files of 2022-23 have them."""
    try:
        if type(value) is list and list not in map(type, value):
            return torch.stack([_tensor(item, path) for item in value])
        if type(value) is Record and value.name == "numpy.core.multiarray.scalar":
            value = _numpy_scalar(*value.args)
    except (TypeError, ValueError, RuntimeError, KeyError):
        pass
    if type(value) not in (int, float):
        raise Refused(f"{path} is {shown(value)} instead of a number.")
    return torch.tensor(value, dtype=torch.float64 if type(value) is float else torch.int64)


def _numpy_scalar(dtype: Record, data: bytes) -> int | float:
    import numpy as np

    kinds = {"i8": "<i8", "i4": "<i4", "f8": "<f8", "f4": "<f4"}
    return np.frombuffer(data, dtype=kinds[dtype.args[0]], count=1)[0].item()


def reshaped(tensor: Tensor, shape: tuple[int, ...], block: Block) -> Tensor:
    """`tensor` in `shape`; refuses one of another size."""
    if tensor.numel() != math.prod(shape):
        raise Refused(f"{block.path} has {tensor.numel()} numbers where its shape asks for {shape}.")
    return tensor.reshape(shape)


def with_prefix(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """`state` with longer names."""
    return {prefix + name: tensor for name, tensor in state.items()}


def _as_dict(value: Any) -> dict:
    return value if type(value) is dict else {}


def shown(value: Any) -> str:
    """What a value is, for a message."""
    return f"a {value.kind}" if type(value) is Record else f"a {type(value).__name__}"
