"""The frames of an extended XYZ file as text: every one of them, whatever empty lines stand between them.

ASE ends at the first line that is no number of atoms; here what is no frame is an error with its line.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, TextIO

from mace_md.errors import InputError

_OPENERS: dict[str, Callable[..., BinaryIO]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}  # type: ignore
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


class FrameText(NamedTuple):
    """One frame as it stands in the file."""

    line: int  # of its number of atoms, counted from 1
    n_atoms: int
    comment: str
    rows: list[str]  # one for each atom, then VEC lines, if any


def is_xyz(path: Path) -> bool:
    """Whether the name, compressed or not, is that of an extended XYZ file."""
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in _OPENERS]
    return bool(suffixes) and suffixes[-1] in (".xyz", ".extxyz")


def read_frames(path: Path) -> Iterator[FrameText]:
    """The frames of a file in turn. Raises InputError with the line where there is no frame, or half of one."""
    try:
        with open_text(path) as file:
            yield from _frames(file, path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, EOFError, lzma.LZMAError, UnicodeError) as error:
        raise InputError(f"{path}: cannot be read ({type(error).__name__}: {error})") from None


def open_text(path: Path) -> TextIO:
    """A text file, compressed or not, in UTF-8 or UTF-16, with or without a byte-order mark."""
    opener = _OPENERS.get(path.suffix.lower(), open)
    with opener(path, "rb") as file:
        start = file.read(2)
    encoding = "utf-16" if start in _UTF16 else "utf-8-sig"
    return io.TextIOWrapper(opener(path, "rb"), encoding=encoding, errors="replace")


def _frames(file: TextIO, path: Path) -> Iterator[FrameText]:
    lines = enumerate(file, start=1)
    held: tuple[int, str] | None = None  # a line read too far
    frame = 0
    while (number_line := held or next(lines, None)) is not None:
        held = None
        line, text = number_line
        if not text.strip():
            continue
        n_atoms = _count(text, line, frame, path)
        comment = next(lines, (0, ""))[1].strip()
        rows = []
        for _ in range(n_atoms):
            here, row = next(lines, (0, ""))
            if not row.strip():
                where = f"line {here} is empty" if here else "the file ends"
                raise InputError(
                    f"{path}: {where} after {len(rows)} of the {n_atoms} atoms of frame {frame} (counted from 0, from "
                    f"line {line} on). Mend that frame, or take it out."
                )
            rows.append(row)
        held = next(lines, None)
        while held is not None and held[1].startswith("VEC"):  # the cell of a few programs
            rows.append(held[1])
            held = next(lines, None)
        yield FrameText(line, n_atoms, comment, rows)
        frame += 1


def _count(text: str, line: int, frame: int, path: Path) -> int:
    try:
        count = int(text)
    except ValueError:
        count = -1
    if count < 0:
        shown = text.strip()[:60]
        before = f"after frame {frame - 1} (counted from 0)" if frame else "at the start of the first frame"
        raise InputError(
            f"{path}, line {line}: '{shown}' {before}, where the number of atoms of a frame has to be. Is a line "
            "missing, or one too many?"
        )
    return count
