"""The native op `mace_md::energy_forces`: a whole folded model, its neighbour list and its analytic forces in one call.

The kernels (plugins/) are compiled when the package is installed, where there is a compiler. Their definition, fallback
and oracle is `mace_md.model.fast.folded.FoldedMACE`.
"""

import ctypes
from functools import cache
from pathlib import Path
from typing import NamedTuple, Optional

import torch
from torch import Tensor

from mace_md.errors import InputError

FIRST_CANDIDATES = 64  # for an atom, that a new state on a GPU has room for (plugins/cuda/op.cpp)
LIBRARY = Path(__file__).with_name("_native.so")


@cache
def load_library() -> str:
    """Register the native ops; returns the instruction set that they will use ("avx512", "avx2" or "generic").

    Raises InputError when the library was not built or does not fit this torch.
    """
    if not LIBRARY.exists():
        raise InputError(
            "the native kernels were not built when mace-md was installed (a C++17 compiler is needed then): "
            "install one and run `pip install --force-reinstall --no-deps` on the package, or use kernels='reference'"
        )
    try:
        library = ctypes.CDLL(str(LIBRARY))
    except OSError as error:
        raise InputError(f"the native kernels cannot be loaded ({error}); use kernels='reference'") from None
    for name in ("mace_md_load_error", "mace_md_instruction_set"):
        getattr(library, name).restype = ctypes.c_char_p
    problem = library.mace_md_load_error().decode()
    if problem:
        raise InputError(f"the native kernels cannot be used: {problem}; use kernels='reference'")
    return library.mace_md_instruction_set().decode()


def new_state() -> Tensor:
    """The `state` of a new caller: what the op keeps between calls (its list and its work space) grows in there."""
    return torch.zeros(1, dtype=torch.uint8)


def forget_lists() -> None:
    """Let every state on the CPU build its neighbour list anew at its next evaluation.

    The order of sums over neighbours is that of the list: evaluations at the same positions agree to the last bit where
    the lists were built at the same positions. Raises InputError when the library is older than this package.
    """
    load_library()
    try:
        ctypes.CDLL(str(LIBRARY)).mace_md_forget_lists()
    except AttributeError:
        raise InputError(
            "the native kernels were built from older sources: build them again with `pip install --force-reinstall "
            "--no-deps` on the package, or use kernels='reference'"
        ) from None


class DeviceStatus(NamedTuple):
    """What a state on a GPU says of itself; all zero for a state that holds nothing, or on the CPU."""

    problems: int  # bits of `PROBLEMS`, of all steps since they were cleared
    n_candidates: int  # pairs within r_max + skin at the last build of the list
    capacity: int  # pairs that there is room for
    n_builds: int
    n_edges: int  # pairs within r_max at the last step
    list_valid: int


# Bits of DeviceStatus.problems (plugins/cuda/arguments.h).
PROBLEMS = {
    1: "the neighbour list outgrew its room",
    2: "positions were not finite",
    4: "the box was not finite",
    8: "the box vectors did not span a volume",
    16: "the model was exchanged",
    32: "the types were changed",
    64: "a force was out of range",
    128: "the energy was not finite",
}


def device_status(state: Tensor, clear: bool = False) -> DeviceStatus:
    """What happened to a state on a GPU, as far as the host could not see it: in the replays of a CUDA graph.

    There a problem makes energy, forces and virial of the step NaN. Evaluate the module once outside the graph: that
    raises the error, or makes room for a longer list (the state's storage is then a new one: capture again). `clear`
    forgets the problems. Waits for the GPU.
    """
    return DeviceStatus(*torch.ops.mace_md.status(state, clear).tolist())


