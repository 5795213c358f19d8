"""From a folded model to the packed constants that the native kernels read (plugins/blob.h has the format)."""

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from mace_md.errors import InputError
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

# Below R_MIN the radial functions continue linearly; atoms are never that close. Errors are judged from R_JUDGED on.
R_MIN, R_JUDGED = 0.35, 0.5  # A
# Allowed error of the derivative of the radial functions, rms, relative to the rms derivative: what rounding leaves of
# forces in float32, and forces within 1e-8 eV/A of the exact model in float64.
TOLERANCE = {torch.float32: 2e-6, torch.float64: 5e-10}
MIN_KNOTS, MAX_KNOTS = 96, 4096
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
    folded : `mace_md.model.folded.FoldedMACE`.
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
        "radial0_by_sender": folded.radial0_by_sender, "radial1_by_pair": folded.radial1_by_pair,
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
    data = np.frombuffer(ints.tobytes() + doubles.tobytes() + body, dtype=np.uint8)
    return torch.from_numpy(data.copy())


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


# --- radial tables ---------------------------------------------------------------------------------------------------


def radial_tables(folded, dtype: torch.dtype) -> tuple[dict[str, Tensor], int]:
    """The tables of both layers on knots that are close enough for `dtype`, and the number of knots."""
    T = folded.n_species
    every_pair = [(i, j) for i in range(T) for j in range(T)]
    pairs0 = [(0, j) for j in range(T)] if folded.radial0_by_sender else every_pair
    pairs1 = every_pair if folded.radial1_by_pair else [(0, 0)]
    functions = {
        "table0": [_radial_function(folded, 0, i, j) for i, j in pairs0],
        "table1": [_radial_function(folded, 1, i, j) for i, j in pairs1],
        "density0": [_density_function(folded, 0, i, j) for i, j in every_pair] if folded.has_density0 else [],
        "density1": [_density_function(folded, 1, i, j) for i, j in every_pair] if folded.has_density1 else [],
    }
    n_knots = MIN_KNOTS
    for function in [f for fs in functions.values() for f in fs]:
        n_knots = _knots_needed(function, n_knots, folded.r_max, dtype)
    tables = {
        name: torch.stack([spline(f, n_knots, folded.r_max).to(dtype) for f in fs])
        for name, fs in functions.items()
        if fs
    }
    return tables, n_knots


def _radial_function(folded, layer: int, i: int, j: int) -> Callable[[Tensor], Tensor]:
    """r [n] -> [n, functions, channels] for receiver type i and sender type j, in the kernels' order of paths."""
    if layer == 0:
        weight = folded.radial0_weight[i, j]  # [max_ell + 1, n_hidden, C]
    else:
        paths = folded.path_sum.paths
        order = sorted(range(len(paths)), key=lambda p: (paths[p][1], paths[p][0], paths[p][2]))
        weight = folded.radial1_weight.reshape(-1, len(paths), folded.edge_channels)[:, order].transpose(0, 1)
    hidden = _edge_features(folded, layer, i, j, 0)
    return lambda r: torch.einsum("nh,phc->npc", hidden(r), weight)


def _density_function(folded, layer: int, i: int, j: int) -> Callable[[Tensor], Tensor]:
    """r [n] -> [n, 1]."""
    return _edge_features(folded, layer, i, j, 1)


def _edge_features(folded, layer: int, i: int, j: int, output: int) -> Callable[[Tensor], Tensor]:
    """r [n] -> hidden radial features (output 0) or density (output 1) of an edge from type j to type i."""
    module = folded.hidden1 if layer else folded.hidden0

    def evaluate(r: Tensor) -> Tensor:
        sender, receiver = (torch.full(r.shape, z, dtype=torch.int64) for z in (j, i))
        return module(r.unsqueeze(1), sender, receiver)[output]

    return evaluate


