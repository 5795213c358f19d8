"""What a run leaves behind and shows: topology, log.csv, trajectories, and the progress line."""

import logging
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import openmm
from openmm import app, unit

from mace_md.console import show
from mace_md.md.dynamics.stages import Course
from mace_md.md.files.readout import Readout, Wanted
from mace_md.md.files.trajectory import Trajectory, _Appended, open_trajectory
from mace_md.structures.selection import sub_topology
from mace_md.structures.structure import Structure
from mace_md.units import DALTON_PER_CUBIC_NM_TO_G_ML, FS_TO_PS

log = logging.getLogger(__name__)

MOST_ATOMS_IN_PDB = 99_999  # five columns for the serial number
LARGEST_IN_PDB = 900.0  # nm; coordinates have four digits and a sign before the point, in A
LOG_COLUMNS = (
    "step", "time_ps", "potential_kJ_mol", "kinetic_kJ_mol", "total_kJ_mol", "conserved_kJ_mol", "temperature_K",
    "volume_nm3", "density_g_mL", "speed_ns_day",
)  # fmt: skip


def write_topology(
    folder: Path, structure: Structure, *, atoms: np.ndarray | None = None, name: str = "topology"
) -> Path:
    """Write topology.pdb, or topology.cif where the columns of a PDB file cannot hold it, which is logged; the path.

    Isotopes have the symbol of their element, which every reader knows.

    atoms : indices of those it has, the atoms of the trajectory; all by default.
    """
    positions = structure.positions if atoms is None else structure.positions[atoms]
    topology = structure.topology if atoms is None else sub_topology(structure.topology, atoms)
    reason = _too_wide_for_pdb(topology, positions)
    path = folder / (f"{name}.cif" if reason else f"{name}.pdb")
    if reason:
        log.info("%s in place of %s.pdb: %s, which a PDB file cannot hold", path.name, name, reason)
        topology = _without_blanks(topology)
    temporary = path.with_suffix(path.suffix + ".part")
    writer = app.PDBxFile if reason else app.PDBFile
    with open(temporary, "w") as file:
        writer.writeFile(topology, positions * unit.nanometer, file, keepIds=True)
    os.replace(temporary, path)
    return path


def _without_blanks(topology: app.Topology) -> app.Topology:
    """A copy in which chains and residues without a name have one: in mmCIF a blank is no value."""
    named = sub_topology(topology, np.arange(topology.getNumAtoms()))
    for chain in named.chains():
        chain.id = chain.id.strip() or "A"
        for residue in chain.residues():
            residue.name, residue.id = residue.name.strip() or "UNK", residue.id.strip() or str(residue.index + 1)
    return named


def _too_wide_for_pdb(topology: app.Topology, positions: np.ndarray) -> str:
    """What has no room in the columns of a PDB file, in words; '' when everything has."""
    if len(positions) > MOST_ATOMS_IN_PDB:
        return f"{len(positions)} atoms"
    if np.abs(positions).max() >= LARGEST_IN_PDB:
        return f"a coordinate of {np.abs(positions).max():.0f} nm"
    for chain in topology.chains():
        if len(chain.id) > 1:
            return f"the chain {chain.id}"
        for residue in chain.residues():
            if len(residue.name) > 3:
                return f"the residue name {residue.name}"
            if len(residue.id) > 4:
                return f"the residue number {residue.id}"
    long = next((atom.name for atom in topology.atoms() if len(atom.name) > 4), "")
    return f"the atom name {long}" if long else ""


