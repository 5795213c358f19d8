"""The labels of one frame, found among everything that it says: keys, shapes, units, and what contradicts itself."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from mace_md.errors import InputError
from mace_md.training.configuration import Factors, LabelFormat
from mace_md.training.data_file import DataFile

# Where a label is looked for when no key is given. ASE moves `energy` and `forces` into a calculator as it reads; a
# file written with mace-torch in mind calls them REF_...
DEFAULT_KEYS = {
    label: (f"REF_{label}", label, *(("virial", "REF_virial") if label == "virials" else ()))
    for label in ("energy", "forces", "stress", "virials")
}
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eEdD][-+]?\d+)?")
_SAME, _NOTHING = 0.02, 1e-4  # stress and virials: relative difference, and eV/A^3 that does not matter
_NOTICEABLE = 1e-3  # eV per atom between energy and free energy


class Labels(NamedTuple):
    """In eV and A."""

    energy: float | None
    forces: np.ndarray | None
    stress: np.ndarray | None


def read_labels(
    values: Mapping[str, Any],
    labels: LabelFormat,
    factors: Factors,
    n_atoms: int,
    volume: float,
    source: DataFile,
    frame: int,
) -> Labels:
    """The labels among `values`; `source` is told where they were. A stress needs a volume (A^3); 0 is none.

    Raises InputError for a label of another size, for several that could be meant, and for a stress and virials that
    contradict each other.
    """
    where = f"{source.path}, frame {frame} (counted from 0)"
    try:
        key, energy = _find(values, "energy", labels, where)
        if key is not None:
            source.take("energy", key, frame)
            energy = _scalar(energy) * factors.energy
            _compare_with_free_energy(values, key, energy / factors.energy, n_atoms, source)
        key, forces = _find(values, "forces", labels, where)
        if key is not None:
            source.take("forces", key, frame)
            forces = np.array(forces, dtype=np.float64).reshape(n_atoms, 3) * factors.forces
        stress = _stress(values, labels, factors, volume, source, frame, where)
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where}: a label is not made of numbers, or of another size ({error})") from None
    return Labels(energy, forces, stress)


def refuse_changing_keys(source: DataFile, labels: LabelFormat) -> None:
    """Raise InputError when a label was asked for that no frame has, or was found under changing keys."""
    for label in DEFAULT_KEYS:
        key, found = labels.key(label), source.found.get(label, {})
        if key is not None and key not in source.keys:
            raise InputError(
                f"{source.path}: no frame has {label} under the key '{key}'. {describe_keys(key, source.keys)}"
            )
        if len(found) > 1:
            first = source.first[label]
            places = " and ".join(f"'{key}' in {n} frames (first: frame {first[key]})" for key, n in found.items())
            raise InputError(
                f"{source.path}: {label} is under {places}, counted from 0. Are these labels of one kind? Give them "
                f"one key, or say which counts: --{label}-key {next(iter(found))}."
            )


def describe_keys(key: str, seen: set[str]) -> str:
    """The keys that are there, the nearest first, for a message."""
    near = difflib.get_close_matches(key, sorted(seen), n=3, cutoff=0.4)
    rest = sorted(seen - set(near) - {"numbers", "positions"})
    listed = ", ".join([*near, *rest]) or "none"
    return f"Keys that are there: {listed}."


def matrix(stress: Any) -> np.ndarray:
    """A stress as 3 x 3, from 9 numbers, nested or not, or from Voigt's 6 (xx yy zz yz xz xy), as text or numbers."""
    if isinstance(stress, str):
        stress = [float(number.lower().replace("d", "e")) for number in _NUMBER.findall(stress)]
    values = np.array(stress, dtype=np.float64).reshape(-1)
    if len(values) == 6:
        xx, yy, zz, yz, xz, xy = values
        return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    if len(values) != 9:
        raise ValueError(f"a stress has 9 numbers or 6 (xx yy zz yz xz xy), this one {len(values)}")
    return values.reshape(3, 3)


def _scalar(value: Any) -> float:
    if isinstance(value, str):
        value = value.lower().replace("d", "e")
    return float(np.asarray(value, dtype=np.float64).reshape(()))


def _find(values: Mapping[str, Any], label: str, labels: LabelFormat, where: str) -> tuple[str | None, Any]:
    """Key and value of a label, or two None. Raises InputError when two default keys are there and none was chosen."""
    key = labels.key(label)
    if key is not None:
        return (key, values[key]) if values.get(key) is not None else (None, None)
    present = [candidate for candidate in DEFAULT_KEYS[label] if candidate in values]
    if len(present) > 1:
        raise InputError(
            f"{where}: {label} could be {' or '.join(present)}. Say which with --{label}-key {present[0]}."
        )
    return (present[0], values[present[0]]) if present else (None, None)


def _compare_with_free_energy(
    values: Mapping[str, Any], key: str, energy: float, n_atoms: int, source: DataFile
) -> None:
    if key != "energy" or "free_energy" not in values:
        return
    apart = abs(_scalar(values["free_energy"]) - energy) / max(n_atoms, 1)
    if apart > _NOTICEABLE:
        source.free_energy_apart = max(source.free_energy_apart, apart)


def _stress(
    values: Mapping[str, Any],
    labels: LabelFormat,
    factors: Factors,
    volume: float,
    source: DataFile,
    frame: int,
    where: str,
) -> np.ndarray | None:
    one_is_chosen = labels.stress_key is not None or labels.virials_key is not None
    found = {}
    for label in ("stress", "virials"):
        if labels.key(label) is not None or not one_is_chosen:
            key, value = _find(values, label, labels, where)
            if key is not None:
                found[label] = key, matrix(value), np.size(value)
    if not found:
        return None
    if not volume > 0:
        source.without_volume += 1
        return None
    for label, (key, _, size) in found.items():
        source.take(label, key, frame)
        source.six_numbers |= size == 6
    by_label = {}
    if "stress" in found:
        by_label["stress"] = found["stress"][1] * factors.stress
    if "virials" in found:
        by_label["virials"] = -found["virials"][1] * factors.energy / volume
    if len(by_label) == 2:
        _refuse_contradiction(by_label["stress"], by_label["virials"], found, where)
    return next(iter(by_label.values()))


def _refuse_contradiction(stress: np.ndarray, other: np.ndarray, found: Mapping[str, tuple], where: str) -> None:
    apart, size = np.abs(stress - other).max(), max(np.abs(stress).max(), np.abs(other).max())
    if apart <= _SAME * size + _NOTHING:
        return
    ratio = float((stress * other).sum() / max((stress**2).sum(), 1e-300))
    what = f"-virials / volume is {ratio:.3g} times the stress"
    if abs(ratio + 1.0) < 0.05:
        what = "they have opposite signs (here virials = -stress x volume, stress > 0 wants to contract)"
    keys = found["stress"][0], found["virials"][0]
    raise InputError(
        f"{where}: its stress ('{keys[0]}') and its virials ('{keys[1]}') contradict each other: {what}. Say which "
        f"counts: --stress-key {keys[0]}, with --stress-unit if it needs one, or --virials-key {keys[1]}."
    )
