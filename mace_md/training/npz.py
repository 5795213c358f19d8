"""Frames of one molecule from the npz layout of the revised MD17 (Christensen and von Lilienfeld 2020)."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from mace_md.errors import InputError
from mace_md.training.configuration import Configuration, LabelFormat
from mace_md.training.extxyz import describe_keys

# what -> default key; the first MD17 and sGDML files use z, R, E, F
_KEYS = {
    "numbers": ("nuclear_charges", "z"),
    "positions": ("coords", "R"),
    "energy": ("energies", "E"),
    "forces": ("forces", "F"),
}


def read_npz(path: Path, labels: LabelFormat) -> list[Configuration]:
    """Every frame, from kcal/mol and A unless `labels` says otherwise; raises InputError for another layout."""
    try:
        return _frames(path, _load(path), labels)
    except InputError:
        raise
    except (ValueError, TypeError, LookupError, OverflowError, AttributeError) as error:
        raise InputError(f"{path}: its arrays are not those of rMD17 ({str(error)[:200]})") from None


def _frames(path: Path, arrays: dict[str, np.ndarray], labels: LabelFormat) -> list[Configuration]:
    factors = labels.factors(energy_unit="kcal/mol")
    keys = _KEYS | {label: (labels.key(label),) for label in ("energy", "forces") if labels.key(label)}
    found = {what: next((arrays[key] for key in names if key in arrays), None) for what, names in keys.items()}
    for what, names in keys.items():
        required = what in ("numbers", "positions") or labels.key(what)
        if found[what] is None and required:
            raise InputError(f"{path}: no array '{names[0]}' for {what}. {describe_keys(names[0], set(arrays))}")
    numbers = np.asarray(found["numbers"], dtype=np.int64)
    positions = _sized(path, "positions", found["positions"], (-1, numbers.shape[-1], 3)) * factors.length
    n_frames = len(positions)
    energies = forces = None
    if found["energy"] is not None:
        energies = _sized(path, "energy", found["energy"], (n_frames,)) * factors.energy
    if found["forces"] is not None:
        forces = _sized(path, "forces", found["forces"], positions.shape) * factors.forces
    return [
        Configuration(
            atomic_numbers=numbers if numbers.ndim == 1 else numbers[frame],
            positions=positions[frame],
            cell=np.zeros((3, 3)),
            energy=None if energies is None else float(energies[frame]),
            forces=None if forces is None else forces[frame],
            file=str(path),
            frame=frame,
        )
        for frame in range(n_frames)
    ]


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (
        ValueError,
        OSError,
        EOFError,
        LookupError,
        TypeError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise InputError(f"{path}: not a readable npz file ({error})") from None


def _sized(path: Path, what: str, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    try:
        return np.asarray(values, dtype=np.float64).reshape(shape)
    except (TypeError, ValueError):
        raise InputError(f"{path}: {what} has the shape {np.shape(values)}, which does not fit {shape}") from None
