"""Dipoles and polarizabilities of one system after the other, from any model that has them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from mace_md.errors import InputError
from mace_md.model.families.dipoles import DipoleMACE
from mace_md.model.families.polar import PolarMACE
from mace_md.model.graph import Graph, single_graph
from mace_md.model.particles import species_of
from mace_md.ops.neighbor_list import neighbor_list

PROPERTIES = ("dipole", "polarizability")


class ResponseOf:
    """Evaluates the dipole (e A), and the polarizability where the model has one, of frames of the same atoms."""

    def __init__(
        self, model: nn.Module, atomic_numbers: Sequence[int], periodic: bool, properties: Sequence[str] = ("dipole",)
    ) -> None:
        """Raises InputError for a property that the model does not have, and for unknown elements."""
        has = properties_of(model)
        missing = [name for name in properties if name not in has]
        if missing:
            raise InputError(
                f"this model gives {', '.join(has) or 'energies only'}, not {', '.join(missing)}: take a model of "
                "dipoles (--property-model; docs/models.md)"
            )
        self.model, self.periodic, self.properties = model.eval(), periodic, tuple(properties)
        self._species = species_of(model, atomic_numbers)

    def __call__(self, positions: np.ndarray, box: np.ndarray | None, charge: float = 0.0) -> dict[str, np.ndarray]:
        """positions [n, 3] and box [3, 3] or None in A -> "dipole" [3] in e A, "polarizability" [3, 3].

        Positions are taken as they are: give molecules whole. The dipole of a charged system refers to the origin.
        """
        graph = self._graph(positions, box, charge)
        with torch.no_grad():
            if isinstance(self.model, PolarMACE):
                return {"dipole": _polar_dipole(self.model, graph)}
            response = self.model.response(graph)
        found = {"dipole": response.dipole[0].numpy()}
        if "polarizability" in self.properties:
            found["polarizability"] = response.polarizability[0].numpy()
        return found

    def _graph(self, positions: np.ndarray, box: np.ndarray | None, charge: float) -> Graph:
        x = torch.as_tensor(np.array(positions), dtype=torch.float64)
        cell = torch.zeros(3, 3, dtype=torch.float64) if box is None else torch.as_tensor(np.array(box)).double()
        edge_index, shifts = neighbor_list(x, cell, self.periodic, float(self.model.r_max))
        graph = single_graph(x, self._species, edge_index, shifts, cell)
        dtype = self.model.embedding.dtype
        graph = graph._replace(positions=graph.positions.to(dtype), cell=graph.cell.to(dtype))
        if isinstance(self.model, PolarMACE):
            return graph  # which was settled for its charge
        return graph._replace(shifts=graph.shifts.to(dtype), charge=torch.tensor([charge], dtype=torch.float64))


def properties_of(model: nn.Module) -> tuple[str, ...]:
    """Of "dipole" and "polarizability", what a model gives."""
    if isinstance(model, DipoleMACE):
        return PROPERTIES if model.with_polarizability else PROPERTIES[:1]
    return PROPERTIES[:1] if isinstance(model, PolarMACE) else ()


def _polar_dipole(model: PolarMACE, graph: Graph) -> np.ndarray:
    """sum_i q_i r_i + p_i [3], e A."""
    sources, _ = model.systems(graph)[1][0]
    charges, dipoles = sources[:, :1], sources[:, [3, 1, 2]]
    return (charges * graph.positions.double() + dipoles).sum(dim=0).numpy()