def _derivatives(function: Callable[[Tensor], Tensor], r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Value, first and second derivative, by automatic differentiation."""
    ones = torch.ones_like(r)

    def first(x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.func.jvp(function, (x,), (ones,))

    (value, slope), (_, curvature) = torch.func.jvp(first, (r,), (ones,))
    return value, slope, curvature


def spline_weights(t: Tensor) -> Tensor:
    """Values, first and second derivatives [3, n, 6] of the quintic B-splines at t [n], 0 <= t <= 1, of an interval."""
    values = {0: torch.ones(len(t), 1, dtype=t.dtype)}
    for degree in range(1, 6):
        i = torch.arange(degree, dtype=t.dtype)
        part = values[degree - 1] / degree
        left, right = (t[:, None] + degree - 1 - i) * part, (i + 1 - t[:, None]) * part
        values[degree] = torch.nn.functional.pad(right, (0, 1)) + torch.nn.functional.pad(left, (1, 0))
    slope, curvature = values[4], values[3]
    for _ in range(2):
        curvature = torch.nn.functional.pad(curvature, (1, 0)) - torch.nn.functional.pad(curvature, (0, 1))
    slope = torch.nn.functional.pad(slope, (1, 0)) - torch.nn.functional.pad(slope, (0, 1))
    return torch.stack([values[5], slope, curvature])


def spline(function: Callable[[Tensor], Tensor], n_knots: int, r_max: float) -> Tensor:
    """Coefficients [n_knots + 4, ..., channels] of the quintic spline through `function` at knots from R_MIN to r_max.

    The four conditions beyond the values are the first and second derivatives at both ends.
    """
    r, h = torch.linspace(R_MIN, r_max, n_knots, dtype=torch.float64), (r_max - R_MIN) / (n_knots - 1)
    values = function(r)
    _, slopes, curvatures = _derivatives(function, r[[0, -1]])
    at_knot = spline_weights(torch.zeros(1, dtype=torch.float64))[:, 0, :5]  # the sixth is zero there
    matrix = torch.zeros(n_knots + 4, n_knots + 4, dtype=torch.float64)
    rows = torch.arange(n_knots)
    for k in range(5):
        matrix[rows, rows + k] = at_knot[0, k]
    for row, (derivative, start) in enumerate([(1, 0), (1, n_knots - 1), (2, 0), (2, n_knots - 1)], start=n_knots):
        matrix[row, start : start + 5] = at_knot[derivative]
    conditions = torch.cat([values, h * slopes, h * h * curvatures])
    return torch.linalg.solve(matrix, conditions.flatten(1)).reshape(conditions.shape)


def _error(function: Callable[[Tensor], Tensor], n_knots: int, r_max: float) -> float:
    """Error of the derivative of the spline between the knots, rms, relative to the rms derivative."""
    h, coefficients = (r_max - R_MIN) / (n_knots - 1), spline(function, n_knots, r_max)
    intervals = torch.arange(n_knots - 1)
    error, scale = 0.0, 0.0
    for t in (0.25, 0.5):
        r = R_MIN + h * (intervals.double() + t)
        exact = torch.func.jvp(function, (r,), (torch.ones_like(r),))[1]
        weights = spline_weights(torch.full([1], t, dtype=torch.float64))[1, 0] / h
        found = sum(weights[k] * coefficients[intervals + k] for k in range(6))
        judged = r > R_JUDGED
        error = max(error, float((found - exact)[judged].pow(2).mean()))
        scale = max(scale, float(exact[judged].pow(2).mean()))
    return math.sqrt(error / scale) if scale > 0 else 0.0


def _knots_needed(function: Callable[[Tensor], Tensor], n_knots: int, r_max: float, dtype: torch.dtype) -> int:
    """The number of knots from `n_knots` on, a multiple of 16, whose error is within TOLERANCE; at most MAX_KNOTS."""
    while n_knots < MAX_KNOTS:
        excess = _error(function, n_knots, r_max) / TOLERANCE[dtype]
        if excess <= 1:
            return n_knots
        growth = min(max(1.02 * excess**0.2, 1.1), 8.0)  # the error falls as the fifth power of the spacing
        n_knots = math.ceil(n_knots * growth / 16) * 16
    return MAX_KNOTS


# --- polynomials, couplings, mixing ----------------------------------------------------------------------------------


def polynomial_program(factors: Tensor, sizes: list[int], n_components: int) -> tuple[np.ndarray, list[int]]:
    """The monomials as a program of shared pair products (plugins/polynomial.h), and the order of its weights.

    factors [degree, n_terms]: components in each monomial, `n_components` standing for the constant 1; sizes: monomials
    of each output. A cubic monomial x_a x_b x_c can use any of its three pairs: the pair that most of the remaining
    cubic monomials have is taken first.
    """
    columns = [tuple(sorted(int(x) for x in column if int(x) < n_components)) for column in factors.T]
    outputs = [output for output, size in enumerate(sizes) for _ in range(size)]
    linear = [t for t, c in enumerate(columns) if len(c) == 1]
    quadratic = {(columns[t], outputs[t]): t for t, c in enumerate(columns) if len(c) == 2}
    groups: dict[tuple[int, int], dict[int, list[tuple[int, int]]]] = defaultdict(lambda: defaultdict(list))
    for pair, output in quadratic:
        groups[pair][output] = []
    users: dict[tuple[int, int], set[int]] = defaultdict(set)
    for t, c in enumerate(columns):
        if len(c) == 3:
            for pair, _ in _splits(c):
                users[pair].add(t)
    while any(users.values()):
        best = max(users, key=lambda pair: (len(users[pair]), pair))
        for t in sorted(users[best]):
            groups[best][outputs[t]].append((dict(_splits(columns[t]))[best], t))
            for pair, _ in _splits(columns[t]):
                users[pair].discard(t)
    program, order = [len(sizes), len(linear), len(groups)], []
    for t in linear:
        program += [outputs[t], columns[t][0]]
        order.append(t)
    for pair in sorted(groups):
        program += [*pair, len(groups[pair])]
        for output, cubic in sorted(groups[pair].items()):
            term = quadratic.get((pair, output))
            program += [output, int(term is not None), len(cubic), *[third for third, _ in cubic]]
            order += [term] if term is not None else []
            order += [t for _, t in cubic]
    return np.array(program, np.int32), order


def _splits(monomial: tuple[int, int, int]) -> list[tuple[tuple[int, int], int]]:
    """The ways to write a cubic monomial as a pair and a third factor."""
    a, b, c = monomial
    return [((a, b), c), ((a, c), b), ((b, c), a)]


def clebsch_gordan(folded) -> tuple[np.ndarray, Tensor]:
    """Non-zero couplings as ((row, component), value); rows and components as numbered in plugins/paths.h."""
    paths = folded.path_sum.paths
    blocks = folded.path_sum.coupling.double().split(list(folded.path_sum.block_sizes), dim=1)
    order = sorted(range(len(paths)), key=lambda p: (paths[p][1], paths[p][0], paths[p][2]))
    first_row, first_component, row, component = {}, {}, 0, 0
    for p in order:
        first_row[p] = row
        row += (2 * paths[p][0] + 1) * (2 * paths[p][1] + 1)
    for l3 in range(folded.max_ell + 1):
        for p in [p for p in order if paths[p][2] == l3]:
            first_component[p] = component
            component += 2 * l3 + 1
    entries, values = [], []
    for p, (l1, l2, l3) in enumerate(paths):
        block = blocks[p].reshape(-1, 2 * l3 + 1, 2 * l2 + 1)[l1 * l1 : (l1 + 1) ** 2]  # [m1, m3, m2]
        for m1, m3, m2 in block.abs().gt(1e-12).nonzero().tolist():
            entries.append([first_row[p] + m1 * (2 * l2 + 1) + m2, first_component[p] + m3])
            values.append(float(block[m1, m3, m2]))
    return np.array(entries, np.int32), torch.tensor(values, dtype=torch.float64)


def mixing(folded, *, transposed: bool = False) -> Tensor:
    """W_a of all l3, each [T or 1, n_paths * C2, C] or its transpose, one after the other.

    Within an l3 paths keep the model's order.
    """
    by_type = max(w.shape[0] for w in folded.W_a)
    matrices = [w.detach().expand(by_type, -1, -1) for w in folded.W_a]
    return torch.cat([(w.transpose(1, 2) if transposed else w).reshape(-1) for w in matrices])
