"""Potentials of models whose energy reaches beyond every cutoff: latent charges, POLAR-1.

The energy depends on the edges, and on positions and box through the electrostatics. Forces and virial are the whole
derivatives by both: mace-torch 0.3.16 leaves the electrostatic part out of its stress.
"""

from collections.abc import Sequence
from typing import Optional

import torch
from torch import Tensor, nn

from mace_md.model.chosen_atoms import checked_atoms
from mace_md.model.particles import GradientsOn, check_particles, model_dtype, species_of
from mace_md.ops.neighbor_list import VerletList, check_cell, check_positions
from mace_md.units import EV_PER_ANGSTROM_TO_KJ_MOL_NM, EV_TO_KJ_MOL, NM_TO_ANGSTROM


class LongRangeDerivative(nn.Module):
    """Energy of one system and its derivatives by edge vectors, positions and cell.

    `model` has `energies(vectors, positions, cell, species, edge_index, head)`; see `LatentEwaldMACE.energies`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("of_model_dtype", torch.zeros(0, dtype=model_dtype(model)), persistent=False)

    def forward(
        self, vectors: Tensor, positions: Tensor, cell: Tensor, species: Tensor, edge_index: Tensor, head: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(energies: parts that add up, dE/dvectors [n_edges, 3], dE/dpositions [n, 3], dE/dcell [3, 3]), float64, eV
        and A; the derivatives by positions and cell are those at fixed vectors. cell: zeros without a box."""
        with GradientsOn():
            edges = vectors.detach().to(self.of_model_dtype.dtype).requires_grad_(True)
            x, box = positions.detach().requires_grad_(True), cell.detach().requires_grad_(True)
            energies = self.model.energies(edges, x, box, species, edge_index, head)
            found = torch.autograd.grad([energies.sum()], [edges, x, box], allow_unused=True)
            like = [vectors, positions, cell]
            results: list[Tensor] = []
            for i, derivative in enumerate(found):
                results.append(torch.zeros_like(like[i]) if derivative is None else derivative.to(torch.float64))
        return energies.detach(), results[0], results[1], results[2]


def strain_derivative(vectors: Tensor, positions: Tensor, cell: Tensor, derivatives: tuple[Tensor, ...]) -> Tensor:
    """dE/dstrain [3, 3], eV, from the derivatives by edge vectors, positions and cell, which all stretch."""
    parts = zip((vectors, positions, cell), derivatives, strict=True)
    total = sum(x.double().T @ d for x, d in parts)
    return 0.5 * (total + total.T)


class LongRangePotential(nn.Module):
    """Interaction energy of `atoms` and the forces on all particles, as `Potential`; scriptable."""

    def __init__(
        self,
        model: nn.Module,
        atomic_numbers: Sequence[int],
        periodic: bool,
        atoms: Sequence[int] | None = None,
        skin: float = 0.5,
    ) -> None:
        """Arguments and errors as of `Potential`."""
        super().__init__()
        indices = checked_atoms(atoms, len(atomic_numbers))
        self.n_particles = len(atomic_numbers)
        self.subset = atoms is not None
        self.periodic = bool(periodic)
        self.r_max = float(model.r_max)
        self.derivative = LongRangeDerivative(model.eval())
        self.neighbors = VerletList(self.r_max, skin, self.periodic)
        species = species_of(model, [atomic_numbers[i] for i in indices])
        self.register_buffer("atoms", torch.tensor(indices, dtype=torch.int64))
        self.register_buffer("species", species)
        self.register_buffer("head", torch.zeros_like(species))
        self.angstrom_per_nm = NM_TO_ANGSTROM
        self.kj_mol_per_ev = EV_TO_KJ_MOL
        self.kj_mol_nm_per_ev_angstrom = EV_PER_ANGSTROM_TO_KJ_MOL_NM

    def forward(self, positions: Tensor, box: Optional[Tensor] = None) -> tuple[Tensor, Tensor]:
        """As `Potential.forward`."""
        check_particles(positions, self.n_particles, box, self.periodic)
        x = positions.detach().to(torch.float64) * self.angstrom_per_nm
        if self.subset:
            x = x.index_select(0, self.atoms)
        cell = torch.zeros([3, 3], dtype=torch.float64, device=x.device)
        if self.periodic and box is not None:
            cell = box.detach().to(torch.float64) * self.angstrom_per_nm
        check_positions(x, self.r_max)
        if self.periodic:
            check_cell(cell, self.r_max)
        edge_index, vectors = self.neighbors(x, cell)
        energies, by_edges, by_positions, _ = self.derivative(vectors, x, cell, self.species, edge_index, self.head)
        on_atoms = -by_positions.index_add(0, edge_index[0], by_edges, alpha=-1).index_add(0, edge_index[1], by_edges)
        on_atoms = on_atoms * self.kj_mol_nm_per_ev_angstrom
        forces = on_atoms
        if self.subset:
            forces = torch.zeros([self.n_particles, 3], dtype=torch.float64, device=x.device)
            forces = forces.index_copy(0, self.atoms, on_atoms)
        return energies.sum() * self.kj_mol_per_ev, forces.to(positions.dtype).contiguous()
