"""The proof before step 1: the force OpenMM will use, on the user's own structure, against two independent answers.

1. The plain model in float64, evaluated directly: no export, no TorchForce, no skin, no native kernels. Its time grows
   with the system, so above `WHOLE` atoms it is compared on a piece of it with the native kernels in float64, and these
   with the force in OpenMM on all atoms: what both comparisons find is added up. Without native kernels, or above
   `MOST` atoms, it gives the forces on single atoms, each from the part of the system that acts on it.
2. The slope of OpenMM's own energy: a force that is not the derivative of the energy heats or cools the system.

Limits. Forces: `force_limit` on each component, plus 1e-5 of the largest force, since float32 carries seven digits and
a badly packed start has forces of 100 eV/A. Energy: `energy_limit` an atom. Slopes: ten times the force limit, because
the difference of two float32 energies 0.02 A apart resolves about 1e-3 eV/A. Where model and positions are float64, all
of this is a hundred times less.

A slope over a finite step is not the derivative: for CO, over 0.01 A, it is off by 3.5e-2 eV/A. So a slope that
deviates is taken again over half the step, and again, with what halving says about the error taken out (Richardson,
Phil. Trans. R. Soc. A 210, 307 (1911)), until it agrees, or no longer changes: then the force is wrong.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import openmm
import torch
from openmm import unit

from mace_md.errors import InputError, SafetyStop
from mace_md.model.graph import single_graph
from mace_md.model.potential import make_potential
from mace_md.ops.energy_forces import energy_forces, new_state
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
WHOLE, MOST = 200, 20_000  # atoms, see above; at MOST the kernels in float64 take about 1 GB
PIECE = 24  # neighbours of the atoms around which a piece is made


@dataclass(frozen=True)
class SelfCheck:
    """Deviations found. Energies eV (interaction energy, no free atoms), forces and slopes eV/A.

    `energy_deviation` is None where the system is too large for one float64 evaluation; then `num_compared` atoms were
    compared, each by the part of the system that acts on it, which is exact. Where the kernels in float64 stand between
    OpenMM and the plain model, deviations are the sums of what both comparisons found.
    """

    num_atoms: int
    num_compared: int
    num_plain: int  # atoms of the piece that the plain model was compared on, or all that were compared
    largest_force: float
    force_deviation: float
    force_allowed: float
    energy_deviation: float | None
    energy_allowed: float
    slope_deviation: float
    slope_allowed: float
    num_slopes: int
    seconds: float  # of processor time that all of it took

    def lines(self) -> list[str]:
        """The numbers, for the log."""
        slopes = (
            f"self-check: {self.num_slopes} slopes of the energy deviate from the forces by at most "
            f"{self.slope_deviation:.2e} eV/A (limit {self.slope_allowed:.1e}); {self.seconds:.1f} s"
        )
        if not self.num_compared:
            return ["self-check: an exported potential, compared with its model when it was written", slopes]
        which = f"{self.num_compared} atoms" if self.num_compared == self.num_atoms else (
            f"{self.num_compared} of {self.num_atoms} atoms (the largest force, a middling and a smaller one; all of "
            "them at once would take too much memory)"
        )  # fmt: skip
        energy = "" if self.energy_deviation is None else (
            f", energy {1000 * self.energy_deviation / self.num_atoms:.2e} meV/atom "
            f"(limit {1000 * self.energy_allowed / self.num_atoms:.1e})"
        )  # fmt: skip
        reference = "the plain float64 model"
        if self.num_plain < self.num_compared:
            reference = f"the float64 kernels, and these against the plain float64 model on {self.num_plain} atoms"
        return [
            f"self-check: against {reference}, forces of {which} deviate by at most "
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
    start = time.process_time()
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
    answer = Answer(probes[:0], forces[:0], None, 0, 0.0, 0.0)
    if model is not None:
        answer = _Reference(model, atomic_numbers, positions * NM_TO_ANGSTROM, box).answer(probes, sizes)
    if len(positions) > WHOLE:  # an energy costs more there; the atom with the largest force has to do for all probes
        probes = probes[[np.argmax(sizes[probes])]]
    largest = float(sizes.max())
    slope_allowed = SLOPE_LIMIT_FACTOR * (force_limit + relative * largest)
    slope_deviation, num_slopes = _slopes(context, positions, forces, probes, groups, slope_allowed)
    return SelfCheck(
        num_atoms=len(positions),
        num_compared=len(answer.atoms),
        num_plain=answer.num_plain,
        largest_force=largest,
        force_deviation=_largest(forces[answer.atoms] - answer.forces) + answer.force_error,
        force_allowed=force_limit + relative * largest,
        energy_deviation=None if answer.energy is None else abs(energy - answer.energy) + answer.energy_error,
        energy_allowed=energy_limit / 1000 * len(positions),
        slope_deviation=slope_deviation,
        slope_allowed=slope_allowed,
        num_slopes=num_slopes,
        seconds=time.process_time() - start,
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


class Answer(NamedTuple):
    """What the force in OpenMM is compared with."""

    atoms: np.ndarray  # those with a force
    forces: np.ndarray  # [len(atoms), 3], eV/A
    energy: float | None  # eV
    num_plain: int  # atoms that the plain model was evaluated for
    force_error: float  # of this answer, where it is not the plain model itself, eV/A
    energy_error: float  # eV


class _Reference:
    """The plain float64 model on one structure (A)."""

    def __init__(self, model: torch.nn.Module, atomic_numbers: list[int], positions: np.ndarray, box) -> None:
        known = model.atomic_numbers.tolist()
        self.model = model
        self.numbers = list(atomic_numbers)
        self.box = box
        self.species = torch.tensor([known.index(number) for number in atomic_numbers])
        self.positions = torch.as_tensor(positions)
        self.cell = torch.zeros(3, 3, dtype=torch.float64) if box is None else torch.as_tensor(box)
        self.edge_index, self.shifts = neighbor_list(self.positions, self.cell, box is not None, float(model.r_max))

    def answer(self, probes: np.ndarray, sizes: np.ndarray) -> Answer:
        """By the plain model for few atoms, by the kernels for many, by the forces on single atoms otherwise."""
        n = len(self.numbers)
        by_kernels = self._by_kernels(probes, sizes) if WHOLE < n <= MOST else None
        if by_kernels is not None:
            return by_kernels
        if self.fits:
            energy, forces = self.whole()
            return Answer(np.arange(n), forces, energy, n, 0.0, 0.0)
        if getattr(self.model, "long_range", False):  # a force depends on all atoms: slopes are compared alone
            return Answer(probes[:0], np.zeros((0, 3)), None, 0, 0.0, 0.0)
        forces = np.stack([self.force_on(int(probe)) for probe in probes])
        return Answer(probes, forces, None, len(probes), 0.0, 0.0)

    def _by_kernels(self, probes: np.ndarray, sizes: np.ndarray) -> Answer | None:
        """All forces by the native kernels in float64, compared with the plain model on a piece of the system.

        None when the kernels cannot evaluate this model, or refuse its numbers.
        """
        try:
            potential, _ = make_potential(
                self.model, self.numbers, periodic=self.box is not None, kernels="native", device="cpu"
            )
            energy, forces = self._kernels(potential, potential.types)
            piece = self._piece(probes, sizes)
            types = torch.full_like(potential.types, -1)
            types[piece] = potential.types[piece]
            found_energy, found = self._kernels(potential, types)
        except (InputError, RuntimeError):
            return None
        positions, numbers = self.positions[piece].numpy(), [self.numbers[i] for i in piece]
        exact_energy, exact = _Reference(self.model, numbers, positions, self.box).whole()
        n = len(self.numbers)
        energy_error = abs(found_energy - exact_energy) * n / len(piece)
        return Answer(np.arange(n), forces, energy, len(piece), _largest(found[piece] - exact), energy_error)

    def _kernels(self, potential: torch.nn.Module, types: torch.Tensor) -> tuple[float, np.ndarray]:
        """Energy (eV) and forces [n_atoms, 3] (eV/A) of the atoms that have a type."""
        box = None if self.box is None else self.cell / NM_TO_ANGSTROM
        energy, forces, _ = energy_forces(self.positions / NM_TO_ANGSTROM, box, types, potential.blob, new_state())
        return float(energy) / EV_TO_KJ_MOL, forces.numpy() / EV_PER_ANGSTROM_TO_KJ_MOL_NM

    def _piece(self, probes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """The probes and the atom of each element with the largest force, with their nearest neighbours."""
        numbers = np.array(self.numbers)
        centres = {int(probe) for probe in probes}
        centres |= {int(np.where(numbers == number, sizes, -1.0).argmax()) for number in set(self.numbers)}
        sender, receiver = self.edge_index
        piece = set(centres)
        for centre in centres:
            edges = torch.nonzero(receiver == centre).squeeze(1)
            vectors = self.positions[centre] - self.positions[sender[edges]] + self.shifts[edges] @ self.cell
            nearest = torch.argsort(vectors.square().sum(dim=1), stable=True)[:PIECE]
            piece |= set(sender[edges[nearest]].tolist())
        return np.array(sorted(piece))

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
