"""The only conversion constants of the package, and the reading of quantities written with a unit.

Inside the model: eV, A. In OpenMM: kJ/mol, nm, ps, bar. Values: SI 2019 (exact e, k, N_A), CODATA 2018 (Hartree, Bohr).
"""

import re

EV_TO_KJ_MOL = 96.48533212331002  # e * N_A / 1000
NM_TO_ANGSTROM = 10.0
ANGSTROM_TO_NM = 0.1
EV_PER_ANGSTROM_TO_KJ_MOL_NM = EV_TO_KJ_MOL * NM_TO_ANGSTROM
EV_PER_CUBIC_ANGSTROM_TO_BAR = 1.602176634e6  # e * 1e30 / 1e5
BOLTZMANN_EV_K = 8.617333262145179e-05  # k / e
BOLTZMANN_KJ_MOL_K = 8.31446261815324e-3  # k * N_A / 1000
KCAL_MOL_TO_EV = 4.184 / EV_TO_KJ_MOL
HARTREE_TO_EV = 27.211386245988
BOHR_TO_ANGSTROM = 0.529177210903
DEBYE_PER_E_ANGSTROM = 4.803204712570263  # e * 1e-10 m * c * 1e21, c in m/s
HBAR_KJ_MOL_PS = 0.06350779927394205  # h / (2 pi) * N_A * 1e9
FS_TO_PS = 1e-3
DALTON_PER_CUBIC_NM_TO_G_ML = 1.6605390666e-3

# name of a unit -> (dimension, size in the first unit of that dimension)
_UNITS = {
    "fs": ("time", 1.0), "ps": ("time", 1e3), "ns": ("time", 1e6), "us": ("time", 1e9), "ms": ("time", 1e12),
    "bar": ("pressure", 1.0), "atm": ("pressure", 1.01325), "Pa": ("pressure", 1e-5), "kPa": ("pressure", 1e-2),
    "MPa": ("pressure", 10.0), "GPa": ("pressure", 1e4), "kbar": ("pressure", 1e3),
    "K": ("temperature", 1.0),
    "A": ("length", 1.0), "nm": ("length", 10.0), "Bohr": ("length", BOHR_TO_ANGSTROM),
    "eV": ("energy", 1.0), "meV": ("energy", 1e-3), "Hartree": ("energy", HARTREE_TO_EV),
    "kcal/mol": ("energy", KCAL_MOL_TO_EV), "kJ/mol": ("energy", 1.0 / EV_TO_KJ_MOL),
    "1/ps": ("rate", 1.0), "/ps": ("rate", 1.0), "ps-1": ("rate", 1.0), "1/fs": ("rate", 1e3),
    "h": ("duration", 1.0), "min": ("duration", 1 / 60),
    "kJ/mol/nm^2": ("force constant", 1.0), "kcal/mol/A^2": ("force constant", 418.4),
    "eV/A^2": ("force constant", 100 * EV_TO_KJ_MOL),
    "kJ/mol/rad^2": ("force constant of an angle", 1.0), "kcal/mol/rad^2": ("force constant of an angle", 4.184),
    "degree": ("angle", 1.0), "rad": ("angle", 57.29577951308232),
    "Da": ("mass", 1.0),
    "kJ/mol/nm": ("force", 1.0), "eV/A": ("force", EV_PER_ANGSTROM_TO_KJ_MOL_NM),
    "bar*nm": ("surface tension", 1.0), "mN/m": ("surface tension", 10.0),
    "e": ("charge", 1.0),
    "mol/L": ("concentration", 1.0), "M": ("concentration", 1.0), "mM": ("concentration", 1e-3),
    "meV/atom": ("energy per atom", 1.0),
    "mPa*s": ("viscosity", 1.0), "cP": ("viscosity", 1.0), "Pa*s": ("viscosity", 1e3),
    "1/cm": ("wavenumber", 1.0),
}  # fmt: skip
_QUANTITY = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(\S.*?)?\s*$")


def parse_quantity(text: str, unit: str) -> float:
    """The number in `text` ('0.1 GPa', '1ns', '300'), converted to `unit`; a bare number is already in `unit`.

    Raises ValueError with the units that fit when the text is not a number or its unit is of another kind.
    """
    dimension, size = _UNITS[unit]
    match = _QUANTITY.match(text)
    if match is None:
        raise ValueError(f"expected a number in {unit}, got '{text}'")
    number, name = float(match.group(1)), match.group(2)
    if name is None or name == unit:
        return number
    found = _UNITS.get(name, ("", 0.0))
    if found[0] != dimension:
        fitting = ", ".join(key for key, (kind, _) in _UNITS.items() if kind == dimension)
        raise ValueError(f"'{text}' has the unit '{name}'; expected one of {fitting}")
    return number * (found[1] / size)


def unit_size(name: str, dimension: str) -> float:
    """The size of the unit `name` in the package's unit of `dimension` (eV for energy, A for length).

    Raises ValueError with the units that fit.
    """
    found = _UNITS.get(name, ("", 0.0))
    if found[0] != dimension:
        fitting = ", ".join(key for key, (kind, _) in _UNITS.items() if kind == dimension)
        raise ValueError(f"unknown unit of {dimension} '{name}'; expected one of {fitting}")
    return found[1]
