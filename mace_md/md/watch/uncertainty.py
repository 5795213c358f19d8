"""Whether a run may be believed: the disagreement of a committee of models, and the distance from the training data.

Both go to uncertainty.csv every so many steps. Over a limit they warn, stop the run, or collect the frame for training.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from openmm import app
from torch import nn

from mace_md.config import RunConfig
from mace_md.config.sections import UncertaintyOptions
from mace_md.errors import InputError, SafetyStop
from mace_md.md.files.frames import AtomNames, Snapshot, extxyz_text
from mace_md.md.files.trajectory import _Appended
from mace_md.md.loaded import LoadedModel
from mace_md.model.artifact import load_potential
from mace_md.model.descriptors import describe, extrapolation
from mace_md.model.potential import isolated_energy, make_potential, species_of
from mace_md.model.reading.checkpoint import load_model
from mace_md.model.settle import settle
from mace_md.ops.neighbor_list import neighbor_list
from mace_md.provenance import sha256_of
from mace_md.structures.preflight import check_elements
from mace_md.structures.structure import Structure
from mace_md.units import EV_PER_ANGSTROM_TO_KJ_MOL_NM, EV_TO_KJ_MOL, FS_TO_PS, NM_TO_ANGSTROM

log = logging.getLogger("mace_md")

TABLE, COLLECTED = "uncertainty.csv", "uncertain.extxyz"
COMMITTEE_COLUMNS = ("force_std_max_eV_A", "force_std_mean_eV_A", "force_std_max_atom", "energy_std_meV_atom")
EXTRAPOLATION_COLUMNS = ("extrapolation_max", "extrapolation_mean", "extrapolation_max_atom")


def committee_members(names: Sequence[str]) -> list[str]:
    """Names and files of models; a committee.json, as training writes it, stands for the models that it lists.

    Raises InputError for a listing that cannot be read.
    """
    members: list[str] = []
    for name in names:
        path = Path(name)
        if path.suffix != ".json":
            members.append(name)
            continue
        try:
            listed = json.loads(path.read_text(encoding="utf-8-sig"))["members"]
            members += [str(path.parent / _text(member["model"])) for member in listed]
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}).") from None
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise InputError(
                f"{path}: lists no committee ({type(error).__name__}: {str(error)[:80]}). Give the committee.json of "
                "`mace-md train --seeds`, or model files separated by commas."
            ) from None
    return members


def _text(value: object) -> str:
    if type(value) is not str or not value or "\0" in value:
        raise ValueError(f"{str(value)[:40]!r} is no file name")
    return value


class Committee:
    """Several models of the same atoms."""

    def __init__(
        self,
        models: Sequence[nn.Module | Path],
        atomic_numbers: Sequence[int],
        *,
        periodic: bool,
        kernels: str = "auto",
        skin: float = 0.5,
    ) -> None:
        """models : the first is the one that is run; a path is that of an exported potential. skin : A."""
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._n, self.potentials, self._isolated = len(atomic_numbers), [], []
        for model in models:
            if isinstance(model, nn.Module):
                potential, _ = make_potential(
                    model, atomic_numbers, periodic=periodic, kernels=kernels, skin=skin, device=self._device
                )
                self._isolated.append(isolated_energy(model, atomic_numbers))
            else:
                potential, info = load_potential(model)
                self._isolated.append(info.e0_sum / EV_TO_KJ_MOL)
            self.potentials.append(potential.to(self._device))

    def evaluate(self, positions: np.ndarray, box: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Total energies [n_models], eV, and forces [n_models, n_atoms, 3], eV/A; positions and box in nm.

        The same bits whatever was evaluated before, as after a restart.
        """
        x = torch.from_numpy(np.array(positions, dtype=np.float64)).to(self._device)
        cell = None if box is None else torch.from_numpy(np.array(box, dtype=np.float64)).to(self._device)
        energies, forces = [], []
        for potential, isolated in zip(self.potentials, self._isolated, strict=True):
            if self._device == "cpu" and hasattr(potential, "state"):
                potential.state.zero_()  # no neighbour list from before, whose order the sums would have
            energy, force = potential(x, cell)
            energies.append(float(energy.detach()) / EV_TO_KJ_MOL + isolated)
            forces.append(force.detach().cpu().numpy() / EV_PER_ANGSTROM_TO_KJ_MOL_NM)
        return np.array(energies), np.array(forces)


