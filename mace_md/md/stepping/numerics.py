"""In which precision and order numbers are computed: OpenMM's platform and the model's dtype, seen together."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import openmm
import torch

from mace_md.config import RunConfig
from mace_md.md.stepping.simulation import GPU_PLATFORMS
from mace_md.ops.energy_forces import load_library
from mace_md.options.declare import flag, plain

# Force noise of positions that are float32 in nm, measured for liquid water (benchmarks/parity.py).
FORCE_NOISE_AT_1_NM = 1.2e-5  # eV/A, root mean square of a component; it grows as the coordinate


class Precision(NamedTuple):
    """Names of float types."""

    model: str  # weights and messages; energies and forces are summed in float64 or fixed point
    positions: str  # as the model gets them
    integration: str  # positions and velocities in the integrator


def precision_of(context: openmm.Context, dtype: str) -> Precision:
    """What holds in `context`, for a model of this dtype."""
    platform = context.getPlatform()
    name = platform.getName()
    if name not in GPU_PLATFORMS:
        return Precision(dtype, "float64", "float64")
    own = platform.getPropertyValue(context, "Precision")
    return precision_on_gpu(own, dtype)


def precision_on_gpu(precision: str, dtype: str) -> Precision:
    """precision: OpenMM's property, single, mixed or double.

    In mixed precision OpenMM keeps positions as a float32 and a correction, and a TorchForce is given the first alone.
    """
    return Precision(
        dtype,
        positions="float64" if precision == "double" else "float32",
        integration="float32" if precision == "single" else "float64",
    )


def precision_notes(precision: Precision, asked: str, extent: float, *, platform: str) -> list[str]:
    """What the log says of a combination that does not give what it seems to.

    asked: --precision. extent: largest coordinate of the system, nm.
    """
    extent = max(extent, 1.0)
    noise = FORCE_NOISE_AT_1_NM * extent
    if platform not in GPU_PLATFORMS:
        ignored = f"note: --precision {asked} is for GPUs: OpenMM's {platform} platform integrates in float64"
        return [] if asked == "auto" else [ignored]
    notes = []
    if precision.model == "float64" and precision.positions == "float32":
        notes.append(
            "warning: the model computes in float64, from positions that OpenMM hands over in float32: forces are "
            f"uncertain by about {noise:.0e} eV/A at coordinates of {extent:.2g} nm. Take --precision double for "
            "float64 throughout, or --dtype float32, which is faster and then no worse"
        )
    if precision.model == "float32" and precision.positions == "float64" and asked == "double":
        notes.append(
            "note: --precision double with a float32 model: positions and integration are in float64, forces are those "
            "of float32. --dtype float64 has all of it in float64"
        )
    if precision.integration == "float32":
        notes.append(
            "warning: --precision single integrates in float32: the energy of long NVE runs drifts. --precision mixed "
            "costs next to nothing beside the model"
        )
    return notes


def numerics_of(config: RunConfig, platform: str, kernels: str, skin: float) -> dict[str, object]:
    """What the last digits of a run depend on, by option, beside what makes it another run.

    platform: of OpenMM. kernels: 'native' or 'reference'. skin: of the neighbour list, A. A processor with other
    instructions adds up in another order, and so does another number of threads; another skin is another order of the
    neighbours.
    """
    found: dict[str, object] = {"kernels": kernels, "skin": skin}
    found |= {name: getattr(config, name) for name in ("backend", "precision", "tensor_cores", "deterministic")}
    if platform not in ("CUDA", "HIP"):  # on the others, OpenCL among them, the model runs on the processor
        found["threads"] = torch.get_num_threads()
        if kernels == "native":
            found["instructions"] = load_library()
    return found


def differences(before: dict[str, object] | None, now: dict[str, object]) -> str:
    """What is another value in `now` than it was `before`, for the log; what was not recorded then is left out."""
    changed = {name: value for name, value in (before or {}).items() if name in now and now[name] != value}
    words = {"instructions": "the processor's instructions"}
    named = {words.get(name, flag(name)): (plain(value), plain(now[name])) for name, value in changed.items()}
    return "; ".join(f"{name}: {old} before, {new} now" for name, (old, new) in named.items())


@contextmanager
def repeatable(wanted: bool) -> Iterator[None]:
    """While it lasts, torch adds in a fixed order on a GPU. What it has no such way for, it names in a warning.

    The native kernels add in fixed point, where the order does not matter, with or without this.
    """
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
