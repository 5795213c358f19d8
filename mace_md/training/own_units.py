"""The units that a file of data states itself, under the many names that programs give them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from mace_md.errors import InputError

# Keys of a unit, without case, underscores and plurals.
_KEYS = {
    "energy": ("eunit", "energyunit", "unitenergy", "unitsenergy"),
    "length": ("runit", "lengthunit", "distanceunit", "positionunit", "coordinateunit", "coordunit", "unitlength"),
    "forces": ("funit", "forceunit", "forcesunit", "unitforces"),
}
_ENERGY = {
    "ev": "eV", "electronvolt": "eV", "mev": "meV", "kcal/mol": "kcal/mol", "kcalpermol": "kcal/mol",
    "kcalmol": "kcal/mol", "kcalmol-1": "kcal/mol", "kcalmol^-1": "kcal/mol", "kj/mol": "kJ/mol", "kjmol": "kJ/mol",
    "kjmol-1": "kJ/mol", "kjmol^-1": "kJ/mol", "kjpermol": "kJ/mol", "hartree": "Hartree", "ha": "Hartree",
    "eh": "Hartree", "e_h": "Hartree", "au": "Hartree", "a.u.": "Hartree", "atomic": "Hartree",
}  # fmt: skip
_LENGTH = {
    "a": "A", "ang": "A", "angstrom": "A", "angström": "A", "ångström": "A", "å": "A", "aa": "A", "bohr": "Bohr",
    "au": "Bohr", "a.u.": "Bohr", "a0": "Bohr", "a_0": "Bohr", "atomic": "Bohr", "nm": "nm", "nanometer": "nm",
}  # fmt: skip


def own_units(values: Mapping[str, Any], where: str) -> dict[str, str]:
    """The units of energy, length and forces that `values` state, in the package's names; empty where they do not.

    Raises InputError for a unit that is not known here: a guess would be wrong by a factor.
    """
    found = {}
    for key, value in values.items():
        plain = re.sub(r"[_\- ]", "", key.lower()).removesuffix("s")
        for what, names in _KEYS.items():
            text = _text(value)
            if plain in names and text is not None:
                found[what] = _name(what, text, f"{where}: its '{key}'")
    return found


def _text(value: Any) -> str | None:
    """The text in a string, bytes, or an array of one; None for anything else."""
    if isinstance(value, np.ndarray):
        if value.size != 1 or value.dtype.kind not in "USO":
            return None
        value = value.reshape(-1)[0]
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    return value.strip() if isinstance(value, str) else None


def _name(what: str, text: str, where: str) -> str:
    plain = re.sub(r"[\s*·]", "", text.lower())
    if what == "forces":
        above, slash, below = plain.rpartition("/")
        if slash and _find(_ENERGY, above) and _find(_LENGTH, below):
            return f"{_find(_ENERGY, above)}/{_find(_LENGTH, below)}"
    else:
        name = _find(_ENERGY if what == "energy" else _LENGTH, plain)
        if name:
            return name
    raise InputError(f"{where} is '{text}', a unit of {what} that is unknown here. Say what it is: --{what}-unit.")


def _find(table: Mapping[str, str], plain: str) -> str | None:
    return table.get(plain) or table.get(plain.removesuffix("s"))
