"""From a folded model to the packed constants that the native kernels read (plugins/blob.h has the format)."""

import hashlib

import numpy as np
import torch
from torch import Tensor

from mace_md.errors import InputError
from mace_md.model.fast.programs import clebsch_gordan, mixing, polynomial_program
from mace_md.model.fast.tables import R_MIN, TOLERANCE, radial_tables
from mace_md.units import EV_TO_KJ_MOL, NM_TO_ANGSTROM

MAGIC, VERSION = 0x313044444543414D, 3
HEADER_INTS, HEADER_DOUBLES = 96, 64
INTS = [
    "magic", "version", "fingerprint", "bytes", "precision", "max_ell", "max_L", "channels", "conv_channels", "types",
    "rows", "radial0_by_sender", "radial1_by_pair", "mix_by_type", "mlp", "gate", "zbl", "scale_zbl", "isa",
]  # fmt: skip
# The last of the integers.
CUDA_FLAGS = ["joined_groups", "small_system", "tensor_cores", "fused_nodes", "shared_tables", "fast_sums"]
SECTIONS = [
    "table0", "table1", "density0", "density1", "program0", "program1", "weights0", "weights1", "W_h", "bias_h",
    "clebsch", "clebsch_values", "W_a", "readout0", "readout0_bias", "W_r", "W_s", "b_r", "v_r", "zbl_types",
    "W_h_reverse", "W_a_reverse",
]  # fmt: skip
DOUBLES = [
    "r_max", "r_min", "spacing", "skin", "scale", "shift", "energy_unit", "length_unit",
    "zbl_prefactor", "zbl_length", "zbl_exponent", "zbl_cutoff_power",
]  # fmt: skip
GATES = {"none": 0, "silu": 1, "tanh": 2, "abs": 3}
FUSED_NODES = {None: 0, False: 1, True: 2}
INSTRUCTION_SETS = {"auto": 0, "generic": 1, "avx2": 2, "avx512": 3}

SMALL_SYSTEM = 1024  # atoms; one block of a GPU has a thread for each


def pack(
    folded,
    *,
    dtype: torch.dtype,
    skin: float,
    instruction_set: str = "auto",
    joined_groups: bool = False,
    small_system: int = SMALL_SYSTEM,
    tensor_cores: bool = False,
    fused_nodes: bool | None = None,
    shared_tables: bool = False,
    fast_sums: bool = False,
) -> Tensor:
    """The folded model as one uint8 tensor, the `blob` argument of the native ops.

    Parameters
    ----------
    folded : `mace_md.model.fast.folded.FoldedMACE`.
    dtype : precision of the kernels, float32 or float64. Energies and forces are summed in float64 either way.
    skin : A, by which the neighbour list reaches beyond r_max.
    instruction_set : "auto", or one of the sets that the library has, for tests and measurements.
    small_system : up to this number of atoms a GPU evaluates the model with the fewest launches, 0 for never.
    joined_groups, tensor_cores, fused_nodes, shared_tables, fast_sums : variants of the kernels for GPUs. All paths of
        an atom in one block of the second convolution backwards (L = 1, float32, large systems); products with weights
        on tensor cores, each as three products of TF32 (float32 with fused_nodes only); what happens at an atom in
        three kernels (None: in large systems) rather than in seven; radial tables in shared memory where they fit; sums
        whose last bits depend on the order of threads.

    Raises InputError when the kernels have no code for the model's shape.
    """
    check_shape(folded)
    if dtype not in TOLERANCE:
        raise InputError(f"the native kernels compute in float32 or float64, not in {dtype}")
    if tensor_cores and (dtype == torch.float64 or folded.num_channels % 16 or folded.edge_channels % 16):
        raise InputError(
            f"tensor cores need float32 and a multiple of 16 channels; the model has {folded.num_channels} and "
            f"{folded.edge_channels}, in {str(dtype).removeprefix('torch.')}"
        )
    types, channels, mlp = folded.n_species, folded.num_channels, folded.v_r.shape[0]
    tables, n_knots = radial_tables(folded, dtype)
    program0, order0 = polynomial_program(folded.factors0, folded.sizes0, num_components(folded.max_ell))
    program1, order1 = polynomial_program(folded.factors1, folded.sizes1, num_components(folded.max_ell))
    entries, values = clebsch_gordan(folded)
    sections = {
        **tables,
        "program0": program0,
        "program1": program1,
        "weights0": folded.weight0[:, order0].expand(types, -1, -1),
        "weights1": folded.weight1[:, order1].expand(types, -1, -1),
        "W_h": folded.W_h,
        "W_h_reverse": folded.W_h.transpose(-1, -2),
        "bias_h": folded.bias_h,
        "clebsch": entries,
        "clebsch_values": values,
        "W_a": mixing(folded),
        "W_a_reverse": mixing(folded, transposed=True),
        "readout0": folded.readout0,
        "readout0_bias": folded.readout0_bias.double().numpy(),
        "W_r": folded.W_r,
        "W_s": folded.W_s,
        "b_r": folded.b_r,
        "v_r": folded.v_r,
    }
    numbers = {
        "r_max": folded.r_max, "r_min": R_MIN, "spacing": (folded.r_max - R_MIN) / (n_knots - 1), "skin": skin,
        "scale": float(folded.scale[0]), "shift": float(folded.shift[0]), "energy_unit": EV_TO_KJ_MOL,
        "length_unit": NM_TO_ANGSTROM,
    }  # fmt: skip
    zbl = folded.repulsion
    if zbl is not None:
        numbers |= {"zbl_prefactor": 14.3996, "zbl_length": float(zbl.a_prefactor) * 0.529,
                    "zbl_exponent": float(zbl.a_exp), "zbl_cutoff_power": zbl.p}  # fmt: skip
        numbers |= {f"zbl_c{i}": float(c) for i, c in enumerate([*zbl.coefficients, *zbl.exponents])}
        sections["zbl_types"] = torch.stack([zbl.covalent_radii, zbl.charges], dim=1).double().numpy()
    header = {
        "precision": 4 if dtype == torch.float32 else 8, "max_ell": folded.max_ell, "max_L": folded.edge_L,
        "channels": channels, "conv_channels": folded.edge_channels, "types": types, "rows": n_knots + 4,
        "radial0_by_sender": folded.radial0_by_sender, "radial1_by_pair": folded.radial_by_pair,
        "mix_by_type": any(w.shape[0] > 1 for w in folded.W_a), "mlp": mlp, "gate": GATES[folded.gate],
        "zbl": zbl is not None, "scale_zbl": True, "isa": INSTRUCTION_SETS[instruction_set],
        "joined_groups": joined_groups, "small_system": small_system, "tensor_cores": tensor_cores,
        "fused_nodes": FUSED_NODES[fused_nodes],
        "shared_tables": shared_tables, "fast_sums": fast_sums,
    }  # fmt: skip
    return assemble(header, numbers, sections, dtype)


