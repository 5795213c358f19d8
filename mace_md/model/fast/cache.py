"""Packed models kept on disk: the second start of the same model with the same elements finds its tables made.

A file is a packed model and the SHA-256 of it, under a name that is the hash of all that went in: every number of the
folded model, the options, and the code that packs. Files appear whole or not at all, what is damaged is made again,
and the oldest go when all together would be too large.
"""

import contextlib
import hashlib
import os
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mace_md.model.fast.packing import pack

LARGEST = 2**30  # bytes of all files together
_SUFFIX, _DIGEST_BYTES = ".packed", hashlib.sha256().digest_size
_SOURCES = ("fast/folded.py", "fast/packing.py", "fast/programs.py", "fast/tables.py", "blocks.py", "radial.py")


def cached_pack(folded, folder: Path, **options) -> Tensor:
    """What `pack(folded, **options)` returns, from `folder` if it was made before; else it is made, and kept there.

    A folder that cannot be read or written is done without. Raises what `pack` raises.
    """
    path = folder / f"{key_of(folded, options)}{_SUFFIX}"
    blob = _read(path)
    if blob is None:
        blob = pack(folded, **options)
        with contextlib.suppress(OSError):
            _write(path, blob)
            _forget_oldest(folder)
    return blob


def key_of(folded, options: dict) -> str:
    """The name of a packed model: a hash of the folded model, the options of `pack`, and the code that packs."""
    digest = hashlib.sha256(_code() + repr(sorted((name, str(value)) for name, value in options.items())).encode())
    for name, module in folded.named_modules():
        plain = {k: v for k, v in vars(module).items() if isinstance(v, int | float | str | list | tuple)}
        digest.update(repr((name, type(module).__name__, sorted(plain.items()))).encode())
    for name, tensor in sorted([*folded.named_buffers(), *folded.named_parameters()]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().numpy())
    return digest.hexdigest()[:40]


@cache
def _code() -> bytes:
    """Hash of the sources that make a packed model."""
    room = Path(__file__).parent.parent
    return hashlib.sha256(b"".join((room / name).read_bytes() for name in _SOURCES)).digest()


def _read(path: Path) -> Tensor | None:
    """The packed model in a file, or None when there is none that is whole."""
    try:
        data = np.fromfile(path, dtype=np.uint8)
    except OSError:
        return None
    body, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    if len(body) == 0 or hashlib.sha256(body).digest() != digest.tobytes():
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # the last to be forgotten
    return torch.from_numpy(body)


def _write(path: Path, blob: Tensor) -> None:
    """Writes the file beside its place and moves it there. Raises OSError, and leaves nothing then."""
    body = blob.numpy()
    if len(body) > LARGEST:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(body)
            file.write(hashlib.sha256(body).digest())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _forget_oldest(folder: Path) -> None:
    """Removes the files that were not used for the longest time until the rest is within LARGEST."""
    found = []
    for file in [*folder.glob(f"*{_SUFFIX}"), *folder.glob(".*.part")]:  # a killed process leaves its part
        with contextlib.suppress(OSError):
            status = file.stat()
            found.append((status.st_mtime_ns, status.st_size, file))
    total = 0
    for _, size, file in sorted(found, reverse=True):
        total += size
        if total > LARGEST:
            with contextlib.suppress(OSError):
                file.unlink()
