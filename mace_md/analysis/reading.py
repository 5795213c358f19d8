"""A run folder, or any trajectory with a topology, as arrays: the log, the frames in chunks with their right times.

Nothing is written, and a run may be going on meanwhile: half a row and half a frame at the end are left out.
"""

import contextlib
import json
import os
import struct
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mace_md.errors import InputError
from mace_md.units import FS_TO_PS

TRAJECTORIES = (".xtc", ".dcd", ".trr", ".nc", ".h5", ".pdb", ".xyz", ".gro", ".lammpstrj", ".dtr", ".binpos", ".mdcrd")
OF_A_RUN = ("trajectory.trr", "trajectory.dcd", "trajectory.xtc")  # the more exact first
AKMA_TIME_PS = 0.04888821  # the unit of time in a CHARMM header
NUMBERS_IN_CHUNK = 1_000_000  # coordinates that are in memory at once


@dataclass(frozen=True)
class Chunk:
    """Frames in a row: times [f] ps, positions [f, n_atoms, 3] nm, boxes [f, 3, 3] nm (rows are vectors) or None."""

    times: np.ndarray
    positions: np.ndarray
    boxes: np.ndarray | None
    velocities: np.ndarray | None = None  # nm/ps

    def __len__(self) -> int:
        return len(self.times)


