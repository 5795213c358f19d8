"""Energies, forces and stresses of many configurations from a model: native kernels where they can, else in batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
import torch

from mace_md.errors import InputError
from mace_md.model.mace import MACE
from mace_md.model.potential import KernelChoice, NativePotential, isolated_energy, make_potential
from mace_md.ops.energy_forces import energy_forces, new_state
from mace_md.training.batches import PackedGraphs, closed_cell
from mace_md.training.configuration import Configuration
from mace_md.units import EV_PER_ANGSTROM_TO_KJ_MOL_NM, EV_TO_KJ_MOL, NM_TO_ANGSTROM

_CPU = torch.device("cpu")
_ATOMS_AT_ONCE = 1500  # in a batch of the reference; more does not make it faster on a CPU


class Labeller:
    """Gives configurations the energy, forces and (in a box) stress of a model, in place of those they have.

    The model, of one head, is reduced to the elements that occur and packed or folded once. `choice` says which kernels
    are used, and why.
    """

    def __init__(self, model: MACE, atomic_numbers: Iterable[int], kernels: str = "auto", device: torch.device = _CPU):
        """atomic_numbers: the elements that occur. Raises InputError when the model does not know one of them, and when
        `kernels` is "native" and they cannot run the model."""
        self.elements = sorted({int(z) for z in atomic_numbers})
        if device != _CPU and kernels == "auto":
            kernels = "reference"
        potential, choice = make_potential(
            model, self.elements, periodic=False, skin=0.0, kernels=kernels, device=device
        )
        self.choice: KernelChoice = choice
        self.device, self.r_max = device, float(model.r_max)
        self._potential = potential.to(device)
        self._state = new_state()  # of the native op; one geometry after the other, so one state serves them all
        self._index = np.full(120, -1, dtype=np.int32)
        self._index[self.elements] = np.arange(len(self.elements))
        self._e0 = np.array([isolated_energy(model, [z]) for z in self.elements])

    def __call__(self, configurations: Iterable[Configuration]) -> Iterator[Configuration]:
        """The configurations in turn, with the model's labels; memory is that of a batch."""
        if isinstance(self._potential, NativePotential):
            yield from map(self._native, configurations)
            return
        for some in _chunks(configurations, _ATOMS_AT_ONCE):
            yield from self._batch(some)

    def _types(self, configuration: Configuration) -> np.ndarray:
        types = self._index[configuration.atomic_numbers]
        if (types < 0).any():
            unknown = sorted(set(configuration.atomic_numbers[types < 0].tolist()))
            raise InputError(
                f"{configuration.where}: elements {unknown} are not among those announced, {self.elements}"
            )
        return types

    def _native(self, configuration: Configuration) -> Configuration:
        types = self._types(configuration)
        x = torch.from_numpy(np.ascontiguousarray(configuration.positions)) / NM_TO_ANGSTROM
        box = None
        if any(configuration.pbc):
            box = torch.from_numpy(closed_cell(configuration, self.r_max)) / NM_TO_ANGSTROM
        try:
            found = energy_forces(x, box, torch.from_numpy(types), self._potential.blob, self._state)
        except RuntimeError as error:
            raise InputError(f"{configuration.where}: {str(error).splitlines()[0]}") from None
        energy, forces, virial = found
        return _labelled(
            configuration,
            float(energy) / EV_TO_KJ_MOL + float(self._e0[types].sum()),
            forces.numpy() / EV_PER_ANGSTROM_TO_KJ_MOL_NM,
            -virial.numpy() / EV_TO_KJ_MOL,
        )

    def _batch(self, configurations: Sequence[Configuration]) -> list[Configuration]:
        plain = [replace(c, head="Default") for c in configurations]
        graphs = PackedGraphs(plain, r_max=self.r_max, atomic_numbers=self.elements, device=self.device)
        graph = graphs.batch(range(len(plain))).graph
        sender, receiver = graph.edge_index
        system = graph.batch[sender]
        vectors = graph.positions[receiver] - graph.positions[sender]
        vectors = vectors + torch.einsum("ei,eij->ej", graph.shifts, graph.cell[system])
        head = torch.zeros_like(graph.species)
        of_atom, slope = self._potential.energy_and_derivative(vectors, graph.species, graph.edge_index, head)
        energy = torch.zeros(len(plain), dtype=torch.float64, device=self.device).index_add(0, graph.batch, of_atom)
        forces = torch.zeros_like(graph.positions).index_add(0, sender, slope).index_add(0, receiver, slope, alpha=-1)
        strain = torch.zeros_like(graph.cell).index_add(0, system, vectors.unsqueeze(2) * slope.unsqueeze(1))
        e0 = [float(self._e0[self._types(c)].sum()) for c in plain]
        ends = np.cumsum([len(c.atomic_numbers) for c in plain])[:-1]
        each = zip(
            configurations,
            (energy.cpu().numpy() + e0).tolist(),
            np.split(forces.cpu().numpy(), ends),
            strain.cpu().numpy(),
            strict=True,
        )
        return [_labelled(*one) for one in each]


def elements_of(configurations: Iterable[Configuration]) -> list[int]:
    """The atomic numbers that occur, ascending."""
    return sorted(set(chain.from_iterable(c.atomic_numbers.tolist() for c in configurations)))


def _labelled(configuration: Configuration, energy: float, forces: np.ndarray, strain: np.ndarray) -> Configuration:
    """`strain`: dE/dstrain [3, 3], eV, which becomes the stress where the box has a volume."""
    volume = configuration.volume
    stress = (strain + strain.T) / (2.0 * volume) if volume > 0 else None
    return replace(configuration, energy=energy, forces=forces, stress=stress)


def _chunks(configurations: Iterable[Configuration], most_atoms: int) -> Iterator[list[Configuration]]:
    chunk, atoms = [], 0
    for configuration in configurations:
        if chunk and atoms + len(configuration.atomic_numbers) > most_atoms:
            yield chunk
            chunk, atoms = [], 0
        chunk.append(configuration)
        atoms += len(configuration.atomic_numbers)
    if chunk:
        yield chunk
