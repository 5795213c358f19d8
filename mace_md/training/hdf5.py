"""Labelled configurations in one HDF5 file that is read frame by frame: for data that do not fit in memory.

The layout, in eV and A (attribute `format` = "mace-md configurations", `version` = 1); frame i owns the atoms
`first_atom[i]` to `first_atom[i + 1]` of the arrays with n_atoms rows:

    first_atom      int64   [n_frames + 1]
    atomic_numbers  uint8   [n_atoms]
    positions       float64 [n_atoms, 3]
    cell            float64 [n_frames, 3, 3]      rows are the lattice vectors; zeros without a box
    pbc             bool    [n_frames, 3]
    energy          float64 [n_frames]            NaN where there is none, as in forces and stress
    forces          float64 [n_atoms, 3]
    stress          float64 [n_frames, 3, 3]      (dE/d strain) / volume
    weights         float64 [n_frames, 4]         configuration, energy, forces, stress
    head            text    [n_frames]
    config_type     text    [n_frames]
    charge, spin    float64 [n_frames]            as the data said them, NaN where they did not
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from mace_md.errors import InputError
from mace_md.training.configuration import Configuration
from mace_md.training.data_file import DataFile
from mace_md.training.patient_file import PatientFile

FORMAT, VERSION = "mace-md configurations", 1
_PER_ATOM = {"atomic_numbers": ((), np.uint8), "positions": ((3,), np.float64), "forces": ((3,), np.float64)}
_PER_FRAME = {
    "cell": ((3, 3), np.float64),
    "pbc": ((3,), np.bool_),
    "energy": ((), np.float64),
    "stress": ((3, 3), np.float64),
    "weights": ((4,), np.float64),
}
_TEXT = ("head", "config_type")
_OPTIONAL = ("charge", "spin")  # float64 [n_frames], NaN where the file said none; older files lack them
_BLOCK = 1000  # frames written at once


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """What HDF5 says of a damaged file, in one line."""
    try:
        yield
    except InputError:
        raise
    except (OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise InputError(f"{path}: a damaged HDF5 file ({reason}). Copy or write it again") from None


class Hdf5Configurations(Sequence[Configuration]):
    """The frames of a file, read when they are asked for. A copy in another process opens the file again."""

    is_lazy = True

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._file: Any = None
        with _explained(self.path):
            self._first_atom = self._open()["first_atom"][:]
            self.source = self._describe()

    def _open(self) -> Any:
        if self._file is None:
            h5py = _h5py()
            try:
                self._file = h5py.File(self.path, "r")
            except FileNotFoundError:
                raise InputError(f"{self.path}: no such file") from None
            except OSError as error:
                raise InputError(f"{self.path}: not a readable HDF5 file ({error})") from None
            _check_layout(self.path, self._file)
        return self._file

    def _describe(self) -> DataFile:
        """What the file has: of forces only the number of frames is known without reading them all."""
        n_frames, file = len(self), self._open()
        units = {"energy": "eV", "forces": "eV/A", "stress": "eV/A^3", "length": "A"}
        source = DataFile(str(self.path), frames=n_frames, units=units, keys={*_PER_ATOM, *_PER_FRAME, *_TEXT})
        counts = {
            "energy": int(np.isfinite(file["energy"][:]).sum()),
            "forces": n_frames if len(self._first_atom) and self._has_forces() else 0,
            "stress": int(np.isfinite(file["stress"][:, 0, 0]).sum()),
        }
        source.found = {label: {label: count} for label, count in counts.items() if count}
        return source

    def _has_forces(self) -> bool:
        """Whether any of the first frames has forces."""
        first = self._open()["forces"][: self._first_atom[min(len(self), 100)]]
        return bool(np.isfinite(first).any())

    def __len__(self) -> int:
        return len(self._first_atom) - 1

    def __getitem__(self, index: int) -> Configuration:
        index = range(len(self))[index]  # IndexError outside
        with _explained(self.path):
            return self._read(index)

    def _read(self, index: int) -> Configuration:
        file = self._open()
        atoms = slice(self._first_atom[index], self._first_atom[index + 1])
        values = {name: file[name][index] for name in _PER_FRAME}
        weights = [float(weight) for weight in values["weights"]]
        return Configuration(
            atomic_numbers=file["atomic_numbers"][atoms].astype(np.int64),
            positions=file["positions"][atoms],
            cell=values["cell"],
            pbc=tuple(bool(x) for x in values["pbc"]),
            energy=None if np.isnan(values["energy"]) else float(values["energy"]),
            forces=_known(file["forces"][atoms]),
            stress=_known(values["stress"]),
            weight=weights[0],
            energy_weight=weights[1],
            forces_weight=weights[2],
            stress_weight=weights[3],
            head=file["head"].asstr()[index],
            config_type=file["config_type"].asstr()[index],
            charge=_number(file, "charge", index),
            spin=_number(file, "spin", index),
            file=str(self.path),
            frame=index,
            source=self.source,
        )

    def atom_counts(self) -> np.ndarray:
        """Atoms of each frame."""
        return np.diff(self._first_atom)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None}


def write_hdf5(configurations: Iterable[Configuration], path: str | Path, overwrite: bool = False) -> int:
    """Write the configurations one after the other, in one piece or not at all; returns how many there were.

    Raises InputError when the file exists, unless `overwrite`, and OSError when it cannot be written.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise InputError(f"{path}: the file exists. Choose another name, or remove it first.")
    h5py = _h5py()
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with closing(PatientFile(partial)) as raw:
            with h5py.File(raw, "w") as file:
                _make_layout(file, h5py)
                for block in _blocks(configurations):
                    _append(file, block)
                    if raw.error is not None:
                        break
                count = len(file["first_atom"]) - 1
            raw.sync()
        os.replace(partial, path)
    finally:
        with suppress(FileNotFoundError):
            partial.unlink()
    return count


