"""Dipoles and polarizabilities along a run, for spectra: properties.csv while it goes, dipoles.npz when it ends."""

from __future__ import annotations

import csv
import io
import logging
from pathlib import Path

import numpy as np
from openmm import app

from mace_md.config.run import RunConfig
from mace_md.errors import InputError
from mace_md.md.files.frames import Snapshot
from mace_md.md.files.trajectory import _Appended
from mace_md.md.loaded import LoadedModel
from mace_md.md.stepping.hooks import Hook
from mace_md.model.reading.checkpoint import load_model
from mace_md.model.response import ResponseOf
from mace_md.model.settle import settle
from mace_md.provenance import sha256_of, write_atomically
from mace_md.structures.structure import Structure
from mace_md.units import FS_TO_PS, NM_TO_ANGSTROM

log = logging.getLogger("mace_md")

TABLE, ARRAYS = "properties.csv", "dipoles.npz"
_COLUMNS = {
    "dipole": [f"dipole_{a}_eA" for a in "xyz"],
    "polarizability": [f"polarizability_{a}{b}" for a in "xyz" for b in "xyz"],
}


class PropertyRecorder(Hook):
    """Adds a row to properties.csv after every `interval` steps."""

    name = "properties"
    patterns = (TABLE,)

    def __init__(
        self,
        simulation: app.Simulation,
        folder: Path,
        response: ResponseOf,
        *,
        interval: int,
        timestep: float,
        charge: float,
    ) -> None:
        """interval in steps, timestep in fs. No file is made before the first row."""
        self.interval = interval
        self._simulation, self._folder, self._response = simulation, folder, response
        self._timestep, self._charge = timestep, charge
        self._table: _Appended | None = None

    def after(self, step: int) -> None:
        """Add the row of the present positions, as the atoms moved: molecules are whole."""
        if self.muted:
            return
        periodic = self._response.periodic
        state = self._simulation.context.getState(positions=True, velocities=True, enforcePeriodicBox=False)
        snapshot = Snapshot.of(state, step, periodic)
        box = None if snapshot.box is None else np.asarray(snapshot.box) * NM_TO_ANGSTROM
        found = self._response(np.asarray(snapshot.positions) * NM_TO_ANGSTROM, box, self._charge)
        cells = [str(step), f"{step * self._timestep * FS_TO_PS:.6f}"]
        cells += [f"{x:.8e}" for name in self._response.properties for x in found[name].flatten()]
        self._open()
        if self._table.size == 0:
            header = ["step", "time_ps", *(c for name in self._response.properties for c in _COLUMNS[name])]
            self._table.append_bytes((",".join(header) + "\n").encode())
        self._table.append_bytes((",".join(cells) + "\n").encode())

    def sizes(self) -> dict[str, int]:
        """Bytes of the file, brought down to the disk: what a checkpoint remembers."""
        if self._table is None and not (self._folder / TABLE).exists():
            return {}
        self._open()
        self._table.flush()
        return {TABLE: self._table.size}

    def _open(self) -> None:
        if self._table is None:
            self._table = _Appended(self._folder / TABLE)


def write_arrays(folder: Path) -> Path:
    """dipoles.npz of a run's folder from its properties.csv: time_ps [n], dipole_eA [n, 3], and polarizability
    [n, 3, 3] (unit of the model's training data) where it was asked for. Raises InputError without a table."""
    path = folder / TABLE
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). `mace-md run --properties` writes it.") from None

    def column(names: list[str]) -> np.ndarray:
        return np.array([[float(row[name]) for name in names] for row in rows]).reshape(len(rows), len(names))

    arrays = {"time_ps": column(["time_ps"])[:, 0], "dipole_eA": column(_COLUMNS["dipole"])}
    if rows and _COLUMNS["polarizability"][0] in rows[0]:
        arrays["polarizability"] = column(_COLUMNS["polarizability"]).reshape(-1, 3, 3)
    content = io.BytesIO()
    np.savez(content, **arrays)
    write_atomically(folder / ARRAYS, content.getvalue())
    return folder / ARRAYS


class Properties:
    """What the options ask for; `identity` is what of it a restart must find again."""

    def __init__(self, config: RunConfig, structure: Structure, model: LoadedModel) -> None:
        """Raises InputError for a model without these properties, before anything is written."""
        self._response, self.identity, self._charge = None, {}, 0.0
        if not config.properties:
            return
        charge = structure.charge if config.charge is None else config.charge
        spin = structure.spin if config.spin is None else config.spin
        self._charge = float(charge or 0)
        if config.property_model is not None:
            source = load_model(config.property_model, dtype=model.dtype)
            given = {"charge": charge, "spin": spin}
            source = settle(source, **{name: given[name] for name in source.inputs})
        elif model.is_exported:
            raise InputError("--properties needs --property-model with a potential.pt, which gives energies only.")
        else:
            source = model.source
        periodic = structure.box is not None
        self._response = ResponseOf(source, structure.atomic_numbers, periodic, config.properties)
        self.identity = {
            "properties": list(config.properties),
            "property_interval": config.property_interval,
            "property model (sha256)": sha256_of(source.info.path),
        }
        log.info("properties: %s of %s every %d steps", ", ".join(config.properties), source.info.name,
                 config.property_interval)  # fmt: skip

    def hooks(self, config: RunConfig, simulation: app.Simulation) -> tuple[PropertyRecorder, ...]:
        """For the production of a run; none where nothing was asked for."""
        if self._response is None:
            return ()
        return (
            PropertyRecorder(
                simulation, config.output, self._response, interval=config.property_interval,
                timestep=config.timestep, charge=self._charge,
            ),
        )  # fmt: skip

    def finish(self, folder: Path) -> None:
        """Write dipoles.npz from all rows of a run's folder."""
        if self._response is not None and (folder / TABLE).exists():
            write_arrays(folder)
