"""Labelled frames from extended XYZ, or from any trajectory that ASE reads."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mace_md.errors import InputError
from mace_md.training.configuration import Configuration, Factors, LabelFormat
from mace_md.training.data_file import DataFile, charge_and_spin
from mace_md.training.labels import read_labels, refuse_changing_keys
from mace_md.training.own_units import own_units
from mace_md.training.xyz_text import FrameText, is_xyz, read_frames

_OF_A_DAMAGED_FILE = (  # what ASE raises for one
    ValueError, LookupError, AttributeError, TypeError, StopIteration, RuntimeError, OSError, EOFError,
)  # fmt: skip
_WEIGHTS = {
    "weight": "config_weight",
    "energy_weight": "config_energy_weight",
    "forces_weight": "config_forces_weight",
    "stress_weight": "config_stress_weight",
}
_AS_WRITTEN = "__as_written"
_STRESS_KEY = re.compile(r"(?<!\S)(stress|virial)(?=\s*=)")
_FORTRAN = re.compile(r"(?<=\d)[dD](?=[-+]\d)")


def read_extxyz(path: Path, labels: LabelFormat) -> list[Configuration]:
    """Every frame of the file, in eV and A. Raises InputError for what is no trajectory, or a key that no frame has."""
    configurations, source, factors = [], DataFile(str(path)), labels.factors()
    for frame, atoms in enumerate(_frames(path, source)):
        values = _values(atoms)
        source.keys |= set(values)
        if frame == 0:
            labels = labels.with_units_of_file(own_units(values, str(path)))
            factors = labels.factors()
        configurations.append(_configuration(atoms, values, labels, factors, source, frame))
    if not configurations:
        raise InputError(f"{path}: there is no frame in it")
    source.frames, source.units = len(configurations), factors.units
    refuse_changing_keys(source, labels)
    return configurations


def _frames(path: Path, source: DataFile) -> Iterator[Any]:
    """ASE's atoms of every frame."""
    if is_xyz(path):
        for frame, text in enumerate(read_frames(path)):
            if frame == 0:
                source.notes += _unnamed_columns(text)
            yield _atoms(text, path, frame)
        return
    import ase.io
    from ase.io.formats import UnknownFileTypeError

    try:
        yield from ase.io.iread(path, index=":")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except UnknownFileTypeError:
        raise InputError(f"{path}: ASE does not know this kind of file. Convert it to extended XYZ.") from None
    except _OF_A_DAMAGED_FILE as error:
        raise InputError(f"{path}: cannot be read as a trajectory ({type(error).__name__}: {error})") from None


# --- extended XYZ ---


def _atoms(text: FrameText, path: Path, frame: int) -> Any:
    try:
        return _parse(text)
    except _OF_A_DAMAGED_FILE as first:
        try:
            return _parse(_in_plain_words(text))
        except _OF_A_DAMAGED_FILE:
            reason = f"'{first.args[0]}' is no element" if isinstance(first, KeyError) else str(first)
            raise InputError(
                f"{path}: frame {frame} (counted from 0), from line {text.line} on, cannot be read ({reason})"
            ) from None


def _parse(text: FrameText) -> Any:
    from ase.io.extxyz import read_xyz

    content = io.StringIO("".join((f"{text.n_atoms}\n{text.comment}\n", *text.rows)))
    return next(iter(read_xyz(content, index=0, properties_parser=_properties)))


def _properties(comment: str) -> dict[str, Any]:
    """The comment line as ASE reads it, but for a stress, in which ASE allows for nine numbers only."""
    from ase.io.extxyz import key_val_str_to_dict

    return key_val_str_to_dict(_STRESS_KEY.sub(rf"\1{_AS_WRITTEN}", comment))


def _in_plain_words(text: FrameText) -> FrameText:
    """The frame with what ASE does not know written as it does: exponents with D, and elements as numbers, labels
    (C12) or isotopes (D)."""
    properties = re.search(r"Properties=[\"']?(\S+)", text.comment)
    rows = [_FORTRAN.sub("e", row) for row in text.rows]
    if properties is None or properties.group(1).startswith("species:S:1"):
        rows = [_with_element(row) for row in rows]
    return text._replace(comment=_FORTRAN.sub("e", text.comment), rows=rows)


def _with_element(row: str) -> str:
    from ase.data import chemical_symbols

    name, _, rest = row.strip().partition(" ")
    if name.isdigit() and 0 < int(name) < len(chemical_symbols):
        name = chemical_symbols[int(name)]
    elif name in ("D", "T"):
        name = "H"
    elif name.rstrip("0123456789").capitalize() in chemical_symbols:
        name = name.rstrip("0123456789")
    return f"{name} {rest}\n"


def _unnamed_columns(text: FrameText) -> list[str]:
    """A remark when rows have columns that Properties does not name: nobody would read them."""
    found = re.search(r"Properties=[\"']?([^\s\"']+)", text.comment)
    fields = (found.group(1) if found else "species:S:1:pos:R:3").split(":")
    try:
        named = sum(map(int, fields[2::3]))
    except ValueError:
        return []
    columns = len(text.rows[0].split()) if text.rows else 0
    if columns <= named:
        return []
    return [
        f"the atoms have {columns} columns, of which {named} have a name; the others are not read. Name them in the "
        "second line of each frame: Properties=species:S:1:pos:R:3:forces:R:3"
    ]


# --- frames ---


def _values(atoms: Any) -> dict[str, Any]:
    """Everything a frame says, by key, from info, arrays and the calculator that ASE makes of `energy` and `forces`."""
    values = dict(atoms.arrays) | {key.removesuffix(_AS_WRITTEN): value for key, value in atoms.info.items()}
    if atoms.calc is not None:
        values |= {key: value for key, value in atoms.calc.results.items() if value is not None}
    return values


def _configuration(
    atoms: Any, values: Mapping[str, Any], labels: LabelFormat, factors: Factors, source: DataFile, frame: int
) -> Configuration:
    cell = np.array(atoms.cell.array, dtype=np.float64) * factors.length
    volume = abs(float(np.linalg.det(cell))) if any(atoms.pbc) else 0.0
    found = read_labels(values, labels, factors, len(atoms), volume, source, frame)
    charge, spin = charge_and_spin(values, (atoms.arrays.get("initial_charges"), values.get("charges")))
    try:
        weights = {name: float(values.get(key, 1.0)) for name, key in _WEIGHTS.items()}
    except (TypeError, ValueError) as error:
        raise InputError(f"{source.path}, frame {frame} (counted from 0): a weight is no number ({error})") from None
    return Configuration(
        atomic_numbers=np.array(atoms.numbers, dtype=np.int64),
        positions=np.array(atoms.positions, dtype=np.float64) * factors.length,
        cell=cell if any(atoms.pbc) else np.zeros((3, 3)),
        pbc=tuple(bool(x) for x in atoms.pbc),
        energy=found.energy,
        forces=found.forces,
        stress=found.stress,
        head=str(values.get(labels.head_key, "Default")),
        config_type=str(values.get(labels.config_type_key, "Default")),
        charge=charge,
        spin=spin,
        file=source.path,
        frame=frame,
        source=source,
        **weights,
    )
