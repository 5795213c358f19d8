"""An ASE calculator of a MACE model: total energy, forces and stress in ASE's units (eV, eV/A, eV/A^3)."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.geometry import complete_cell
from ase.stress import full_3x3_to_voigt_6_stress
from torch import nn

from mace_md.model.artifact import resolve_model
from mace_md.model.potential import EdgeDerivative, isolated_energy, species_of
from mace_md.ops.neighbor_list import neighbor_list


def ase_calculator(
    model: nn.Module | str | Path,
    *,
    head: str | None = None,
    dtype: str | torch.dtype | None = None,
    device: str = "cpu",
) -> "MACECalculator":
    """A calculator for any atoms whose elements the model knows, periodic in any of the three directions.

    Parameters
    ----------
    model : a model, or a name or file for `load_model`, with `head` to choose among several.
    dtype : "float32" or "float64", that the model computes in; its own by default.

    The energies are total (E0s included), also per atom; free_energy is the energy. Raises InputError, at the first
    evaluation, for an element that the model does not know.
    """
    return MACECalculator(resolve_model(model, head=head, dtype=dtype), device)


class MACECalculator(Calculator):
    """See `ase_calculator`, which makes it."""

    implemented_properties = ["energy", "free_energy", "energies", "forces", "stress"]

    def __init__(self, model: nn.Module, device: str = "cpu") -> None:
        super().__init__()
        self.model = model.to(device).eval()
        self.device = device
        self._derivative = EdgeDerivative(self.model)

    def calculate(
        self, atoms: Atoms | None = None, properties: Any = ("energy",), system_changes: Any = all_changes
    ) -> None:
        """Evaluate everything: a MACE's forces and stress cost nothing once its energy is differentiated."""
        super().calculate(atoms, properties, system_changes)
        if "stress" in properties and self.atoms.cell.rank < 3:
            raise PropertyNotImplementedError("stress needs three cell vectors")
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
            virial = (vectors.T @ derivative).cpu().numpy()
            self.results["stress"] = full_3x3_to_voigt_6_stress((virial + virial.T) / 2 / self.atoms.get_volume())


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
