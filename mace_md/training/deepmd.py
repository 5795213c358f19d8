"""Frames from a folder in DeePMD-kit's npy layout: type.raw, type_map.raw and set.*/coord.npy, energy.npy, ...

Units are eV and A; its virials are -stress x volume, as here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mace_md.errors import InputError
from mace_md.training.configuration import Configuration, Factors, LabelFormat
from mace_md.training.data_file import DataFile

_LABELS = {"energy": "energy.npy", "forces": "force.npy", "virials": "virial.npy"}


def is_deepmd(path: Path) -> bool:
    """Whether a folder has this layout."""
    return (path / "type.raw").is_file()


def read_deepmd(path: Path, labels: LabelFormat) -> list[Configuration]:
    """Every frame, in the order of the sets; raises InputError for a folder that lacks something."""
    factors = labels.factors()
    numbers = _numbers(path)
    periodic = not (path / "nopbc").exists()
    sets = sorted(folder for folder in path.glob("set.*") if folder.is_dir())
    if not sets:
        raise InputError(f"{path}: there is no folder set.000 in it, as DeePMD-kit writes")
    source = DataFile(str(path), units=factors.units)
    configurations: list[Configuration] = []
    for folder in sets:
        configurations += _set(folder, numbers, periodic, factors, source, len(configurations))
    source.frames = len(configurations)
    return configurations


def _set(
    folder: Path, numbers: np.ndarray, periodic: bool, factors: Factors, source: DataFile, before: int
) -> list[Configuration]:
    """The frames of one set, after `before` others."""
    if (folder / "real_atom_types.npy").exists():
        raise InputError(f"{folder}: systems of mixed types are not read. Convert them to extended XYZ with dpdata.")
    positions = _array(folder / "coord.npy", (-1, len(numbers), 3)) * factors.length
    n = len(positions)
    cells = _array(folder / "box.npy", (n, 3, 3)) * factors.length if periodic else np.zeros((n, 3, 3))
    shapes = {"energy": (n,), "forces": (n, len(numbers), 3), "virials": (n, 3, 3)}
    found = {name: _array(folder / file, shapes[name]) for name, file in _LABELS.items() if (folder / file).exists()}
    volume = np.abs(np.linalg.det(cells))
    for name in found:
        for frame in range(n):
            source.take(name, _LABELS[name], before + frame)
    has_stress = "virials" in found and (volume > 0).all()
    return [
        Configuration(
            atomic_numbers=numbers,
            positions=positions[frame],
            cell=cells[frame],
            pbc=(periodic,) * 3,
            energy=float(found["energy"][frame]) * factors.energy if "energy" in found else None,
            forces=found["forces"][frame] * factors.forces if "forces" in found else None,
            stress=-found["virials"][frame] * factors.energy / volume[frame] if has_stress else None,
            file=source.path,
            frame=before + frame,
            source=source,
        )
        for frame in range(n)
    ]


def _numbers(path: Path) -> np.ndarray:
    from ase.data import atomic_numbers

    try:
        types = np.array((path / "type.raw").read_text().split(), dtype=np.int64)
        names = (path / "type_map.raw").read_text().split()
        return np.array([atomic_numbers[names[i]] for i in types], dtype=np.int64)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no type_map.raw in it, which says the elements, one a line") from None
    except (ValueError, KeyError, IndexError) as error:
        raise InputError(f"{path}: type.raw and type_map.raw do not give elements ({error})") from None


def _array(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False).astype(np.float64).reshape(shape)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: cannot be read as numbers of the shape {shape} ({error})") from None
