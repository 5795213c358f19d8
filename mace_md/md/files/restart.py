"""Checkpoints: one file holds everything that continues a run, and is either whole or not there.

checkpoint.chk is a zip archive of OpenMM's binary checkpoint (exact, random numbers included, for the same platform),
the portable state as XML, and restart.json: the step, the length of every output file, and what the run was made of;
and the system as it was put together, and the states of what else takes part.
Two are kept. A new one is written beside them and moved into place, so that at every moment one of them is whole.
"""

import fnmatch
import io
import json
import os
import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import openmm
from openmm import app

from mace_md.errors import InputError
from mace_md.md.dynamics.rpmd import RingPolymer, is_ring_polymer
from mace_md.md.files.cutting import tails_of
from mace_md.md.files.identity import Identity, System
from mace_md.output import content_of, refuse_content
from mace_md.provenance import sync_folder, write_atomically

CURRENT, PREVIOUS, DAMAGED = "checkpoint.chk", "checkpoint_previous.chk", "checkpoint_damaged.chk"
RUN_FILES = ("log*.csv", "trajectory*.*", "uncertainty.csv", "uncertain.extxyz", "properties.csv")
FORMAT = 1
EXACT = "exact, random numbers included"
# What zipfile raises on an archive that is cut or altered; RuntimeError when a flag says "encrypted".
_UNREADABLE = (zipfile.BadZipFile, zlib.error, KeyError, ValueError, EOFError, OSError, RuntimeError, TypeError)
LARGEST_MEMBER = 4 * 2**30  # bytes; 16 million atoms


class Anchor(NamedTuple):
    """A state from which the steps to a checkpoint can be made again (`md/stepping/anchors.py`).

    binary : OpenMM's checkpoint. hooks : the states of the hooks by name.
    """

    step: int
    binary: bytes
    hooks: Mapping[str, bytes] = MappingProxyType({})


