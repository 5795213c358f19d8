"""The precision that a model computes in, however it is written."""

from __future__ import annotations

from typing import Any

import torch

from mace_md.errors import InputError

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


def float_dtype(dtype: Any) -> torch.dtype | None:
    """torch's float32 or float64 from its name, torch's own type, or numpy's (type or dtype); None stays None.

    Raises InputError for anything else.
    """
    if dtype is None:
        return None
    name = dtype if isinstance(dtype, str) else str(dtype)
    if not isinstance(dtype, (str, torch.dtype)):  # numpy.float32, numpy.dtype("float32"), "<f4"
        name = getattr(dtype, "__name__", None) or getattr(dtype, "name", None) or name
    found = _DTYPES.get(str(name).removeprefix("torch."))
    if found is None:
        raise InputError(f"dtype is 'float32' or 'float64', not {dtype!r} (torch's and numpy's types are taken, too)")
    return found
