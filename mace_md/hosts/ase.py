"""An ASE calculator of a MACE model: total energy, forces and stress in ASE's units (eV, eV/A, eV/A^3)."""

import copy
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.geometry import complete_cell
from ase.stress import full_3x3_to_voigt_6_stress
from torch import nn

from mace_md.errors import InputError
from mace_md.model.artifact import load_unsettled
from mace_md.model.families import gives_energy
from mace_md.model.long_range import LongRangeDerivative, strain_derivative
from mace_md.model.potential import EdgeDerivative, NativePotential, isolated_energy, make_potential, species_of
from mace_md.model.settle import settle
from mace_md.ops.energy_forces import energy_forces
from mace_md.ops.neighbor_list import neighbor_list
from mace_md.units import EV_PER_ANGSTROM_TO_KJ_MOL_NM, EV_TO_KJ_MOL, NM_TO_ANGSTROM


def ase_calculator(
    model: nn.Module | str | Path,
    *,
    head: str | None = None,
    dtype: str | torch.dtype | None = None,
    device: str = "cpu",
    kernels: str = "auto",
    charge: float | None = None,
    spin: int | None = None,
) -> "MACECalculator":
    """A calculator for any atoms whose elements the model knows, periodic in any of the three directions.

    Parameters
    ----------
    model : a model, or a name or file for `load_model`, with `head` to choose among several.
    dtype : "float32" or "float64" (or torch's or numpy's), that the model computes in; its own by default.
    kernels : "auto", "native" or "reference", see `make_potential`; energies of single atoms are the reference's.
    charge, spin : total charge (e) and multiplicity 2S + 1, for models that use them; by default those of
        `atoms.info["charge"]` and `atoms.info["spin"]`, or 0 and 1.

    The energies are total (E0s included), also per atom; free_energy is the energy. Raises InputError, at the first
    evaluation, for an element that the model does not know, for a model that `kernels` cannot run, and for atoms that
    are periodic along an axis without a cell vector. Several calculators may be used in threads at the same time.
    """
    return MACECalculator(load_unsettled(model, head=head, dtype=dtype), device, kernels, charge, spin)