@dataclass(frozen=True)
class Checkpoint:
    """What was read back: see the module's first lines. `phase` is 'minimize' or 'dynamics', `part` names a stage.

    sizes, tails: bytes of each output file, and what stood at their end (`files/cutting.py`). system: see `System`.
    beads: positions and velocities [2, beads, n_atoms, 3] of a path integral, which OpenMM's own checkpoint leaves out.
    hooks: the state of each hook of the run, by name.
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
    anchor: Anchor | None = None
    tails: dict[str, str] = field(default_factory=dict)
    system: bytes | None = None
    hooks: dict[str, bytes] = field(default_factory=dict)
    numerics: dict[str, object] | None = None  # what the last digits depend on beside all this, by name


def save_checkpoint(
    simulation: app.Simulation,
    folder: Path,
    *,
    phase: str,
    sizes: dict[str, int],
    identity: Identity,
    part: str = "",
    anchor: Anchor | None = None,
    hooks: Mapping[str, bytes] = MappingProxyType({}),
    numerics: dict[str, object] | None = None,
) -> Path:
    """Write checkpoint.chk, keep the one before, and state.xml beside them; returns the path.

    anchor : a state of this step or before. numerics : what the last digits depend on (`stepping/numerics.py`).
    """
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
        "tails": tails_of(folder, sizes),
        "identity": identity.options,
        "numerics": dict(numerics or {}),
        "platform": context.getPlatform().getName(),
        "versions": {"openmm": openmm.version.version},
    }
    temporary = folder / (CURRENT + ".part")
    members = {"openmm.chk": context.createCheckpoint(), "state.xml": xml}
    if anchor is not None and anchor.step < about["step"]:
        about["anchor_step"], members["anchor.chk"] = anchor.step, anchor.binary
        members |= {f"anchor-{name}.hook": content for name, content in anchor.hooks.items()}
    if identity.system is not None:
        members["system.npz"] = identity.system.as_bytes()
    members |= {f"{name}.hook": content for name, content in hooks.items()}
    if ring is not None:
        members["beads.npy"] = _as_bytes(np.stack(ring.take()))
    members["restart.json"] = json.dumps(about, indent=1)
    try:
        _write_archive(temporary, members)
    except OSError:
        temporary.unlink(missing_ok=True)  # on a full disk, the room it takes is wanted for run.json
        raise
    current = folder / CURRENT
    if current.exists():
        os.replace(current, folder / PREVIOUS)
    os.replace(temporary, current)
    sync_folder(folder)
    write_atomically(folder / "state.xml", xml)
    return current


def _write_archive(path: Path, members: dict[str, str | bytes]) -> None:
    with open(path, "wb") as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        file.flush()
        os.fsync(file.fileno())


def find_checkpoint(folder: Path, restart: bool) -> tuple[Checkpoint | None, list[str]]:
    """The checkpoint to continue from, or None for a new run; and notes. Creates nothing.

    With `restart`, a folder in which nothing was started yet begins a new run, so that a job script can say --restart
    each time. Raises InputError when the folder holds something that a new run would overwrite.
    """
    present = content_of(folder)
    if not restart:
        refuse_content(folder, can_continue=CURRENT in present or PREVIOUS in present)
        return None, []
    checkpoint, notes = read_checkpoint(folder)
    if checkpoint is not None:
        return checkpoint, notes
    results = [name for name in present if any(fnmatch.fnmatch(name, pattern) for pattern in RUN_FILES)]
    if results:
        raise InputError(
            f"{folder}: has {results[0]}, but no checkpoint to continue from. Start a new run with another --output."
        )
    return None, [f"--restart: {folder} holds no checkpoint; the run starts at its beginning"]


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
        if any(member.file_size > LARGEST_MEMBER for member in archive.infolist()):
            raise ValueError("it says it is larger than any checkpoint")
        about = json.loads(archive.read("restart.json"))
        if not isinstance(about, dict) or about["format"] != FORMAT:
            raise ValueError(
                f"format {about['format'] if isinstance(about, dict) else '?'}; this version reads {FORMAT}"
            )
        return Checkpoint(
            path=path,
            phase=_one_of(about["phase"], ("minimize", "dynamics")),
            step=_whole(about["step"], -(2**62)),
            sizes={_file_name(name): _whole(size, 0) for name, size in _table(about["sizes"]).items()},
            identity=_table(about["identity"]),
            numerics=_table(about.get("numerics", {})),
            platform=str(about["platform"]),
            versions=_table(about["versions"]),
            part=str(about.get("part", "")),
            beads=_as_array(archive.read("beads.npy")) if "beads.npy" in archive.namelist() else None,
            anchor=_anchor(about, archive),
            tails={_file_name(name): str(found) for name, found in _table(about.get("tails", {})).items()},
            system=archive.read("system.npz") if "system.npz" in archive.namelist() else None,
            hooks=_hooks(archive, "", not_from="anchor-"),
            binary=archive.read("openmm.chk"),
            state=_state_xml(archive.read("state.xml").decode()),
        )


def _anchor(about: dict, archive: zipfile.ZipFile) -> Anchor | None:
    if "anchor.chk" not in archive.namelist():
        return None
    return Anchor(_whole(about["anchor_step"], -(2**62)), archive.read("anchor.chk"), _hooks(archive, "anchor-"))


def _hooks(archive: zipfile.ZipFile, start: str, not_from: str = "\0") -> dict[str, bytes]:
    names = [name for name in archive.namelist() if name.endswith(".hook") and name.startswith(start)]
    return {
        name.removeprefix(start).removesuffix(".hook"): archive.read(name)
        for name in names
        if not name.startswith(not_from)
    }


def _as_bytes(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    return content.getvalue()


def _as_array(content: bytes) -> np.ndarray:
    return np.load(io.BytesIO(content), allow_pickle=False)


def _one_of(value: object, known: tuple[str, ...]) -> str:
    if value not in known:
        raise ValueError(f"{str(value)[:40]!r} is none of {', '.join(known)}")
    return str(value)


def _whole(value: object, least: int) -> int:
    if type(value) is not int or not least <= value < 2**62:
        raise ValueError(f"{str(value)[:40]!r} is no step and no length")
    return value


def _file_name(name: str) -> str:
    """A name of a file in the run folder: what is cut back must not lie elsewhere."""
    if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise ValueError(f"{name[:40]!r} is no file of a run folder")
    return name


def _table(value: object) -> dict:
    if not isinstance(value, dict):
        raise ValueError(f"{str(value)[:40]!r} is no table")
    return value


def _state_xml(text: str) -> str:
    """`text`, if it is the XML of a State. OpenMM's reader would also make a force of it, with a program inside."""
    if not re.match(r"\s*(<\?xml[^>]*\?>)?\s*<State[\s>/]", text):
        raise ValueError("its state is not that of a simulation")
    return text


