"""A file under HDF5 that a full disk cannot take down.

HDF5 keeps what it could not write, tries again when the process ends, and ends it with a segmentation fault (seen with
HDF5 1.14 and h5py 3). This file remembers the error instead and lets HDF5 go on writing to nowhere, so that it closes.
"""

from __future__ import annotations

import io
import os
from pathlib import Path


class PatientFile(io.RawIOBase):
    """A new file, for reading and writing; `error` is the first OSError of a write, after which nothing is written."""

    def __init__(self, path: Path):
        """Raises OSError when the file cannot be made."""
        super().__init__()
        self._file = open(path, "w+b", buffering=0)  # noqa: SIM115 (closed by `close`)
        self.error: OSError | None = None

    def readable(self) -> bool:
        """True."""
        return True

    def writable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        """As of any file."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """As of any file."""
        return self._file.tell()

    def readinto(self, buffer) -> int:
        """As of any file; zeros where nothing was written."""
        count = self._file.readinto(buffer) or 0
        buffer[count:] = bytes(len(buffer) - count)
        return len(buffer)

    def write(self, data) -> int:
        """Always all of it, as far as HDF5 is told."""
        size = len(data)
        if self.error is None:
            try:
                view = memoryview(data)
                while len(view):
                    view = view[self._file.write(view) :]
                return size
            except OSError as error:
                self.error = error
        self._file.seek(size, 1)
        return size

    def truncate(self, size: int | None = None) -> int:
        """As of any file."""
        try:
            return self._file.truncate(size)
        except OSError as error:
            self.error = self.error or error
            return self.tell() if size is None else size

    def flush(self) -> None:
        """Nothing is held back."""

    def sync(self) -> None:
        """Bring it down to the disk. Raises OSError, also the one that was kept."""
        if self.error is None:
            os.fsync(self._file.fileno())
        else:
            raise self.error

    def close(self) -> None:
        """As of any file."""
        self._file.close()
        super().close()
