"""What a file of labelled frames gave: how many frames, and under which key and in which unit each label was found."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# What other programs call them; a key with such a part is offered, never taken unasked.
_PARTS = {
    "energy": ("energ", "etot", "e_tot", "toten"),
    "forces": ("force", "grad"),
    "stress": ("stress",),
    "virials": ("virial",),
}
_EXACT = {"energy": ("e", "u", "u0"), "forces": ("f",), "stress": ("sigma",), "virials": ("w",)}
_CHARGE = ("charge", "totalcharge", "netcharge", "molecularcharge", "systemcharge", "totcharge", "q")
_SPIN = ("spin", "totalspin", "multiplicity", "spinmultiplicity", "mult", "uhf", "nunpaired")


@dataclass
class DataFile:
    """One file, as it was read."""

    path: str
    frames: int = 0
    units: dict[str, str] = field(default_factory=dict)  # of each label, and of length
    found: dict[str, dict[str, int]] = field(default_factory=dict)  # label -> key -> frames
    first: dict[str, dict[str, int]] = field(default_factory=dict)  # label -> key -> the first frame that has it
    keys: set[str] = field(default_factory=set)  # of everything that a frame says
    without_volume: int = 0  # frames whose stress was left out: they have none
    six_numbers: bool = False  # whether a stress was six numbers
    free_energy_apart: float = 0.0  # largest difference to the energy, in the file's unit per atom
    notes: list[str] = field(default_factory=list)

    def take(self, label: str, key: str, frame: int) -> None:
        """A frame has this label under this key."""
        counts = self.found.setdefault(label, {})
        counts[key] = counts.get(key, 0) + 1
        self.first.setdefault(label, {}).setdefault(key, frame)

    def near(self, label: str) -> list[str]:
        """Keys of the file that may be this label under another name, the most alike first."""
        names = ("stress", "virials") if label in ("stress", "virials") else (label,)
        alike = [key for key in sorted(self.keys) if any(is_alike(key, name) for name in names)]
        taken = {key for counts in self.found.values() for key in counts}
        order = difflib.get_close_matches(label, alike, n=len(alike) or 1, cutoff=0.0)
        return [key for key in order if key not in taken]

    def hint(self, label: str) -> str:
        """A sentence that names those keys, for a message that the label is missing; or none."""
        found = self.found.get(label, {})
        if found:
            return f" {' and '.join(f'{n} of {self.frames} frames have it under {key!r}' for key, n in found.items())}."
        near = self.near(label)
        if not near:
            return ""
        name = "virials" if label == "stress" and is_alike(near[0], "virials") else label
        others = f" (also there: {', '.join(near[1:4])})" if near[1:] else ""
        return f" The file has '{near[0]}'{others}: --{name}-key {near[0]} takes it."

    def line(self) -> str:
        """For the log: frames, and for each label its keys, its unit and in how many frames it is."""
        parts = [self._part("energy"), self._part("forces")]
        pressed = [label for label in ("stress", "virials") if self.found.get(label)]
        parts += [self._part(label) for label in pressed] or ["no stress"]
        return f"{self.path}: {self.frames} frame{'s' * (self.frames != 1)}; {', '.join(parts)}"

    def remarks(self) -> list[str]:
        """What a person should know of how it was read."""
        remarks = [f"{self.path}: {note}" for note in self.notes]
        if self.without_volume:
            remarks.append(
                f"{self.path}: the stress of {self.without_volume} frames is left out, since they have no volume (no "
                "periodic direction, or fewer than three cell vectors)"
            )
        if self.six_numbers:
            remarks.append(f"{self.path}: six numbers of a stress are read as xx yy zz yz xz xy")
        if self.free_energy_apart:
            remarks.append(
                f"{self.path}: free_energy differs from energy by up to {self.free_energy_apart:.3g} "
                f"{self.units.get('energy', '')} an atom. Forces of smeared electrons are slopes of the free energy: "
                "--energy-key free_energy takes it"
            )
        return remarks

    def _part(self, label: str) -> str:
        counts = self.found.get(label)
        if not counts:
            return f"no {label}"
        unit = self.units.get(label, "")
        places = [f"{key} ({unit})" + ("" if n == self.frames else f" in {n}") for key, n in counts.items()]
        return f"{label} from {' and '.join(places)}"


def is_alike(key: str, label: str) -> bool:
    """Whether a key sounds like a label: force, DFT_energy, total_energy; not a weight, and no unit."""
    name = key.lower()
    if any(word in name for word in ("weight", "unit", "max", "rms", "std", "norm", "kinetic", "ekin")):
        return False
    return name in _EXACT[label] or any(part in name for part in _PARTS[label])


def charge_and_spin(values: Mapping[str, Any], charges: Iterable[Any] = ()) -> tuple[float | None, float | None]:
    """What a frame says of its total charge (e) and of its spin, in whatever convention; None where it says nothing.

    charges : per-atom charges, one array for each place where they may be; the first that is there is added up.
    """
    charge, spin = (_named(values, names) for names in (_CHARGE, _SPIN))
    if charge is None:
        for array in charges:
            if array is not None:
                charge = round(float(np.sum(array)), 3)
                break
    return charge, spin


def _named(values: Mapping[str, Any], names: Iterable[str]) -> float | None:
    for key, value in values.items():
        plain = re.sub(r"^(ref|dft|mace)|[_\- ]", "", key.lower())
        if plain in names and np.ndim(value) == 0:
            try:
                return float(value)
            except (TypeError, ValueError):
                continue
    return None
