"""Text files as people have them: with a byte-order mark, with the line ends of other systems."""

import codecs
from pathlib import Path

_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def read_text(path: Path) -> str:
    """The text of a file: UTF-8, with or without a byte-order mark, or UTF-16 with one; other bytes are replaced."""
    data = path.read_bytes()
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            data = data.removeprefix(mark) if encoding == "utf-8" else data
            break
    else:
        encoding = "utf-8"
    return data.decode(encoding, errors="replace").replace("\r\n", "\n").replace("\r", "\n")


def has_mark(path: Path) -> bool:
    """Whether a file begins with a byte-order mark, which readers of other libraries take for text."""
    with open(path, "rb") as file:
        start = file.read(4)
    return any(start.startswith(mark) for mark, _ in _MARKS)
