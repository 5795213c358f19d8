"""Which element an atom is, where a file gives a name, a mass or a wish in place of an element.

In order: the ion that a residue of one atom is named for; the residue, where its chemistry is known; the distance to
the nearest atom, which tells calcium from a carbon CA; the columns of a PDB file, where its names are aligned. What
contradicts itself is refused. `by_mass` does the same where there are masses.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from openmm import app

from mace_md.errors import InputError
from mace_md.structures.formats.contents import VIRTUAL_SITE_NAMES
from mace_md.structures.formats.ions import ION_RESIDUES, ion_of, is_standard_residue, is_water
from mace_md.structures.formats.isotopes import element_of_symbol, plain
from mace_md.units import NM_TO_ANGSTROM

FARTHEST_NEIGHBOUR = 3.2  # A; the longest bond to a heavy metal is shorter, and no farther atom says anything
# How much better a distance has to fit another element, as the logarithm of distance over the sum of covalent radii.
# Na, K, Ca and the like are 60 % off where they are C or N (0.5); Cl and Br against C and B 10 to 16 % (0.1 to 0.15).
CLEARLY = 0.25
RATHER = 0.05
_HALOGENS = ("Cl", "Br")
_UNBONDED = ("Li", "Na", "K", "Rb", "Cs", "Mg", "Ca", "Sr", "Ba")  # no neighbours of a carbon or nitrogen in a molecule
_NOBLE = ("He", "Ne", "Ar", "Kr", "Xe", "Rn")
# A name with one letter too many is more often its first letter than one of these, which no force field has.
_NEVER_IN_NAMES = frozenset(("Ho", "He", "Ne", "Hf", "Cf", "Cm", "Es", "Fm", "Md", "No", "Bk", "Np", "Pa", "Nh", "Fl",
                             "Ts", "Og", "Ds", "Rg", "Cn", "Db", "Sg", "Bh", "Hs", "Mt", "Nd", "Po", "At", "Fr", "Ra",
                             "Ac", "Th", "Pu", "Am", "Lr", "Rf", "Mc", "Lv", "Pm"))  # fmt: skip
_DUMMIES = ("DU", "DUM", "X", "XX", "BQ", "GH", "TV", "Q", "LP")
_SHOWN = 40


class NamedAtom(NamedTuple):
    """What a file says about one atom.

    name, residue : as in the file, without blanks around them.
    group : which residue, counted through the file.
    stated : the element symbol that the file gives, or '' where it has none.
    two_letters : whether the columns of the name say that its element has two letters; None where they say nothing.
    label : for messages: where the atom is in the file.
    """

    name: str
    residue: str
    group: int
    stated: str = ""
    two_letters: bool | None = None
    label: str = ""


@dataclass
class Guesses:
    """Names that elements were read from, and how often, for the log."""

    found: Counter = field(default_factory=Counter)

    def add(self, name: str, element: app.Element | None) -> None:
        """Count one name."""
        self.found[f"{name} -> {'no element' if element is None else element.symbol}"] += 1

    def note(self, source: str) -> list[str]:
        """`elements from the atom names (...): CA -> C (22), SOD -> Na (1)`; rare ones first where there are many."""
        if not self.found:
            return []
        kept = sorted(self.found.items(), key=lambda item: (_is_plain(item[0]), -item[1], item[0]))
        shown = [f"{what} ({count})" for what, count in kept[:_SHOWN]]
        rest = Counter()
        for what, count in kept[_SHOWN:]:
            rest[what.rpartition(" ")[2]] += count
        shown += [f"other names -> {symbol} ({count})" for symbol, count in rest.items()]
        return [f"elements were guessed from the atom names ({source}): {', '.join(shown)}"]


def _is_plain(what: str) -> bool:
    """Whether a guess is the first letter of the name and nothing else to think of."""
    name, _, symbol = what.partition(" -> ")
    return len(readings(name)) == 1 and symbol == name.strip("0123456789")[:1].upper()


def settle(
    path: Path, atoms: Sequence[NamedAtom], positions: np.ndarray, source: str
) -> tuple[list[app.Element | None], list[str]]:
    """The element of each atom (None for a virtual site, and for a name that says nothing), and notes.

    positions [n_atoms, 3] nm. source : why elements had to be guessed, for the log. Raises InputError where the element
    that a file states contradicts the name of an ion, or the distances in a molecule.
    """
    sizes = Counter(atom.group for atom in atoms)
    near = _Neighbours(atoms, positions)
    guesses, elements = Guesses(), []
    for i, atom in enumerate(atoms):
        alone = sizes[atom.group] == 1
        stated = element_of_symbol(atom.stated) if atom.stated else None
        if stated is not None:
            _refuse_contradiction(path, atom, stated, alone, near, i)
            elements.append(stated)
            continue
        element = _of_one(atom, alone) if alone else _of_many(atom, near, i)
        if element is not None or atom.name.upper() not in VIRTUAL_SITE_NAMES:
            guesses.add(atom.name, element)
        elements.append(element)
    return elements, guesses.note(source)


@cache
def readings(name: str) -> tuple[str, ...]:
    """The element symbols that a name may begin with, the longest first; () when there is none.

    `CA` gives Ca and C, `C1` gives C, `ZN2` gives Zn, `1HB` gives H, `Cl1` (with its case) gives Cl only.
    """
    letters = re.match(r"[A-Za-z]*", name.lstrip("0123456789 '\"*+-_(")).group()
    if not letters or letters.upper() in _DUMMIES:
        return ()
    two, one = letters[:2], letters[:1]
    if len(two) == 2 and two[0].isupper() and two[1].islower() and _is_symbol(two) and not letters[2:3].islower():
        return (two,)
    found = (two.capitalize(),) if len(two) == 2 and _is_symbol(two) else ()
    return found + ((one.upper(),) if _is_symbol(one) else ())


def is_exact(name: str) -> bool:
    """Whether the letters of a name are one symbol of two letters and no more, as in CA, FE1, CL2."""
    letters = re.sub(r"[^A-Za-z]", "", name)
    return len(letters) == 2


def lone_ion(residue: str, name: str) -> str | None:
    """The symbol of the ion that a residue of one atom is, by both of its names; None for what is no ion."""
    by_name, by_residue = ion_of(name), ion_of(residue)
    if by_name is not None:
        return by_name
    fits = by_residue in readings(name) or name.strip().upper() == residue.strip().upper()
    return by_residue if by_residue is not None and fits else None


def _number(symbol: str) -> int:
    return element_of_symbol(symbol).atomic_number


def _is_symbol(text: str) -> bool:
    return element_of_symbol(text) is not None


def _of_one(atom: NamedAtom, alone: bool) -> app.Element | None:
    """The element of an atom that is a residue by itself: an ion or a noble gas, or a bead of a chain."""
    if is_standard_residue(atom.residue) and not (is_water(atom.residue) and ion_of(atom.name)):
        return _first_letter(atom)
    symbol = lone_ion(atom.residue, atom.name)
    if symbol is not None:
        return element_of_symbol(symbol)
    if atom.name.upper() in VIRTUAL_SITE_NAMES:
        return None
    found = readings(atom.name)
    letters = re.sub(r"[^A-Za-z]", "", atom.name)
    if found and len(letters) == len(found[0]):
        return element_of_symbol(found[0])
    return None  # a first letter would make sulfur of SOD and carbon of CAL: refused by the reader


def _of_many(atom: NamedAtom, near: "_Neighbours", i: int) -> app.Element | None:
    """The element of an atom among others in its residue."""
    residue = atom.residue.upper()
    if residue in ION_RESIDUES and ion_of(atom.name):
        return element_of_symbol(ion_of(atom.name))
    if atom.name.upper() in VIRTUAL_SITE_NAMES and residue != atom.name.upper():
        return None
    if near.has_parent(i):
        return None
    if is_standard_residue(residue):
        return _first_letter(atom)
    found = [symbol for symbol in readings(atom.name) if symbol not in _NOBLE]
    if len(found) < 2:
        return element_of_symbol(found[0]) if found else None
    return element_of_symbol(_better(atom, found[0], found[1], near, i))


def _better(atom: NamedAtom, two: str, one: str, near: "_Neighbours", i: int) -> str:
    """Which of two readings of a name it is, by the columns of the file and by the distance to the next atom."""
    gain = near.gain(i, two, one)  # above 0 where the distance fits the two letters better
    if gain is not None and abs(gain) > (RATHER if two in _HALOGENS else CLEARLY):
        return two if gain > 0 else one
    if atom.two_letters is not None and not (atom.two_letters and two in _NEVER_IN_NAMES):
        return two if atom.two_letters else one
    if two in _HALOGENS or (is_exact(atom.name) and two not in _NEVER_IN_NAMES):
        return two if gain is None or gain > -RATHER else one
    return one


def _first_letter(atom: NamedAtom) -> app.Element | None:
    """In residues of proteins, nucleic acids and water the first letter is the element."""
    found = readings(atom.name)
    return element_of_symbol(found[-1]) if found else None


def _refuse_contradiction(
    path: Path, atom: NamedAtom, stated: app.Element, alone: bool, near: "_Neighbours", i: int
) -> None:
    """Raise InputError where the element column cannot be right: written by a program that guessed it."""
    own = plain(stated).symbol
    where = f"{path}: atom {atom.label or i + 1} ({atom.name}, residue {atom.residue}): the file states the element "
    named = lone_ion(atom.residue, atom.name) if alone and not is_standard_residue(atom.residue) else None
    if named is not None and named != own:
        raise InputError(
            f"{where}{own}, but a residue of this name with one atom is {named}. Correct the element, or the name."
        )
    found = readings(atom.name)
    if alone or len(found) != 2 or own not in found or is_standard_residue(atom.residue):
        return
    other = found[1] if own == found[0] else found[0]
    if other in _NOBLE or other in _NEVER_IN_NAMES or (own == found[1] and not is_exact(atom.name)):
        return
    gain = near.gain(i, own, other)
    if gain is not None and gain < -CLEARLY:
        distance, neighbour = near.nearest(i)
        raise InputError(
            f"{where}{own}, but {neighbour} is {distance:.2f} A away, as from {other}. Correct the element, or leave "
            "it out."
        )


class _Neighbours:
    """The nearest atom of the same residue, with the element its name begins with."""

    def __init__(self, atoms: Sequence[NamedAtom], positions: np.ndarray) -> None:
        self._atoms, self._positions = atoms, np.asarray(positions) * NM_TO_ANGSTROM
        self._members: dict[int, list[int]] = {}
        for i, atom in enumerate(atoms):
            self._members.setdefault(atom.group, []).append(i)
        self._trees: dict[int, Any] = {}

    def has_parent(self, i: int) -> bool:
        """Whether the atom is the Drude particle of another: DOH2 of OH2."""
        name = self._atoms[i].name.upper()
        if name[:1] != "D" or len(name) < 2 or not name[1].isalpha():
            return False
        return any(self._atoms[j].name.upper() == name[1:] for j in self._members[self._atoms[i].group])

    def nearest(self, i: int) -> tuple[float, str]:
        """Distance (A) and name of the nearest atom; infinity when the atom is alone."""
        from scipy.spatial import cKDTree

        group = self._atoms[i].group
        members = self._members[group]
        if len(members) < 2:
            return np.inf, ""
        if group not in self._trees:
            self._trees[group] = cKDTree(self._positions[members])
        distances, found = self._trees[group].query(self._positions[i], k=2)
        other = int(found[1]) if members[int(found[0])] == i else int(found[0])
        return float(distances[1]), self._atoms[members[other]].name

    def gain(self, i: int, first: str, second: str) -> float | None:
        """How much better the distance to the nearest atom fits the element `first` than `second`; None: no saying."""
        from ase.data import covalent_radii

        distance, name = self.nearest(i)
        others = readings(name)
        if not 0.5 < distance < FARTHEST_NEIGHBOUR or not others:
            return None

        def misfit(symbol: str) -> float:  # with what the other may be, too: FE is iron or fluorine to it
            own = covalent_radii[_number(symbol)]
            partners = [other for other in others if len(symbol) == 2 or other not in _UNBONDED]
            radii = [covalent_radii[_number(other)] for other in partners or others]
            return min(abs(float(np.log(distance / (own + radius)))) for radius in radii)

        return misfit(second) - misfit(first)