class LogTable(_Appended):
    """log.csv: one row per report; columns named with their units, `extra` ones before the speed.

    A file that is continued keeps the columns it has, which an older version may have begun with fewer.
    """

    def __init__(self, path: Path, extra: tuple[str, ...] = ()) -> None:
        super().__init__(path)
        self._columns = (*LOG_COLUMNS[:-1], *extra, LOG_COLUMNS[-1])
        if self.size == 0:
            self.append_bytes((",".join(self._columns) + "\n").encode())
        with open(path, "rb") as file:
            header = file.readline()
        self._in_file = header.decode().strip().split(",")
        self._header_size = len(header)

    @property
    def is_empty(self) -> bool:
        """True while there is no row."""
        return self.size == self._header_size

    def append(self, row: "Row") -> None:
        """Add one row; what does not exist (a volume in the gas phase) stays empty."""
        cells = (
            str(row.step), f"{row.time:.6f}", _cell(row.potential), _cell(row.kinetic),
            _cell(row.potential + row.kinetic), _cell(row.conserved), _cell(row.temperature, 4), _cell(row.volume),
            _cell(row.density), *map(_cell, row.extra), _cell(row.speed, 4),
        )  # fmt: skip
        values = dict(zip(self._columns, cells, strict=True))
        self.append_bytes((",".join(values.get(name, "") for name in self._in_file) + "\n").encode())


def _cell(value: float | None, digits: int = 6) -> str:
    return "" if value is None else f"{value:.{digits}f}"


@dataclass(frozen=True)
class Row:
    """One line of log.csv: ps, kJ/mol, K, nm^3, g/mL, ns/day. `conserved` is None where no quantity is."""

    step: int
    time: float
    potential: float
    kinetic: float
    conserved: float | None
    temperature: float
    volume: float | None
    density: float | None
    speed: float | None
    extra: tuple[float | None, ...] = ()


class WithColumns(Protocol):
    """What has columns of its own in log.csv."""

    columns: tuple[str, ...]

    def values(self) -> tuple[float | None, ...]: ...


class Recorder:
    """Writes rows and frames of one simulation, and knows how long each of its files is."""

    def __init__(
        self,
        simulation: app.Simulation,
        folder: Path,
        *,
        readout: Readout,
        course: Course,
        hooks: Sequence["WithColumns"] = (),
        total_mass: float,
        timestep: float,
        kinds: tuple[str, ...],
        interval: int,
        data: tuple[str, ...] = (),
        atoms: np.ndarray | None = None,
        label: str = "",
        beads: bool = False,
        stepped: bool = False,
        wrap: bool = True,
        progress: "Progress | None" = None,
        inspect: Callable[[openmm.State, int], None] | None = None,
    ) -> None:
        """timestep in fs, total_mass in Da; `kinds` of trajectory files, with a frame each `interval` steps.

        hooks : what has columns of its own in the log.
        data : 'velocities' and 'forces', for the kinds that hold them. atoms : in the frames; all by default.
        label : in the names of the files. beads : a trajectory of each bead too. `stepped`: the integrator has made
        steps already. `wrap`: bring the centre of each molecule into the box. `inspect` gets the State, with energy and
        forces, of every row after it is written, and its step.
        """
        self._inspect, self._wrap = inspect, wrap
        self._stepped = stepped
        self._first = simulation.context.getStepCount()
        self._readout, self._course, self._hooks, self._atoms = readout, course, hooks, atoms
        self._total_mass, self._timestep = total_mass, timestep
        self.progress = progress
        self.muted = False  # evaluate all that rows and frames need, and write nothing
        self._wanted = Wanted("extxyz" in kinds, "velocities" in data, "forces" in data)
        ending = f"-{label}" if label else ""
        extra = (*course.columns, *(name for hook in hooks for name in hook.columns), *readout.columns)
        self.log = LogTable(folder / f"log{ending}.csv", extra)
        topology = simulation.topology if atoms is None else sub_topology(simulation.topology, atoms)
        count = readout.num_beads if beads else 0
        endings = [ending, *(f"{ending}-bead{k:02d}" for k in range(1, count + 1))]
        self._files: list[list[Trajectory]] = [
            [open_trajectory(kind, folder / f"trajectory{name}.{kind}", topology, timestep, interval) for kind in kinds]
            for name in endings
        ]

    def row(self, step: int) -> None:
        """Add a row to log.csv and tell the progress line."""
        reading, state = self._readout.energies(
            stepped=self._stepped or step != self._first, forces=self._inspect is not None
        )
        if self.muted:
            return
        volume = reading.volume
        own = (value for hook in self._hooks for value in hook.values())
        row = Row(
            step=step,
            time=step * self._timestep * FS_TO_PS,
            potential=reading.potential,
            kinetic=reading.kinetic,
            conserved=reading.conserved,
            temperature=reading.temperature,
            volume=volume,
            density=None if volume is None else self._total_mass / volume * DALTON_PER_CUBIC_NM_TO_G_ML,
            speed=None if self.progress is None else self.progress.speed(step),
            extra=(*self._course.targets(), *own, *reading.extra),
        )
        self.log.append(row)
        if self.progress is not None:
            self.progress.show(row)
        if self._inspect is not None:
            self._inspect(state, step)

    def frame(self, step: int) -> None:
        """Add a frame to every trajectory, each molecule whole: with its centre in the box, or where it moved to."""
        if not any(self._files):
            return
        frames = self._readout.frames(step, step * self._timestep * FS_TO_PS, self._wanted, wrap=self._wrap)
        if self.muted:
            return
        for frame, files in zip(frames, self._files, strict=False):  # a classical run has no beads, most runs no files
            for file in files:
                file.append(frame.of_atoms(self._atoms))

    @property
    def evaluates_frames(self) -> bool:
        """Whether a frame needs energies or forces, which a step leaves behind only in part."""
        return self._wanted.energy or self._wanted.forces

    def sizes(self) -> dict[str, int]:
        """Bytes of each file, after bringing them down to the disk: what a checkpoint remembers."""
        files: list[Any] = [self.log, *(file for files in self._files for file in files)]
        for file in files:
            file.flush()
        return {file.path.name: file.size for file in files}


