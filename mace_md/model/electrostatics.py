"""Electrostatic sums over Gaussian charges: over all pairs without a box, over k exactly, or over k on a mesh.

Energies are in units of charge^2 / length with factors left to the callers; lengths in A, everything in float64, and
differentiable in charges, positions and cell.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

MESH_FROM = 3000  # atoms; below, the exact sum is as fast
SPACING = 0.4  # A, of the points of the mesh, for dl = 2 A; in proportion to dl otherwise
ORDER = 8  # of the B-splines


def smeared_pair_energy(charges: Tensor, positions: Tensor, width: float, pairs_at_once: int = 2_000_000) -> Tensor:
    """1/2 sum_{i != j} q_i q_j erf(r_ij / width) / r_ij, a scalar."""
    n = charges.shape[0]
    rows = max(1, pairs_at_once // max(n, 1))
    total = torch.zeros([], dtype=torch.float64, device=charges.device)
    for start in range(0, n, rows):
        stop = min(start + rows, n)
        offset = positions.unsqueeze(0) - positions[start:stop].unsqueeze(1)
        squared = (offset * offset).sum(dim=2)
        own = torch.arange(start, stop, device=charges.device).unsqueeze(1) == torch.arange(n, device=charges.device)
        r = torch.sqrt(torch.where(own, torch.ones_like(squared), squared))
        kernel = torch.where(own, torch.zeros_like(r), torch.erf(r / width) / r)
        total = total + 0.5 * (charges[start:stop] * (kernel @ charges)).sum()
    return total


class KSpaceSum(nn.Module):
    """(1/V) sum over k, 0 < |k| <= k_max, of |S(k)|^2 exp(-sigma^2 k^2 / 2) / k^2 with S = sum_i q_i exp(i k r_i).

    The set of k is the file's: multiples n_a of the reciprocal vectors up to max(1, floor(|a| / dl)) for each cell
    vector a, inside the sphere of radius k_max. It changes by jumps with the box, and with it the energy, by terms of
    the size exp(-(sigma k_max)^2 / 2) / k_max^2; `converged` doubles k_max, which makes the jumps exp(15) times
    smaller for sigma = 1 A and dl = 2 A, and the energy another one than that of the file by the terms left out there.
    """

    def __init__(self, sigma: float, k_max: float, dl: float):
        super().__init__()
        self.sigma, self.k_max, self.dl = float(sigma), float(k_max), float(dl)
        self.mesh_from: int = MESH_FROM
        self.points_per_frequency, self.order = 2.0 / SPACING, ORDER
        self.converged = False

    def forward(self, charges: Tensor, positions: Tensor, cell: Tensor) -> Tensor:
        """charges [n], positions [n, 3], cell [3, 3] -> scalar."""
        scale = 2.0 if self.converged else 1.0
        lengths = torch.linalg.vector_norm(cell.detach(), dim=1) * (scale / self.dl)
        counts: list[int] = [max(1, int(torch.floor(x))) for x in lengths]
        inverse = torch.linalg.inv(cell)
        fractional = positions @ inverse
        volume = torch.linalg.det(cell).abs()
        if charges.shape[0] >= self.mesh_from:
            return self._on_mesh(charges, fractional, inverse, counts, scale) / volume
        return self._exact(charges, fractional, inverse, counts, scale) / volume

    def _exact(self, charges: Tensor, fractional: Tensor, inverse: Tensor, counts: list[int], scale: float) -> Tensor:
        """The sum with exp(i k r) as a product of three phases, one for each cell vector: memory linear in atoms."""
        device = charges.device
        n1 = torch.arange(0, counts[0] + 1, dtype=torch.float64, device=device)
        n2 = torch.arange(-counts[1], counts[1] + 1, dtype=torch.float64, device=device)
        n3 = torch.arange(-counts[2], counts[2] + 1, dtype=torch.float64, device=device)
        two_pi = 2.0 * math.pi
        a1 = two_pi * n1.unsqueeze(1) * fractional[:, 0]
        a2 = two_pi * n2.unsqueeze(1) * fractional[:, 1]
        a3 = two_pi * n3.unsqueeze(1) * fractional[:, 2]
        c2, s2, c3, s3 = torch.cos(a2), torch.sin(a2), torch.cos(a3), torch.sin(a3)
        c23 = (c2.unsqueeze(1) * c3 - s2.unsqueeze(1) * s3).flatten(0, 1)  # [n2 * n3, n]
        s23 = (s2.unsqueeze(1) * c3 + c2.unsqueeze(1) * s3).flatten(0, 1)
        c1, s1 = charges * torch.cos(a1), charges * torch.sin(a1)  # [n1, n]
        real = c1 @ c23.t() - s1 @ s23.t()
        imaginary = s1 @ c23.t() + c1 @ s23.t()
        kernel = self._kernel(n1, n2, n3, inverse, scale)
        return (kernel.flatten(1) * (real * real + imaginary * imaginary)).sum()

    def _kernel(self, n1: Tensor, n2: Tensor, n3: Tensor, inverse: Tensor, scale: float) -> Tensor:
        """exp(-sigma^2 k^2 / 2) / k^2 [n1, n2, n3], twice for n1 > 0, whose -k are not there; 0 outside of the set."""
        two_pi = 2.0 * math.pi
        k = n1.reshape(-1, 1, 1, 1) * inverse[:, 0] + n2.reshape(1, -1, 1, 1) * inverse[:, 1]
        k = two_pi * (k + n3.reshape(1, 1, -1, 1) * inverse[:, 2])
        squared = (k * k).sum(dim=3)
        inside = (squared.detach() <= (scale * self.k_max) ** 2) & (squared.detach() > 0.0)
        safe = torch.where(inside, squared, torch.ones_like(squared))
        twice = torch.where(n1 > 0, 2.0, 1.0).reshape(-1, 1, 1)
        return torch.where(inside, twice * torch.exp(-0.5 * self.sigma**2 * safe) / safe, torch.zeros_like(safe))

    def _on_mesh(self, charges: Tensor, fractional: Tensor, inverse: Tensor, counts: list[int], scale: float) -> Tensor:
        """The same sum with S(k) from charges spread on a mesh by B-splines (Essmann et al., JCP 103, 8577, 1995)."""
        # 2 counts + 1 frequencies would do; more of them make the splines exact enough
        size: list[int] = [_fast_size(int(math.ceil(c * self.points_per_frequency)), 2 * c + 2) for c in counts]
        points, weights = spread(fractional, size, self.order)
        grid = torch.zeros(size[0] * size[1] * size[2], dtype=torch.float64, device=charges.device)
        grid = grid.index_add(0, points.flatten(), (charges.reshape(-1, 1) * weights).flatten())
        # the half of the frequencies that a real transform has is along the last axis
        transform = torch.fft.rfftn(grid.reshape(size[0], size[1], size[2]))
        n1, n2, n3 = _frequencies(size[0]), _frequencies(size[1]), _frequencies(size[2])[: size[2] // 2 + 1].abs()
        n1, n2, n3 = n1.to(charges.device), n2.to(charges.device), n3.to(charges.device)
        kernel = self._kernel(n3, n2, n1, inverse.flip(1), scale).permute(2, 1, 0)
        within = (n1.abs() <= counts[0]).reshape(-1, 1, 1) & (n2.abs() <= counts[1]).reshape(1, -1, 1)
        within = within & (n3 <= counts[2]).reshape(1, 1, -1)
        moduli = spline_moduli(n1, size[0], self.order).reshape(-1, 1, 1)
        moduli = moduli * spline_moduli(n2, size[1], self.order).reshape(1, -1, 1)
        moduli = moduli * spline_moduli(n3, size[2], self.order).reshape(1, 1, -1)
        kernel = torch.where(within, kernel / torch.where(within, moduli, torch.ones_like(moduli)), 0.0)
        parts = torch.view_as_real(transform)
        return (kernel * (parts * parts).sum(dim=3)).sum()


def _fast_size(wanted: int, at_least: int) -> int:
    """The next size from `wanted` on, even and without prime factors above 5."""
    size = max(wanted, at_least)
    size += size % 2
    while not _is_fast(size):
        size += 2
    return size


def _is_fast(size: int) -> bool:
    for prime in [2, 3, 5]:
        while size % prime == 0:
            size = size // prime
    return size == 1


def _frequencies(size: int) -> Tensor:
    """Integer frequencies of a discrete Fourier transform, in its order, float64."""
    n = torch.arange(size, dtype=torch.float64)
    return torch.where(n > size // 2, n - size, n)


def spline_values(t: Tensor, order: int) -> Tensor:
    """B-splines of the next `order` mesh points at the fraction t [...] after a point: [..., order], sum 1."""
    values: list[Tensor] = [t, 1.0 - t]  # M_2(t + 0), M_2(t + 1)
    for p in range(3, order + 1):
        longer: list[Tensor] = []
        for j in range(p):
            x = t + j
            term = torch.zeros_like(t)
            if j < p - 1:
                term = term + x * values[j]
            if j > 0:
                term = term + (p - x) * values[j - 1]
            longer.append(term / (p - 1))
        values = longer
    return torch.stack(values, dim=-1)


def spread(fractional: Tensor, size: list[int], order: int) -> tuple[Tensor, Tensor]:
    """Points of the flattened mesh [n, order^3] that an atom is spread on, and its weights there."""
    index: list[Tensor] = []
    value: list[Tensor] = []
    for a in range(3):
        u = fractional[:, a] * size[a]
        floor = torch.floor(u.detach())
        value.append(spline_values(u - floor, order))
        steps = torch.arange(order, device=u.device)
        index.append(torch.remainder(floor.to(torch.int64).unsqueeze(1) - steps, size[a]))
    points = (index[0].unsqueeze(2) * size[1] + index[1].unsqueeze(1)).flatten(1)
    points = points.unsqueeze(2) * size[2] + index[2].unsqueeze(1)
    weights = (value[0].unsqueeze(2) * value[1].unsqueeze(1)).flatten(1)
    weights = weights.unsqueeze(2) * value[2].unsqueeze(1)
    return points.flatten(1), weights.flatten(1)


def spline_moduli(frequencies: Tensor, size: int, order: int) -> Tensor:
    """|sum_j M(j + 1) exp(2 pi i n j / size)|^2 for each frequency n, [n], by which |FFT|^2 is divided."""
    at_points = spline_values(torch.zeros([], dtype=torch.float64), order).to(frequencies.device)  # M(0), M(1), ...
    angle = 2.0 * math.pi / size * frequencies.unsqueeze(1) * torch.arange(order, device=frequencies.device)
    real, imaginary = (at_points * torch.cos(angle)).sum(dim=1), (at_points * torch.sin(angle)).sum(dim=1)
    return real * real + imaginary * imaginary
