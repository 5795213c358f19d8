"""What the kernels do at an atom, as data: the polynomials of the products, the couplings, the mixing of paths."""

from collections import defaultdict

import numpy as np
import torch
from torch import Tensor

from mace_md.model.fast.tables import path_order


def polynomial_program(factors: Tensor, sizes: list[int], n_components: int) -> tuple[np.ndarray, list[int]]:
    """The monomials as a program of shared pair products (plugins/cpu/polynomial.h), and the order of its weights.

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
    order = path_order(paths)
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
