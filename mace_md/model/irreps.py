"""Constants of the rotation group: harmonics, tensor products, symmetric products.

Everything here is made once, when a model is built, from Wigner 3j symbols in e3nn's real basis, so that the bases
agree with those of every MACE model trained with e3nn; e3nn itself is not needed, and is what the tests compare with.
Components are ordered (l, m), index l*l + l + m; harmonics are normalised to sum_m |Y_lm|^2 = 2l + 1 ("component").
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor


def num_components(max_l: int) -> int:
    """Number of (l, m) with l <= max_l."""
    return (max_l + 1) ** 2


def component_slice(l: int) -> slice:
    """Where the 2l + 1 components of l stand."""
    return slice(l * l, (l + 1) ** 2)


@cache
def wigner_3j(l1: int, l2: int, l3: int) -> Tensor:
    """Real Wigner 3j symbols in e3nn's basis, [2l1 + 1, 2l2 + 1, 2l3 + 1], float64, norm 1.

    Clebsch-Gordan coefficients of complex harmonics, between real ones; l3 must be in |l1 - l2| ... l1 + l2.
    """
    first, second, third = (_complex_from_real(l) for l in (l1, l2, l3))
    couplings = _clebsch_gordan(l1, l2, l3).to(torch.complex128)
    real = torch.einsum("ij,kl,nm,ikn->jlm", first, second, third.conj(), couplings).real
    return (real / real.norm()).contiguous()


@cache
def _clebsch_gordan(l1: int, l2: int, l3: int) -> Tensor:
    """<l1 m1 l2 m2 | l3 m3>, [2l1 + 1, 2l2 + 1, 2l3 + 1]: Racah's formula (Varshalovich et al. 1988, eq. 8.2.1(3)), in
    rational numbers up to the square root."""
    f = math.factorial
    triangle = Fraction(f(l1 + l2 - l3) * f(l1 - l2 + l3) * f(-l1 + l2 + l3), f(l1 + l2 + l3 + 1))
    result = torch.zeros(2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1, dtype=torch.float64)
    for m1 in range(-l1, l1 + 1):
        for m2 in range(max(-l2, -l3 - m1), min(l2, l3 - m1) + 1):
            m3, total = m1 + m2, Fraction(0)
            for k in range(max(0, l2 - l3 - m1, l1 - l3 + m2), min(l1 + l2 - l3, l1 - m1, l2 + m2) + 1):
                below = f(k) * f(l1 + l2 - l3 - k) * f(l1 - m1 - k) * f(l2 + m2 - k)
                total += Fraction((-1) ** k, below * f(l3 - l2 + m1 + k) * f(l3 - l1 - m2 + k))
            square = (2 * l3 + 1) * math.prod(f(l + m) * f(l - m) for l, m in ((l1, m1), (l2, m2), (l3, m3)))
            result[l1 + m1, l2 + m2, l3 + m3] = math.copysign(math.sqrt(triangle * square * total**2), total)
    return result


@cache
def _complex_from_real(l: int) -> Tensor:
    """The unitary matrix [2l + 1 (complex), 2l + 1 (real)] between harmonics, with e3nn's phase (-i)^l."""
    matrix = torch.zeros(2 * l + 1, 2 * l + 1, dtype=torch.complex128)
    matrix[l, l] = 1.0
    for m in range(1, l + 1):
        matrix[l - m, l + m], matrix[l - m, l - m] = math.sqrt(0.5), -1j * math.sqrt(0.5)
        matrix[l + m, l + m], matrix[l + m, l - m] = (-1) ** m * math.sqrt(0.5), 1j * (-1) ** m * math.sqrt(0.5)
    return (-1j) ** l * matrix


@cache
def harmonic_recursion(max_ell: int) -> tuple[Tensor, ...]:
    """Matrices D_l, [3 (2l - 1), 2l + 1], with Y_l = (Y_{l-1} (x) unit vector) D_l for l = 2 ... max_ell.

    Y_1 is sqrt(3) times the unit vector in e3nn's order (x, y, z), and the coupling of Y_{l-1} and Y_1 to l is
    proportional to Y_l; the factor comes from the pole of e3nn's harmonics, y, where Y_l0 = sqrt(2l + 1) is the only
    component that is not zero.
    """
    pole = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    harmonics, matrices = math.sqrt(3.0) * pole, []
    for l in range(2, max_ell + 1):
        matrix = wigner_3j(l - 1, 1, l).reshape(-1, 2 * l + 1)
        value = torch.outer(harmonics, pole).flatten() @ matrix
        matrices.append(math.sqrt(2 * l + 1) / value[l] * matrix)
        harmonics = torch.zeros(2 * l + 1, dtype=torch.float64)
        harmonics[l] = math.sqrt(2 * l + 1)
    return tuple(matrices)


