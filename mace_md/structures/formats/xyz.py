"""XYZ and extended XYZ as programs write them: symbols, atomic numbers or labels, blank lines between frames.

What is settled here is which lines are a frame, and which element a species is; ASE reads the rest.
"""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms

from mace_md.errors import InputError
from mace_md.structures.formats.elements import NamedAtom, readings, settle
from mace_md.structures.formats.isotopes import element_of_symbol, mass_of
from mace_md.structures.formats.text import read_text
from mace_md.units import ANGSTROM_TO_NM

_TINKER = re.compile(r"\s*\d+\s+[A-Za-z][\w+-]*\s+-?\d+\.\d+\s+-?\d+\.\d+\s+-?\d+\.\d+\s+\d+")
_ISOTOPE = re.compile(r"(\d{1,3})([A-Z][a-z]?)|([A-Z][a-z]?)\((?:.*,)?\s*iso=(\d{1,3})(?:,.*)?\)", re.IGNORECASE)
_GHOST = re.compile(r"(?i)^(x|xx|bq|gh|q|du|dum|tv|lp|[a-z]{1,2}:|@[a-z]+|bq-?[a-z]+|gh\(.*\))\d*$")


@dataclass(frozen=True)
class XyzFrame:
    """Lines of one frame, and the number of its first line in the file, counted from 1."""

    lines: list[str]
    first: int
    num_atoms: int


def read_xyz(path: Path, frame: int | None) -> tuple[Atoms, np.ndarray | None, list[str], int]:
    """The atoms of a frame, masses (Da) where the file states any, notes, and how many frames there are."""
    frames = list(_frames(path))
    if not frames:
        raise InputError(f"{path}: holds no atoms.")
    index = 0 if frame is None else frame
    if not -len(frames) <= index < len(frames):
        raise InputError(f"{path}: has no frame with index {index}; the first is @0, the last is @{len(frames) - 1}.")
    atoms, masses, notes = _read_frame(path, frames[index])
    return atoms, masses, notes, len(frames)


def _frames(path: Path) -> Iterator[XyzFrame]:
    """The frames of a file; blank lines before one are no part of it. Raises InputError naming the line."""
    lines = read_text(path).split("\n")
    at, number = 0, 0
    while at < len(lines):
        if not lines[at].strip():
            at += 1
            continue
        words = lines[at].split()
        if not words[0].isdigit():
            what = f"frame {number} is to begin there with its number of atoms" if number else "no number of atoms"
            raise InputError(
                f"{path}: line {at + 1}: {what}, and there is '{lines[at].strip()[:60]}'. An xyz file has the number "
                "of atoms, a line of comment, and a line for each atom."
            )
        if any(_TINKER.match(line) for line in lines[at + 1 : at + 3]):
            raise InputError(f"{path}: is a Tinker file, not xyz. Convert it, as with Open Babel: obabel -itxyz -oxyz.")
        count = int(words[0])
        body = lines[at : at + 2 + count]
        while body and not body[-1].strip() and len(body) > 2:
            body.pop()
        blank = next((k for k, line in enumerate(body[2:]) if not line.strip()), None)
        if len(body) < 2 + count or blank is not None:
            found = len(body) - 2 if blank is None else blank
            raise InputError(
                f"{path}: frame {number} is to have {count} atoms, but {_what_ends(lines, at, found)}. Correct the "
                "number, or complete the file."
            )
        at += 2 + count
        while at < len(lines) and lines[at].startswith("VEC"):  # the cell of a few programs
            body.append(lines[at])
            at += 1
        yield XyzFrame(body, at - len(body) + 1, count)
        number += 1


def _what_ends(lines: list[str], at: int, found: int) -> str:
    """`the file ends after 3`, or `line 12 is blank, after 3`."""
    end = at + 2 + max(found, 0)
    if any(line.strip() for line in lines[end:]):
        return f"line {end + 1} is blank, after {max(found, 0)}"
    return f"the file ends after {max(found, 0)}"


def _by_ase(lines: list[str], comment: str) -> Atoms:
    import ase.io

    text = "\n".join([lines[0].split()[0], comment, *lines[2:]]) + "\n"
    atoms = ase.io.read(io.StringIO(text), format="extxyz")
    assert isinstance(atoms, Atoms)  # one frame
    return atoms


def _read_frame(path: Path, frame: XyzFrame) -> tuple[Atoms, np.ndarray | None, list[str]]:
    columns = _columns(frame.lines[1])
    species, positions = _species_and_positions(path, frame, columns)
    symbols, masses, notes = _elements(path, frame, species, positions)
    where = columns["species"][0] if "species" in columns else columns.get("Z", (0,))[0]
    lines = list(frame.lines)
    for k, symbol in enumerate(symbols):
        words = lines[k + 2].split()
        words[where] = symbol if "species" in columns else str(element_of_symbol(symbol).atomic_number)
        lines[k + 2] = " ".join(words)
    plain = not re.search("lattice|properties|pbc", lines[1], re.IGNORECASE)
    try:
        try:
            atoms = _by_ase(lines, lines[1])
        except Exception:
            if not plain:
                raise
            atoms = _by_ase(lines, "")  # a comment that happens to look like keys
            notes = [*notes, "the comment line says nothing that is read"]
    except Exception as error:  # whatever its parser met
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path}: line {frame.first + 1}: the comment and the columns it names cannot be read ({reason[:160]}). "
            "Correct them; in a plain xyz file the comment may be anything without '='."
        ) from error
    if atoms.has("masses"):
        masses = _stated(path, atoms)
    if np.isnan(masses).all():
        return atoms, None, notes
    atoms.set_masses(np.where(np.isnan(masses), atoms.get_masses(), masses))  # momenta of the file are divided by them
    return atoms, masses, notes


