"""Constants of the rotation group against e3nn, and their transformation behaviour."""

import pytest
import torch
from scipy.spatial.transform import Rotation

from mace_md.model import irreps
from mace_md.model.mace import SphericalHarmonics


def e3nn_o3():
    """e3nn.o3; e3nn 0.4.4 loads its constants with torch.load, which refuses slices unless they are declared safe."""
    torch.serialization.add_safe_globals([slice])
    return pytest.importorskip("e3nn.o3")


@pytest.mark.parametrize("l1", range(5))
@pytest.mark.parametrize("l2", range(5))
def test_wigner_symbols_are_those_of_e3nn(l1, l2):
    """Up to rounding; couplings of odd l1 + l2 + l3 have the other sign in some of e3nn 0.4.4's constants."""
    for l3 in range(abs(l1 - l2), l1 + l2 + 1):
        expected, found = e3nn_o3().wigner_3j(l1, l2, l3, dtype=torch.float64), irreps.wigner_3j(l1, l2, l3)
        sign = 1.0 if (l1 + l2 + l3) % 2 == 0 else float(torch.sign((expected * found).sum()))
        torch.testing.assert_close(found, sign * expected, atol=1e-14, rtol=0)


def rotation_matrices(max_l: int, seed: int = 0):
    """A random rotation as a matrix [3, 3] and on components up to max_l, [n, n]."""
    o3 = e3nn_o3()
    matrix = torch.tensor(Rotation.random(random_state=seed).as_matrix())
    blocks = [
        o3.Irrep(l, (-1) ** l).D_from_matrix(matrix.to(torch.get_default_dtype())).double() for l in range(max_l + 1)
    ]
    return matrix, torch.block_diag(*blocks)


@pytest.mark.parametrize("max_ell", [0, 1, 2, 3, 4])
def test_harmonics_are_those_of_e3nn(max_ell):
    o3 = e3nn_o3()
    vectors = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = o3.spherical_harmonics(list(range(max_ell + 1)), vectors, normalize=True, normalization="component")
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    torch.testing.assert_close(SphericalHarmonics(max_ell)(unit), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("max_ell", "max_L", "correlation"), [(2, 0, 3), (3, 1, 3), (2, 2, 2), (3, 2, 3)])
def test_symmetric_products_are_equivariant(max_ell, max_L, correlation):
    basis = irreps.symmetric_basis(max_ell, max_L, correlation)
    matrix, on_A = rotation_matrices(max_ell)
    _, on_B = rotation_matrices(max_L)
    A = torch.randn(irreps.num_components(max_ell), dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def products(A):
        terms = torch.cat([A, torch.ones(1)])[basis.factors].prod(dim=1)
        outputs = [part.sum(0) for part in (terms[:, None] * basis.coupling).split(basis.sizes)]
        return torch.stack(outputs)  # [n_outputs, n_paths]

    # rotations in e3nn are single precision constants of the default dtype
    torch.testing.assert_close(products(on_A @ A), on_B @ products(A), atol=1e-4, rtol=1e-4)


def test_number_of_independent_products():
    # l_max = 3, correlation 3: the counts of the reduced basis of the MACE code, nu = 1, 2, 3
    assert irreps.symmetric_basis(3, 0, 3).path_sizes == [1, 4, 8]
    assert irreps.symmetric_basis(3, 2, 3).path_sizes == [1, 4, 8, 1, 3, 12, 1, 5, 14]


def test_coupling_tensors_and_monomials_are_the_same_polynomial():
    generator = torch.Generator().manual_seed(2)
    tensors = [
        [torch.randn(m, *[4] * nu, 2, dtype=torch.float64, generator=generator) for nu in (1, 2, 3)] for m in (1, 3)
    ]
    basis = irreps.symmetric_basis_from_tensors(tensors)
    A = torch.randn(4, dtype=torch.float64, generator=generator)
    terms = torch.cat([A, torch.ones(1)])[basis.factors].prod(dim=1)
    monomial = torch.stack([part.sum(0) for part in (terms[:, None] * basis.coupling).split(basis.sizes)])
    column = 0
    for L, by_degree in enumerate(tensors):
        for tensor in by_degree:
            value = tensor
            while value.dim() > 2:
                value = torch.einsum("mi...,i->m...", value, A)
            torch.testing.assert_close(monomial[L * L : (L + 1) ** 2, column : column + 2], value, atol=1e-12, rtol=0)
            column += 2