class MACECalculator(Calculator):
    """See `ase_calculator`, which makes it."""

    implemented_properties = ["energy", "free_energy", "energies", "forces", "stress"]

    def __init__(
        self,
        model: nn.Module,
        device: str = "cpu",
        kernels: str = "auto",
        charge: float | None = None,
        spin: int | None = None,
    ) -> None:
        super().__init__()
        if not gives_energy(model):
            raise InputError("this model gives dipoles, no energies: mace_md.model.response.ResponseOf evaluates it")
        self._unsettled, self._inputs = model.to(device).eval(), {"charge": charge, "spin": spin}
        self.device, self.kernels = device, kernels
        self._settled_for: dict[str, float | None] | None = None
        self._settle({"charge": charge, "spin": spin})
        self._bound_to: tuple[list[int], bool] | None = None  # numbers and periodicity that the native potential is for
        self._native: NativePotential | None = None
        self._lock = threading.RLock()  # one evaluation at a time: its neighbour list is one

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"_lock": threading.RLock()}

    def calculate(
        self, atoms: Atoms | None = None, properties: Any = ("energy",), system_changes: Any = all_changes
    ) -> None:
        """Evaluate everything but the energies of single atoms: forces and stress come with the energy."""
        with self._lock:
            super().calculate(atoms, properties, system_changes)
            self._calculate(properties)

    def _calculate(self, properties: Any) -> None:
        self._settle({name: self._input_of_atoms(name) for name in self._inputs})
        unbound = [axis for axis, on, vector in zip("xyz", self.atoms.pbc, self.atoms.cell.array, strict=True)
                   if on and not vector.any()]  # fmt: skip
        if unbound:
            raise InputError(
                f"pbc is True along {', '.join(unbound)}, but there is no cell vector: set atoms.cell, or atoms.pbc to "
                "False there"
            )
        if "stress" in properties and self.atoms.cell.rank < 3:
            raise PropertyNotImplementedError("stress needs three cell vectors")
        if self._long_range is not None:
            self._evaluate_long_range("energies" in properties)
            return
        native = None if "energies" in properties else self._native_potential()
        if native is None:
            self._evaluate_reference()
        else:
            self._evaluate_native(native)

    def _input_of_atoms(self, name: str) -> float | None:
        """Charge or spin for the present atoms: what the calculator was made with, or what the atoms say."""
        if self._inputs[name] is None and name in getattr(self._unsettled, "inputs", ()):
            return self.atoms.info.get(name)
        return self._inputs[name]

    def _settle(self, inputs: dict[str, float | None]) -> None:
        """Have the model for these charge and spin."""
        if inputs == self._settled_for:
            return
        self.model = settle(self._unsettled, **inputs)
        self._settled_for = inputs
        self._long_range = LongRangeDerivative(self.model) if getattr(self.model, "long_range", False) else None
        self._derivative = EdgeDerivative(self.model)
        self._bound_to = None

    def _native_potential(self) -> NativePotential | None:
        """The native potential of the present atoms, None where the reference is used."""
        numbers, periodic = self.atoms.numbers.tolist(), bool(self.atoms.pbc.any())
        if self._bound_to != (numbers, periodic):
            self._native = None
            if self.kernels == "native" or (self.kernels == "auto" and self.device == "cpu"):
                model = self.model if self.device == "cpu" else copy.deepcopy(self.model).cpu()
                potential, _ = make_potential(
                    model, numbers, periodic=periodic, kernels=self.kernels, device=self.device
                )
                self._native = potential.to(self.device) if isinstance(potential, NativePotential) else None
            self._bound_to = (numbers, periodic)
        return self._native

    def _evaluate_native(self, native: NativePotential) -> None:
        def length(values: np.ndarray) -> torch.Tensor:
            return torch.as_tensor(values, dtype=torch.float64, device=self.device) / NM_TO_ANGSTROM

        cell = length(_cell_for_list(self.atoms)) if native.periodic else None
        results = energy_forces(length(self.atoms.positions), cell, native.types, native.blob, native.state)
        energy, forces, virial = (result.cpu() for result in results)
        total = float(energy) / EV_TO_KJ_MOL + isolated_energy(self.model, self.atoms.numbers.tolist())
        self.results = {
            "energy": total,
            "free_energy": total,
            "forces": forces.numpy() / EV_PER_ANGSTROM_TO_KJ_MOL_NM,
        }
        if self.atoms.cell.rank == 3:
            self.results["stress"] = _stress(-virial.numpy() / EV_TO_KJ_MOL, self.atoms.get_volume())

    def _edges(self) -> tuple[torch.Tensor, ...]:
        """Positions, cell, species, edges and their vectors for the present atoms."""
        species = species_of(self.model, self.atoms.numbers.tolist()).to(self.device)
        positions = torch.as_tensor(self.atoms.positions, dtype=torch.float64, device=self.device)
        cell = torch.as_tensor(_cell_for_list(self.atoms), dtype=torch.float64, device=self.device)
        periodic = bool(self.atoms.pbc.any())
        edge_index, shifts = neighbor_list(positions, cell, periodic, float(self.model.r_max))
        vectors = positions[edge_index[1]] - positions[edge_index[0]] + (shifts @ cell if periodic else 0.0)
        return positions, cell, species, edge_index, vectors

    def _evaluate_long_range(self, by_atom: bool) -> None:
        if by_atom:
            raise PropertyNotImplementedError("a long-ranged energy is not of single atoms")
        if self.atoms.pbc.any() and not self.atoms.pbc.all():
            raise InputError(
                f"pbc = {self.atoms.pbc.tolist()}: long-ranged models know three periodic directions, or none. Set pbc "
                "to True with enough vacuum, or to False"
            )
        positions, cell, species, edge_index, vectors = self._edges()
        if not self.atoms.pbc.any():
            cell = torch.zeros_like(cell)
        energies, *derivatives = self._long_range(
            vectors, positions, cell, species, edge_index, torch.zeros_like(species)
        )
        forces = -derivatives[1].index_add(0, edge_index[0], derivatives[0], alpha=-1)
        forces = forces.index_add(0, edge_index[1], derivatives[0], alpha=-1)
        total = float(energies.sum()) + isolated_energy(self.model, self.atoms.numbers.tolist())
        self.results = {"energy": total, "free_energy": total, "forces": forces.cpu().numpy()}
        if self.atoms.cell.rank == 3:
            virial = strain_derivative(vectors, positions, cell, tuple(derivatives)).cpu().numpy()
            self.results["stress"] = _stress(virial, self.atoms.get_volume())

    def _evaluate_reference(self) -> None:
        numbers = self.atoms.numbers.tolist()
        positions, _, species, edge_index, vectors = self._edges()
        energies, derivative = self._derivative(vectors, species, edge_index, torch.zeros_like(species))
        forces = torch.zeros_like(positions)
        forces.index_add_(0, edge_index[0], derivative).index_add_(0, edge_index[1], -derivative)
        e0 = [isolated_energy(self.model, [number]) for number in np.unique(numbers)]
        e0_of = dict(zip(np.unique(numbers).tolist(), e0, strict=True))
        total = energies.cpu().numpy() + np.array([e0_of[number] for number in numbers])
        self.results = {
            "energy": float(total.sum()),
            "free_energy": float(total.sum()),
            "energies": total,
            "forces": forces.cpu().numpy(),
        }
        if self.atoms.cell.rank == 3:
            # Under a strain every edge vector v becomes v (1 + strain).
            dE_dstrain = (vectors.T @ derivative).cpu().numpy()
            self.results["stress"] = _stress(dE_dstrain, self.atoms.get_volume())


def _stress(dE_dstrain: np.ndarray, volume: float) -> np.ndarray:
    """ASE's six components of the stress (eV/A^3) from the derivative of the energy by the strain [3, 3] (eV)."""
    return full_3x3_to_voigt_6_stress((dE_dstrain + dE_dstrain.T) / 2 / volume)


def _cell_for_list(atoms: Atoms) -> np.ndarray:
    """A cell periodic in three directions that has the images of `atoms.pbc` only: the other vectors are perpendicular
    to the periodic ones and so long that no image is in reach of any cutoff up to 100 A."""
    cell = np.where(atoms.pbc[:, None], atoms.cell.array, 0.0)
    completed = complete_cell(cell)
    for axis in np.flatnonzero(~atoms.pbc):
        along = completed[axis] / np.linalg.norm(completed[axis])
        extent = np.ptp(atoms.positions @ along) if len(atoms) else 0.0
        completed[axis] = along * (extent + 100.0)
    return completed
