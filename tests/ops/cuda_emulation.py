"""The emulated CUDA driver (tests/ops/emulation): building it, and putting it in the place of NVIDIA's."""

import ctypes
import hashlib
import os
import subprocess
from pathlib import Path

from native import LIBRARY

SOURCES = Path(__file__).with_name("emulation")
COUNTS = ["launches", "synchronisations", "copies", "compilations"]


def native_library() -> ctypes.CDLL:
    """The library of the native ops, for what it offers through C."""
    return ctypes.CDLL(str(LIBRARY))


def report(function: str, *arguments) -> str:
    """Calls a C function of the library that reports by a message; raises RuntimeError with it when it failed."""
    message = ctypes.create_string_buffer(100_000)
    good = getattr(native_library(), function)(*arguments, message, ctypes.c_int64(len(message)))
    if not good:
        raise RuntimeError(message.value.decode())
    return message.value.decode()


def blob_arguments(blob) -> tuple:
    """A packed model as the C functions take it."""
    return ctypes.c_void_p(blob.data_ptr()), ctypes.c_int64(blob.numel())


class EmulatedDriver:
    """A driver library built into `folder`, and what it counts."""

    def __init__(self, folder: Path) -> None:
        text = b"".join(path.read_bytes() for path in sorted(SOURCES.iterdir()))
        version = int.from_bytes(hashlib.sha256(text).digest()[:3], "little")
        self.path = folder / f"emulated_driver_{version}.so"
        if not self.path.exists():
            partial = self.path.with_suffix(f".{os.getpid()}")
            subprocess.run(
                ["c++", "-std=c++17", "-O1", "-shared", "-fPIC", f'-DEMULATION_FOLDER="{SOURCES}"',
                 f"-DEMULATION_VERSION={version}", SOURCES / "emulated_driver.cpp", "-o", partial, "-ldl"],
                check=True,
            )  # fmt: skip
            partial.rename(self.path)
        self.library = ctypes.CDLL(str(self.path))

    def use(self) -> None:
        native_library().mace_md_use_cuda_libraries(str(self.path).encode(), str(self.path).encode())

    def leave(self) -> None:
        self.capturing = False
        native_library().mace_md_use_cuda_libraries(b"", b"")

    @property
    def counts(self) -> dict[str, int]:
        """How often the library was asked for each of COUNTS."""
        return dict(zip(COUNTS, (ctypes.c_int64 * len(COUNTS)).in_dll(self.library, "emulated_counts"), strict=True))

    def launches_of(self, kernel: str) -> int:
        """How often a kernel was launched in this process."""
        count = self.library.emulated_launches_of
        count.restype = ctypes.c_longlong
        return count(kernel.encode())

    @property
    def capturing(self) -> bool:
        """Whether the stream pretends to be captured into a CUDA graph."""
        return bool(ctypes.c_int.in_dll(self.library, "emulated_capturing").value)

    @capturing.setter
    def capturing(self, value: bool) -> None:
        ctypes.c_int.in_dll(self.library, "emulated_capturing").value = int(value)