@dataclass
class Source:
    """What is analysed.

    name : for people. topology : mdtraj's, of the atoms in the trajectory. start : positions [n_atoms, 3] nm and box
    of the file of the topology. log : the columns of log.csv as arrays [rows], NaN where empty; empty without one.
    options : of the run (run.toml), record : run.json; both empty for other trajectories.
    """

    name: str
    folder: Path | None
    topology: Any  # mdtraj.Topology; mdtraj is imported late
    start: np.ndarray
    start_box: np.ndarray | None
    trajectory: Path | None
    log: dict[str, np.ndarray] = field(default_factory=dict)
    options: dict = field(default_factory=dict)
    record: dict = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    @property
    def temperature(self) -> float | None:
        """K, of the thermostat, None where there was none or where it is not known."""
        return None if self.options.get("ensemble", "nvt" if self.options else "") in ("nve", "") else float(
            self.options.get("temperature", 300.0)
        )  # fmt: skip

    @property
    def timestep(self) -> float | None:
        """fs, of the integration; None where it is not known."""
        return float(self.options.get("timestep", 1.0)) if self.options else None

    @cached_property
    def warnings(self) -> list[str]:
        """Lines of run.log that warn, without their dates."""
        path = None if self.folder is None else self.folder / "run.log"
        if path is None or not path.exists():
            return []
        lines = path.read_text(errors="replace").splitlines()
        found = [line.partition("warning: ")[2] for line in lines if "warning: " in line]
        return list(dict.fromkeys(text.rstrip(".") for text in found if text))

    @cached_property
    def masses(self) -> np.ndarray:
        """[n_atoms] Da; heavier hydrogen where the run had it."""
        return masses_of(self.topology, self.options.get("hydrogen_mass"))

    @cached_property
    def velocity_file(self) -> Path | None:
        """The TRR file with velocities, if there is one."""
        paths = [self.trajectory] if self.folder is None else [self.folder / "trajectory.trr"]
        return next((p for p in paths if p and p.suffix == ".trr" and p.exists() and _trr_has_velocities(p)), None)

    def chunks(self, *, every: int = 1, velocities: bool = False) -> Iterator[Chunk]:
        """All frames (every n-th), in order; with velocities from the TRR file. Raises InputError."""
        path = self.velocity_file if velocities else self.trajectory
        if path is None:
            return
        size = max(1, NUMBERS_IN_CHUNK // (3 * self.topology.n_atoms))
        if path.suffix == ".trr":
            yield from _trr_chunks(path, self.topology.n_atoms, size, every)
        elif path.suffix == ".xtc":
            yield from _xtc_chunks(path, self.topology.n_atoms, size, every)
        else:
            yield from _mdtraj_chunks(path, self.topology, size, every)


def open_source(path: Path, topology: Path | None = None) -> Source:
    """A run folder, or a trajectory file with its topology; raises InputError."""
    if path.is_dir():
        return _run(path)
    if not path.exists():
        raise InputError(f"{path}: there is no such run folder or trajectory")
    if (path.parent / "run.toml").exists() and topology is None and path.name.startswith("trajectory"):
        source = _run(path.parent)
        source.trajectory = path
        return source
    topology = topology or _topology_beside(path)
    described, start, box = _topology(topology)
    return Source(path.stem, None, described, start, box, path)


def load(run: Path | str, topology: Path | str | None = None, *, every: int = 1):
    """The frames of a run folder or trajectory as an mdtraj trajectory with the right times (ps), of DCD files too."""
    import mdtraj

    source = open_source(Path(run), None if topology is None else Path(topology))
    chunks = list(source.chunks(every=every))
    if not chunks:
        raise InputError(f"{run}: there are no frames")
    trajectory = mdtraj.Trajectory(
        np.concatenate([chunk.positions for chunk in chunks]), source.topology,
        time=np.concatenate([chunk.times for chunk in chunks]),
    )  # fmt: skip
    if chunks[0].boxes is not None:
        trajectory.unitcell_vectors = np.concatenate([chunk.boxes for chunk in chunks])
    return trajectory


def velocities(run: Path | str, topology: Path | str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Times [f] ps and velocities [f, n_atoms, 3] nm/ps of the TRR file of a run; those of a leapfrog integrator are
    half a step before the positions. Raises InputError without any."""
    source = open_source(Path(run), None if topology is None else Path(topology))
    if source.velocity_file is None:
        raise InputError(
            f"{run}: no velocities. A run writes them with --trajectory-format trr --trajectory-data velocities"
        )
    chunks = list(source.chunks(velocities=True))
    return np.concatenate([chunk.times for chunk in chunks]), np.concatenate([chunk.velocities for chunk in chunks])


def runs_in(path: Path) -> list[Path]:
    """The run folders that `path` stands for: itself, or those in it (of --seeds, --temperatures)."""
    if not path.is_dir() or _is_run(path):
        return [path]
    found = sorted(folder for folder in path.iterdir() if folder.is_dir() and _is_run(folder))
    if not found:
        raise InputError(
            f"{path}: no run is in this folder (no run.toml and log.csv). Give the output folder of mace-md run, "
            "or a trajectory file with --topology."
        )
    return found


def _is_run(folder: Path) -> bool:
    return (folder / "run.toml").exists() or (folder / "log.csv").exists()


def _run(folder: Path) -> Source:
    names = [name for name in ("topology.pdb", "topology.cif") if (folder / name).exists()]
    if not names:
        raise InputError(f"{folder}: has no topology.pdb. Give the output folder of mace-md run, or a trajectory file.")
    described, start, box = _topology(folder / names[0])
    trajectory = next((folder / name for name in OF_A_RUN if _has_frames(folder / name)), None)
    source = Source(folder.resolve().name, folder, described, start, box, trajectory)
    if (folder / "log.csv").exists():
        source.log = read_log(folder / "log.csv")
    with contextlib.suppress(OSError, ValueError):
        source.options = tomllib.loads((folder / "run.toml").read_text())
    with contextlib.suppress(OSError, ValueError):
        source.record = json.loads((folder / "run.json").read_text())
    return source


def _has_frames(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 300


def _topology_beside(path: Path) -> Path:
    if path.suffix.lower() in (".pdb", ".h5", ".gro"):
        return path
    for name in ("topology.pdb", "topology.cif", f"{path.stem}.pdb", f"{path.stem}.gro"):
        if (path.parent / name).exists():
            return path.parent / name
    raise InputError(f"{path}: such a file has no elements in it. Give its topology: --topology FILE.pdb")


def _topology(path: Path) -> tuple[object, np.ndarray, np.ndarray | None]:
    """mdtraj's topology, with bonds, and positions and box of the file."""
    import mdtraj

    try:
        with silent_stdout():
            frame = mdtraj.load_frame(str(path), 0) if path.suffix != ".cif" else mdtraj.load(str(path))
    except (OSError, ValueError, TypeError, KeyError, IndexError, RuntimeError) as error:
        raise InputError(f"{path}: cannot be read as a topology ({error})") from None
    box = None if frame.unitcell_vectors is None else frame.unitcell_vectors[0].astype(float)
    return frame.topology, frame.xyz[0].astype(float), box


def masses_of(topology, hydrogen_mass: float | None = None) -> np.ndarray:
    """[n_atoms] Da, of the elements; with `hydrogen_mass` taken from the atom that a hydrogen is bonded to."""
    elements = [atom.element for atom in topology.atoms]
    masses = np.array([0.0 if element is None else element.mass for element in elements])
    if hydrogen_mass is not None:
        for bond in topology.bonds:
            for hydrogen, heavy in ((bond[0], bond[1]), (bond[1], bond[0])):
                if hydrogen.element.symbol == "H" and heavy.element.symbol != "H":
                    masses[heavy.index] -= hydrogen_mass - masses[hydrogen.index]
                    masses[hydrogen.index] = hydrogen_mass
    return masses


# ------------------------------------------------------------------------------------------------ the log


def read_log(path: Path) -> dict[str, np.ndarray]:
    """Each column of a log.csv as an array of floats, NaN where it is empty; a row that is not finished is left out."""
    text = path.read_text()
    lines = text[: text.rfind("\n") + 1].splitlines()
    if not lines:
        return {}
    header = lines[0].split(",")
    rows = [line.split(",") for line in lines[1:]]
    bad = [number for number, row in enumerate(rows, start=2) if len(row) != len(header)]
    if bad:
        raise InputError(f"{path}, line {bad[0]}: has not the {len(header)} columns of its header; the file is damaged")
    try:
        numbers = np.array([[float(cell) if cell else np.nan for cell in row] for row in rows]).reshape(
            len(rows), len(header)
        )
    except ValueError as error:
        raise InputError(f"{path}: {error}; the file is damaged") from None
    return {} if not rows else {name: numbers[:, i] for i, name in enumerate(header)}


# ------------------------------------------------------------------------------------------------ frames


def dcd_times(path: Path) -> tuple[float, float] | None:
    """Time of the first frame and between frames (ps) by the header of a DCD file; None where it has none."""
    with open(path, "rb") as file:
        header = file.read(48)
    if len(header) < 48 or header[4:8] != b"CORD":
        return None
    first, interval = struct.unpack("<2i", header[12:20])
    (step,) = struct.unpack("<f", header[44:48])
    if interval <= 0 or not 0 < step < 1e6:
        return None
    step *= AKMA_TIME_PS
    return round(first * step, 9), round(interval * step, 9)


def _mdtraj_chunks(path: Path, topology, size: int, every: int) -> Iterator[Chunk]:
    import mdtraj

    known = dcd_times(path) if path.suffix == ".dcd" else None
    own_topology = path.suffix in (".pdb", ".h5")
    seen = 0
    frames = mdtraj.iterload(str(path), chunk=size, **({} if own_topology else {"top": topology}))
    while True:
        try:
            with silent_stdout():
                part = next(frames, None)
        except (OSError, ValueError, RuntimeError, TypeError, ImportError) as error:
            raise InputError(f"{path}: cannot be read ({error})") from None
        if part is None:
            return
        if part.n_atoms != topology.n_atoms:
            raise InputError(f"{path}: has {part.n_atoms} atoms, and its topology {topology.n_atoms}")
        numbers = seen + np.arange(part.n_frames)
        seen += part.n_frames
        keep = numbers % every == 0
        times = part.time.astype(float) if known is None else known[0] + known[1] * numbers
        if keep.any():
            boxes = None if part.unitcell_vectors is None else part.unitcell_vectors[keep].astype(float)
            yield Chunk(times[keep], part.xyz[keep], boxes)


def _whole_xtc_frames(path: Path) -> int:
    """How many frames of an XTC file are there to their last byte; a run that is going on may have begun another."""
    end, at, count = path.stat().st_size, 0, 0
    with open(path, "rb") as file:
        while True:
            file.seek(at)
            header = file.read(92)
            if len(header) < 56 or struct.unpack(">i", header[:4])[0] not in (1995, 2023):
                return count
            num_atoms = struct.unpack(">i", header[52:56])[0]
            if num_atoms <= 9:  # not compressed
                at += 56 + 12 * num_atoms
            elif header[:4] == struct.pack(">i", 2023):  # the length has eight bytes, for very many atoms
                file.seek(at + 88)
                wide = file.read(8)
                at += 96 + (struct.unpack(">q", wide)[0] + 3) // 4 * 4 if len(wide) == 8 else end + 1
            else:
                at += 92 + (struct.unpack(">i", header[88:92])[0] + 3) // 4 * 4 if len(header) == 92 else end + 1
            if at > end:
                return count
            count += 1


def _xtc_chunks(path: Path, num_atoms: int, size: int, every: int) -> Iterator[Chunk]:
    from mdtraj.formats import XTCTrajectoryFile

    left, seen = _whole_xtc_frames(path), 0
    try:
        with XTCTrajectoryFile(str(path)) as file:
            while left > 0:
                positions, times, _, boxes = file.read(min(size, left))
                if positions.shape[1] != num_atoms:
                    raise InputError(f"{path}: has {positions.shape[1]} atoms, and its topology {num_atoms}")
                keep = (seen + np.arange(len(times))) % every == 0
                seen, left = seen + len(times), left - len(times)
                if keep.any():
                    periodic = boxes is not None and np.any(boxes)
                    yield Chunk(
                        times[keep].astype(float), positions[keep], boxes[keep].astype(float) if periodic else None
                    )
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None


def _trr_frames(path: Path) -> Iterator[tuple[dict, bytes]]:
    """Header and content of each whole frame of a GROMACS TRR file (XDR, big-endian)."""
    with open(path, "rb") as file:
        while True:
            start = file.read(24)
            if len(start) < 24 or struct.unpack(">i", start[:4])[0] != 1993:
                return
            sizes = file.read(52)
            if len(sizes) < 52:
                return
            fields = struct.unpack(">13i", sizes)
            box, x, v, f, atoms, step = (fields[i] for i in (2, 7, 8, 9, 10, 11))
            real = 8 if x == 24 * atoms and x or v == 24 * atoms and v or box == 72 else 4
            rest = file.read(2 * real)
            content = file.read(fields[0] + fields[1] + box + fields[3] + fields[4] + x + v + f)
            if len(rest) < 2 * real or len(content) < box + x + v + f:
                return
            kind = ">f8" if real == 8 else ">f4"
            time = float(np.frombuffer(rest, kind)[0])
            yield {"time": time, "step": step, "atoms": atoms, "box": box, "x": x, "v": v, "kind": kind}, content


def _trr_has_velocities(path: Path) -> bool:
    first = next(_trr_frames(path), None)
    return first is not None and first[0]["v"] > 0


def _trr_chunks(path: Path, num_atoms: int, size: int, every: int) -> Iterator[Chunk]:
    rows: list[tuple] = []
    for number, (header, content) in enumerate(_trr_frames(path)):
        if header["atoms"] != num_atoms:
            raise InputError(f"{path}: has {header['atoms']} atoms, and its topology {num_atoms}")
        if number % every:
            continue
        box, x, v = header["box"], header["x"], header["v"]
        arrays = [
            np.frombuffer(part, header["kind"]).reshape(-1, 3) if part else None
            for part in (content[:box], content[box : box + x], content[box + x : box + x + v])
        ]
        rows.append((header["time"], *arrays))
        if len(rows) == size:
            yield _stacked(rows)
            rows = []
    if rows:
        yield _stacked(rows)


def _stacked(rows: list[tuple]) -> Chunk:
    times, boxes, positions, velocities = zip(*rows, strict=True)
    periodic = boxes[0] is not None and np.any(boxes[0])
    return Chunk(
        np.array(times, dtype=float),
        np.array(positions, dtype=np.float32),
        np.array(boxes, dtype=float) if periodic else None,
        None if any(v is None for v in velocities) else np.array(velocities, dtype=np.float32),
    )


@contextlib.contextmanager
def silent_stdout() -> Iterator[None]:
    """Without what mdtraj's reader of DCD files says on standard output, past Python."""
    sys.stdout.flush()
    with contextlib.ExitStack() as stack:
        try:
            kept = os.dup(1)
        except OSError:  # there is no standard output
            yield
            return
        stack.callback(os.close, kept)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        stack.callback(os.close, nowhere)
        os.dup2(nowhere, 1)
        stack.callback(os.dup2, kept, 1)
        yield


def end_of_run(source: Source) -> str:
    """How the run stands: done, or how far it is."""
    if not source.log or "step" not in source.log:
        return ""
    step = int(source.log["step"][-1])
    total = source.options.get("steps")
    if total is None and "time" in source.options and source.timestep:
        total = round(float(source.options["time"]) / (source.timestep * FS_TO_PS))
    if total is None or step >= total:
        return "finished"
    return f"at step {step} of {total}: going on, or stopped"
