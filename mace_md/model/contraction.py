"""The many-body product of MACE: from A to equivariant polynomials of A (arXiv 2206.07697, eqs. 10 and 11)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mace_md.model.irreps import SymmetricBasis
from mace_md.model.species import SpeciesGroups, join_species, split_by_species


class SymmetricContraction(nn.Module):
    """B_i,kLM = sum_nu sum_eta W_{z_i, k L eta} C^{LM}_{eta, lm} prod_{xi <= nu} A_i,k l_xi m_xi.

    The generalised Clebsch-Gordan coefficients C are kept in monomial form (see `SymmetricBasis`), so that the sum runs
    over distinct products of components of A only. The weights depend on the element of the atom, unless n_species = 1.
    """

    def __init__(self, basis: SymmetricBasis, n_species: int, num_channels: int):
        super().__init__()
        self.sizes: list[int] = list(basis.sizes)
        self.register_buffer("factors", basis.factors.T.contiguous())  # [correlation, n_terms]
        self.register_buffer("term_sizes", torch.tensor(basis.sizes, dtype=torch.int64))  # [n_outputs]
        self.register_buffer("coupling", basis.coupling.clone())  # [n_terms, n_paths]
        initial = [torch.randn(n_species, n, num_channels) / n for n in basis.path_sizes if n > 0]
        self.weight = nn.Parameter(torch.cat(initial, dim=1))  # [n_species, n_paths, num_channels]

    def term_weights(self) -> Tensor:
        """Weight of every monomial, [n_species, n_terms, num_channels]."""
        return self.coupling @ self.weight

    def forward(self, A: Tensor, groups: SpeciesGroups) -> Tensor:
        """A [n_atoms, n_components, num_channels] -> B [n_atoms, n_outputs, num_channels]."""
        return polynomials(A, self.term_weights(), self.factors, self.sizes, groups)


def polynomials(A: Tensor, weights: Tensor, factors: Tensor, sizes: list[int], groups: SpeciesGroups) -> Tensor:
    """Sums of weighted monomials of A, [n_atoms, n_outputs, num_channels].

    Parameters
    ----------
    A : [n_atoms, n_components, num_channels].
    weights : [n_species, n_terms, num_channels], or one species for all.
    factors : [correlation, n_terms], components of A in each term; n_components stands for the constant 1.
    sizes : terms of each output.
    """
    A = torch.cat([A, torch.ones_like(A[:, :1])], dim=1)
    if weights.shape[0] == 1:
        return _polynomials(A, weights[0], factors, sizes)
    parts = [_polynomials(part, weights[z], factors, sizes) for z, part in enumerate(split_by_species(A, groups))]
    return join_species(parts, groups)


def _polynomials(A: Tensor, weights: Tensor, factors: Tensor, sizes: list[int]) -> Tensor:
    """All outputs for atoms that share the weights [n_terms, num_channels]; A has the constant 1 as last component."""
    products = A.index_select(1, factors[0])
    for i in range(1, factors.shape[0]):
        products = products * A.index_select(1, factors[i])
    terms = (products * weights).split(sizes, dim=1)
    return torch.stack([term.sum(dim=1) for term in terms], dim=1)
