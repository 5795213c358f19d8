"""The radial functions of a folded model as quintic splines, on as many knots as a precision needs.

A layer's radial functions are linear in a few columns, its hidden radial features, which depend on the pair of elements
only when distances are transformed. So splines are made of the columns, once for each pair that differs, and the
model's linear maps (`FoldedMACE.radial_weights`) take their coefficients to those of every table.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

# Below R_MIN the radial functions continue linearly; atoms are never that close. Errors are judged from R_JUDGED on.
R_MIN, R_JUDGED = 0.35, 0.5  # A
# Allowed error of the derivative of the radial functions, rms, relative to the rms derivative: what rounding leaves of
# forces in float32, and forces within 1e-8 eV/A of the exact model in float64.
TOLERANCE = {torch.float32: 2e-6, torch.float64: 5e-10}
MIN_KNOTS, MAX_KNOTS = 96, 4096


class Columns(NamedTuple):
    """Functions of the distance that share their values, and the maps to the tables that they make."""

    function: Callable[[Tensor], Tensor]  # r [n], A -> [n, columns], float64
    weights: dict[tuple[str, int], Tensor]  # (table, place in it) -> [functions of the table, columns, channels]


def radial_tables(folded, dtype: torch.dtype) -> tuple[dict[str, Tensor], int]:
    """The tables of both layers on knots that are close enough for `dtype`, and the number of knots.

    Returns {"table0", "table1": [pairs, n_knots + 4, functions, channels], "density0", "density1": [T * T, n_knots + 4,
    1, 1], where the layer has one} and n_knots. Functions of layer 1 are in the kernels' order of paths
    (plugins/paths.h); pairs are those that plugins/blob.h names.
    """
    columns = [part for layer in (0, 1) for part in layer_columns(folded, layer)]
    n_knots = MIN_KNOTS
    for part in columns:
        n_knots = knots_needed(part, n_knots, folded.r_max, dtype)
    parts: dict[str, dict[int, Tensor]] = {}
    for part in columns:
        coefficients = spline(part.function, n_knots, folded.r_max)
        for (table, place), weight in part.weights.items():
            flat = coefficients @ weight.transpose(0, 1).flatten(1)
            parts.setdefault(table, {})[place] = flat.to(dtype).reshape(-1, weight.shape[0], weight.shape[2])
    return {name: torch.stack([table[k] for k in range(len(table))]) for name, table in parts.items()}, n_knots


def layer_columns(folded, layer: int) -> list[Columns]:
    """What the tables of a layer are made of: one entry for each pair of elements whose radial features differ."""
    T = folded.n_species
    pairs = [(i, j) for i in range(T) for j in range(T)]
    distinct = pairs if folded.radial_by_pair else pairs[:1]
    found = []
    for i, j in distinct:
        if layer == 0:
            of_type = [(0, k) for k in range(T)] if folded.radial0_by_sender else pairs
            members = of_type if len(distinct) == 1 else [(i, j)]
            weights = {("table0", of_type.index(pair)): folded.radial_weights(0, *pair) for pair in members}
        else:
            order = path_order(folded.path_sum.paths)
            weights = {("table1", distinct.index((i, j))): folded.radial_weights(1, i, j)[order]}
        found.append(Columns(_features(folded, layer, i, j, 0), weights))
        if folded.has_density(layer):
            one = torch.ones(1, 1, 1, dtype=torch.float64)
            places = range(len(pairs)) if len(distinct) == 1 else [pairs.index((i, j))]
            found.append(Columns(_features(folded, layer, i, j, 1), {(f"density{layer}", k): one for k in places}))
    return found


def path_order(paths: list[tuple[int, int, int]]) -> list[int]:
    """The model's paths (l_edge, l_in, l_out) in the order of plugins/paths.h: by l_in, l_edge, l_out."""
    return sorted(range(len(paths)), key=lambda p: (paths[p][1], paths[p][0], paths[p][2]))


def _features(folded, layer: int, i: int, j: int, output: int) -> Callable[[Tensor], Tensor]:
    """Hidden radial features (output 0) or the density (output 1) as a function of the distance alone."""
    return lambda r: folded.radial_features(layer, r, i, j)[output]