def force_deviation(forces: np.ndarray) -> np.ndarray:
    """[n_atoms], eV/A: sqrt(<|F - <F>|^2>) over the models, of forces [n_models, n_atoms, 3].

    The model deviation of DP-GEN, Zhang et al., Phys. Rev. Mater. 3, 023804 (2019), eq. 6.
    """
    return np.sqrt(((forces - forces.mean(axis=0)) ** 2).sum(axis=2).mean(axis=0))


class Distance:
    """The distance of the atoms of one system from the training data of a model that carries their statistics."""

    def __init__(self, model: nn.Module, atomic_numbers: Sequence[int], periodic: bool) -> None:
        self._model, self._statistics, self._periodic = model, model.descriptor_statistics, periodic
        self._species = species_of(model, atomic_numbers)

    def evaluate(self, positions: np.ndarray, box: np.ndarray | None) -> np.ndarray:
        """[n_atoms], see `extrapolation`; positions and box in nm."""
        x = torch.from_numpy(np.array(positions, dtype=np.float64)) * NM_TO_ANGSTROM
        cell = torch.zeros(3, 3, dtype=torch.float64)
        if box is not None:
            cell = torch.from_numpy(np.array(box, dtype=np.float64)) * NM_TO_ANGSTROM
        edge_index, shifts = neighbor_list(x, cell, self._periodic, float(self._model.r_max))
        vectors = x[edge_index[1]] - x[edge_index[0]] + shifts @ cell
        features = describe(self._model, vectors, self._species, edge_index)
        return extrapolation(self._statistics, features, self._species).numpy()


@dataclass(frozen=True)
class UncertaintyLimits:
    """committee : eV/A of the largest force deviation, or None. extrapolation : of the largest distance, or None.

    action : "warn", "stop" or "collect".
    """

    committee: float | None = None
    extrapolation: float | None = None
    action: str = "warn"


class Uncertainty:
    """Measures, writes and acts; `measure` is its event in the loop over steps."""

    def __init__(
        self,
        simulation: app.Simulation,
        folder: Path,
        limits: UncertaintyLimits,
        *,
        timestep: float,
        committee: Committee | None = None,
        distance: Distance | None = None,
    ) -> None:
        """timestep in fs. No file is made before the first measurement."""
        self._simulation, self._folder, self._limits, self._timestep = simulation, folder, limits, timestep
        self._committee, self._distance = committee, distance
        self._names = AtomNames.of(simulation.topology)
        self._periodic = simulation.topology.getPeriodicBoxVectors() is not None
        self._table: _Appended | None = None
        self._collected: _Appended | None = None
        self.over = 0  # measurements over a limit

    def measure(self, step: int) -> None:
        """Add a row; raises SafetyStop over a limit where that is the action."""
        state = self._simulation.context.getState(positions=True, velocities=True)
        snapshot = Snapshot.of(state, step, self._periodic)
        cells, said, columns = [str(step), f"{step * self._timestep * FS_TO_PS:.6f}"], [], {}
        if self._committee is not None:
            energies, forces = self._committee.evaluate(snapshot.positions, snapshot.box)
            deviation = force_deviation(forces)
            columns = {"forces": forces[0], "force_std": deviation}
            worst = int(deviation.argmax())
            cells += [f"{deviation[worst]:.6f}", f"{deviation.mean():.6f}", str(worst + 1)]
            cells += [f"{1000 * energies.std() / len(deviation):.6f}"]
            said += _over("the models differ in the force on", self._names, deviation, self._limits.committee, " eV/A")
        if self._distance is not None:
            distances = self._distance.evaluate(snapshot.positions, snapshot.box)
            columns["extrapolation"] = distances
            worst = int(distances.argmax())
            cells += [f"{distances[worst]:.4f}", f"{distances.mean():.4f}", str(worst + 1)]
            limit = self._limits.extrapolation
            said += _over(
                "the training data are left by", self._names, distances, limit, " times their 99.9 % quantile"
            )
        self._write(cells)
        if said:
            self._act(snapshot, said, columns)

    def sizes(self) -> dict[str, int]:
        """Bytes of each file, brought down to the disk: what a checkpoint remembers."""
        self._open_existing()
        files = [file for file in (self._table, self._collected) if file is not None]
        for file in files:
            file.flush()
        return {file.path.name: file.size for file in files}

    def _write(self, cells: list[str]) -> None:
        self._open_existing()
        if self._table is None:
            self._table = _Appended(self._folder / TABLE)
        if self._table.size == 0:
            columns = ["step", "time_ps"]
            columns += COMMITTEE_COLUMNS if self._committee is not None else ()
            columns += EXTRAPOLATION_COLUMNS if self._distance is not None else ()
            self._table.append_bytes((",".join(columns) + "\n").encode())
        self._table.append_bytes((",".join(cells) + "\n").encode())

    def _open_existing(self) -> None:
        """Go on with the files of the run that is continued."""
        if self._table is None and (self._folder / TABLE).exists():
            self._table = _Appended(self._folder / TABLE)
        if self._collected is None and (self._folder / COLLECTED).exists():
            self._collected = _Appended(self._folder / COLLECTED)

    def _act(self, snapshot: Snapshot, said: list[str], columns: dict[str, np.ndarray]) -> None:
        self.over += 1
        text = f"step {snapshot.step}: {'; '.join(said)}"
        if self._limits.action == "stop":
            raise SafetyStop(
                f"{text}. The forces cannot be relied on there: train the models on such structures (--on-uncertain "
                "collect gathers them), or raise the limit."
            )
        if self._limits.action == "collect":
            if self._collected is None:
                self._collected = _Appended(self._folder / COLLECTED)
            info = {"step": snapshot.step, "reason": "; ".join(said)}
            self._collected.append_bytes(extxyz_text(self._names, snapshot, info, columns).encode())
        if self.over <= 3:
            more = "; further ones are in the table only" if self.over == 3 else ""
            log.warning("warning: %s%s", text, more)


