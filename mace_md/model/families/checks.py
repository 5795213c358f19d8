"""What every model must do, checked on the model itself: derivatives, symmetries, batches, cutoffs, distance.

Nothing is compared with stored numbers: the laws are those of physics and of the contract of `mace_md.model.families`,
so that the check can be run on any file (`mace-md models check FILE`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from mace_md.model.families import gives_energy
from mace_md.model.graph import Graph, merge_graphs, single_graph
from mace_md.model.mace import predict
from mace_md.ops.neighbor_list import neighbor_list

FORCE_STEP = 1e-3  # A, of the finite differences of fourth order
STRAIN_STEP = 3e-4
NUMBER_OF_ATOMS = 8
# Displaced charges stand for dipoles without a box in POLAR models, which breaks the rotation of their energies.
POLAR_ROTATION = 1e-4


class Check(NamedTuple):
    """One law: what was found, and what is allowed, in the same unit."""

    law: str
    deviation: float
    allowed: float
    unit: str

    @property
    def passed(self) -> bool:
        """False for NaN too."""
        return self.deviation <= self.allowed


def check_model(model: nn.Module, seed: int = 0) -> list[Check]:
    """All checks that apply to `model`, which is evaluated in float64 on small random structures of its elements.

    Takes a few seconds. A model of dipoles alone is checked for rotation, translation, permutation and batches.
    """
    model = copy.deepcopy(model).double().eval().requires_grad_(False)
    systems = _Systems(model, seed)
    checks = list(_of_energies(model, systems)) if gives_energy(model) else []
    checks += list(_of_dipoles(model, systems)) if hasattr(model, "response") else []
    return checks


class _Systems:
    """Random structures of the elements of a model, and graphs of them."""

    def __init__(self, model: nn.Module, seed: int):
        self.model, self.rng = model, np.random.default_rng(seed)
        self.r_max, n = float(model.r_max), NUMBER_OF_ATOMS
        self.species = torch.as_tensor(self.rng.integers(0, len(model.atomic_numbers), n))
        grid = np.stack(np.meshgrid(*[np.arange(2)] * 3, indexing="ij"), -1).reshape(-1, 3)
        self.box = np.array([[4.8, 0.0, 0.0], [0.5, 5.1, 0.0], [-0.4, 0.6, 5.4]])
        jitter = self.rng.normal(scale=0.12, size=(n, 3))
        self.molecule = grid * 1.9 + jitter
        self.crystal = grid / 2.0 @ self.box + jitter

    def graph(self, positions: np.ndarray, box: np.ndarray | None = None, order: np.ndarray | None = None) -> Graph:
        """A graph of the atoms at `positions` (A), in another order if given, in `box` or without."""
        species = self.species if order is None else self.species[torch.as_tensor(order)]
        x = torch.as_tensor(np.array(positions), dtype=torch.float64)
        cell = torch.zeros(3, 3, dtype=torch.float64) if box is None else torch.as_tensor(box)
        edge_index, shifts = neighbor_list(x, cell, box is not None, self.r_max)
        return single_graph(x, species[: len(x)], edge_index, shifts, cell)

    def rotation(self) -> np.ndarray:
        """A random rotation [3, 3]."""
        q, _ = np.linalg.qr(self.rng.normal(size=(3, 3)))
        return q * np.sign(np.linalg.det(q))


def _fourth_order(energy: Callable[[float], float], step: float) -> float:
    """dE/ds at 0 from energies at four points."""
    return (8.0 * (energy(step) - energy(-step)) - (energy(2 * step) - energy(-2 * step))) / (12.0 * step)


def _of_energies(model: nn.Module, systems: _Systems) -> Iterator[Check]:
    def energy(positions: np.ndarray, box: np.ndarray | None = None) -> float:
        return float(predict(model, systems.graph(positions, box), forces=False).energy[0])

    for name, positions, box in (("molecule", systems.molecule, None), ("crystal", systems.crystal, systems.box)):
        found = predict(model, systems.graph(positions, box), stress=box is not None)
        forces = found.forces.numpy()
        size = max(1.0, float(np.abs(forces).max()))
        deviation = _force_deviation(energy, positions, box, forces)
        yield Check(f"forces are -dE/dr ({name})", deviation, 1e-6 * size, "eV/A")
        yield Check(f"forces add up to zero ({name})", float(np.abs(forces.sum(axis=0)).max()), 1e-8 * size, "eV/A")
        if box is not None:
            # The wave vectors of a long-ranged energy change by jumps with the box: beside them the law holds.
            scales = (1.0, 1.011, 0.987) if getattr(model, "long_range", False) else (1.0,)
            deviation = min(_stress_deviation(model, systems, energy, scale) for scale in scales)
            yield Check("stress is dE/dstrain / volume", deviation, 1e-6, "relative")
        yield from _symmetries(model, systems, name, positions, box)
    yield from _far_and_near(model, systems, energy)
    graphs = [systems.graph(systems.molecule), systems.graph(systems.crystal, systems.box)]
    single = torch.cat([predict(model, graph, forces=False).energy for graph in graphs])
    together = predict(model, merge_graphs(graphs), forces=False).energy
    scale = 1e-10 * max(1.0, float(single.abs().max()))
    yield Check("a batch is its systems one by one", float((single - together).abs().max()), scale, "eV")


def _force_deviation(energy, positions: np.ndarray, box: np.ndarray | None, forces: np.ndarray) -> float:
    worst = 0.0
    for atom, axis in ((0, 0), (3, 1), (len(positions) - 1, 2)):

        def moved(s: float, atom: int = atom, axis: int = axis) -> float:
            shifted = positions.copy()
            shifted[atom, axis] += s
            return energy(shifted, box)

        worst = max(worst, abs(_fourth_order(moved, FORCE_STEP) + forces[atom, axis]))
    return worst


def _stress_deviation(model: nn.Module, systems: _Systems, energy: Callable, scale: float) -> float:
    """Largest deviation from finite differences, relative to the largest component (or to 1 eV/A^3)."""
    positions, box = systems.crystal * scale, systems.box * scale
    stress = predict(model, systems.graph(positions, box), stress=True).stress[0].numpy()
    volume, worst = abs(np.linalg.det(box)), 0.0
    for a, b in ((0, 0), (1, 1), (2, 2), (0, 1), (1, 2)):

        def strained(s: float, a: int = a, b: int = b) -> float:
            strain = np.eye(3)
            strain[a, b] += s / 2
            strain[b, a] += s / 2
            return energy(positions @ strain, box @ strain)

        worst = max(worst, abs(_fourth_order(strained, STRAIN_STEP) / volume - stress[a, b]))
    return worst / max(1.0, float(np.abs(stress).max()))


def _symmetries(
    model: nn.Module, systems: _Systems, name: str, positions: np.ndarray, box: np.ndarray | None
) -> Iterator[Check]:
    found = predict(model, systems.graph(positions, box))
    E, F = float(found.energy[0]), found.forces.numpy()
    size = max(1.0, float(np.abs(F).max()))
    rotation, order = systems.rotation(), systems.rng.permutation(len(positions))
    displaced = box is None and type(model).__name__ == "PolarMACE" and not model.fields.analytic
    turned = predict(model, systems.graph(positions @ rotation.T, None if box is None else box @ rotation.T))
    # Files in single precision have rounded coupling coefficients.
    exact = 1e-9 if getattr(getattr(model, "info", None), "dtype", "float64") == "float64" else 1e-6
    allowed = (POLAR_ROTATION if displaced else exact) * max(1.0, abs(E))
    yield Check(f"energy does not depend on the orientation ({name})", abs(float(turned.energy[0]) - E), allowed, "eV")
    if not displaced:
        deviation = float(np.abs(turned.forces.numpy() - F @ rotation.T).max())
        yield Check(f"forces turn with the atoms ({name})", deviation, 10 * exact * size, "eV/A")
    moved = predict(model, systems.graph(positions + systems.rng.normal(size=3), box))
    yield Check(f"energy does not depend on the place ({name})", abs(float(moved.energy[0]) - E), 1e-8 * size, "eV")
    other = predict(model, systems.graph(positions[order], box, order))
    deviation = max(abs(float(other.energy[0]) - E), float(np.abs(other.forces.numpy() - F[order]).max()))
    yield Check(f"the order of atoms does not matter ({name})", deviation, 1e-9 * size, "eV, eV/A")


def _far_and_near(model: nn.Module, systems: _Systems, energy: Callable) -> Iterator[Check]:
    """Smooth where an atom leaves the cutoffs; beyond the range of an energy of edges, constant."""

    def with_last_at(distance: float) -> float:
        x = systems.molecule[:2].copy()
        x[0], x[1] = 0.0, (distance, 0.0, 0.0)
        graph = systems.graph(x)
        return float(predict(model, graph, forces=False).energy[0])

    r, step = systems.r_max, 1e-4
    at = {k: with_last_at(r + k * step) for k in (-3, -1, 1, 3)}
    slope = ((at[3] - at[1]) + (at[-1] - at[-3])) / 2  # that a long-ranged energy has there
    jump = abs(at[1] - at[-1] - slope)
    yield Check("energy is continuous at the cutoff", jump, 1e-6, "eV")
    if not getattr(model, "long_range", False):
        reach = 10.0 * r
        difference = abs(with_last_at(reach) - with_last_at(reach + 50.0))
        yield Check("a far atom is the same at any distance", difference, 1e-9, "eV")


def _of_dipoles(model: nn.Module, systems: _Systems) -> Iterator[Check]:
    positions, rotation = systems.molecule, systems.rotation()
    found = model.response(systems.graph(positions))
    turned = model.response(systems.graph(positions @ rotation.T))
    R = torch.as_tensor(rotation)
    yield Check("dipole turns with the atoms", _largest(turned.dipole - found.dipole @ R.T), 1e-9, "e A")
    if found.polarizability is not None:
        deviation = _largest(turned.polarizability - R @ found.polarizability @ R.T)
        yield Check("polarizability turns with the atoms", deviation, 1e-9, "unit of the file")
    moved = model.response(systems.graph(positions + systems.rng.normal(size=3)))
    yield Check("dipole of a neutral system does not depend on the place", _largest(moved.dipole - found.dipole), 1e-9,
                "e A")  # fmt: skip
    order = systems.rng.permutation(len(positions))
    other = model.response(systems.graph(positions[order], None, order))
    yield Check("dipole: the order of atoms does not matter", _largest(other.dipole - found.dipole), 1e-9, "e A")
    graphs = [systems.graph(positions), systems.graph(positions @ rotation.T)]
    together = model.response(merge_graphs(graphs)).dipole
    yield Check("dipole: a batch is its systems one by one",
                _largest(together - torch.cat([found.dipole, turned.dipole])), 1e-10, "e A")  # fmt: skip


def _largest(values: torch.Tensor) -> float:
    return float(values.detach().abs().max())