def derivative(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The derivative of r [n] -> [n, columns] in r, row by row.

    By reverse mode twice: the gradient of <weights, f(r)> is linear in the weights, and its own gradient there is the
    derivative. Forward mode would load torch's decompositions, which takes longer than all tables.
    """

    def slope(r: Tensor) -> Tensor:
        return torch.autograd.functional.jvp(function, r, torch.ones_like(r), create_graph=r.requires_grad)[1]

    return slope


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
    """Coefficients [n_knots + 4, columns] of the quintic spline through `function` at knots from R_MIN to r_max.

    The four conditions beyond the values are the first and second derivatives at both ends. Ordered by place, the
    conditions are a banded system.
    """
    from scipy.linalg import solve_banded  # only where tables are made, not where they come from the cache

    r, h = torch.linspace(R_MIN, r_max, n_knots, dtype=torch.float64), (r_max - R_MIN) / (n_knots - 1)
    ends, slope = r[[0, -1]], derivative(function)
    slopes, curvatures = h * slope(ends), h * h * derivative(slope)(ends)
    conditions = torch.cat([slopes[:1], curvatures[:1], function(r), slopes[1:], curvatures[1:]]).detach()
    return torch.from_numpy(solve_banded((BAND, BAND), _conditions(n_knots), conditions.numpy(), check_finite=False))


BAND = 4  # farthest that a coefficient of the conditions is from the diagonal


def _conditions(n_knots: int) -> np.ndarray:
    """Slope and curvature at the first knot, the values at all, slope and curvature at the last, as LAPACK's bands."""
    at_knot = spline_weights(torch.zeros(1, dtype=torch.float64))[:, 0, :5].numpy()  # the sixth is zero there
    bands = np.zeros((2 * BAND + 1, n_knots + 4))  # the element (row, column) is at [BAND + row - column, column]
    for k in range(5):
        bands[BAND + 2 - k, k : k + n_knots] = at_knot[0, k]
    for row, order, knot in [(0, 1, 0), (1, 2, 0), (n_knots + 2, 1, n_knots - 1), (n_knots + 3, 2, n_knots - 1)]:
        columns = knot + np.arange(5)
        bands[BAND + row - columns, columns] = at_knot[order]
    return bands


def knots_needed(columns: Columns, n_knots: int, r_max: float, dtype: torch.dtype) -> int:
    """The number of knots from `n_knots` on, a multiple of 16, whose errors are within TOLERANCE; at most MAX_KNOTS."""
    while n_knots < MAX_KNOTS:
        excess = error_of(columns, n_knots, r_max) / TOLERANCE[dtype]
        if excess <= 1:
            return n_knots
        growth = min(max(1.02 * excess**0.2, 1.1), 8.0)  # the error falls as the fifth power of the spacing
        n_knots = math.ceil(n_knots * growth / 16) * 16
    return MAX_KNOTS


def error_of(columns: Columns, n_knots: int, r_max: float) -> float:
    """The largest error of the derivatives of the tables, rms between the knots, relative to the rms derivative."""
    h, coefficients = (r_max - R_MIN) / (n_knots - 1), spline(columns.function, n_knots, r_max)
    maps = torch.stack([torch.einsum("phc,pkc->hk", weight, weight) for weight in columns.weights.values()])
    intervals = torch.arange(n_knots - 1)
    error, scale = torch.zeros(2, len(maps), dtype=torch.float64)
    for t in (0.25, 0.5):
        r = R_MIN + h * (intervals.double() + t)
        exact = derivative(columns.function)(r).detach()
        weights = spline_weights(torch.full([1], t, dtype=torch.float64))[1, 0] / h
        found = sum(weights[k] * coefficients[k : k + n_knots - 1] for k in range(6))
        judged = r > R_JUDGED
        difference, exact = (found - exact)[judged], exact[judged]
        # |x W|^2 over all functions and channels is x (W W^T) x^T
        error = torch.maximum(error, (maps * (difference.T @ difference)).sum(dim=(1, 2)))
        scale = torch.maximum(scale, (maps * (exact.T @ exact)).sum(dim=(1, 2)))
    return math.sqrt(float((error.clamp(min=0) / scale.clamp(min=1e-300)).max()))
