"""Electrostatics of POLAR-1: energy and field features of Gaussian charges and dipoles, in a box and without one.

Sources are [n_atoms, 4, n_channels]: charge (e), and dipole in the order (y, z, x) (e A). Everything in float64. The
potential is in V (1/eps_0 = 1/5.526349406e-3 V A/e, as graph-longrange has it). Equations: arXiv 2602.19411.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

FIELD_CONSTANT = 1.0 / 5.526349406e-3
_ENERGY_OFFSET, _FEATURE_OFFSET = 0.02, 0.1  # A, of the displaced charges that stand for a dipole without a box


class PolarFields(nn.Module):
    """See the text of this module.

    Without a box a dipole is a pair of point charges, displaced along x, y and z, as in mace-torch, so that energies
    depend on the orientation by some 1e-5 eV; `analytic` takes the dipole itself.
    """

    def __init__(self, settings: dict):
        super().__init__()
        self.sigma, self.k_max = float(settings["sigma"]), float(settings["k_max"])
        self.field_self, self.energy_self = bool(settings["field_self"]), bool(settings["energy_self"])
        self.field_L, self.source_L = int(settings["field_L"]), int(settings["source_L"])
        self.analytic = bool(settings.get("analytic", False))
        self.constant = FIELD_CONSTANT
        self.energy_offset, self.feature_offset = _ENERGY_OFFSET, _FEATURE_OFFSET
        widths = torch.tensor(settings["widths"], dtype=torch.float64)
        n = len(widths)
        self.register_buffer("widths", widths)  # [n], A
        self.register_buffer("pair_widths", ((self.sigma**2 + widths**2) / 2.0).sqrt())
        scales = [math.sqrt(4.0 * math.pi) * torch.ones(n, dtype=torch.float64),
                  math.sqrt(3.0) * math.pi / math.sqrt(2.0) * widths]  # fmt: skip
        self.register_buffer("field_scale", torch.stack(scales))  # [2, n], of l = 0 and 1
        self.register_buffer("source_scale", torch.ones(2, dtype=torch.float64))  # of charges and dipoles, in a box
        self.register_buffer("field_own", torch.zeros(2, n, dtype=torch.float64))  # an atom's field at itself
        self.register_buffer("energy_own", torch.zeros(2, dtype=torch.float64))
        self.register_buffer("pair_scale", torch.ones(2, n, dtype=torch.float64))  # of the features without a box

    # --- features -------------------------------------------------------------------------------------------------

    def features(self, sources: Tensor, positions: Tensor, cell: Tensor) -> list[Tensor]:
        """Potential, and its gradient in the order (y, z, x), smeared over each width: for l = 0 [n, 1, c, n_widths],
        for l = 1 (if there) [n, 3, c, n_widths]; sources [n, 4, c], positions [n, 3], cell [3, 3], zeros for no box."""
        if bool((cell == 0.0).all()):
            if self.analytic:
                values = self._pair_features_analytic(sources, positions)
            else:
                values = self._pair_features(sources, positions)
        else:
            values = self._box_features(sources, positions, cell)
        own_0, own_1 = self.field_own[0], self.field_own[1]
        in_box = bool((cell != 0.0).any())
        if in_box and not self.field_self:
            values = [values[0] - sources[:, :1].unsqueeze(3) * own_0, values[1] - sources[:, 1:].unsqueeze(3) * own_1]
        if not in_box and self.field_self:
            values = [values[0] + sources[:, :1].unsqueeze(3) * own_0, values[1] + sources[:, 1:].unsqueeze(3) * own_1]
        return values if self.field_L > 0 else values[:1]

    def _box_features(self, sources: Tensor, positions: Tensor, cell: Tensor) -> list[Tensor]:
        phase_1, phase_23, k, squared, inside = self._waves(positions, cell)
        volume = torch.linalg.det(cell).abs()
        factors = self._structure(sources, phase_1, phase_23, k)  # [c, n1, n23] complex
        safe = torch.where(inside, squared, torch.ones_like(squared))
        kernel = torch.where(inside, torch.exp(-0.5 * self.sigma**2 * safe) / safe, torch.zeros_like(safe))
        potential = factors * (self.constant / volume * kernel)
        n_channels, n_widths = sources.shape[2], self.widths.shape[0]
        scalars: list[Tensor] = []
        vectors: list[Tensor] = []
        for w in range(n_widths):
            damped = potential * torch.exp(-0.5 * self.widths[w] ** 2 * squared)
            for c in range(n_channels):
                scalars.append(2.0 * self.field_scale[0, w] * self._at_atoms(damped[c], phase_1, phase_23))
                for a in range(3):
                    gradient = torch.complex(-damped[c].imag * k[a], damped[c].real * k[a])
                    vectors.append(2.0 * self.field_scale[1, w] * self._at_atoms(gradient, phase_1, phase_23))
        n = positions.shape[0]
        l_0 = torch.stack(scalars).reshape(n_widths, n_channels, 1, n).permute(3, 2, 1, 0)
        l_1 = torch.stack(vectors).reshape(n_widths, n_channels, 3, n).permute(3, 2, 1, 0)
        return [l_0, l_1[:, [1, 2, 0]]]

    def _waves(self, positions: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, list[Tensor], Tensor, Tensor]:
        """exp(i k r) as products of phases [n1, n] and [n2 n3, n]; k [n1, n2 n3] for x, y, z; k^2; and which k count:
        of each pair k and -k one, inside the sphere, not 0."""
        inverse, device = torch.linalg.inv(cell), positions.device
        counts: list[int] = [
            int(torch.floor(self.k_max * x / (2.0 * math.pi))) for x in torch.linalg.vector_norm(cell.detach(), dim=1)
        ]
        n1 = torch.arange(0, counts[0] + 1, dtype=torch.float64, device=device)
        n2 = torch.arange(-counts[1], counts[1] + 1, dtype=torch.float64, device=device)
        n3 = torch.arange(-counts[2], counts[2] + 1, dtype=torch.float64, device=device)
        angles = 2.0 * math.pi * (positions @ inverse)
        phase_1 = torch.polar(torch.ones_like(angles[:, 0]), angles[:, 0] * n1.unsqueeze(1))
        phase_2 = torch.polar(torch.ones_like(angles[:, 0]), angles[:, 1] * n2.unsqueeze(1))
        phase_3 = torch.polar(torch.ones_like(angles[:, 0]), angles[:, 2] * n3.unsqueeze(1))
        phase_23 = (phase_2.unsqueeze(1) * phase_3).flatten(0, 1)
        n23 = torch.cartesian_prod(n2, n3)
        k: list[Tensor] = []
        for a in range(3):
            along = n1.unsqueeze(1) * inverse[a, 0] + n23[:, 0] * inverse[a, 1] + n23[:, 1] * inverse[a, 2]
            k.append(2.0 * math.pi * along)
        squared = k[0] * k[0] + k[1] * k[1] + k[2] * k[2]
        upper = (n23[:, 0] > 0) | ((n23[:, 0] == 0) & (n23[:, 1] > 0))
        half = (n1.unsqueeze(1) > 0) | upper
        return phase_1, phase_23, k, squared, half & (squared.detach() <= self.k_max**2)

    def _structure(self, sources: Tensor, phase_1: Tensor, phase_23: Tensor, k: list[Tensor]) -> Tensor:
        """sum_i (q_i - i k p_i) exp(-i k r_i), [n_channels, n1, n2 n3]."""
        found: list[Tensor] = []
        order = [3, 1, 2]  # of x, y, z in a source
        for c in range(sources.shape[2]):
            total = self.source_scale[0] * ((sources[:, 0, c] * phase_1.conj()) @ phase_23.conj().t())
            if self.source_L > 0:
                for a in range(3):
                    part = self.source_scale[1] * ((sources[:, order[a], c] * phase_1.conj()) @ phase_23.conj().t())
                    total = total + torch.complex(k[a] * part.imag, -k[a] * part.real)
            found.append(total)
        return torch.stack(found)

    def _at_atoms(self, coefficients: Tensor, phase_1: Tensor, phase_23: Tensor) -> Tensor:
        """Re sum_k coefficients exp(i k r_i), [n]."""
        return (phase_1 * (coefficients @ phase_23)).sum(dim=0).real

    def _displaced(self, sources: Tensor, positions: Tensor, offset: float) -> tuple[Tensor, Tensor]:
        """Charges [4 n, c] and positions [4 n, 3]: of every atom, and displaced by `offset` along x, y and z."""
        steps = torch.cat([torch.zeros(1, 3), torch.eye(3)]).to(positions) * offset
        points = (positions.unsqueeze(1) + steps).flatten(0, 1)
        displaced = sources[:, [3, 1, 2]] / offset
        centre = sources[:, :1] - displaced.sum(dim=1, keepdim=True)
        return torch.cat([centre, displaced], dim=1).flatten(0, 1), points

    def _pair_features(self, sources: Tensor, positions: Tensor) -> list[Tensor]:
        n, single = positions.shape[0], self.source_L == 0 and self.field_L == 0
        if single:
            charges, points, copies = sources[:, 0], positions, 1
        else:
            charges, points = self._displaced(sources, positions, self.feature_offset)
            copies = 4
        d, other = _distances(points, copies)
        scalars: list[Tensor] = []
        vectors: list[Tensor] = []
        for w in range(self.widths.shape[0]):
            kernel = torch.where(other, torch.erf(0.5 * d / self.pair_widths[w]) / (d + 1e-6), torch.zeros_like(d))
            values = self.constant / (4.0 * math.pi) * (kernel @ charges)
            values = values.reshape(n, copies, values.shape[1])
            scalars.append(self.pair_scale[0, w] * values[:, :1])
            if not single:
                slopes = values[:, [2, 3, 1]] - values[:, :1]
                vectors.append(self.pair_scale[1, w] / self.feature_offset * slopes)
        if single:
            return [torch.stack(scalars, dim=3), torch.zeros(n, 3, sources.shape[2], len(scalars)).to(positions)]
        return [torch.stack(scalars, dim=3), torch.stack(vectors, dim=3)]

    def _pair_features_analytic(self, sources: Tensor, positions: Tensor) -> list[Tensor]:
        charges, dipoles = sources[:, 0], sources[:, [3, 1, 2]]
        R, r, other = _offsets(positions)
        scalars: list[Tensor] = []
        vectors: list[Tensor] = []
        for w in range(self.widths.shape[0]):
            f0, f1, f2 = _smeared_kernel(r, 2.0 * self.pair_widths[w], other)
            along = torch.einsum("ija,jac->ijc", R, dipoles)
            potential = f0 @ charges - torch.einsum("ij,ijc->ic", f1, along)
            gradient = torch.einsum("ij,ija,jc->iac", f1, R, charges) - torch.einsum("ij,jac->iac", f1, dipoles)
            gradient = gradient - torch.einsum("ij,ijc,ija->iac", f2, along, R)
            factor = self.constant / (4.0 * math.pi)
            scalars.append(factor * self.pair_scale[0, w] * potential.unsqueeze(1))
            vectors.append(factor * self.pair_scale[1, w] * gradient[:, [1, 2, 0]])
        return [torch.stack(scalars, dim=3), torch.stack(vectors, dim=3)]

    # --- energy ---------------------------------------------------------------------------------------------------

    def energy(self, sources: Tensor, positions: Tensor, cell: Tensor) -> Tensor:
        """Electrostatic energy (eV) of sources [n, 4], a scalar."""
        own = 0.5 * (self.energy_own[0] * sources[:, 0] ** 2).sum()
        own = own + 0.5 * (self.energy_own[1] * sources[:, 1:] ** 2).sum()
        if bool((cell == 0.0).all()):
            energy = self._pair_energy(sources, positions)
            return energy + own if self.energy_self else energy
        phase_1, phase_23, k, squared, inside = self._waves(positions, cell)
        S = self._structure(sources.unsqueeze(2), phase_1, phase_23, k)[0]
        safe = torch.where(inside, squared, torch.ones_like(squared))
        kernel = torch.where(inside, torch.exp(-(self.sigma**2) * safe) / safe, torch.zeros_like(safe))
        energy = self.constant / torch.linalg.det(cell).abs() * (kernel * (S.real * S.real + S.imag * S.imag)).sum()
        return energy if self.energy_self else energy - own

    def _pair_energy(self, sources: Tensor, positions: Tensor) -> Tensor:
        factor = 0.5 * self.constant / (4.0 * math.pi)
        if self.source_L == 0 or not self.analytic:
            charges, points, copies = sources[:, 0], positions, 1
            if self.source_L > 0:
                spread, points = self._displaced(sources.unsqueeze(2), positions, self.energy_offset)
                charges, copies = spread[:, 0], 4
            d, other = _distances(points, copies)
            kernel = torch.where(other, torch.erf(0.5 * d / self.sigma) / (d + 1e-6), torch.zeros_like(d))
            return factor * (charges * (kernel @ charges)).sum()
        charges, dipoles = sources[:, 0], sources[:, [3, 1, 2]]
        R, r, other = _offsets(positions)
        f0, f1, f2 = _smeared_kernel(r, torch.tensor(2.0 * self.sigma, dtype=torch.float64), other)
        along, mine = torch.einsum("ija,ja->ij", R, dipoles), torch.einsum("ija,ia->ij", R, dipoles)
        pairs = (f0 * charges).sum(dim=1) - (f1 * along).sum(dim=1)
        energy = (charges * pairs).sum() + (f1 * mine * charges).sum() - (f2 * mine * along).sum()
        return factor * (energy - (f1 * (dipoles @ dipoles.t())).sum())


def _distances(points: Tensor, copies: int) -> tuple[Tensor, Tensor]:
    """Distances between all points, 1 for points of the same atom, and whether they are of different atoms."""
    atom = torch.arange(points.shape[0], device=points.device) // copies
    other = atom.unsqueeze(1) != atom
    offset = points.unsqueeze(0) - points.unsqueeze(1)
    squared = (offset * offset).sum(dim=2)
    return torch.sqrt(torch.where(other, squared, torch.ones_like(squared))), other


def _offsets(positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """r_i - r_j [n, n, 3], distances [n, n], and whether i and j are different."""
    R = positions.unsqueeze(1) - positions.unsqueeze(0)
    r, other = _distances(positions, 1)
    return R, r, other


def _smeared_kernel(r: Tensor, width: Tensor, other: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """K = erf(r / width) / r, K' / r, and (K' / r)' / r, all zero where not `other`."""
    x = r / width
    gauss = 2.0 / math.sqrt(math.pi) / width * torch.exp(-x * x)
    f0 = torch.erf(x) / r
    f1 = (gauss - f0) / (r * r)
    f2 = (-2.0 * gauss / (width * width) - 3.0 * f1) / (r * r)
    zero = torch.zeros_like(r)
    return torch.where(other, f0, zero), torch.where(other, f1, zero), torch.where(other, f2, zero)