def _stated(path: Path, atoms: Atoms) -> np.ndarray:
    """[n_atoms] Da of the column `masses`. Raises InputError for masses that are none."""
    masses = np.asarray(atoms.arrays["masses"], dtype=float)
    bad = np.flatnonzero(~(masses > 0) | ~np.isfinite(masses))
    if len(bad):
        raise InputError(
            f"{path}: atom {bad[0] + 1} ({atoms.symbols[bad[0]]}) has the mass {masses[bad[0]]:g} Da. Correct the "
            "column 'masses'; atoms that are not to move are given with --freeze."
        )
    return masses


def _columns(comment: str) -> dict[str, tuple[int, int]]:
    """Name of each column of the atoms -> (first word, number of words), from `Properties=`, or the plain four."""
    found = re.search(r"""Properties\s*=\s*["']?([^\s"']+)""", comment, re.IGNORECASE)
    if found is None:
        return {"species": (0, 1), "pos": (1, 3)}
    parts = found.group(1).split(":")
    columns, start = {}, 0
    for name, size in zip(parts[0::3], parts[2::3], strict=False):
        columns[name] = (start, int(size) if size.isdigit() else 1)
        start += columns[name][1]
    return columns


def _species_and_positions(path: Path, frame: XyzFrame, columns: dict) -> tuple[list[str], np.ndarray]:
    """The word for the element of each atom, and positions [n, 3] A."""
    name = next((name for name in ("species", "Z", "numbers") if name in columns), None)
    if name is None or "pos" not in columns:
        raise InputError(
            f"{path}: line {frame.first + 1}: Properties names no columns 'species' (or 'Z') and 'pos'. Correct it."
        )
    at, first = columns[name][0], columns["pos"][0]
    species, positions = [], np.zeros((frame.num_atoms, 3))
    for k, line in enumerate(frame.lines[2 : 2 + frame.num_atoms]):
        words = line.split()
        try:
            positions[k] = [float(word.replace("D", "E").replace("d", "e")) for word in words[first : first + 3]]
            species.append(words[at])
        except (ValueError, IndexError):
            raise InputError(
                f"{path}: line {frame.first + 2 + k}: no element and three coordinates ('{line.strip()[:60]}'). An "
                "atom of an xyz file is a symbol, an atomic number or a label, then x, y and z in A."
            ) from None
    return species, positions


def _elements(path: Path, frame: XyzFrame, species: list[str], positions: np.ndarray):
    """Symbols for ASE, masses [n] Da (NaN where the element's own), and notes on numbers and labels."""
    named, plain = [], True
    species, stated_masses = _without_isotopes(species)
    for k, word in enumerate(species):
        stated = _stated_symbol(word)
        if _GHOST.match(word) or (not stated and not readings(word)):
            raise InputError(
                f"{path}: line {frame.first + 2 + k}: atom {k + 1} has no chemical element ('{word}'). Name its "
                "element by symbol or number, or take the line out (a ghost or a dummy is no atom)."
            )
        plain &= bool(stated)
        named.append(NamedAtom(word, "", 0, stated, label=str(k + 1)))
    if plain:
        elements, notes = [element_of_symbol(atom.stated) for atom in named], []
    else:
        elements, notes = settle(path, named, positions * ANGSTROM_TO_NM, "labels in place of symbols")
    if any(word[0].isdigit() and _stated_symbol(word) for word in species):
        notes = [*notes, "the species of the file are atomic numbers"]
    masses = np.array([mass_of(e) if e.atomic_number == 1 and mass_of(e) > 1.5 else np.nan for e in elements])
    masses = np.where(np.isnan(stated_masses), masses, stated_masses)
    return [element.symbol for element in elements], masses, notes


def _without_isotopes(species: list[str]) -> tuple[list[str], np.ndarray]:
    """The words without the mass numbers of `13C`, `2H` and `H(iso=2)`, and the masses [n] Da they say (else NaN).

    A number before the symbol is one of the atom, not of its mass, where all atoms are counted so, or where the element
    has no such isotope.
    """
    found = [_ISOTOPE.fullmatch(word) for word in species]
    masses = np.full(len(species), np.nan)
    if not any(found) or all(match and match[1] == str(k) for k, match in enumerate(found, start=1)):
        return species, masses
    words = list(species)
    for k, match in enumerate(found):
        symbol, number = (match[2] or match[3], match[1] or match[4]) if match else ("", "")
        element = element_of_symbol(symbol) if symbol else None
        mass = 0.0 if element is None else _isotope_mass(element.atomic_number, int(number))
        if mass > 0:
            words[k], masses[k] = symbol, mass
    return words, masses


def _isotope_mass(number: int, mass_number: int) -> float:
    """Da, or 0 where RDKit knows no such isotope."""
    from rdkit import Chem

    return float(Chem.GetPeriodicTable().GetMassForIsotope(number, mass_number))


def _stated_symbol(word: str) -> str:
    """The symbol that a species is for sure, by number or as symbols are written; '' for a label."""
    from openmm.app import Element

    if re.fullmatch(r"\d+(\.0*)?", word):
        number = int(word.partition(".")[0])
        return Element._elements_by_atomic_number[number].symbol if number in Element._elements_by_atomic_number else ""
    written = len(word) == 1 or (word[:1].isupper() and word[1:].islower())
    return word.capitalize() if written and len(word) <= 2 and element_of_symbol(word) else ""
