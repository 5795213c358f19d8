"""Elements of force field topologies, where an atom has a name, a mass, and sometimes an atomic number.

The mass decides between the readings of a name, and has to agree with the atomic number. Masses that were moved from
heavy atoms to their hydrogens are put back before they are compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from openmm import app

from mace_md.errors import InputError
from mace_md.structures.formats.contents import VIRTUAL_SITE_NAMES
from mace_md.structures.formats.elements import Guesses, NamedAtom, lone_ion, readings, settle
from mace_md.structures.formats.isotopes import element_of_symbol, isotope_notes, mass_of, weighing

HEAVIEST_PROTIUM = 1.1  # Da; anything above was repartitioned, or is deuterium
HEAVIEST_HYDROGEN = 4.6  # Da; no one gives a hydrogen more
SAME = 0.15  # Da; masses of one element in two force fields (16.0 and 15.9994)
LIKELY = 0.6  # Da, between a mass and that of an element its name can mean (12, 12.011; 107.87, 108.0)
MOST_OF_AN_ISOTOPE = (1.6, 0.04)  # Da, and a share of the mass: no isotope is farther from the mean of its element
_UNITED = {"CH": 13.019, "CH2": 14.027, "CH3": 15.035, "CH4": 16.043}


@dataclass(frozen=True)
class TypedAtom:
    """Name and residue as in the file, which residue and if it is all of it, atomic number and mass in Da (or 0)."""

    name: str
    residue: str
    group: int
    alone: bool
    number: int
    mass: float


def settle_by_mass(
    path: Path, atoms: Sequence[TypedAtom], bonds: np.ndarray, positions: np.ndarray, source: str
) -> tuple[list[app.Element | None], list[str]]:
    """The element of each atom (None for a site without mass), as an isotope where its mass says so; and notes.

    bonds [n, 2]; positions [n_atoms, 3] nm, for atoms that have neither mass nor number. source : in the log, for
    elements that the file does not state. Raises InputError for atoms whose mass contradicts their name or their atomic
    number.
    """
    masses, notes = _put_back(atoms, bonds)
    guesses, elements, odd = Guesses(), [], 0
    unweighed = _without_mass(path, atoms, positions)
    for i, (atom, mass) in enumerate(zip(atoms, masses.tolist(), strict=True)):
        if atom.number > 0:
            element = app.Element.getByAtomicNumber(atom.number)
            _refuse_other(path, i, atom, element, mass)
        elif atom.name.upper() in VIRTUAL_SITE_NAMES or (atom.number == 0 and atom.mass == 0.0 and _is_site(atom)):
            elements.append(None)
            continue
        else:
            element = unweighed[i] if mass <= 0 else _by_name_and_mass(path, i, atom, mass)
            if element is None:
                raise InputError(_cannot(path, i, atom, mass, "no element can be told from this name"))
            guesses.add(atom.name, element)
        if mass > 0 and not notes and abs(mass - mass_of(element)) > SAME:
            if _may_be_isotope(element, mass):
                element = weighing(element, mass)
            else:
                odd += 1
        elements.append(element)
    if odd:
        notes.append(f"{odd} masses of {path.name} are those of no isotope; those of the elements are used")
    return elements, [*guesses.note(source), *notes, *isotope_notes(elements)]


def _without_mass(path: Path, atoms: Sequence[TypedAtom], positions: np.ndarray) -> list[app.Element | None]:
    """Elements by name and distance, for topologies that leave masses to a force field that is not there."""
    if all(atom.number > 0 or atom.mass > 0 or _is_site(atom) for atom in atoms):
        return [None] * len(atoms)
    named = [NamedAtom(atom.name, atom.residue, atom.group, label=str(i + 1)) for i, atom in enumerate(atoms)]
    return settle(path, named, positions, "")[0]


def _put_back(atoms: Sequence[TypedAtom], bonds: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """[n_atoms] Da, with the mass that hydrogens took from their neighbours given back; and a note if they did."""
    masses = np.array([atom.mass for atom in atoms])
    hydrogen = np.array([_is_hydrogen(atom) for atom in atoms], dtype=bool)
    heavy_ones = hydrogen & (masses > HEAVIEST_PROTIUM)
    if not heavy_ones.any():
        return masses, []
    light = mass_of(app.element.hydrogen)
    back = masses.copy()
    touched = np.zeros(len(masses), dtype=bool)
    for i, j in bonds.tolist():
        for h, other in ((i, j), (j, i)):
            if heavy_ones[h] and not hydrogen[other]:
                back[other] += masses[h] - light
                touched[other] = True
    back[heavy_ones] = light
    as_is = sum(_fits(atoms[i], masses[i]) for i in np.flatnonzero(touched))
    given_back = sum(_fits(atoms[i], back[i]) for i in np.flatnonzero(touched))
    if given_back <= as_is:
        if all(_may_be_isotope(app.element.hydrogen, mass) for mass in masses[heavy_ones]):
            return masses, []  # deuterium, on atoms that weigh what they should
        back = np.where(heavy_ones, light, masses)
    return back, [
        f"the topology has repartitioned masses (hydrogen up to {masses[heavy_ones].max():.3f} Da); they are not used, "
        "the masses here are those of the elements"
    ]


def _is_hydrogen(atom: TypedAtom) -> bool:
    if atom.number:
        return atom.number == 1
    return 0 < atom.mass < HEAVIEST_HYDROGEN and readings(atom.name)[-1:] in (("H",), ("D",))


def _fits(atom: TypedAtom, mass: float) -> bool:
    """Whether a mass is that of the element, or of one that the name can mean."""
    found = [app.Element.getByAtomicNumber(atom.number)] if atom.number > 0 else _candidates(atom)
    return any(abs(mass_of(element) - mass) < SAME for element in found)


def _candidates(atom: TypedAtom) -> list[app.Element]:
    symbols = readings(atom.name)
    if atom.alone:
        ion = lone_ion(atom.residue, atom.name)
        symbols = (ion, *symbols) if ion else symbols
    return [element_of_symbol(symbol) for symbol in symbols]


def _is_site(atom: TypedAtom) -> bool:
    return not readings(atom.name)


def _by_name_and_mass(path: Path, i: int, atom: TypedAtom, mass: float) -> app.Element:
    """The reading of the name that weighs what the atom does."""
    candidates = _candidates(atom)
    fitting = [element for element in candidates if abs(mass_of(element) - mass) < LIKELY]
    if fitting:
        return min(fitting, key=lambda element: abs(mass_of(element) - mass))
    nearest = _nearest(mass)
    if nearest is not None and not candidates:
        return nearest
    isotopes = [element for element in candidates if nearest is None and _may_be_isotope(element, mass)]
    if isotopes and not _united(mass):
        return isotopes[-1]
    if nearest is not None:
        raise InputError(_cannot(path, i, atom, mass, f"the mass is that of {nearest.symbol}, the name says otherwise"))
    raise InputError(_cannot(path, i, atom, mass, "no element of this name has this mass"))


def _refuse_other(path: Path, i: int, atom: TypedAtom, element: app.Element, mass: float) -> None:
    """Raise InputError where the mass is clearly that of another element than the atomic number."""
    if mass <= 0 or abs(mass_of(element) - mass) < LIKELY:
        return
    nearest = _nearest(mass)
    if _united(mass) or (nearest is not None and nearest.atomic_number != atom.number):
        what = f"the atomic number is {atom.number} ({element.symbol})"
        raise InputError(_cannot(path, i, atom, mass, what))


def _cannot(path: Path, i: int, atom: TypedAtom, mass: float, what: str) -> str:
    united = _united(mass)
    hint = (
        f"A united atom {united}? MACE needs every hydrogen; take an all-atom force field."
        if united
        else "Correct the mass, the name, or the atomic number in [ atomtypes ]; a coarse-grained bead has no element."
    )
    return f"{path}: atom {i + 1} ({atom.name}, residue {atom.residue}, mass {mass:g} Da): {what}. {hint}"


def _united(mass: float) -> str:
    return next((name for name, own in _UNITED.items() if abs(mass - own) < 0.006), "")


def _nearest(mass: float) -> app.Element | None:
    """The element whose mass this is, or None where it is no element's."""
    nearest = app.Element.getByMass(mass)
    if nearest is app.element.deuterium:
        nearest = app.element.hydrogen
    return nearest if nearest is not None and abs(mass_of(nearest) - mass) < SAME else None


def _may_be_isotope(element: app.Element, mass: float) -> bool:
    own = mass_of(element)
    if element.atomic_number == 1:
        # 2.016 and 3.024 are two and three times 1.008, as a repartitioned hydrogen has them
        return any(abs(mass - isotope) < 0.0012 for isotope in (2.0, 2.014, 3.016))
    return abs(mass - own) < max(MOST_OF_AN_ISOTOPE[0], MOST_OF_AN_ISOTOPE[1] * own)
