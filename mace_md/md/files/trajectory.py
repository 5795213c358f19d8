"""Trajectory files that can be cut back to a checkpoint: DCD, XTC, TRR and extended XYZ.

Each writer has `append(frame)`, `flush()` (down to the disk) and `size` (bytes that are whole frames). A frame that
cannot be written completely, because the disk is full, is removed again and OSError is raised.
"""

import errno
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from openmm import app, unit
from openmm.app.internal.unitcell import computeLengthsAndAngles

from mace_md.structures.formats.isotopes import Isotope, mass_of
from mace_md.units import EV_PER_ANGSTROM_TO_KJ_MOL_NM, EV_TO_KJ_MOL, FS_TO_PS, NM_TO_ANGSTROM

AKMA_TIME_PS = 0.04888821  # the unit of time in a CHARMM header
MAX_INT32 = 2**31 - 1


@dataclass(frozen=True)
class Frame:
    """One moment: step, time ps, positions [n_atoms, 3] nm, box [3, 3] nm or None, potential energy kJ/mol or None.

    velocities nm/ps and forces kJ/mol/nm [n_atoms, 3], or None. Integrators of the leapfrog kind (Verlet, Langevin
    middle) have their velocities half a step before the positions.
    """

    step: int
    time: float
    positions: np.ndarray
    box: np.ndarray | None
    energy: float | None
    velocities: np.ndarray | None = None
    forces: np.ndarray | None = None

    def of_atoms(self, atoms: np.ndarray | None) -> "Frame":
        """The same moment with these atoms alone; all when None."""
        if atoms is None:
            return self
        velocities = None if self.velocities is None else self.velocities[atoms]
        forces = None if self.forces is None else self.forces[atoms]
        return replace(self, positions=self.positions[atoms], velocities=velocities, forces=forces)


class Trajectory(Protocol):
    """What the run asks of a trajectory file."""

    path: Path

    @property
    def size(self) -> int: ...
    def append(self, frame: Frame) -> None: ...
    def flush(self) -> None: ...


def open_trajectory(kind: str, path: Path, topology: app.Topology, timestep: float, interval: int) -> Trajectory:
    """A writer of kind 'dcd', 'xtc', 'trr' or 'extxyz' that creates `path`, or goes on at its end if it exists.

    timestep in fs; a frame is written each `interval` steps.
    """
    if kind == "dcd":
        return DCDTrajectory(path, topology, timestep, interval)
    writers: dict[str, Callable[..., Trajectory]] = {
        "xtc": XTCTrajectory, "trr": TRRTrajectory, "extxyz": ExtxyzTrajectory,
    }  # fmt: skip
    return writers[kind](path, topology)


class _Appended:
    """A file opened at its end; `append` leaves either a whole frame more, or the file as it was."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open(path, "r+b" if path.exists() else "x+b", buffering=0)  # noqa: SIM115 - open for the run
        self.size = self._file.seek(0, os.SEEK_END)

    def append_bytes(self, data: bytes) -> None:
        try:
            self._file.seek(self.size)
            written = 0
            while written < len(data):
                written += self._file.write(data[written:])
        except OSError as error:
            self._file.truncate(self.size)
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        self.size += len(data)

    def flush(self) -> None:
        os.fsync(self._file.fileno())


class DCDTrajectory(_Appended):
    """CHARMM DCD, little-endian, A; the same layout as OpenMM's. The header counts frames that are on the disk."""

    def __init__(self, path: Path, topology: app.Topology, timestep: float, interval: int) -> None:
        super().__init__(path)
        self._periodic = topology.getPeriodicBoxVectors() is not None
        self._interval = interval
        num_atoms = topology.getNumAtoms()
        if self.size == 0:
            self.append_bytes(self._header(num_atoms, timestep * FS_TO_PS / AKMA_TIME_PS))
        self._header_size = 276
        self._frame_size = 56 * self._periodic + 3 * (4 * num_atoms + 8)
        self._write_count()  # after a cut the header of a longer file is still there

    def _header(self, num_atoms: int, step: float) -> bytes:
        block = struct.pack("<i4s9if", 84, b"CORD", 0, self._interval, self._interval, 0, 0, 0, 0, 0, 0, step)
        block += struct.pack("<13i", int(self._periodic), 0, 0, 0, 0, 0, 0, 0, 0, 24, 84, 164, 2)
        block += struct.pack("<80s80s", b"Created by mace-md", b"Positions in A, time step in AKMA units")
        return block + struct.pack("<4i", 164, 4, num_atoms, 4)

    def append(self, frame: Frame) -> None:
        """Add one frame, then count it in the header."""
        parts = []
        if self._periodic:
            a, b, c, alpha, beta, gamma = computeLengthsAndAngles(frame.box * unit.nanometer)
            # CHARMM keeps the sines of 90 degrees minus the angles
            cell = (10 * a, np.cos(gamma), 10 * b, np.cos(beta), np.cos(alpha), 10 * c)
            parts.append(struct.pack("<i6di", 48, *cell, 48))
        length = struct.pack("<i", 4 * len(frame.positions))
        for axis in range(3):
            parts += [length, (NM_TO_ANGSTROM * frame.positions[:, axis]).astype("<f4").tobytes(), length]
        self.append_bytes(b"".join(parts))
        self._write_count()

    def _write_count(self) -> None:
        count = (self.size - self._header_size) // self._frame_size
        self._file.seek(8)
        self._file.write(struct.pack("<i", min(count, MAX_INT32)))
        self._file.seek(20)
        self._file.write(struct.pack("<i", min(count * self._interval, MAX_INT32)))