def check_identity(checkpoint: Checkpoint, identity: Identity) -> None:
    """Refuse to continue what is no longer the same run, naming each difference."""
    now = json.loads(json.dumps(identity.options))
    keys = list(dict.fromkeys([*checkpoint.identity, *now]))
    changed = [
        f"{key} was {checkpoint.identity.get(key)}, is {now.get(key)}"
        for key in keys
        if checkpoint.identity.get(key) != now.get(key)
    ]
    if identity.system is not None and checkpoint.system is not None:
        changed = _system_of(checkpoint).changes_to(identity.system) + changed
    if changed:
        raise InputError(
            f"{checkpoint.path.parent}: this is not the run that was started there: {'; '.join(changed)}. Continue "
            "with the old values, or start a new run with another --output."
        )


def _system_of(checkpoint: Checkpoint) -> System:
    try:
        return System.from_bytes(checkpoint.system)
    except ValueError as error:
        raise InputError(f"{checkpoint.path}: {error}. Start a new run with another --output.") from None


def tidy_folder(folder: Path, checkpoint: Checkpoint) -> list[str]:
    """Take away what a killed process left half done, and put a damaged checkpoint where it replaces no good one."""
    notes = []
    if checkpoint.path.name == PREVIOUS and (folder / CURRENT).exists():
        os.replace(folder / CURRENT, folder / DAMAGED)  # else the next save would make it the one before
        notes.append(f"{CURRENT} is damaged and was renamed to {DAMAGED}")
    for path in [*folder.glob("*.part"), *folder.glob(".*.tmp")]:
        path.unlink()
    return notes


def _same_openmm(context: openmm.Context, checkpoint: Checkpoint) -> bool:
    platform = context.getPlatform().getName()
    return platform == checkpoint.platform and openmm.version.version == checkpoint.versions.get("openmm")


def load_binary(simulation: app.Simulation, checkpoint: Checkpoint, binary: bytes) -> bool:
    """Set the simulation to a binary part of `checkpoint`; False, and nothing done, where it was not made for it."""
    context = simulation.context
    # OpenMM does not check what it is given: where it is too short, it reads on past the end, and may never come back.
    # A checkpoint grows with the first step, when random numbers and chains get their state; it never shrinks.
    if not _same_openmm(context, checkpoint) or len(binary) < len(context.createCheckpoint()):
        return False
    context.loadCheckpoint(binary)
    return True


def load_into(simulation: app.Simulation, checkpoint: Checkpoint) -> str:
    """Set the simulation to the checkpoint; says whether the continuation is exact or from the portable state."""
    context = simulation.context
    fits = load_binary(simulation, checkpoint, checkpoint.binary)
    if not fits:
        context.setState(openmm.XmlSerializer.deserialize(checkpoint.state))
        context.setStepCount(checkpoint.step)
    if checkpoint.beads is not None:
        RingPolymer(context).put(*checkpoint.beads)
    if fits:
        return EXACT
    origin = f"the checkpoint is from {checkpoint.platform}, OpenMM {checkpoint.versions.get('openmm')}"
    if _same_openmm(context, checkpoint):
        origin = "OpenMM's own part of the checkpoint was made for another system"
    return f"from the portable state ({origin}): positions, velocities and box are exact, random numbers start afresh"
