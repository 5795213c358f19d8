"""The proof before step 1: the force OpenMM will use, on the user's own structure, against two independent answers.

1. The plain model in float64, evaluated directly: no export, no TorchForce, no skin, no native kernels.
2. The slope of OpenMM's own energy: a force that is not the derivative of the energy heats or cools the system.

Limits. Forces: `force_limit` on each component, plus 1e-5 of the largest force, since float32 carries seven digits and
a badly packed start has forces of 100 eV/A. Energy: `energy_limit` an atom. Slopes: ten times the force limit, because
the difference of two float32 energies 0.02 A apart resolves about 1e-3 eV/A. Where model and positions are float64, all
of this is a hundred times less.

A slope over a finite step is not the derivative: for CO, over 0.01 A, it is off by 3.5e-2 eV/A. So a slope that
deviates is taken again over half the step, and again, with what halving says about the error taken out (Richardson,
Phil. Trans. R. Soc. A 210, 307 (1911)), until it agrees, or no longer changes: then the force is wrong.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import openmm
import torch
from openmm import unit

from mace_md.errors import SafetyStop
from mace_md.model.graph import single_graph
from mace_md.ops.neighbor_list import neighbor_list
from mace_md.units import EV_PER_ANGSTROM_TO_KJ_MOL_NM, EV_TO_KJ_MOL, NM_TO_ANGSTROM

FORCE_LIMIT, RELATIVE_FORCE_LIMIT = 1e-3, 1e-5  # eV/A; of the largest force
FINER_IN_FLOAT64 = 0.01
SLOPE_LIMIT_FACTOR = 10.0
DISPLACEMENT = 0.01  # A, the longest step; error of the five-point formula 1e-5 eV/A in a C-C, 4e-2 in a C-O bond
MOST_HALVINGS = 5  # 0.0003 A: shorter steps resolve nothing in float32
NUM_PROBES = 3
# Plain PyTorch in float64 keeps about this many tensors of a message's size, (max_ell + 1)^2 numbers a channel for
# each edge, until the derivative is taken. What does not fit into the memory given here is compared piece by piece.
TENSORS_PER_EDGE = 12
MEMORY = 2e9  # bytes


@dataclass(frozen=True)
class SelfCheck:
    """Deviations found. Energies eV (interaction energy, no free atoms), forces and slopes eV/A.

    `energy_deviation` is None where the system is too large for one float64 evaluation; then `num_compared` atoms were
    compared, each by the part of the system that acts on it, which is exact.
    """

    num_atoms: int
    num_compared: int
    largest_force: float
    force_deviation: float
    force_allowed: float
    energy_deviation: float | None
    energy_allowed: float
    slope_deviation: float
    slope_allowed: float
    num_slopes: int

    def lines(self) -> list[str]:
        """The numbers, for the log."""
        slopes = (
            f"self-check: {self.num_slopes} slopes of the energy deviate from the forces by at most "
            f"{self.slope_deviation:.2e} eV/A (limit {self.slope_allowed:.1e})"
        )
        if not self.num_compared:
            return ["self-check: an exported potential, compared with its model when it was written", slopes]
        energy = "" if self.energy_deviation is None else (
            f", energy {1000 * self.energy_deviation / self.num_atoms:.2e} meV/atom "
            f"(limit {1000 * self.energy_allowed / self.num_atoms:.1e})"
        )  # fmt: skip
        return [
            f"self-check: against the plain float64 model, forces of {self.num_compared} atoms deviate by at most "
            f"{self.force_deviation:.2e} eV/A (limit {self.force_allowed:.1e}, largest force {self.largest_force:.2f})"
            f"{energy}",
            slopes,
        ]

    def failure(self) -> str | None:
        """What is over its limit, or None. Numbers that are not finite are over every limit."""
        checks = [
            ("the forces", self.force_deviation, self.force_allowed),
            ("the energy", self.energy_deviation or 0.0, self.energy_allowed),
            ("the slopes of the energy", self.slope_deviation, self.slope_allowed),
        ]
        bad = [name for name, found, allowed in checks if not found <= allowed]
        return " and ".join(bad) or None


def check_forces(
    context: openmm.Context,
    model: torch.nn.Module | None,
    atomic_numbers: list[int],
    *,
    energy_limit: float,
    force_limit: float | None = None,
    float64: bool = False,
    groups: set[int] | int = -1,
) -> SelfCheck:
    """Compare the force in `context`, at its present positions, with `model` in float64 and with energy differences.

    force_limit eV/A; energy_limit meV/atom; float64 : the force of the context computes in float64, from float64
    positions; `groups` the force groups of the model, all by default. Without a `model` only the energy differences are
    taken. The context is left where it was.
    """
    finer = FINER_IN_FLOAT64 if float64 else 1.0
    relative = finer * RELATIVE_FORCE_LIMIT
    force_limit = finer * FORCE_LIMIT if force_limit is None else force_limit
    state = context.getState(positions=True, forces=True, energy=True, groups=groups)
    positions = np.array(state.getPositions(asNumpy=True).value_in_unit(unit.nanometer))
    forces = np.array(state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer))
    forces /= EV_PER_ANGSTROM_TO_KJ_MOL_NM
    energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole) / EV_TO_KJ_MOL
    box = None
    if context.getSystem().usesPeriodicBoundaryConditions():
        box = np.array(state.getPeriodicBoxVectors().value_in_unit(unit.nanometer)) * NM_TO_ANGSTROM
    sizes = np.linalg.norm(forces, axis=1)
    probes = _probes(sizes)
    energy_deviation, compared, expected = None, probes[:0], forces[:0]
    if model is not None:
        reference = _Reference(model, atomic_numbers, positions * NM_TO_ANGSTROM, box)
        if reference.fits:
            compared = np.arange(len(positions))
            expected_energy, expected = reference.whole()
            energy_deviation = abs(energy - expected_energy)
        else:
            compared = probes
            expected = np.stack([reference.force_on(int(probe)) for probe in probes])
    largest = float(sizes.max())
    slope_allowed = SLOPE_LIMIT_FACTOR * (force_limit + relative * largest)
    slope_deviation, num_slopes = _slopes(context, positions, forces, probes, groups, slope_allowed)
    return SelfCheck(
        num_atoms=len(positions),
        num_compared=len(compared),
        largest_force=largest,
        force_deviation=_largest(forces[compared] - expected),
        force_allowed=force_limit + relative * largest,
        energy_deviation=energy_deviation,
        energy_allowed=energy_limit / 1000 * len(positions),
        slope_deviation=slope_deviation,
        slope_allowed=slope_allowed,
        num_slopes=num_slopes,
    )


def require(check: SelfCheck) -> None:
    """Raise SafetyStop when a deviation is over its limit."""
    failure = check.failure()
    if failure is not None:
        raise SafetyStop(
            f"self-check: {failure} in OpenMM deviate from the reference by more than the limit; the dynamics would be "
            f"wrong. {' '.join(check.lines())}. Try --kernels reference, --platform Reference or --dtype float64; "
            "if one of them passes, report the other. The limits are --check-force-limit and --check-energy-limit."
        )


def _largest(values: np.ndarray) -> float:
    return float(np.abs(values).max(initial=0.0)) if np.isfinite(values).all() else float("inf")


def _probes(sizes: np.ndarray) -> np.ndarray:
    """The atom with the largest force, the one with the median, and one at a third: the same each time."""
    order = np.argsort(np.nan_to_num(sizes, nan=np.inf))
    n = len(order)
    return np.unique(order[[n - 1, n // 2, n // 3]])[:NUM_PROBES]


def _slopes(
    context, positions: np.ndarray, forces: np.ndarray, probes: np.ndarray, groups, allowed: float
) -> tuple[float, int]:
    """Largest deviation of -dE/ds from the force, along the force of each probe and along all forces at once."""
    directions = []
    for probe in probes:
        if np.linalg.norm(forces[probe]) > 0:
            direction = np.zeros_like(forces)
            direction[probe] = forces[probe] / np.linalg.norm(forces[probe])
            directions.append((direction, 1.0))
    largest = np.linalg.norm(forces, axis=1).max()
    if largest > 0:
        # Atoms move by at most DISPLACEMENT. The slope adds up over the atoms, and so does its rounding, as the root
        # of their number: dividing by that root makes it comparable with the slope of one atom.
        directions.append((forces / largest, np.sqrt(len(forces))))
    worst = 0.0
    try:
        for direction, scale in directions:
            energy = _energy_along(context, positions, direction, groups)
            worst = max(worst, _deviation(energy, float((forces * direction).sum()), allowed * scale) / scale)
    finally:
        context.setPositions(positions)
    return worst, len(directions)


def _energy_along(context, positions: np.ndarray, direction: np.ndarray, groups) -> Callable[[float], float]:
    """The energy (eV) at so many A along `direction`."""

    @cache
    def energy(distance: float) -> float:
        context.setPositions(positions + distance / NM_TO_ANGSTROM * direction)
        state = context.getState(energy=True, groups=groups)
        return state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole) / EV_TO_KJ_MOL

    return energy


def _deviation(energy: Callable[[float], float], force: float, allowed: float) -> float:
    """How far -dE/ds is from `force` (eV/A), with steps as short as it takes to be within `allowed`, or to be sure.

    The slope that counts is the one that changed least when the step was halved: before it, the step is too long,
    after it, the rounding of the energies grows.
    """
    last = _five_point(energy, DISPLACEMENT)
    deviation = _largest(np.array(last + force))
    change = np.inf
    for halvings in range(1, MOST_HALVINGS + 1):
        if deviation <= allowed:
            break
        slope = _five_point(energy, DISPLACEMENT / 2**halvings)
        if abs(slope - last) < change:
            change = abs(slope - last)
            deviation = _largest(np.array((16 * slope - last) / 15 + force))  # the error falls as the fourth power
        last = slope
    return deviation


def _five_point(energy: Callable[[float], float], step: float) -> float:
    """dE/ds in eV/A at 0; the error falls as the fourth power of the step (A)."""
    return (8 * (energy(step) - energy(-step)) - (energy(2 * step) - energy(-2 * step))) / (12 * step)


class _Reference:
    """The plain float64 model on one structure (A)."""

    def __init__(self, model: torch.nn.Module, atomic_numbers: list[int], positions: np.ndarray, box) -> None:
        known = model.atomic_numbers.tolist()
        self.model = model
        self.species = torch.tensor([known.index(number) for number in atomic_numbers])
        self.positions = torch.as_tensor(positions)
        self.cell = torch.zeros(3, 3, dtype=torch.float64) if box is None else torch.as_tensor(box)
        self.edge_index, self.shifts = neighbor_list(self.positions, self.cell, box is not None, float(model.r_max))

    def whole(self) -> tuple[float, np.ndarray]:
        """Interaction energy (eV) and forces [n_atoms, 3] (eV/A) of the whole system."""
        from mace_md.model.mace import predict

        graph = single_graph(self.positions, self.species, self.edge_index, self.shifts, self.cell)
        prediction = predict(self.model, graph, forces=True)
        free_atoms = float(self.model.atomic_energies[0, self.species].sum())
        return float(prediction.energy[0]) - free_atoms, prediction.forces.numpy()

    @property
    def fits(self) -> bool:
        """Whether the whole system can be evaluated at once."""
        return self.edge_index.shape[1] <= self._edges_at_once()

    def _edges_at_once(self) -> int:
        config = self.model.config
        return int(MEMORY / (8 * TENSORS_PER_EDGE * config.num_channels * (config.max_ell + 1) ** 2))

    def force_on(self, probe: int) -> np.ndarray:
        """The force [3] on one atom from the energies of all atoms that see it.

        An atom sees as many neighbour shells as the model has layers, L. So the energies needed are those within L
        shells of the probe, and each needs the edges towards atoms within L - 1 shells of it: a piece of the system
        whose size does not grow with the system.
        """
        layers = self.model.config.num_interactions
        energies = np.flatnonzero(self._shells([probe], layers) <= layers)
        energies = energies[np.argsort(self.positions[energies, 0].numpy())]  # halves of it are then compact
        return self._force_from(energies, layers, probe).numpy()

    def _force_from(self, atoms: np.ndarray, layers: int, probe: int) -> torch.Tensor:
        """-dE/dr of the probe, E the sum of the energies of `atoms`; in halves when that is too much at once."""
        near = torch.as_tensor(self._shells(atoms.tolist(), layers - 1) <= layers - 1)
        edges = torch.nonzero(near[self.edge_index[1]]).squeeze(1)
        if len(edges) > self._edges_at_once() and len(atoms) > 1:
            half = len(atoms) // 2
            first, second = (self._force_from(part, layers, probe) for part in (atoms[:half], atoms[half:]))
            return first + second
        position = self.positions[probe].clone().requires_grad_(True)
        energy = self._energy_of(atoms, edges, probe, position)
        return -torch.autograd.grad(energy, position)[0] if energy.requires_grad else torch.zeros_like(position)

    def _energy_of(self, atoms: np.ndarray, edges: torch.Tensor, probe: int, position: torch.Tensor) -> torch.Tensor:
        """Sum of the energies of `atoms` from these edges alone, with the probe at `position`."""
        nodes, local = torch.unique(
            torch.cat([self.edge_index[:, edges].flatten(), torch.as_tensor(atoms)]), return_inverse=True
        )
        edge_index = local[: 2 * len(edges)].reshape(2, -1)
        positions = torch.where((nodes == probe)[:, None], position, self.positions[nodes])
        vectors = positions[edge_index[1]] - positions[edge_index[0]] + self.shifts[edges] @ self.cell
        head = torch.zeros(len(nodes), dtype=torch.int64)
        energies = self.model.node_energies(vectors, self.species[nodes], edge_index, head)
        return energies[local[2 * len(edges) :]].sum()

    def _shells(self, atoms: list[int], most: int) -> np.ndarray:
        """[n_atoms] steps along edges from the nearest of `atoms`, up to `most`; `most` + 1 beyond."""
        sender, receiver = self.edge_index.numpy()
        shell = np.full(len(self.species), most + 1)
        shell[atoms] = 0
        for k in range(most):
            shell[sender[shell[receiver] <= k]] = np.minimum(shell[sender[shell[receiver] <= k]], k + 1)
        return shell