class Progress:
    """The line a person watches: step, time, speed, time left, temperature, energy.

    On a terminal the line rewrites itself, between reports with the temperature and energy of the last one; elsewhere
    a plain line appears each time another twentieth is done.
    """

    def __init__(
        self, first: int, total: int, timestep: float, write: Callable[[str], None], *, terminal: bool | None = None
    ) -> None:
        self._first, self._total, self._timestep, self._write = first, total, timestep, write
        self._terminal = sys.stdout.isatty() if terminal is None else terminal
        self._start = time.perf_counter()
        self._shown = first
        self._last = -math.inf
        self._row: Row | None = None
        self._open = False  # the terminal's cursor stands at the end of the line

    def speed(self, step: int) -> float | None:
        """ns/day since the start, or None before the first step."""
        seconds = time.perf_counter() - self._start
        steps = step - self._first
        return steps * self._timestep * 1e-6 / seconds * 86400 if steps > 0 else None

    def show(self, row: Row) -> None:
        """Show a row, unless one was shown just before."""
        done = row.step >= self._total
        self._row = row
        if self._terminal:
            self.tick(row.step)
        elif row.step - self._shown >= (self._total - self._first) / 20 or done:
            self._shown = row.step
            self._write(self.line(row))

    def tick(self, step: int) -> None:
        """On a terminal, bring the line up to `step`, twice a second at most."""
        now = time.perf_counter()
        if not self._terminal or self._row is None or (now - self._last < 0.5 and step < self._total):
            return
        self._last = now
        self._open = True
        show("\r\033[K" + self.line(replace(self._row, step=step, time=step * self._timestep * FS_TO_PS)))

    def close(self) -> None:
        """End the line, so that what follows starts on its own."""
        if self._open:
            show("\n")
        self._open = False

    def line(self, row: Row) -> str:
        """The text for a row."""
        speed = self.speed(row.step)
        parts = [f"step {row.step}/{self._total}", f"{row.time:.3f} ps"]
        if speed:
            left = (self._total - row.step) * self._timestep * 1e-6 / speed * 86400
            parts += [f"{speed:.3g} ns/day", f"{duration(left)} left"]
        parts += [f"{row.temperature:.0f} K", f"E {row.potential:.2f} kJ/mol"]
        return "  ".join(parts)


def duration(seconds: float) -> str:
    """Hours, minutes and seconds as people write them; days beyond a day."""
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(int(round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours}:{minutes:02d}:{rest:02d}"
