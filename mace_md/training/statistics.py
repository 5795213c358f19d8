"""What a model is given before it learns: energies of isolated atoms, neighbours per atom, scale and shift."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mace_md.errors import InputError
from mace_md.training.batches import LazyGraphs, PackedGraphs, iterate_batches
from mace_md.training.checks import electronic_energy
from mace_md.training.configuration import Configuration
from mace_md.training.data import read_configurations, take_isolated_atoms

_LARGEST_BINDING = 20.0  # eV an atom; N2 has 4.9, the strongest solids 8.9


@dataclass(frozen=True)
class E0s:
    """Energies of isolated atoms by atomic number, eV, and where they come from."""

    values: dict[int, float]
    origin: str

    def of(self, atomic_numbers: np.ndarray) -> float:
        """The sum over atoms, eV."""
        return float(sum(self.values[int(z)] for z in atomic_numbers))


@dataclass(frozen=True)
class Statistics:
    """What the data say about the size of things, for each head."""

    avg_num_neighbors: float
    mean_energy: tuple[float, ...]  # of the interaction, per atom, eV
    std_energy: tuple[float, ...]
    rms_forces: tuple[float, ...]  # of a component, eV/A


def find_e0s(
    how: str,
    data: Sequence[Configuration],
    isolated: Sequence[Configuration],
    atomic_numbers: Sequence[int],
    model: Mapping[int, float] | None = None,
) -> E0s:
    """Energies of isolated atoms of all `atomic_numbers`, in the way that `how` says.

    Parameters
    ----------
    how : isolated, least-squares, mean, model, or auto: isolated when that has all elements, else model when there is
        one, else isolated when there are any (an error says what is missing), else least-squares.
    data, isolated : labelled frames, and those of isolated atoms.
    model : E0s of the model that training starts from.

    Raises InputError when an element is missing, or when the energies are far from those of the atoms.
    """
    if how == "auto":
        known = {int(c.atomic_numbers[0]) for c in isolated}
        if model is not None and not {int(z) for z in atomic_numbers} <= known:
            how = "model"
        else:
            how = "isolated" if isolated else "least-squares"
    if how == "model":
        if model is None:
            raise InputError("--e0s model: there is no model that training starts from (--start-from)")
        return _complete(E0s(dict(model), "those of the model that training starts from"), atomic_numbers)
    if how == "isolated":
        found = _from_isolated(isolated)
        return _complete(E0s(found, f"{len(isolated)} frames of isolated atoms"), atomic_numbers)
    labelled = [c for c in data if c.energy is not None]
    if not labelled:
        raise InputError("there is no energy in the data to take E0s from. Give --e0s-file.")
    if how == "mean":
        mean = float(np.mean([c.energy / len(c.atomic_numbers) for c in labelled]))
        return E0s(dict.fromkeys(map(int, atomic_numbers), mean), "the mean energy per atom, for every element")
    return _least_squares(labelled, atomic_numbers)


def read_e0s(path: str | Path, atomic_numbers: Sequence[int]) -> E0s:
    """E0s from a JSON file, {"H": -13.6, ...} or {"1": -13.6, ...}, eV, or from labelled frames of single atoms."""
    path = Path(path)
    if path.suffix.lower() == ".json":
        return _complete(E0s(_from_json(path), f"{path}"), atomic_numbers)
    isolated = take_isolated_atoms(read_configurations(path))[1]
    return _complete(E0s(_from_isolated(isolated), f"{len(isolated)} isolated atoms of {path}"), atomic_numbers)


def _from_json(path: Path) -> dict[int, float]:
    from ase.data import atomic_numbers as numbers

    try:
        table = json.loads(path.read_text(encoding="utf-8-sig"))
        return {int(key) if key.isdigit() else numbers[key]: float(value) for key, value in table.items()}
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(
            f'{path}: not a table of energies in eV such as {{"H": -13.6, "C": -1027.6}} ({error})'
        ) from None


def _from_isolated(isolated: Sequence[Configuration]) -> dict[int, float]:
    found: dict[int, float] = {}
    for configuration in isolated:
        z = int(configuration.atomic_numbers[0])
        if configuration.energy is None:
            raise InputError(f"{configuration.where}: an isolated atom without an energy")
        if z in found and abs(found[z] - configuration.energy) > 1e-6:
            raise InputError(
                f"{configuration.where}: the isolated atom {_symbol(z)} has the energy {configuration.energy:.6f} eV, "
                f"but another frame says {found[z]:.6f} eV. Leave one out."
            )
        found[z] = configuration.energy
    return found


def _complete(e0s: E0s, atomic_numbers: Sequence[int]) -> E0s:
    missing = sorted({int(z) for z in atomic_numbers} - set(e0s.values))
    if missing:
        raise InputError(
            f"E0s from {e0s.origin}: none for {', '.join(map(_symbol, missing))}. Add frames of these atoms alone "
            "(config_type=IsolatedAtom), give all E0s with --e0s-file, or fit them with --e0s least-squares."
        )
    return E0s({int(z): float(e0s.values[int(z)]) for z in atomic_numbers}, e0s.origin)


def _symbol(z: int) -> str:
    from ase.data import chemical_symbols

    return chemical_symbols[z]


def _least_squares(data: Sequence[Configuration], atomic_numbers: Sequence[int]) -> E0s:
    """The E0s that explain the energies best; of equally good ones, those nearest to the energies of the atoms."""
    elements = [int(z) for z in atomic_numbers]
    counts = np.array([[(c.atomic_numbers == z).sum() for z in elements] for c in data], dtype=np.float64)
    energies = np.array([c.energy for c in data])
    prior = np.array([electronic_energy(np.array([z])) for z in elements])
    explained = counts @ prior
    prior = prior * max(0.0, float(explained @ energies) / float(explained @ explained))
    correction, _, rank, _ = np.linalg.lstsq(counts, energies - counts @ prior, rcond=None)
    origin = f"least squares over {len(data)} energies"
    if rank < len(elements):
        origin += f" (the compositions fix only {rank} of {len(elements)}: good for these molecules, not for others)"
    return E0s(dict(zip(elements, (prior + correction).tolist(), strict=True)), origin)


def check_binding(data: Sequence[Configuration], e0s: E0s) -> None:
    """Refuse E0s of another unit or method than the data: bound atoms lie a few eV below free ones, not far away."""
    for configuration in data[: min(len(data), 100)] if isinstance(data, list) else _some(data, 100):
        if configuration.energy is None or len(configuration.atomic_numbers) < 2:
            continue
        binding = (configuration.energy - e0s.of(configuration.atomic_numbers)) / len(configuration.atomic_numbers)
        if abs(binding) > _LARGEST_BINDING:
            raise InputError(
                f"{configuration.where}: its energy is {binding:.4g} eV per atom away from that of its isolated atoms "
                f"(from {e0s.origin}). E0s and data have to be of one method and unit: give --e0s-file, or --e0s "
                "least-squares (with --start-from: refit)."
            )


def _some(data: Sequence[Configuration], count: int) -> list[Configuration]:
    return [data[i] for i in range(min(len(data), count))]


def measure(graphs: PackedGraphs | LazyGraphs, atomic_energies: torch.Tensor) -> Statistics:
    """Mean neighbours per atom (of atoms with any, as mace-torch counts), and sizes of energies and forces by head.

    atomic_energies: [n_heads, n_species], eV, in the order of the graphs' species. Missing labels do not count.
    """
    n_heads = len(atomic_energies)
    sums = torch.zeros(n_heads, 5, dtype=torch.float64)  # frames, E, E^2; components, F^2
    edges = with_neighbours = 0
    for batch in iterate_batches(graphs, [range(i, min(i + 50, len(graphs))) for i in range(0, len(graphs), 50)]):
        graph, device = batch.graph, batch.energy.device
        receivers = torch.bincount(graph.edge_index[1], minlength=len(graph.species))
        edges, with_neighbours = edges + int(receivers.sum()), with_neighbours + int((receivers > 0).sum())
        e0 = atomic_energies.to(device)[graph.head[graph.batch], graph.species]
        interaction = batch.energy - torch.zeros_like(batch.energy).index_add(0, graph.batch, e0)
        per_atom = interaction / batch.num_atoms
        known = (batch.energy_weight > 0).to(torch.float64)
        known_forces = (batch.forces_weight > 0).to(torch.float64)[graph.batch]
        squares = batch.forces.to(torch.float64).square().sum(dim=1) * known_forces
        rows = torch.zeros(n_heads, 5, dtype=torch.float64, device=device)
        rows[:, 0].index_add_(0, graph.head, known)
        rows[:, 1].index_add_(0, graph.head, known * per_atom)
        rows[:, 2].index_add_(0, graph.head, known * per_atom**2)
        rows[:, 3].index_add_(0, graph.head[graph.batch], 3.0 * known_forces)
        rows[:, 4].index_add_(0, graph.head[graph.batch], squares)
        sums += rows.cpu()
    frames, components = sums[:, 0].clamp(min=1.0), sums[:, 3].clamp(min=1.0)
    mean = sums[:, 1] / frames
    variance = (sums[:, 2] / frames - mean**2).clamp(min=0.0)
    return Statistics(
        avg_num_neighbors=edges / max(1, with_neighbours),
        mean_energy=tuple(mean.tolist()),
        std_energy=tuple(variance.sqrt().tolist()),
        rms_forces=tuple((sums[:, 4] / components).sqrt().tolist()),
    )
