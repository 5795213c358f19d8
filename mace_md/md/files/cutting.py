"""Output files brought back to a checkpoint: cut where a row or a frame ended, and only where they are this run's.

A checkpoint remembers of each file its length, and a hash of the bytes that stood before it. A file that has something
else there belongs to another run, or was changed; it is refused. A table that was saved with other line ends, as
spreadsheets and editors do, is the same table, and gets its own line ends back.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from mace_md.errors import InputError

TAIL = 65536  # bytes before the cut that are compared
_TEXT = (".csv", ".extxyz")
_DCD_COUNTS = 24  # the header of a DCD file counts the frames in its first bytes, which change as it grows
_BLOCK = 2**20
_BOM = b"\xef\xbb\xbf"


def tails_of(folder: Path, sizes: Mapping[str, int]) -> dict[str, str]:
    """What stands before the end of each file, as a hash, for the checkpoint."""
    return {name: _hash(_tail(folder / name, size)) for name, size in sizes.items()}


def check_files(folder: Path, sizes: Mapping[str, int], tails: Mapping[str, str]) -> None:
    """Raise InputError when an output file is missing, or shorter than at the checkpoint, or not this run's."""
    for name, size in sizes.items():
        path = folder / name
        length = path.stat().st_size if path.exists() else 0
        if _is_ours(path, size, tails.get(name)) or _has_other_line_ends(path, size, tails.get(name)):
            continue
        if length < size:
            raise InputError(
                f"{path}: has {length} bytes, but had {size} at the checkpoint: it was moved or changed. Put it back, "
                "or start a new run with another --output."
            )
        raise InputError(
            f"{path}: is not the file that this run wrote: its first {size} bytes, those before the checkpoint, do not "
            "end as they did. It was changed, or is another run's. Put the run's own file back, or start a new run "
            "with another --output."
        )


def cut_files(folder: Path, sizes: Mapping[str, int], own: Iterable[str], tails: Mapping[str, str]) -> list[str]:
    """Cut each output file, which `check_files` accepted, back to the checkpoint; returns what was cut.

    own : patterns of the files of the part that is continued. One that the checkpoint does not know was begun after
    it, and goes: its rows and frames come again.
    """
    notes = []
    for path in sorted(path for pattern in own for path in folder.glob(pattern)):
        if path.name not in sizes:
            notes.append(f"{path.name}: begun after the checkpoint, written anew")
            path.unlink()
    for name, size in sizes.items():
        path = folder / name
        if not _is_ours(path, size, tails.get(name)):
            _restore_line_ends(path, size)
            notes.append(f"{name}: was saved with other line ends; it has its own again")
        excess = path.stat().st_size - size
        if excess:
            notes.append(f"{name}: cut by {excess} bytes, to the checkpoint")
            os.truncate(path, size)
    return notes


def _is_ours(path: Path, size: int, tail: str | None) -> bool:
    """Whether the file holds, before `size`, what the run wrote. Without a `tail`, whether a row can end there."""
    if not path.exists() or path.stat().st_size < size:
        return False
    found = _tail(path, size)
    if tail is None:
        return path.suffix not in _TEXT or found[-1:] in (b"", b"\n")
    return _hash(found) == tail


def _has_other_line_ends(path: Path, size: int, tail: str | None) -> bool:
    if path.suffix not in _TEXT or tail is None or not path.exists():
        return False
    kept = b""
    for block in _with_own_line_ends(path, size):
        kept = (kept + block)[-TAIL:]
    return _hash(kept[-min(size, TAIL) :] if size else b"") == tail


def _restore_line_ends(path: Path, size: int) -> None:
    temporary = path.with_name(path.name + ".part")
    with open(temporary, "wb") as file:
        for block in _with_own_line_ends(path, size):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _with_own_line_ends(path: Path, size: int) -> Iterator[bytes]:
    """The first `size` bytes of a text with a plain newline at the end of each line, without a byte-order mark."""
    left, held, first = size, b"", True
    with open(path, "rb") as file:
        while left > 0:
            block = file.read(_BLOCK)
            text = held + block
            text, first = (text.removeprefix(_BOM) if first else text), False
            held = b"\r" if text.endswith(b"\r") and block else b""  # its \n may come with the next block
            text = text[: len(text) - len(held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            if not block and not text:
                if left == 1:  # some editors leave the last line without an end
                    yield b"\n"
                return
            yield text[:left]
            left -= len(text)


def _tail(path: Path, size: int) -> bytes:
    start = max(size - TAIL, min(size, _DCD_COUNTS) if path.suffix == ".dcd" else 0)
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(size - start)


def _hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
