"""What made a result: versions, hashes, device, options, command. Plain dictionaries, written without half files."""

import dataclasses
import datetime
import hashlib
import json
import math
import os
import platform
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import mace_md

PACKAGES = ("torch", "openmm", "ase", "mdtraj", "numpy", "pymbar", "safetensors", "dftd3")
OPENMMTORCH_WHEELS = (  # every one of them installs the module `openmmtorch`
    "acellera-openmmtorch-cpu", "acellera-openmmtorch-cu12", "acellera-openmmtorch-cu13", "acellera-openmmtorch",
    "openmmtorch", "openmm-torch",
)  # fmt: skip


def version_of(package: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """Versions of mace-md, Python and every package that takes part in a run."""
    found = {"mace-md": mace_md.__version__, "python": platform.python_version()}
    for package in PACKAGES + OPENMMTORCH_WHEELS:
        version = version_of(package)
        if version is not None:
            found[package] = version
    return found


def device() -> dict[str, Any]:
    """The machine: operating system, processor, cores, and the GPUs torch sees if torch is loaded already."""
    found: dict[str, Any] = {
        "host": platform.node(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        found["gpus"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal, read in blocks; of a folder, that of the names and hashes of its files."""
    if Path(path).is_dir():
        files = sorted(inner for inner in Path(path).rglob("*") if inner.is_file())
        listed = "".join(f"{inner.relative_to(path)} {sha256_of(inner)}\n" for inner in files)
        return hashlib.sha256(listed.encode()).hexdigest()
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def collect_provenance(
    config: Any = None,
    *,
    inputs: Mapping[str, str | Path] | None = None,
    model: Mapping[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """A dictionary ready for run.json.

    Parameters
    ----------
    config : the command's configuration (a dataclass); its options go under "options".
    inputs : files that were read, by what they are ("structure", "model"); each is listed with its path and SHA-256.
    model : what is known of the model: name, source, sha256, licence, level_of_theory, head, ...
    more : anything else (seed, platform, timings, self-check results), kept under its own name.
    """
    content: dict[str, Any] = {
        "format": 1,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": list(sys.argv),
        "folder": str(Path.cwd()),
        "versions": versions(),
        "device": device(),
    }
    if config is not None:
        content["options"] = dataclasses.asdict(config)
    if inputs:
        content["inputs"] = {
            what: {"path": str(Path(path).absolute()), "sha256": sha256_of(path)} for what, path in inputs.items()
        }
    if model is not None:
        content["model"] = dict(model)
    return content | more


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Write `content` to `path` so that a reader, or a full disk, never sees half of it."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(partial, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder down to the disk, so that a renamed file outlives a power cut; best effort."""
    with suppress(OSError):  # some file systems have no such thing
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_json(path: str | Path, content: Any) -> None:
    """Write `content` as indented JSON, atomically; paths become text, tuples and sets lists, arrays nested lists.

    Numbers that are not finite become null, since JSON has none.
    """
    write_atomically(path, json.dumps(_finite(content), indent=2, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    """Plain JSON: dictionaries, lists, text, numbers that are finite, true, false and null."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Mapping):
        return {_key(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return _finite(_as_json(value))


def _key(key: Any) -> Any:
    """What JSON takes as a key."""
    return key if key is None or isinstance(key, (str, bool, int, float)) else str(key)


def _as_json(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if hasattr(value, "tolist"):  # numpy and torch, scalars and arrays
        return value.tolist()
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return str(value)
