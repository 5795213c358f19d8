"""Frames of one molecule from the npz layout of the revised MD17 (Christensen and von Lilienfeld 2020), and of sGDML.

sGDML's files (MD17, MD22) say their units (`e_unit`, `r_unit`) and may have a `lattice`, its vectors as columns."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mace_md.errors import InputError
from mace_md.training.configuration import Configuration, LabelFormat
from mace_md.training.data_file import DataFile
from mace_md.training.labels import describe_keys
from mace_md.training.own_units import own_units

# what -> default key; the first MD17 and sGDML files use z, R, E, F
_KEYS = {
    "numbers": ("nuclear_charges", "z"),
    "positions": ("coords", "R"),
    "energy": ("energies", "E"),
    "forces": ("forces", "F"),
}


def read_npz(path: Path, labels: LabelFormat) -> list[Configuration]:
    """Every frame; from the units that `labels` asks for, or else the file states, or else kcal/mol and A.

    Raises InputError for another layout.
    """
    try:
        return _frames(path, _load(path), labels)
    except InputError:
        raise
    except (ValueError, TypeError, LookupError, OverflowError, AttributeError) as error:
        raise InputError(f"{path}: its arrays are not those of rMD17 ({str(error)[:200]})") from None


def _frames(path: Path, arrays: dict[str, np.ndarray], labels: LabelFormat) -> list[Configuration]:
    stated = own_units(arrays, str(path))
    factors = labels.with_units_of_file(stated).factors(energy_unit="kcal/mol")
    keys = _KEYS | {label: (labels.key(label),) for label in ("energy", "forces") if labels.key(label)}
    names = {what: next((key for key in names if key in arrays), None) for what, names in keys.items()}
    for what, name in names.items():
        required = what in ("numbers", "positions") or labels.key(what)
        if name is None and required:
            wanted = keys[what][0]
            raise InputError(f"{path}: no array '{wanted}' for {what}. {describe_keys(wanted, set(arrays))}")
    numbers = np.asarray(arrays[names["numbers"]], dtype=np.int64)
    positions = _sized(path, "positions", arrays[names["positions"]], (-1, numbers.shape[-1], 3)) * factors.length
    n_frames = len(positions)
    source = _source(path, arrays, names, n_frames, factors.units, stated)
    energies = forces = None
    if names["energy"] is not None:
        energies = _sized(path, "energy", arrays[names["energy"]], (n_frames,)) * factors.energy
    if names["forces"] is not None:
        forces = _sized(path, "forces", arrays[names["forces"]], positions.shape) * factors.forces
    cells, pbc = _boxes(path, arrays, n_frames, factors.length)
    return [
        Configuration(
            atomic_numbers=numbers if numbers.ndim == 1 else numbers[frame],
            positions=positions[frame],
            cell=cells[frame],
            pbc=(pbc,) * 3,
            energy=None if energies is None else float(energies[frame]),
            forces=None if forces is None else forces[frame],
            file=str(path),
            frame=frame,
            source=source,
        )
        for frame in range(n_frames)
    ]


def _source(
    path: Path, arrays: Mapping[str, np.ndarray], names: Mapping[str, str | None], n_frames: int,
    units: dict[str, str], stated: Mapping[str, str],
) -> DataFile:  # fmt: skip
    source = DataFile(str(path), frames=n_frames, units=units, keys=set(arrays))
    for label in ("energy", "forces"):
        if names[label] is not None:
            source.found[label] = {names[label]: n_frames}
    if stated:
        source.notes.append(
            f"its own units are taken: {', '.join(f'{what} in {unit}' for what, unit in stated.items())}"
        )
    return source


def _boxes(path: Path, arrays: Mapping[str, np.ndarray], n_frames: int, length: float) -> tuple[np.ndarray, bool]:
    """Cells [n_frames, 3, 3] with vectors as rows, A, and whether there are any. sGDML has them as columns."""
    if "lattice" not in arrays:
        return np.zeros((n_frames, 3, 3)), False
    lattice = np.asarray(arrays["lattice"], dtype=np.float64)
    if lattice.shape not in ((3, 3), (n_frames, 3, 3)):
        raise InputError(f"{path}: 'lattice' has the shape {lattice.shape}, which is no box of three vectors")
    return np.broadcast_to(np.swapaxes(lattice, -1, -2) * length, (n_frames, 3, 3)), True


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
