"""Standard output and standard error, which may go away while the program goes on: a closed terminal, an ended pipe."""

import errno
import os
import shutil
import sys
import textwrap
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

_GONE = (errno.EPIPE, errno.EIO)  # the reader of a pipe has left; the terminal was closed


def is_gone(error: BaseException | None) -> bool:
    """Whether writing failed since nobody is there any more to read."""
    return isinstance(error, OSError) and error.errno in _GONE


def stop_talking(stream: TextIO) -> None:
    """Send what is still written to a stream nowhere: whoever read it has left."""
    with suppress(OSError, ValueError, AttributeError):  # a stream that is closed, or stands in for one
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)


def leave_closed_terminal() -> None:
    """Stop talking to a terminal that is there no more, as after SIGHUP."""
    for stream in (sys.stdout, sys.stderr):
        try:
            os.write(stream.fileno(), b"")
            stream.flush()
        except OSError as error:
            if is_gone(error):
                stop_talking(stream)
        except (ValueError, AttributeError):
            pass


def show(text: str) -> None:
    """Write to standard output at once, as a line that rewrites itself; goes on silently where nobody is left."""
    stream = Patient(sys.stdout)
    stream.write(text)
    stream.flush()


class Patient:
    """A stream that goes on silently where nobody is left, for programs that write to one by themselves."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """As the stream does."""
        _patiently(self._stream, lambda: self._stream.write(text))

    def flush(self) -> None:
        """As the stream does."""
        _patiently(self._stream, self._stream.flush)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


def complain(text: str) -> None:
    """A line to standard error, fitted to a terminal; goes on silently where nobody is left."""
    print(fitted(text, sys.stderr), file=Patient(sys.stderr), flush=True)


def fitted(text: str, stream: TextIO) -> str:
    """`text` as it is, or for a terminal broken at words to its width, and in place of the progress line there, which
    comes again by itself."""
    if not stream.isatty():
        return text
    width = max(shutil.get_terminal_size().columns, 40)
    kept = {"subsequent_indent": "    ", "break_long_words": False, "break_on_hyphens": False}
    return "\r\033[K" + "\n".join(textwrap.fill(line, width, **kept) for line in text.splitlines())


def _patiently(stream: TextIO, write: Callable[[], object]) -> None:
    try:
        write()
    except OSError as error:
        if not is_gone(error):
            raise
        stop_talking(stream)