def check_shape(folded) -> None:
    """Raise InputError when the native kernels have no code for the shape of the folded model."""
    problems = []
    if folded.max_ell not in (2, 3):
        problems.append(f"max_ell is {folded.max_ell} (2 and 3 have kernels)")
    if folded.edge_L not in (0, 1, 2):
        problems.append(f"L is {folded.edge_L} (0, 1 and 2 have kernels)")
    if folded.factors0.shape[0] > 3 or folded.factors1.shape[0] > 3:
        problems.append("the correlation is above 3")
    if max(folded.num_channels, folded.edge_channels, folded.v_r.shape[0]) > 256:
        problems.append("it has more than 256 channels")
    if folded.gate not in GATES:
        problems.append(f"the gate of its readout is {folded.gate}")
    if problems:
        raise InputError(f"the native kernels do not have this model: {'; '.join(problems)}")


def num_components(max_l: int) -> int:
    """Number of (l, m) with l <= max_l."""
    return (max_l + 1) ** 2


def assemble(header: dict, numbers: dict, sections: dict, dtype: torch.dtype) -> Tensor:
    """One buffer: header, numbers, and the sections, floating ones in `dtype` unless they are numpy arrays."""
    ints, doubles = np.zeros(HEADER_INTS, np.int64), np.zeros(HEADER_DOUBLES, np.float64)
    for i, name in enumerate(DOUBLES + [f"zbl_c{i}" for i in range(8)]):
        doubles[i] = numbers.get(name, 0.0)
    used, parts = 8 * (HEADER_INTS + HEADER_DOUBLES), []
    for i, name in enumerate(SECTIONS):
        section = sections.get(name, np.zeros(0))
        array = section.detach().to(dtype).numpy() if isinstance(section, Tensor) else section
        data = np.ascontiguousarray(array).tobytes()
        padding = -used % 64
        parts.append(b"\0" * padding + data)
        ints[len(INTS) + 2 * i : len(INTS) + 2 * i + 2] = used + padding, array.size
        used += padding + len(data)
    body = b"".join(parts)
    digest = hashlib.sha256(body + doubles.tobytes() + repr(sorted(header.items())).encode()).digest()
    fixed = {"magic": MAGIC, "version": VERSION, "bytes": used}
    fixed["fingerprint"] = int.from_bytes(digest[:8], "little", signed=True)
    for i, name in enumerate(INTS):
        ints[i] = int((header | fixed)[name])
    ints[-len(CUDA_FLAGS) :] = [int(header[name]) for name in CUDA_FLAGS]
    whole = np.frombuffer(ints.tobytes() + doubles.tobytes() + body, dtype=np.uint8)
    return torch.from_numpy(whole.copy())


def header_of(blob: Tensor) -> dict[str, int]:
    """The integers of a packed model: its shape, and the variant of the kernels for GPUs."""
    ints = blob[: 8 * HEADER_INTS].cpu().clone().view(torch.int64).tolist()
    return dict(zip(INTS, ints, strict=False)) | dict(zip(CUDA_FLAGS, ints[-len(CUDA_FLAGS) :], strict=True))


def with_flags(blob: Tensor, **flags: bool) -> Tensor:
    """A copy of a packed model with other variants of the kernels for GPUs (`pack`)."""
    copy = blob.clone()
    ints = copy[: 8 * HEADER_INTS].view(torch.int64)
    for name, value in flags.items():
        ints[CUDA_FLAGS.index(name) - len(CUDA_FLAGS)] = FUSED_NODES[value] if name == "fused_nodes" else int(value)
    return copy