def state_bytes(blob: Tensor, n_atoms: int, n_candidates: int) -> int:
    """Bytes of GPU memory that the state of a packed model needs for so many atoms, with so many candidates together.

    Candidates are pairs within r_max + skin, both directions; there is room for a quarter more, and at first for 64 an
    atom. Needs no GPU. Raises InputError for a blob that is none.
    """
    load_library()
    function = ctypes.CDLL(str(LIBRARY)).mace_md_state_bytes
    message, host = ctypes.create_string_buffer(1000), blob.cpu()
    good = function(
        ctypes.c_void_p(host.data_ptr()), ctypes.c_int64(host.numel()), ctypes.c_int64(n_atoms),
        ctypes.c_int64(max(n_candidates, FIRST_CANDIDATES * n_atoms * 4 // 5)), message, ctypes.c_int64(len(message)),
    )  # fmt: skip
    if not good:
        raise InputError(f"the native kernels: {message.value.decode()}")
    return int(message.value)


def energy_forces(
    positions: Tensor, box: Optional[Tensor], types: Tensor, blob: Tensor, state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Interaction energy, forces and virial of a packed model. Scriptable; `load_library` comes first.

    Parameters
    ----------
    positions : [n_particles, 3], nm, float32 or float64, on the CPU or an NVIDIA GPU; wrapped or not. The others are
        on the same device.
    box : [3, 3], rows, nm, for periodic systems of any shape; smaller than the cutoff is fine.
    types : [n_particles] int32, index into the elements of the packed model; -1 for particles that are not part of it.
    blob : the model, from `mace_md.model.fast.packing.pack`; its precision is that of the kernels.
    state : uint8, from `new_state()`, changed in place. A copy is a state of its own; one state serves one caller at a
        time.

    Returns the energy (float64 scalar, kJ/mol, without E0s), the forces (kJ/mol/nm, as `positions`, zero for particles
    outside) and the virial -dE/dstrain (float64 [3, 3], kJ/mol). The energy is differentiable once with respect to
    positions and box. Raises RuntimeError for shapes and types that are not these, values that are not finite,
    energies that are not finite, and, outside TorchScript, when it is differentiated twice.
    """
    energy, forces, virial = torch.ops.mace_md.energy_forces(
        positions.detach().contiguous(), None if box is None else box.detach().contiguous(), types, blob, state
    )
    if torch.jit.is_scripting():
        energy = _with_gradient(energy, positions, box, forces, virial)
    elif torch.is_grad_enabled() and (positions.requires_grad or (box is not None and box.requires_grad)):
        energy = _differentiable(energy, positions, box, forces, virial)
    return energy, forces, virial


def _with_gradient(energy: Tensor, positions: Tensor, box: Optional[Tensor], forces: Tensor, virial: Tensor) -> Tensor:
    """The energy with its first derivatives, in TorchScript, which has no autograd functions."""
    if torch.is_grad_enabled():
        if positions.requires_grad:
            # adds zero, with the gradient that the op has already computed
            energy = energy - ((positions - positions.detach()).to(torch.float64) * forces.to(torch.float64)).sum()
        if box is not None and box.requires_grad:
            fixed = box.detach().to(torch.float64)
            energy = energy + ((box.to(torch.float64) - fixed) * _slope_in_box(positions, fixed, forces, virial)).sum()
    return energy


def _slope_in_box(positions: Tensor, box: Tensor, forces: Tensor, virial: Tensor) -> Tensor:
    """dE/dbox at fixed positions, [3, 3], kJ/mol/nm, float64, from the derivative by the strain of both."""
    on_atoms = positions.detach().to(torch.float64).t() @ forces.to(torch.float64)
    return torch.linalg.solve(box.t(), on_atoms - virial)


@torch.jit.unused
def _differentiable(energy: Tensor, positions: Tensor, box: Optional[Tensor], forces: Tensor, virial: Tensor) -> Tensor:
    """The energy with its first derivatives, and an error where second ones are asked for."""
    slope = None
    if box is not None and box.requires_grad:
        slope = _slope_in_box(positions, box.detach().to(torch.float64), forces, virial)
    return _FirstDerivatives.apply(energy, positions, box, forces, slope)


class _FirstDerivatives(torch.autograd.Function):
    """The identity of an energy, with gradients that the op has already computed."""

    @staticmethod
    def forward(ctx, energy, positions, box, forces, slope):
        ctx.save_for_backward(positions, box, forces, slope)
        return energy.clone()

    @staticmethod
    def backward(ctx, outer):
        positions, box, forces, slope = ctx.saved_tensors
        on_positions = on_box = None
        if ctx.needs_input_grad[1]:
            on_positions = _NoSecond.apply((-outer * forces.to(outer.dtype)).to(positions.dtype), positions)
        if ctx.needs_input_grad[2]:
            on_box = _NoSecond.apply((outer * slope).to(box.dtype), box)
        return None, on_positions, on_box, None, None


class _NoSecond(torch.autograd.Function):
    """The identity of a first derivative; `at` is what it would have to be differentiated by, and cannot."""

    @staticmethod
    def forward(ctx, derivative, at):
        return derivative.clone()

    @staticmethod
    def backward(ctx, outer):
        raise RuntimeError(
            "the native kernels have no second derivatives of the energy, which would come out as zero. Take the model "
            "itself (mace_md.model.mace.predict, or its node_energies) for Hessians, or differences of forces"
        )
