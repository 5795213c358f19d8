"""The many-body product of MACE: from A to equivariant polynomials of A (arXiv 2206.07697, eqs. 10 and 11)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mace_md.model.irreps import SymmetricBasis
from mace_md.model.species import SpeciesGroups, join_species, sorted_species, split_by_species


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
        steps, self.step_sizes = _product_steps(basis.factors)
        self.register_buffer("steps", steps, persistent=False)
        self.path_ranges: list[tuple[int, int]] = _path_ranges(basis.coupling, self.sizes)
        initial = [torch.randn(n_species, n, num_channels) / n for n in basis.path_sizes if n > 0]
        self.weight = nn.Parameter(torch.cat(initial, dim=1))  # [n_species, n_paths, num_channels]

    def term_weights(self) -> Tensor:
        """Weight of every monomial, [n_species, n_terms, num_channels]."""
        return self.coupling @ self.weight

    def forward(self, A: Tensor, groups: SpeciesGroups) -> Tensor:
        """A [n_atoms, n_components, num_channels] -> B [n_atoms, n_outputs, num_channels].

        The same numbers as `polynomials` of `term_weights`, in another order: the constant coupling comes before the
        weights, so that only the few paths are weighted for each atom. That is what training, where everything is
        differentiated twice and weights change all the time, is fastest with.
        """
        A = torch.cat([A, torch.ones_like(A[:, :1])], dim=1)
        products = A if self.step_sizes else A.index_select(1, self.factors[0])
        start = 0
        for size in self.step_sizes:
            before, factor = self.steps[0, start : start + size], self.steps[1, start : start + size]
            products = products.index_select(1, before) * A.index_select(1, factor)
            start += size
        weights = self.weight
        if weights.shape[0] > 1:
            weights = weights.index_select(0, sorted_species(groups, A.device).index_select(0, groups.place))
        outputs: list[Tensor] = []
        terms, coupling = products.split(self.sizes, dim=1), self.coupling.split(self.sizes)
        for i, (first, last) in enumerate(self.path_ranges):
            by_path = torch.matmul(coupling[i][:, first:last].t(), terms[i])  # [n_atoms, n_paths of the output, C]
            outputs.append((by_path * weights[:, first:last]).sum(dim=1))
        return torch.stack(outputs, dim=1)


def _product_steps(factors: Tensor) -> tuple[Tensor, list[int]]:
    """How to multiply up all monomials with few products: [2, n_products] and the number of products of each step.

    A product of step d is one of step d - 1 (row 0; for the first step, a component of A) times a component (row 1).
    The last step gives the monomials in their order; those before it give each distinct beginning once.
    """
    correlation = factors.shape[1]
    steps = [torch.zeros(2, 0, dtype=torch.int64)]
    known = torch.arange(int(factors.max()) + 1).unsqueeze(1)
    for degree in range(2, correlation + 1):
        wanted = factors[:, :degree]
        if degree < correlation:
            wanted = torch.unique(wanted, dim=0)
        before = (wanted[:, None, :-1] == known).all(dim=2).to(torch.int64).argmax(dim=1)
        steps.append(torch.stack([before, wanted[:, -1]]))
        known = wanted
    return torch.cat(steps, dim=1), [step.shape[1] for step in steps[1:]]


def _path_ranges(coupling: Tensor, sizes: list[int]) -> list[tuple[int, int]]:
    """First and last + 1 of the paths that reach each output."""
    reached = [torch.nonzero((rows != 0).any(dim=0)).flatten() for rows in coupling.split(sizes)]
    return [(int(paths[0]), int(paths[-1]) + 1) if len(paths) else (0, 0) for paths in reached]


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
