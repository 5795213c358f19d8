"""Labelled frames from extended XYZ, or from any trajectory that ASE reads."""

from __future__ import annotations

import bz2
import difflib
import gzip
import io
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mace_md.errors import InputError
from mace_md.training.configuration import Configuration, Factors, LabelFormat

# Where a label is looked for when no key is given. ASE moves `energy`, `forces`, `stress` into a calculator as it
# reads; a file written with mace-torch in mind calls them REF_...
DEFAULT_KEYS = {
    label: (f"REF_{label}", label, *(("virial", "REF_virial") if label == "virials" else ()))
    for label in ("energy", "forces", "stress", "virials")
}
_OF_A_DAMAGED_FILE = (  # what ASE raises for one
    ValueError, LookupError, AttributeError, TypeError, StopIteration, RuntimeError, OSError, EOFError,
)  # fmt: skip
_OPENERS = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_WEIGHTS = {
    "weight": "config_weight",
    "energy_weight": "config_energy_weight",
    "forces_weight": "config_forces_weight",
    "stress_weight": "config_stress_weight",
}


def read_extxyz(path: Path, labels: LabelFormat) -> list[Configuration]:
    """Every frame of the file, in eV and A. Raises InputError for what is no trajectory, or a key that no frame has."""
    factors = labels.factors()
    configurations, seen = [], set()
    for frame, atoms in enumerate(_frames(path)):
        values = _values(atoms)
        seen |= set(values)
        configurations.append(_configuration(atoms, values, labels, factors, str(path), frame))
    if not configurations:
        raise InputError(f"{path}: there is no frame in it")
    for label in ("energy", "forces", "stress", "virials"):
        key = labels.key(label)
        if key is not None and key not in seen:
            raise InputError(f"{path}: no frame has {label} under the key '{key}'. {describe_keys(key, seen)}")
    return configurations


def describe_keys(key: str, seen: set[str]) -> str:
    """The keys that are there, the nearest first, for a message."""
    near = difflib.get_close_matches(key, sorted(seen), n=3, cutoff=0.4)
    rest = sorted(seen - set(near) - {"numbers", "positions"})
    listed = ", ".join([*near, *rest]) or "none"
    return f"Keys that are there: {listed}."


def _frames(path: Path) -> Iterator[Any]:
    import ase.io
    from ase.io.formats import UnknownFileTypeError

    suffixes = [suffix for suffix in path.suffixes if suffix not in _OPENERS]
    known = {".xyz": "extxyz", ".extxyz": "extxyz"}.get(suffixes[-1] if suffixes else "")
    try:
        if path.suffix in _OPENERS and known:  # ASE goes back and forth in the file, which takes ages when compressed
            with _OPENERS[path.suffix](path, "rt") as file:
                yield from ase.io.iread(io.StringIO(file.read()), index=":", format=known)
        else:
            yield from ase.io.iread(path, index=":", format=known)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except UnknownFileTypeError:
        raise InputError(f"{path}: ASE does not know this kind of file. Convert it to extended XYZ.") from None
    except _OF_A_DAMAGED_FILE as error:
        raise InputError(f"{path}: cannot be read as a trajectory ({type(error).__name__}: {error})") from None


def _values(atoms: Any) -> dict[str, Any]:
    """Everything a frame says, by key, from info, arrays and the calculator that ASE makes of `energy` and `forces`."""
    values = dict(atoms.arrays) | dict(atoms.info)
    if atoms.calc is not None:
        values |= {key: value for key, value in atoms.calc.results.items() if value is not None}
    return values


def _find(values: dict[str, Any], label: str, labels: LabelFormat, where: str) -> Any:
    """The value of a label, or None. Raises InputError when two default keys are there and none was chosen."""
    key = labels.key(label)
    if key is not None:
        return values.get(key)
    present = [candidate for candidate in DEFAULT_KEYS[label] if candidate in values]
    if len(present) > 1:
        raise InputError(
            f"{where}: {label} could be {' or '.join(present)}. Say which with --{label}-key {present[0]}."
        )
    return values[present[0]] if present else None


def _configuration(
    atoms: Any, values: dict[str, Any], labels: LabelFormat, factors: Factors, file: str, frame: int
) -> Configuration:
    where = f"{file}, frame {frame} (counted from 0)"
    n_atoms = len(atoms)
    cell = np.array(atoms.cell.array, dtype=np.float64) * factors.length
    found = {label: _find(values, label, labels, where) for label in ("energy", "forces", "stress", "virials")}
    try:
        energy = None if found["energy"] is None else float(found["energy"]) * factors.energy
        forces = None
        if found["forces"] is not None:
            forces = np.array(found["forces"], dtype=np.float64).reshape(n_atoms, 3) * factors.forces
        stress = None if found["stress"] is None else _matrix(found["stress"]) * factors.stress
        if stress is None and found["virials"] is not None:
            volume = abs(np.linalg.det(cell))
            if not volume > 0:
                raise InputError(
                    f"{where}: virials without a box. Leave --virials-key out, or give the frame a Lattice."
                )
            stress = -_matrix(found["virials"]) * factors.energy / volume
        weights = {name: float(values.get(key, 1.0)) for name, key in _WEIGHTS.items()}
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where}: a label is not made of numbers, or of another size ({error})") from None
    return Configuration(
        atomic_numbers=np.array(atoms.numbers, dtype=np.int64),
        positions=np.array(atoms.positions, dtype=np.float64) * factors.length,
        cell=cell if any(atoms.pbc) else np.zeros((3, 3)),
        pbc=tuple(bool(x) for x in atoms.pbc),
        energy=energy,
        forces=forces,
        stress=stress,
        head=str(values.get(labels.head_key, "Default")),
        config_type=str(values.get(labels.config_type_key, "Default")),
        file=file,
        frame=frame,
        **weights,
    )


def _matrix(stress: Any) -> np.ndarray:
    """A stress as 3 x 3, from 9 numbers or from Voigt's 6 (xx yy zz yz xz xy)."""
    values = np.array(stress, dtype=np.float64).reshape(-1)
    if len(values) == 6:
        xx, yy, zz, yz, xz, xy = values
        return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    return values.reshape(3, 3)
