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
from mace_md.model.artifact import resolve_model
from mace_md.model.potential import EdgeDerivative, NativePotential, isolated_energy, make_potential, species_of
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
) -> "MACECalculator":
    """A calculator for any atoms whose elements the model knows, periodic in any of the three directions.

    Parameters
    ----------
    model : a model, or a name or file for `load_model`, with `head` to choose among several.
    dtype : "float32" or "float64" (or torch's or numpy's), that the model computes in; its own by default.
    kernels : "auto", "native" or "reference", see `make_potential`; energies of single atoms are the reference's.

    The energies are total (E0s included), also per atom; free_energy is the energy. Raises InputError, at the first
    evaluation, for an element that the model does not know, for a model that `kernels` cannot run, and for atoms that
    are periodic along an axis without a cell vector. Several calculators may be used in threads at the same time.
    """
    return MACECalculator(resolve_model(model, head=head, dtype=dtype), device, kernels)


class MACECalculator(Calculator):
    """See `ase_calculator`, which makes it."""

    implemented_properties = ["energy", "free_energy", "energies", "forces", "stress"]

    def __init__(self, model: nn.Module, device: str = "cpu", kernels: str = "auto") -> None:
        super().__init__()
        self.model = model.to(device).eval()
        self.device, self.kernels = device, kernels
        self._derivative = EdgeDerivative(self.model)
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
        unbound = [axis for axis, on, vector in zip("xyz", self.atoms.pbc, self.atoms.cell.array, strict=True)
                   if on and not vector.any()]  # fmt: skip
        if unbound:
            raise InputError(
                f"pbc is True along {', '.join(unbound)}, but there is no cell vector: set atoms.cell, or atoms.pbc to "
                "False there"
            )
        if "stress" in properties and self.atoms.cell.rank < 3:
            raise PropertyNotImplementedError("stress needs three cell vectors")
        native = None if "energies" in properties else self._native_potential()
        if native is None:
            self._evaluate_reference()
        else:
            self._evaluate_native(native)

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

    def _evaluate_reference(self) -> None:
        numbers = self.atoms.numbers.tolist()
        species = species_of(self.model, numbers).to(self.device)
        positions = torch.as_tensor(self.atoms.positions, dtype=torch.float64, device=self.device)
        cell = torch.as_tensor(_cell_for_list(self.atoms), dtype=torch.float64, device=self.device)
        periodic = bool(self.atoms.pbc.any())
        edge_index, shifts = neighbor_list(positions, cell, periodic, float(self.model.r_max))
        vectors = positions[edge_index[1]] - positions[edge_index[0]] + (shifts @ cell if periodic else 0.0)

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
