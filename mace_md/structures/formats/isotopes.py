"""Isotopes: elements with a mass of their own, which travel with the atoms of an OpenMM topology.

OpenMM takes the mass of an atom from its element. Its deuterium has the mass of the nucleus (2.01355 Da) and the symbol
D, which ASE and others cannot read; here an isotope keeps the symbol of its element, and weighs what the atom does.
"""

from collections import Counter
from collections.abc import Iterable
from copy import deepcopy
from functools import cache

from openmm import app, unit

DEUTERIUM = 2.0141017781  # Da, the atom with its electron (AME2020: Wang et al., Chinese Phys. C 45, 030003, 2021)
TRITIUM = 3.0160492820
HYDROGEN_ISOTOPES = {"D": DEUTERIUM, "T": TRITIUM}
# Tables of atomic weights differ by up to this; a mass of a file that is closer to the element's is the element's.
TABLE_SPREAD = 0.005  # Da
TABLE_SPREAD_RELATIVE = 5e-4


class Isotope(app.Element):
    """An element with another mass; symbol and atomic number are the element's."""

    def __init__(self, number: int, mass: float) -> None:
        element = app.Element.getByAtomicNumber(number)
        # without Element.__init__, which would put it into OpenMM's table of elements
        self._atomic_number, self._name, self._symbol = number, element.name, element.symbol
        self._mass = mass * unit.dalton

    def __reduce__(self):
        return isotope, (self._atomic_number, self._mass.value_in_unit(unit.dalton))


@cache
def isotope(number: int, mass: float) -> Isotope:
    """The element with this atomic number, weighing `mass` (Da)."""
    return Isotope(number, mass)


def mass_of(element: app.Element) -> float:
    """Da."""
    return element.mass.value_in_unit(unit.dalton)


def is_standard(number: int, mass: float) -> bool:
    """Whether a mass (Da) is that of the element as it occurs in nature, in any table of atomic weights."""
    own = mass_of(app.Element.getByAtomicNumber(number))
    return abs(mass - own) <= max(TABLE_SPREAD, TABLE_SPREAD_RELATIVE * own)


def weighing(element: app.Element, mass: float) -> app.Element:
    """The element, or its isotope where `mass` (Da) is not that of the element."""
    number = element.atomic_number
    return app.Element.getByAtomicNumber(number) if is_standard(number, mass) else isotope(number, float(mass))


@cache
def element_of_symbol(symbol: str) -> app.Element | None:
    """The element of a symbol in any case, D and T as isotopes of hydrogen; None for what is no symbol."""
    symbol = symbol.strip().upper()
    if symbol in HYDROGEN_ISOTOPES:
        return isotope(1, HYDROGEN_ISOTOPES[symbol])
    try:
        return app.Element.getBySymbol(symbol)
    except KeyError:
        return None


def plain(element: app.Element | None) -> app.Element | None:
    """The element that an isotope is of, which OpenMM's templates know."""
    return app.Element.getByAtomicNumber(element.atomic_number) if isinstance(element, Isotope) else element


def without_isotopes(topology: app.Topology) -> app.Topology:
    """The topology with elements in place of isotopes, in a copy where there are any."""
    if not any(isinstance(atom.element, Isotope) for atom in topology.atoms()):
        return topology
    bare = deepcopy(topology)
    for atom in bare.atoms():
        atom.element = plain(atom.element)
    return bare


def isotope_notes(elements: Iterable[app.Element | None]) -> list[str]:
    """One sentence on the masses that are not those of the elements; none where there are no isotopes."""
    found = Counter(
        f"{element.symbol} of {mass_of(element):.4f} Da" for element in elements if isinstance(element, Isotope)
    )
    if not found:
        return []
    shown = ", ".join(f"{count} {what}" for what, count in list(found.items())[:6])
    return [f"isotopes, by the masses of the file: {shown}{', ...' if len(found) > 6 else ''}"]
