"""What breaks in a run - numbers, a full disk, a lost GPU - turned into what it means and how to go on."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import openmm

from mace_md.errors import CleanStop, InputError, SafetyStop
from mace_md.md.files.restart import CURRENT, PREVIOUS

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What CUDA, HIP, OpenCL and torch say when the device, not the simulation, is the trouble.
_DEVICE = (
    "CUDA_ERROR", "CUDA error", "CUDA driver", "cudaError", "CUDNN", "CUBLAS", "cuBLAS", "HIP error", "hipError", "CL_",
    "clEnqueue", "out of memory", "device-side assert", "launch failure", "no longer available", "Error launching",
    "Error downloading", "Error uploading", "Error initializing Context", "Error creating array",
    "Error setting device", "nvrtc", "NVRTC",
)  # fmt: skip
_OUT_OF_MEMORY = ("out of memory", "OUT_OF_MEMORY", "OUT_OF_RESOURCES", "MEM_OBJECT_ALLOCATION_FAILURE")


@contextmanager
def faults_explained(folder: Path) -> Iterator[None]:
    """Turn a failure to write, and a failure of the device, into an InputError that says what is safe.

    Other exceptions pass, with a note of what is safe.
    """
    try:
        yield
    except OSError as error:
        if sys.exc_info()[0] is BrokenPipeError:
            raise
        name = error.filename or folder
        room = error.errno in _NO_ROOM
        raise InputError(
            f"{name}: cannot be written ({error.strerror or error}); "
            f"{_kept(folder, 'make room' if room else 'make it writable')}."
        ) from error
    except (SafetyStop, CleanStop):
        raise
    except (openmm.OpenMMException, RuntimeError) as error:
        text = str(error)
        if not any(words in text for words in _DEVICE):
            if isinstance(error, openmm.OpenMMException):
                error.add_note(f"mace-md: {_kept(folder, 'when the cause is gone')}.")
            raise
        remedy = "look at the GPU (nvidia-smi), or take --platform CPU,"
        if any(words in text for words in _OUT_OF_MEMORY):
            remedy = "free memory on the GPU, or take a smaller system or --dtype float32,"
        reason = text.strip().splitlines()[-1][:300]
        raise InputError(f"the device failed ({reason}); {_kept(folder, remedy)}.") from error


def _kept(folder: Path, remedy: str) -> str:
    if (folder / CURRENT).exists() or (folder / PREVIOUS).exists():
        return f"the checkpoint in {folder} is good: {remedy} and continue with the same command and --restart"
    return f"no step was made yet: {remedy} and repeat the command with --restart"
