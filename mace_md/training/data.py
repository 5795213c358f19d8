"""Labelled configurations from files, and their division into training and validation sets."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mace_md.errors import InputError
from mace_md.training.configuration import ISOLATED_ATOM, LABELS, Configuration, LabelFormat
from mace_md.training.deepmd import is_deepmd, read_deepmd
from mace_md.training.extxyz import read_extxyz
from mace_md.training.hdf5 import Hdf5Configurations, write_hdf5
from mace_md.training.npz import read_npz

__all__ = [
    "ISOLATED_ATOM",
    "LABELS",
    "Configuration",
    "Joined",
    "LabelFormat",
    "Reweighted",
    "Subset",
    "atom_counts",
    "read_configurations",
    "read_index",
    "split_data",
    "take_isolated_atoms",
    "write_hdf5",
]

log = logging.getLogger("mace_md")
_HDF5 = (".h5", ".hdf5")


class Subset(Sequence[Configuration]):
    """Some frames of a sequence, in a given order, without reading them."""

    def __init__(self, data: Sequence[Configuration], indices: Sequence[int]):
        self._data, self.indices = data, [int(index) for index in indices]
        self.is_lazy = getattr(data, "is_lazy", False)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Configuration:
        return self._data[self.indices[index]]

    def atom_counts(self) -> np.ndarray:
        """Atoms of each frame."""
        return atom_counts(self._data)[self.indices]


class Joined(Sequence[Configuration]):
    """Several sequences one after the other, without reading them."""

    def __init__(self, parts: Sequence[Sequence[Configuration]]):
        self._parts = list(parts)
        self._ends = np.cumsum([len(part) for part in self._parts])
        self.is_lazy = any(getattr(part, "is_lazy", False) for part in parts)

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._parts else 0

    def __getitem__(self, index: int) -> Configuration:
        index = range(len(self))[index]
        part = int(np.searchsorted(self._ends, index, side="right"))
        return self._parts[part][index - (int(self._ends[part - 1]) if part else 0)]

    def atom_counts(self) -> np.ndarray:
        """Atoms of each frame."""
        return np.concatenate([atom_counts(part) for part in self._parts])


class Reweighted(Sequence[Configuration]):
    """The frames with their weights multiplied by that of their config_type, as they are read."""

    def __init__(self, data: Sequence[Configuration], factors: Mapping[str, float]):
        self._data, self._factors = data, dict(factors)
        self.is_lazy = getattr(data, "is_lazy", False)

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> Configuration:
        configuration = self._data[index]
        factor = self._factors.get(configuration.config_type, 1.0)
        return replace(configuration, weight=factor * configuration.weight)

    def atom_counts(self) -> np.ndarray:
        """Atoms of each frame."""
        return atom_counts(self._data)


def atom_counts(data: Sequence[Configuration]) -> np.ndarray:
    """Atoms of each frame, without reading the frames where that can be avoided."""
    if hasattr(data, "atom_counts"):
        return data.atom_counts()
    return np.array([len(configuration.atomic_numbers) for configuration in data], dtype=np.int64)


def read_configurations(
    paths: str | Path | Sequence[str | Path], labels: LabelFormat | None = None
) -> Sequence[Configuration]:
    """The frames of one or several files, in eV and A.

    The suffix says the format: .npz is the rMD17 layout, .h5 and .hdf5 the layout of `hdf5.py` (read frame by frame
    when asked for), anything else is what ASE reads, extended XYZ first of all. Labels may be missing: `checks.py` says
    whether they may. The log says of each file how many frames it has, and the key and unit of each label. Raises
    InputError with the file, the frame, and what to do.
    """
    labels = labels or LabelFormat()
    paths = [paths] if isinstance(paths, (str, Path)) else list(paths)
    parts = [_read_one(Path(path).expanduser(), labels) for path in paths]
    for part in parts:
        source = part.source if isinstance(part, Hdf5Configurations) else part[0].source
        log.info("%s", source.line())
        for remark in source.remarks():
            log.warning("data: %s", remark)
    if all(isinstance(part, list) for part in parts):
        return [configuration for part in parts for configuration in part]
    return parts[0] if len(parts) == 1 else Joined(parts)


def _read_one(path: Path, labels: LabelFormat) -> Sequence[Configuration]:
    if path.is_dir():
        if is_deepmd(path):
            return read_deepmd(path, labels)
        raise InputError(f"{path}: this is a folder; give the file inside it (only DeePMD-kit's are read whole)")
    suffix = path.suffix.lower()
    if suffix in _HDF5:
        return Hdf5Configurations(path)
    return read_npz(path, labels) if suffix == ".npz" else read_extxyz(path, labels)


def split_data(
    data: Sequence[Configuration],
    *,
    fraction: float | None = None,
    count: int | None = None,
    index: Sequence[int] | None = None,
    seed: int = 0,
) -> tuple[Subset, Subset]:
    """Training and validation sets: a random `fraction`, a random `count`, or the frames `index` for validation.

    The division depends on the number of frames and the seed only. Raises InputError when nothing would be left to
    train on, or to validate with.
    """
    n = len(data)
    if index is not None:
        chosen = np.array(sorted({int(i) for i in index}), dtype=np.int64)
        bad = chosen[(chosen < 0) | (chosen >= n)]
        if len(bad):
            raise InputError(f"validation index {bad[0]}: there are {n} frames, counted from 0")
    else:
        if count is None:
            count = max(1, round((0.05 if fraction is None else fraction) * n))
        chosen = np.sort(np.random.default_rng(seed).permutation(n)[:count])
    if not 0 < len(chosen) < n:
        raise InputError(f"{len(chosen)} of {n} frames for validation leaves {n - len(chosen)} for training")
    return Subset(data, np.setdiff1d(np.arange(n), chosen)), Subset(data, chosen)


def read_index(path: str | Path) -> list[int]:
    """Frame numbers, counted from 0, one or several a line; raises InputError."""
    path = Path(path)
    try:
        return [int(word) for word in path.read_text(encoding="utf-8-sig").replace(",", " ").split()]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise InputError(f"{path}: frame numbers only, counted from 0 ({error})") from None


def take_isolated_atoms(data: Sequence[Configuration]) -> tuple[Sequence[Configuration], list[Configuration]]:
    """The frames to train on, and those of isolated atoms, whose energies are E0s.

    Frames of single ions are neither: the log says that they are left out.
    """
    single = [int(i) for i in np.flatnonzero(atom_counts(data) == 1) if data[int(i)].is_lone_atom]
    ions = [i for i in single if data[i].is_lone_ion]
    if ions:
        first = data[ions[0]]
        log.warning(
            "data: %d frames of single ions are left out (first: %s, charge %+g): no energies of neutral atoms, and "
            "nothing that could be fitted to them", len(ions), first.where, first.charge,
        )  # fmt: skip
    if not single:
        return data, []
    rest = np.setdiff1d(np.arange(len(data)), single)
    return Subset(data, rest), [data[i] for i in single if i not in set(ions)]