def _over(what: str, names: AtomNames, values: np.ndarray, limit: float | None, unit: str) -> list[str]:
    worst = int(values.argmax())
    if limit is None or values[worst] <= limit:
        return []
    return [f"{what} {names.one(worst)}: {values[worst]:.3g}{unit} (limit {limit:g})"]


@dataclass(frozen=True)
class Judges:
    """What can say whether a model is to be believed; `identity` is what of it a restart must find again."""

    committee: Committee | None
    distance: Distance | None
    identity: dict[str, object]

    def uncertainty(
        self, config: UncertaintyOptions, simulation: app.Simulation, output: Path, timestep: float
    ) -> Uncertainty | None:
        """For one part of a run, with `timestep` in fs; None where there is nothing to measure."""
        if self.committee is None and self.distance is None:
            return None
        limits = UncertaintyLimits(config.committee_limit, config.extrapolation_limit, config.on_uncertain)
        return Uncertainty(
            simulation, output, limits, timestep=timestep, committee=self.committee,
            distance=self.distance,
        )  # fmt: skip


def judges_of(config: RunConfig, structure: Structure, model: LoadedModel) -> Judges:
    """The committee of the options, and the distance from the training data where the model carries their statistics.

    Raises InputError for a member that cannot be read, or does not know an element, and for a committee of one.
    """
    periodic, numbers = structure.box is not None, structure.atomic_numbers
    committee, distance, identity = None, None, {}
    if config.committee:
        own = sha256_of(model.path)
        names = [name for name in committee_members(config.committee) if not _is_file(name, own)]
        given = getattr(model.source, "settled", {})
        others = [settle(load_model(name, head=config.head, dtype=model.dtype), **given) for name in names]
        if not others:
            raise InputError("--committee: names no model but the one that is run. Give others, separated by commas.")
        for name, other in zip(names, others, strict=True):
            check_elements(structure, other.atomic_numbers.tolist(), name)
        models = [model.source, *others]
        committee = Committee(models, numbers, periodic=periodic, kernels=config.kernels, skin=model.skin)
        identity["committee (sha256)"] = [sha256_of(other.info.path) for other in others]
        log.info("committee: %d models; every %d steps", len(models), config.uncertainty_interval)
    if not model.is_exported and getattr(model.source, "descriptor_statistics", None) is not None:
        distance = Distance(model.source, numbers, periodic)
        log.info("extrapolation: distance from the training data every %d steps", config.uncertainty_interval)
    if committee is not None or distance is not None:
        identity["uncertainty_interval"] = config.uncertainty_interval
    return Judges(committee, distance, identity)


def _is_file(name: str, sha256: str) -> bool:
    """Whether `name` is a file with this hash."""
    return Path(name).is_file() and sha256_of(name) == sha256
