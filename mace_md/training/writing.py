"""Labelled configurations to a file that `mace-md train` and mace-torch read: extended XYZ, or HDF5."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from mace_md.errors import InputError
from mace_md.training.configuration import Configuration
from mace_md.training.hdf5 import write_hdf5

HDF5, XYZ = (".h5", ".hdf5"), (".xyz", ".extxyz")
_BLOCK = 500  # frames handed to ASE at once


def write_configurations(configurations: Iterable[Configuration], path: Path, overwrite: bool = False) -> int:
    """Write to `path`, in one piece or not at all, in the format of its suffix; returns how many there were.

    Extended XYZ has the labels under REF_energy (eV), REF_forces (eV/A) and REF_stress (eV/A^3), and `config_type` and
    `head`. Raises InputError for another suffix, and when the file exists, unless `overwrite`.
    """
    check_target(path, overwrite)
    if path.suffix.lower() in HDF5:
        return write_hdf5(configurations, path, overwrite)
    return _write_extxyz(configurations, path)


def check_target(path: Path, overwrite: bool) -> None:
    """Raise InputError when `path` cannot become a file of configurations."""
    if path.suffix.lower() not in HDF5 + XYZ:
        raise InputError(f"{path}: the suffix says the format; write to {', '.join(XYZ)}, {' or '.join(HDF5)}")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists. Choose another name, or give --force to replace it.")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.absolute().parent}")


def _write_extxyz(configurations: Iterable[Configuration], path: Path) -> int:
    from ase.io import write

    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    count, remaining = 0, iter(configurations)
    try:
        with open(partial, "w", encoding="utf-8") as file:
            while block := [_atoms(configuration) for configuration in islice(remaining, _BLOCK)]:
                write(file, block, format="extxyz")
                count += len(block)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        with suppress(FileNotFoundError):
            partial.unlink()
    return count


def _atoms(configuration: Configuration):
    from ase import Atoms

    atoms = Atoms(configuration.atomic_numbers, configuration.positions, cell=configuration.cell, pbc=configuration.pbc)
    atoms.info.update(_facts(configuration))
    if configuration.forces is not None:
        atoms.arrays["REF_forces"] = configuration.forces
    return atoms


def _facts(configuration: Configuration) -> Iterator[tuple[str, object]]:
    if configuration.energy is not None:
        yield "REF_energy", configuration.energy
    if configuration.stress is not None:
        yield "REF_stress", configuration.stress.reshape(9)
    yield "config_type", configuration.config_type
    if configuration.head != "Default":
        yield "head", configuration.head
    if configuration.charge is not None:
        yield "charge", configuration.charge
    if configuration.spin is not None:
        yield "spin", configuration.spin
    for name in ("weight", "energy_weight", "forces_weight", "stress_weight"):
        if getattr(configuration, name) != 1.0:
            yield f"config_{name}", getattr(configuration, name)
