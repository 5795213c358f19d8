"""Functions of the interatomic distance: basis, cutoff, distance transforms, radial network, core repulsion."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

# Factors that give an activation unit second moment under a normal input, as e3nn's `normalize2mom` computes them (one
# million normal samples, seed 0); trained weights carry them, so they are constants of the format.
ACTIVATION_SCALES = {
    "silu": 1.6791767923989418, "tanh": 1.5937334472592695, "abs": 1.001110600838467, "none": 1.0,
    "softplus": 1.0426436590527184, "relu": 1.4163393446331365, "sigmoid": 1.8467055342154763,
    "gelu": 1.5360642850770578,
}  # fmt: skip


def activate(x: Tensor, gate: str) -> Tensor:
    """The activation named `gate`, without its normalisation."""
    if gate == "silu":
        return torch.nn.functional.silu(x)
    if gate == "tanh":
        return torch.tanh(x)
    if gate == "abs":
        return torch.abs(x)
    if gate == "softplus":
        return torch.nn.functional.softplus(x)
    if gate == "relu":
        return torch.nn.functional.relu(x)
    if gate == "sigmoid":
        return torch.sigmoid(x)
    if gate == "gelu":
        return torch.nn.functional.gelu(x)
    return x


class BesselBasis(nn.Module):
    """sqrt(2 / r_max) sin(n pi r / r_max) / r (DimeNet, arXiv 2003.03123, eq. 7)."""

    def __init__(self, r_max: float, num_basis: int):
        super().__init__()
        self.prefactor = math.sqrt(2.0 / r_max)
        self.register_buffer("frequencies", torch.arange(1, num_basis + 1, dtype=torch.float64) * math.pi / r_max)

    def forward(self, r: Tensor) -> Tensor:
        """r [n_edges, 1] -> [n_edges, num_basis]."""
        return self.prefactor * torch.sin(self.frequencies * r) / r


class GaussianBasis(nn.Module):
    """exp(-(r - r_n)^2 / (2 d^2)) on num_basis equidistant centres r_n from 0 to r_max, d apart."""

    def __init__(self, r_max: float, num_basis: int, coefficient: float | None = None):
        """coefficient: -1 / (2 d^2), 1/A^2, where the width is another than the distance of the centres."""
        super().__init__()
        by_distance = -0.5 / (r_max / max(num_basis - 1, 1)) ** 2
        self.coefficient = by_distance if coefficient is None else float(coefficient)
        self.register_buffer("centres", torch.linspace(0.0, r_max, num_basis, dtype=torch.float64))

    def forward(self, r: Tensor) -> Tensor:
        """r [n_edges, 1] -> [n_edges, num_basis]."""
        return torch.exp(self.coefficient * (r - self.centres) ** 2)


class ChebyshevBasis(nn.Module):
    """Chebyshev polynomials T_1 ... T_num_basis of the (transformed) distance itself, as mace-torch has them."""

    def __init__(self, num_basis: int):
        super().__init__()
        self.num_basis = num_basis

    def forward(self, r: Tensor) -> Tensor:
        """r [n_edges, 1] -> [n_edges, num_basis]; T_{n+1} = 2 r T_n - T_{n-1} also holds outside [-1, 1]."""
        previous, current = torch.ones_like(r), r
        values = [current]
        for _ in range(self.num_basis - 1):
            previous, current = current, 2.0 * r * current - previous
            values.append(current)
        return torch.cat(values, dim=-1)


def polynomial_cutoff(x: Tensor, p: float) -> Tensor:
    """Smooth step from 1 at x = 0 to 0 at x >= 1, with two zero derivatives at 1 (arXiv 2003.03123, eq. 8)."""
    envelope = (
        1.0
        - (p + 1.0) * (p + 2.0) / 2.0 * torch.pow(x, p)
        + p * (p + 2.0) * torch.pow(x, p + 1.0)
        - p * (p + 1.0) / 2.0 * torch.pow(x, p + 2.0)
    )
    return envelope * (x < 1.0)


class AgnesiTransform(nn.Module):
    """1 / (1 + a x^q / (1 + x^(q - p))), x = r / r_0, r_0 half the sum of covalent radii (JCP 159, 164101, 2023)."""

    def __init__(self, covalent_radii: Tensor, q: float = 0.9183, p: float = 4.5791, a: float = 1.0805):
        super().__init__()
        self.register_buffer("covalent_radii", covalent_radii)  # [n_species], A
        self.register_buffer("exponents", torch.tensor([q, p], dtype=torch.float64))
        self.register_buffer("amplitude", torch.tensor(a, dtype=torch.float64))

    def forward(self, r: Tensor, species_i: Tensor, species_j: Tensor) -> Tensor:
        """r [n_edges, 1], species [n_edges] -> [n_edges, 1], dimensionless."""
        q, p = self.exponents[0], self.exponents[1]
        r_0 = 0.5 * (self.covalent_radii[species_i] + self.covalent_radii[species_j]).unsqueeze(-1)
        x = r / r_0
        return 1.0 / (1.0 + self.amplitude * torch.pow(x, q) / (1.0 + torch.pow(x, q - p)))


class SoftTransform(nn.Module):
    """p_0 + (r - p_0) (1 + tanh(alpha (r - m) / (p_1 - p_0))) / 2: r at long range, clamped to p_0 inside the core.

    p_0 and p_1 are 3/4 and 4/3 of the sum of the covalent radii and m is their mean.
    """

    def __init__(self, covalent_radii: Tensor, alpha: float = 4.0):
        super().__init__()
        self.register_buffer("covalent_radii", covalent_radii)  # [n_species], A
        self.register_buffer("alpha", torch.tensor(alpha, dtype=torch.float64))

    def forward(self, r: Tensor, species_i: Tensor, species_j: Tensor) -> Tensor:
        """r [n_edges, 1], A, species [n_edges] -> [n_edges, 1], A."""
        r_0 = (self.covalent_radii[species_i] + self.covalent_radii[species_j]).unsqueeze(-1)
        p_0, p_1 = 0.75 * r_0, 4.0 / 3.0 * r_0
        step = 0.5 * (1.0 + torch.tanh(self.alpha / (p_1 - p_0) * (r - 0.5 * (p_0 + p_1))))
        return p_0 + (r - p_0) * step


class NoTransform(nn.Module):
    """The distance itself."""

    def forward(self, r: Tensor, species_i: Tensor, species_j: Tensor) -> Tensor:
        """r, unchanged."""
        return r


class RadialEmbedding(nn.Module):
    """Radial features of every edge and the cutoff factor that goes with them."""

    def __init__(self, basis: nn.Module, transform: nn.Module, r_max: float, p: int, apply_cutoff: bool):
        super().__init__()
        self.basis, self.transform = basis, transform
        self.r_max, self.p, self.apply_cutoff = float(r_max), float(p), apply_cutoff

    def forward(self, r: Tensor, species_i: Tensor, species_j: Tensor) -> tuple[Tensor, Tensor]:
        """r [n_edges, 1], A -> features [n_edges, num_bessel], factor [n_edges, 1] for the radial weights.

        Either the features carry the cutoff and the factor is 1, or the factor is the cutoff.
        """
        cutoff = polynomial_cutoff(r / self.r_max, self.p)
        features = self.basis(self.transform(r, species_i, species_j))
        if self.apply_cutoff:
            return features * cutoff, torch.ones_like(cutoff)
        return features, cutoff


class RadialMLP(nn.Module):
    """Fully connected network from radial features to convolution weights: silu between layers, no biases."""

    def __init__(self, sizes: list[int]):
        super().__init__()
        self.scale = ACTIVATION_SCALES["silu"]
        self.last = len(sizes) - 2
        self.weights = nn.ParameterList([torch.randn(n_in, n_out) for n_in, n_out in pairwise(sizes)])

    def forward(self, x: Tensor) -> Tensor:
        """[n_edges, sizes[0]] -> [n_edges, sizes[-1]]."""
        for i, weight in enumerate(self.weights):
            x = x @ (weight / math.sqrt(weight.shape[0]))
            if i < self.last:
                x = self.scale * torch.nn.functional.silu(x)
        return x


class BiasedMLP(nn.Module):
    """The network of the NonLinear blocks: linear with bias, layer normalisation, silu; the last layer linear."""

    def __init__(self, sizes: list[int]):
        super().__init__()
        self.first = nn.Linear(sizes[0], sizes[1])
        rest: list[nn.Module] = []
        for n_in, n_out in pairwise(sizes[1:]):
            rest += [nn.LayerNorm(n_in), nn.SiLU(), nn.Linear(n_in, n_out)]
        self.rest = nn.Sequential(*rest)

    def forward(self, x: Tensor) -> Tensor:
        """[n, sizes[0]] -> [n, sizes[-1]]."""
        return self.rest(self.first(x))


class ZBLRepulsion(nn.Module):
    """Ziegler-Biersack-Littmark screened nuclear repulsion, cut off smoothly at the sum of the covalent radii."""

    def __init__(self, atomic_numbers: Tensor, covalent_radii: Tensor, p: int, a_exp: float = 0.300,
                 a_prefactor: float = 0.4543):  # fmt: skip
        super().__init__()
        self.p = float(p)
        self.register_buffer("charges", atomic_numbers.to(torch.float64))  # [n_species]
        self.register_buffer("covalent_radii", covalent_radii)  # [n_species], A
        self.register_buffer("coefficients", torch.tensor([0.1818, 0.5099, 0.2802, 0.02817], dtype=torch.float64))
        self.register_buffer("exponents", torch.tensor([3.2, 0.9423, 0.4028, 0.2016], dtype=torch.float64))
        self.register_buffer("a_exp", torch.tensor(a_exp, dtype=torch.float64))
        self.register_buffer("a_prefactor", torch.tensor(a_prefactor, dtype=torch.float64))

    def forward(self, r: Tensor, species_i: Tensor, species_j: Tensor) -> Tensor:
        """r [n_edges, 1], A -> energy of each directed edge, [n_edges], eV; half of the pair's."""
        z_i, z_j = self.charges[species_i].unsqueeze(-1), self.charges[species_j].unsqueeze(-1)
        a = self.a_prefactor * 0.529 / (torch.pow(z_i, self.a_exp) + torch.pow(z_j, self.a_exp))
        screening = torch.exp(-self.exponents * (r / a)) @ self.coefficients.unsqueeze(-1)
        radius = (self.covalent_radii[species_i] + self.covalent_radii[species_j]).unsqueeze(-1)
        energy = 14.3996 * z_i * z_j / r * screening * polynomial_cutoff(r / radius, self.p)
        return 0.5 * energy.squeeze(-1)


def make_radial_embedding(
    radial_type: str,
    num_bessel: int,
    r_max: float,
    p: int,
    transform: str,
    apply_cutoff: bool,
    covalent_radii: Tensor,
    gaussian_coefficient: float | None = None,
) -> RadialEmbedding:
    """The radial embedding that the names stand for; `covalent_radii` [n_species], A."""
    if radial_type == "bessel":
        basis: nn.Module = BesselBasis(r_max, num_bessel)
    elif radial_type == "gaussian":
        basis = GaussianBasis(r_max, num_bessel, gaussian_coefficient)
    else:
        basis = ChebyshevBasis(num_bessel)
    transforms = {"none": NoTransform, "agnesi": AgnesiTransform, "soft": SoftTransform}
    distance = NoTransform() if transform == "none" else transforms[transform](covalent_radii)
    return RadialEmbedding(basis, distance, r_max, p, apply_cutoff)