def convolution_paths(max_ell: int, max_in: int, max_out: int) -> list[tuple[int, int, int]]:
    """Paths (l_edge, l_in, l_out) of natural parity of the equivariant convolution, in MACE's order.

    Sorted by l_out, then by l_in, then by l_edge: e3nn's order of `tp_out_irreps_with_instructions`.
    """
    paths = [
        (l_edge, l_in, l_out)
        for l_in in range(max_in + 1)
        for l_edge in range(max_ell + 1)
        for l_out in range(abs(l_in - l_edge), l_in + l_edge + 1)
        if (l_in + l_edge + l_out) % 2 == 0 and l_out <= max_out
    ]
    return sorted(paths, key=lambda path: path[2])


def path_coupling(l_edge: int, l_in: int, l_out: int) -> Tensor:
    """Coupling of one path with e3nn's normalisation, [2 l_edge + 1, 2 l_in + 1, 2 l_out + 1]."""
    return math.sqrt(2 * l_out + 1) * wigner_3j(l_in, l_edge, l_out).transpose(0, 1).contiguous()


class SymmetricBasis(NamedTuple):
    """Equivariant polynomials of A in monomial form, for all outputs (L, M) with L <= max_L."""

    factors: Tensor  # [n_terms, correlation]: components of A in each monomial; n_components stands for the constant 1
    sizes: list[int]  # terms of each output (L, M); the terms are sorted by output
    coupling: Tensor  # [n_terms, n_paths]: how much of each monomial each path contains
    path_sizes: list[int]  # paths of each (L, degree), in the order of the columns of coupling


def symmetric_basis_from_tensors(tensors: list[list[Tensor]], tolerance: float = 1e-10) -> SymmetricBasis:
    """The monomial form of coupling tensors.

    Parameters
    ----------
    tensors : for each L, for each degree nu = 1, 2, ..., the tensor [2L + 1, n, ..., n (nu times), n_paths] that
        couples nu copies of A to (L, M) along each path. They need not be symmetric in the copies: only the symmetric
        part matters, since all copies are the same A.
    tolerance : monomials whose coefficients are all smaller, relative to the largest, are rounding errors.
    """
    correlation, n = max(len(by_degree) for by_degree in tensors), tensors[0][0].shape[1]
    path_sizes = [tensor.shape[-1] for by_degree in tensors for tensor in by_degree]
    factors, sizes, rows = [], [], []
    first_path = 0
    for by_degree in tensors:
        for m in range(by_degree[0].shape[0]):
            path, size = first_path, 0
            for degree, tensor in enumerate(by_degree, start=1):
                monomials, coefficients = _monomials(tensor[m], degree, tolerance)
                factors.append(torch.nn.functional.pad(monomials, (0, correlation - degree), value=n))
                after = sum(path_sizes) - path - tensor.shape[-1]
                rows.append(torch.nn.functional.pad(coefficients, (path, after)))
                path += tensor.shape[-1]
                size += len(monomials)
            sizes.append(size)
        first_path += sum(tensor.shape[-1] for tensor in by_degree)
    return SymmetricBasis(torch.cat(factors), sizes, torch.cat(rows), path_sizes)


def _monomials(tensor: Tensor, degree: int, tolerance: float) -> tuple[Tensor, Tensor]:
    """Distinct monomials, sorted index tuples [n_monomials, degree], and their coefficients [n_monomials, n_paths]."""
    monomials, which, _ = _monomial_index(tensor.shape[0], degree)
    coefficients = _coefficients(tensor, which, len(monomials))
    size = coefficients.abs().amax(dim=1) if coefficients.shape[1] else torch.zeros(len(monomials))
    kept = size > tolerance * size.max()
    return monomials[kept], coefficients[kept]


