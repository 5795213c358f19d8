"""The labelled data of the paper's tables, as the extended XYZ files that both training programs read (eV, A).

Sources: BOTNet-datasets (AcAc, 3BPA) and revised MD17, in a folder with `acac`, `3bpa` and `rmd17`. Splits here
are made once and written to files, so that every program trains, validates and tests on the same frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.io import write

from mace_md.training.data import read_configurations

ENERGY_KEY, FORCES_KEY = "REF_energy", "REF_forces"
RMD17 = (
    "aspirin", "azobenzene", "benzene", "ethanol", "malonaldehyde", "naphthalene", "paracetamol", "salicylic",
    "toluene", "uracil",
)  # fmt: skip
N_VALID = 50


@dataclass(frozen=True)
class Dataset:
    """Files of one benchmark: training, validation, and test sets by name."""

    name: str
    train: Path
    valid: Path
    tests: dict[str, Path]


def names() -> list[str]:
    """Every data set that `prepare` knows."""
    return ["acac", "3bpa", *(f"rmd17-{molecule}" for molecule in RMD17)]


def prepare(name: str, source: Path, folder: Path, n_train: int | None = None) -> Dataset:
    """Write the files of data set `name` below `folder` (kept when they are there) and say where they are.

    Parameters
    ----------
    name : one of `names()`.
    source : folder with `acac`, `3bpa`, `rmd17`.
    n_train : training frames; None takes 450 of AcAc and 3BPA and 950 of rMD17, as the paper does. Smaller sets are the
        beginning of the larger ones; the 50 validation frames are the same for all.
    """
    molecule = name.removeprefix("rmd17-")
    read_source = {"acac": _acac, "3bpa": _3bpa}.get(name, lambda source: _rmd17(source, molecule))
    n_train = n_train or (950 if name.startswith("rmd17-") else 450)
    target = folder / f"{name}-{n_train}"
    done = target / "complete"
    if not done.exists():
        frames, tests = read_source(source)
        order = np.random.default_rng(0).permutation(len(frames))
        if n_train > len(frames) - N_VALID:
            raise SystemExit(f"{name} has {len(frames)} frames for training and validation, {n_train} are too many")
        target.mkdir(parents=True, exist_ok=True)
        _write(target / "train.xyz", [frames[i] for i in order[N_VALID : N_VALID + n_train]])
        _write(target / "valid.xyz", [frames[i] for i in order[:N_VALID]])
        for test, members in tests.items():
            _write(target / f"test_{test}.xyz", members)
        done.touch()
    tests = {path.stem.removeprefix("test_"): path for path in sorted(target.glob("test_*.xyz"))}
    return Dataset(name, target / "train.xyz", target / "valid.xyz", tests)


def _acac(source: Path) -> tuple[list[Atoms], dict[str, list[Atoms]]]:
    tests = {
        "300K": "test_MD_300K.xyz.gz",
        "600K": "test_MD_600K.xyz.gz",
        "dihedral": "test_dihedral.xyz",
        "H_transfer": "test_H_transfer.xyz",
    }
    folder = source / "acac"
    return _molecules(folder / "train_300K.xyz.gz"), {t: _molecules(folder / file) for t, file in tests.items()}


def _3bpa(source: Path) -> tuple[list[Atoms], dict[str, list[Atoms]]]:
    folder = source / "3bpa"
    tests = {t: _molecules(folder / f"test_{t}.xyz.gz") for t in ("300K", "600K")}
    return _molecules(folder / "train_300K.xyz.gz"), tests


def _rmd17(source: Path, molecule: str) -> tuple[list[Atoms], dict[str, list[Atoms]]]:
    train, test = (_npz(source / "rmd17" / f"rmd17_{molecule}_{part}_01.npz") for part in ("train", "test"))
    return train, {"test": test}


def _molecules(path: Path) -> list[Atoms]:
    """Frames of a file without their box, which is empty space here; energies eV, forces eV/A where there are any."""
    return [_labelled(c.atomic_numbers, c.positions, c.energy, c.forces) for c in read_configurations(path)]


def _npz(path: Path) -> list[Atoms]:
    data = np.load(path)
    unit = units.kcal / units.mol
    energies, forces = data["energies"] * unit, data["forces"] * unit
    numbers = data["nuclear_charges"]
    return [_labelled(numbers, *frame) for frame in zip(data["coords"], energies, forces, strict=True)]


def _labelled(numbers, positions, energy: float, forces: np.ndarray | None) -> Atoms:
    atoms = Atoms(numbers, positions)
    atoms.info[ENERGY_KEY] = float(energy)
    if forces is not None:
        atoms.arrays[FORCES_KEY] = forces
    return atoms


def _write(path: Path, frames: list[Atoms]) -> None:
    write(path, frames, format="extxyz")