class XTCTrajectory:
    """GROMACS XTC, nm, written frame by frame through OpenMM's library."""

    def __init__(self, path: Path, topology: app.Topology) -> None:
        self.path = path
        path.touch()
        self.size = path.stat().st_size

    def append(self, frame: Frame) -> None:
        """Add one frame. The library reports no error on a full disk, so the length is checked here."""
        from openmm.app.internal.xtc_utils import xtc_write_frame

        box = np.zeros((3, 3)) if frame.box is None else frame.box
        xtc_write_frame(
            str(self.path).encode(),
            np.ascontiguousarray(frame.positions, dtype=np.float32),
            np.ascontiguousarray(box, dtype=np.float32),
            np.float32(frame.time),
            np.int32(min(frame.step, MAX_INT32)),
        )
        expected = self.size + self._last_frame_size()
        if self.path.stat().st_size != expected:
            os.truncate(self.path, self.size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        self.size = expected

    def _last_frame_size(self) -> int:
        """Bytes of the frame at the end by its own header; coordinates of up to 9 atoms are not compressed."""
        with open(self.path, "rb") as file:
            file.seek(self.size)
            header = file.read(92)
        if len(header) < 56:
            return 92
        num_atoms = struct.unpack(">i", header[52:56])[0]
        if num_atoms <= 9:
            return 56 + 12 * num_atoms
        return 92 + (struct.unpack(">i", header[88:92])[0] + 3) // 4 * 4 if len(header) == 92 else 92

    def flush(self) -> None:
        """Bring the file down to the disk."""
        with open(self.path, "rb") as file:
            os.fsync(file.fileno())


class TRRTrajectory(_Appended):
    """GROMACS TRR in single precision: nm, nm/ps, kJ/mol/nm; velocities and forces where a frame has them."""

    def __init__(self, path: Path, topology: app.Topology) -> None:
        super().__init__(path)
        self._num_atoms = topology.getNumAtoms()

    def append(self, frame: Frame) -> None:
        """Add one frame, in XDR: a tag, the sizes of what follows, and the numbers, all big-endian."""
        arrays = [frame.positions, frame.velocities, frame.forces]
        size = 12 * self._num_atoms
        sizes = [0, 0, 36, 0, 0, 0, 0, *(0 if array is None else size for array in arrays)]  # 36: the box
        header = struct.pack(">3i12s", 1993, 13, 12, b"GMX_trn_file")
        header += struct.pack(">13i2f", *sizes, self._num_atoms, min(frame.step, MAX_INT32), 0, frame.time, 0.0)
        box = np.zeros((3, 3)) if frame.box is None else frame.box
        parts = [header, box.astype(">f4").tobytes()]
        parts += [np.asarray(array).astype(">f4").tobytes() for array in arrays if array is not None]
        self.append_bytes(b"".join(parts))


class ExtxyzTrajectory(_Appended):
    """Extended XYZ: A, eV; step, time in ps and the energy the force gives (no energies of free atoms) per frame.

    Where a frame has them, velocities in A/ps and forces in eV/A; energy and forces are the model's, with no restraint.
    A column of masses (Da) where there are isotopes; their symbols are those of the elements, which ASE knows.
    """

    def __init__(self, path: Path, topology: app.Topology) -> None:
        super().__init__(path)
        elements = [atom.element for atom in topology.atoms()]
        self._symbols = [element.symbol for element in elements]
        isotopes = any(isinstance(element, Isotope) for element in elements)
        self._masses = np.array([mass_of(element) for element in elements]) if isotopes else None

    def append(self, frame: Frame) -> None:
        """Add one frame."""
        cell = ""
        if frame.box is not None:
            numbers = " ".join(f"{x:.8f}" for x in (frame.box * NM_TO_ANGSTROM).ravel())
            cell = f'Lattice="{numbers}" '
        pbc = "F F F" if frame.box is None else "T T T"
        columns, properties = [frame.positions * NM_TO_ANGSTROM], "species:S:1:pos:R:3"
        for name, values, size in (
            ("velocities", frame.velocities, NM_TO_ANGSTROM),
            ("forces", frame.forces, 1 / EV_PER_ANGSTROM_TO_KJ_MOL_NM),
        ):
            if values is not None:
                columns.append(values * size)
                properties += f":{name}:R:3"
        if self._masses is not None:
            columns.append(self._masses[:, None])
            properties += ":masses:R:1"
        energy = "" if frame.energy is None else f"interaction_energy={frame.energy / EV_TO_KJ_MOL:.8f} "
        comment = f'{cell}Properties={properties} step={frame.step} time_ps={frame.time:.6f} {energy}pbc="{pbc}"'
        lines = [str(len(self._symbols)), comment]
        rows = np.concatenate(columns, axis=1).tolist()
        lines += [
            f"{symbol:<2} " + " ".join(f"{x:15.8f}" for x in row)
            for symbol, row in zip(self._symbols, rows, strict=True)
        ]
        self.append_bytes(("\n".join(lines) + "\n").encode())