def _coefficients(tensor: Tensor, which: Tensor, n_monomials: int) -> Tensor:
    """Coefficients of the monomials, [n_monomials, n_paths], that the tensor [n, ..., n, n_paths] sums."""
    flat = tensor.reshape(len(which), tensor.shape[-1]).to(torch.float64)
    return torch.zeros(n_monomials, tensor.shape[-1], dtype=torch.float64).index_add_(0, which, flat)


@cache
def _monomial_index(n: int, degree: int) -> tuple[Tensor, Tensor, Tensor]:
    """Monomials of `degree` in n variables; the monomial of each of the n**degree index tuples; how many it has."""
    index = torch.cartesian_prod(*[torch.arange(n)] * degree).reshape(-1, degree).sort(dim=1).values
    monomials, which, counts = torch.unique(index, dim=0, return_inverse=True, return_counts=True)
    return monomials, which, counts


@cache
def symmetric_basis(max_ell: int, max_L: int, correlation: int) -> SymmetricBasis:
    """An orthonormal basis of the symmetric equivariant products of 1 ... correlation copies of A, natural parity."""
    by_L: list[list[Tensor]] = [[] for _ in range(max_L + 1)]
    for degree in range(1, correlation + 1):
        paths = _nested_couplings(max_ell, degree, max_L)
        for L, tensors in enumerate(by_L):
            tensors.append(_independent(paths.get((L, (-1) ** L), []), max_ell, L, degree))
    return symmetric_basis_from_tensors(by_L, tolerance=1e-6)


def count_couplings(max_ell: int, L: int, degree: int) -> int:
    """Ways to couple `degree` copies of A to L one after the other, dependent ones included: mace-torch's paths."""
    return len(_nested_couplings(max_ell, degree, L).get((L, (-1) ** L), []))


def _nested_couplings(max_ell: int, degree: int, max_L: int) -> dict[tuple[int, int], list[Tensor]]:
    """All ways to couple `degree` copies of A one after the other: (l <= max_L, parity) -> [2l + 1, n, ..., n] each.

    Intermediate results of unnatural parity count: (1o x 2e -> 2o) x 2e -> 1o is a product of its own.
    """
    n = num_components(max_ell)
    if degree == 1:
        eye = torch.eye(n, dtype=torch.float64)
        return {(l, (-1) ** l): [eye[component_slice(l)]] for l in range(min(max_ell, max_L) + 1)}
    result: dict[tuple[int, int], list[Tensor]] = {}
    for (l_left, parity), lefts in _nested_couplings(max_ell, degree - 1, max_L + max_ell).items():
        for l in range(max_ell + 1):
            for l_out in range(abs(l_left - l), min(l_left + l, max_L) + 1):
                coupling = wigner_3j(l_left, l, l_out)
                for left in lefts:
                    tensor = torch.zeros(2 * l_out + 1, *left.shape[1:], n, dtype=torch.float64)
                    tensor[..., component_slice(l)] = torch.einsum("i...,ijk->k...j", left, coupling)
                    result.setdefault((l_out, parity * (-1) ** l), []).append(tensor)
    return result


def _independent(tensors: list[Tensor], max_ell: int, L: int, degree: int) -> Tensor:
    """Combinations of `tensors` whose symmetric parts are orthonormal: [2L + 1, n, ..., n, n_independent]."""
    n = num_components(max_ell)
    if not tensors:
        return torch.zeros(2 * L + 1, *[n] * degree, 0, dtype=torch.float64)
    stacked = torch.stack(tensors, dim=-1)
    monomials, which, counts = _monomial_index(n, degree)
    coefficients = torch.stack([_coefficients(tensor, which, len(monomials)) for tensor in stacked])
    gram = torch.einsum("mtp,mtq,t->pq", coefficients, coefficients, (1.0 / counts).to(torch.float64))
    # Gram-Schmidt in the given order, not an eigenbasis: degenerate eigenvectors would differ from machine to machine
    kept: list[Tensor] = []
    for start in torch.eye(len(gram), dtype=torch.float64):
        vector = start
        for _ in range(2):  # twice is enough to be orthogonal to rounding
            for other in kept:
                vector = vector - (other @ gram @ vector) * other
        norm = vector @ gram @ vector
        if norm > 1e-8 * gram.diagonal().max():
            kept.append(vector / norm.sqrt())
    return stacked @ (torch.stack(kept, dim=1) * math.sqrt(2 * L + 1))
