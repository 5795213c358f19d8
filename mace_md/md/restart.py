"""Checkpoints: one file holds everything that continues a run, and is either whole or not there.

checkpoint.chk is a zip archive of OpenMM's binary checkpoint (exact, random numbers included, for the same platform),
the portable state as XML, and restart.json: the step, the length of every output file, and what the run was made of.
Two are kept. A new one is written beside them and moved into place, so that at every moment one of them is whole.
"""

import io
import json
import os
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openmm
from openmm import app

from mace_md.errors import InputError
from mace_md.md.rpmd import RingPolymer, is_ring_polymer
from mace_md.provenance import write_atomically

CURRENT, PREVIOUS = "checkpoint.chk", "checkpoint_previous.chk"
FORMAT = 1
# What zipfile raises on an archive that is cut or altered; RuntimeError when a flag says "encrypted".
_UNREADABLE = (zipfile.BadZipFile, zlib.error, KeyError, ValueError, EOFError, OSError, RuntimeError)


@dataclass(frozen=True)
class Checkpoint:
    """What was read back: see the module's first lines. `phase` is 'minimize' or 'dynamics', `part` names a stage.

    beads: positions and velocities [2, beads, n_atoms, 3] of a path integral, which OpenMM's own checkpoint leaves out.
    """

    path: Path
    phase: str
    step: int
    sizes: dict[str, int]
    identity: dict[str, object]
    platform: str
    versions: dict[str, str]
    binary: bytes
    state: str
    part: str = ""
    beads: np.ndarray | None = None


def save_checkpoint(
    simulation: app.Simulation,
    folder: Path,
    *,
    phase: str,
    sizes: dict[str, int],
    identity: dict[str, object],
    part: str = "",
) -> Path:
    """Write checkpoint.chk, keep the one before, and state.xml beside them; returns the path."""
    context = simulation.context
    ring = RingPolymer(context) if is_ring_polymer(context) else None
    if ring is not None:
        context.setPositions(ring.centroid())  # what state.xml is to hold; the beads are the integrator's
    state = context.getState(positions=True, velocities=True, parameters=True, integratorParameters=True)
    xml = openmm.XmlSerializer.serialize(state)
    about = {
        "format": FORMAT,
        "phase": phase,
        "part": part,
        "step": context.getStepCount(),
        "sizes": sizes,
        "identity": identity,
        "platform": context.getPlatform().getName(),
        "versions": {"openmm": openmm.version.version},
    }
    temporary = folder / (CURRENT + ".part")
    members = {"restart.json": json.dumps(about, indent=1), "openmm.chk": context.createCheckpoint(), "state.xml": xml}
    if ring is not None:
        members["beads.npy"] = _as_bytes(np.stack(ring.take()))
    try:
        _write_archive(temporary, members)
    except OSError:
        temporary.unlink(missing_ok=True)  # on a full disk, the room it takes is wanted for run.json
        raise
    current = folder / CURRENT
    if current.exists():
        os.replace(current, folder / PREVIOUS)
    os.replace(temporary, current)
    write_atomically(folder / "state.xml", xml)
    return current


def _write_archive(path: Path, members: dict[str, str | bytes]) -> None:
    with open(path, "wb") as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        file.flush()
        os.fsync(file.fileno())


def read_checkpoint(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint in `folder`, or None where there is none at all; and what was met on the way.

    Raises InputError when there are checkpoints and none can be read.
    """
    notes = []
    present = [folder / name for name in (CURRENT, PREVIOUS) if (folder / name).exists()]
    for path in present:
        try:
            return _read(path), notes
        except _UNREADABLE as error:
            notes.append(f"{path} is damaged ({error}); trying the one before")
    if present:
        names = " and ".join(str(path) for path in present)
        raise InputError(f"{names}: cannot be read ({notes[-1]}). Restore a copy, or start anew with another --output.")
    return None, notes


def _read(path: Path) -> Checkpoint:
    with zipfile.ZipFile(path) as archive:  # every member is read, and its checksum with it
        about = json.loads(archive.read("restart.json"))
        if about["format"] != FORMAT:
            raise ValueError(f"format {about['format']}; this version reads {FORMAT}")
        return Checkpoint(
            path=path,
            phase=about["phase"],
            step=int(about["step"]),
            sizes={str(name): int(size) for name, size in about["sizes"].items()},
            identity=about["identity"],
            platform=about["platform"],
            versions=about["versions"],
            part=about.get("part", ""),
            beads=_as_array(archive.read("beads.npy")) if "beads.npy" in archive.namelist() else None,
            binary=archive.read("openmm.chk"),
            state=archive.read("state.xml").decode(),
        )


def _as_bytes(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    return content.getvalue()


def _as_array(content: bytes) -> np.ndarray:
    return np.load(io.BytesIO(content), allow_pickle=False)


def check_identity(checkpoint: Checkpoint, identity: dict[str, object]) -> None:
    """Refuse to continue what is no longer the same run, naming each difference."""
    now = json.loads(json.dumps(identity))
    keys = list(dict.fromkeys([*checkpoint.identity, *now]))
    changed = [
        f"{key} was {checkpoint.identity.get(key)}, is {now.get(key)}"
        for key in keys
        if checkpoint.identity.get(key) != now.get(key)
    ]
    if changed:
        raise InputError(
            f"{checkpoint.path.parent}: this is not the run that was started there: {'; '.join(changed)}. Continue "
            "with the old values, or start a new run with another --output."
        )


def check_files(folder: Path, sizes: dict[str, int]) -> None:
    """Raise InputError when an output file is missing or shorter than it was at the checkpoint."""
    for name, size in sizes.items():
        path = folder / name
        length = path.stat().st_size if path.exists() else 0
        if length < size:
            raise InputError(
                f"{path}: has {length} bytes, but had {size} at the checkpoint: it was moved or changed. Put it back, "
                "or start a new run with another --output."
            )


def cut_files(folder: Path, sizes: dict[str, int]) -> list[str]:
    """Cut each output file back to its length at the checkpoint; returns what was cut."""
    notes = []
    for name, size in sizes.items():
        path = folder / name
        excess = path.stat().st_size - size
        if excess:
            notes.append(f"{name}: cut by {excess} bytes, to the checkpoint")
            os.truncate(path, size)
    return notes


def load_into(simulation: app.Simulation, checkpoint: Checkpoint) -> str:
    """Set the simulation to the checkpoint; says whether the continuation is exact or from the portable state."""
    context = simulation.context
    platform = context.getPlatform().getName()
    same = platform == checkpoint.platform and openmm.version.version == checkpoint.versions.get("openmm")
    if same:
        context.loadCheckpoint(checkpoint.binary)
    else:
        context.setState(openmm.XmlSerializer.deserialize(checkpoint.state))
        context.setStepCount(checkpoint.step)
    if checkpoint.beads is not None:
        RingPolymer(context).put(*checkpoint.beads)
    if same:
        return "exact, random numbers included"
    return (
        f"from the portable state (the checkpoint is from {checkpoint.platform}, OpenMM "
        f"{checkpoint.versions.get('openmm')}): positions, velocities and box are exact, random numbers start afresh"
    )