def _make_layout(file: Any, h5py: Any) -> None:
    file.attrs["format"], file.attrs["version"] = FORMAT, VERSION
    file.create_dataset("first_atom", data=np.zeros(1, dtype=np.int64), maxshape=(None,), chunks=(4096,))
    for name, (shape, dtype) in {**_PER_ATOM, **_PER_FRAME}.items():
        file.create_dataset(name, shape=(0, *shape), maxshape=(None, *shape), dtype=dtype, chunks=(1024, *shape))
    for name in _TEXT:
        file.create_dataset(name, shape=(0,), maxshape=(None,), dtype=h5py.string_dtype(), chunks=(1024,))
    for name in _OPTIONAL:
        file.create_dataset(name, shape=(0,), maxshape=(None,), dtype=np.float64, chunks=(1024,))


def _append(file: Any, block: list[Configuration]) -> None:
    counts = np.array([len(c.atomic_numbers) for c in block])
    last = file["first_atom"][-1]
    nothing = np.full((3, 3), np.nan)
    _extend(file["first_atom"], last + np.cumsum(counts))
    _extend(file["atomic_numbers"], np.concatenate([c.atomic_numbers for c in block]))
    _extend(file["positions"], np.concatenate([c.positions for c in block]))
    forces = [np.full_like(c.positions, np.nan) if c.forces is None else c.forces for c in block]
    _extend(file["forces"], np.concatenate(forces))
    _extend(file["cell"], np.stack([c.cell for c in block]))
    _extend(file["pbc"], np.array([c.pbc for c in block]))
    _extend(file["energy"], np.array([np.nan if c.energy is None else c.energy for c in block]))
    _extend(file["stress"], np.stack([nothing if c.stress is None else c.stress for c in block]))
    weights = [(c.weight, c.energy_weight, c.forces_weight, c.stress_weight) for c in block]
    _extend(file["weights"], np.array(weights))
    for name in _TEXT:
        _extend(file[name], np.array([getattr(c, name) for c in block], dtype=object))
    for name in _OPTIONAL:
        values = [getattr(c, name) for c in block]
        _extend(file[name], np.array([np.nan if value is None else value for value in values]))


def _extend(dataset: Any, values: np.ndarray) -> None:
    start = len(dataset)
    dataset.resize(start + len(values), axis=0)
    dataset[start:] = values


def _blocks(configurations: Iterable[Configuration]) -> Iterator[list[Configuration]]:
    block: list[Configuration] = []
    for configuration in configurations:
        block.append(configuration)
        if len(block) == _BLOCK:
            yield block
            block = []
    if block:
        yield block


def _number(file: Any, name: str, index: int) -> float | None:
    value = float(file[name][index]) if name in file else np.nan
    return None if np.isnan(value) else value


def _known(values: np.ndarray) -> np.ndarray | None:
    """None where every number is NaN; a single NaN stays, for the check of the data to find."""
    return None if values.size and np.isnan(values).all() else values


def _check_layout(path: Path, file: Any) -> None:
    if file.attrs.get("format") != FORMAT or file.attrs.get("version") != VERSION:
        found = ", ".join(sorted(map(str, file))[:8])
        raise InputError(
            f"{path}: not an HDF5 file of labelled configurations in mace-md's layout (it holds {found}). "
            "mace_md.training.hdf5.write_hdf5 writes one, from what read_configurations gives."
        )
    missing = {"first_atom", *_PER_ATOM, *_PER_FRAME, *_TEXT} - set(file)
    if missing:
        raise InputError(f"{path}: the datasets {', '.join(sorted(missing))} are missing in it")


def _h5py() -> Any:
    try:
        import h5py
    except ImportError:
        raise InputError("HDF5 files need h5py: pip install h5py") from None
    return h5py
