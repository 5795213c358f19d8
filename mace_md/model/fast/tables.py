"""The radial functions of a folded model as quintic splines, on as many knots as a precision needs."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

# Below R_MIN the radial functions continue linearly; atoms are never that close. Errors are judged from R_JUDGED on.
R_MIN, R_JUDGED = 0.35, 0.5  # A
# Allowed error of the derivative of the radial functions, rms, relative to the rms derivative: what rounding leaves of
# forces in float32, and forces within 1e-8 eV/A of the exact model in float64.
TOLERANCE = {torch.float32: 2e-6, torch.float64: 5e-10}
MIN_KNOTS, MAX_KNOTS = 96, 4096


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
