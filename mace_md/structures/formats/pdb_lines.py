"""The lines of a PDB file, sorted into frames and made fit for OpenMM's reader: one place an atom, an element for each.

OpenMM takes two atoms of one name in a residue for one atom at two alternate locations and leaves the second out.
Files written by programs without atom names (C, H, H, H, H) would lose most of their atoms that way.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from openmm import app, unit
from openmm.app.internal.unitcell import computePeriodicBoxVectors

from mace_md.errors import InputError
from mace_md.structures.formats.alternates import Site, choose_locations
from mace_md.structures.formats.contents import frame_index
from mace_md.structures.formats.elements import NamedAtom, settle
from mace_md.structures.formats.ions import ion_of
from mace_md.structures.formats.isotopes import element_of_symbol, mass_of
from mace_md.units import ANGSTROM_TO_NM

_ATOMS = ("ATOM  ", "HETATM")
_WITH_ATOMS = ("ANISOU", "SIGATM", "SIGUIJ")  # of the atom before; nothing here needs them
_VIRTUAL = ("EP", "VS", "LP", "XX")  # element columns of sites without a nucleus
Line = tuple[int, str]  # number in the file, from 1, and text


@dataclass
class Frame:
    """One set of atoms of a file: its lines, the CRYST1 before it, and what ended it."""

    lines: list[Line] = field(default_factory=list)
    bonds: list[str] = field(default_factory=list)  # CONECT lines before its end
    cell: Line | None = None
    ended_by: str = ""

    @property
    def num_atoms(self) -> int:
        return sum(line.startswith(_ATOMS) for _, line in self.lines)


@dataclass
class CleanPdb:
    """One frame as text that OpenMM's reader takes as it is meant, its box [3, 3] nm, and what was settled."""

    text: str
    box: np.ndarray | None
    symmetry: str
    notes: list[str]


def clean_pdb(path: Path, text: str, frame: int | None) -> CleanPdb:
    """The frame asked for (None is the first). Raises InputError naming the line that cannot be read."""
    header, frames, bonds = _sorted_lines(text)
    if not frames:
        raise InputError(f"{path}: holds no atoms (no line begins with ATOM or HETATM). Is it a PDB file?")
    index = frame_index(path, frame, len(frames))
    _refuse_two_structures(path, frames, frame)
    chosen = frames[index]
    notes = []
    if len(frames) > 1:
        how = "frames, separated by END" if frames[0].ended_by == "END" else "models"
        notes.append(f"the file has {len(frames)} {how}; number {index + 1} was taken (another: {path.name}@INDEX)")
    lines, settled = _settled(path, chosen.lines)
    cell, box, symmetry = _cell(path, chosen.cell)
    body = [*header, *cell, *lines, *dict.fromkeys([*chosen.bonds, *bonds]), "END"]
    return CleanPdb("\n".join(body) + "\n", box, symmetry, notes + settled)


def _sorted_lines(text: str) -> tuple[list[str], list[Frame], list[str]]:
    """Lines before all atoms, the frames, and CONECT lines. MODEL, ENDMDL and END each end a frame that has atoms."""
    header: list[str] = []
    bonds: list[str] = []
    frames: list[Frame] = []
    current, cell, counted = Frame(), None, 0
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.expandtabs()
        kind = line[:6].rstrip().upper()
        if line.startswith(_ATOMS):
            current.lines.append((number, line))
            counted += 1
        elif kind in ("MODEL", "ENDMDL", "END"):
            if counted:
                current.cell, current.ended_by = current.cell or cell, kind
                frames.append(current)
            current, counted = Frame(), 0
        elif kind == "TER":
            current.lines.append((number, line))
        elif kind == "CRYST1":
            cell = (number, line)
            current.cell = cell
        elif kind == "CONECT":
            (current.bonds if counted else bonds).append(line)  # behind all frames they are for each of them
        elif not frames and not counted and line.strip() and kind not in _WITH_ATOMS:
            header.append(line)
    if counted:
        current.cell = current.cell or cell
        frames.append(current)
    return header, frames, bonds


def _refuse_two_structures(path: Path, frames: list[Frame], frame: int | None) -> None:
    """Raise InputError when END separates different structures, and nobody said which is meant."""
    sizes = [one.num_atoms for one in frames]
    if frame is None and frames[0].ended_by == "END" and len(set(sizes)) > 1:
        line = frames[1].lines[0][0]
        raise InputError(
            f"{path}: an END line, and more atoms from line {line} on: {len(frames)} structures of "
            f"{', '.join(map(str, sizes[:4]))} atoms. Take one of them with {path.name}@0 ({path.name}@1, ...), or "
            "remove the END lines between them if they are one system."
        )


def _cell(path: Path, cell: Line | None) -> tuple[list[str], np.ndarray | None, str]:
    """A CRYST1 line in its columns, the box [3, 3] nm and the space group; nothing where there is no line."""
    if cell is None:
        return [], None, ""
    number, line = cell
    fixed = [line[a:b] for a, b in ((6, 15), (15, 24), (24, 33), (33, 40), (40, 47), (47, 54))]
    group = line[55:66]
    values = _numbers(fixed)
    if values is None:
        words = line[6:].split()
        values = _numbers(words[:6]) if len(words) >= 6 else None
        if values is None and _numbers(words[:3]) is not None and len(words) in (3, 4, 5):
            values, words = [*_numbers(words[:3]), 90.0, 90.0, 90.0], [*words[:3], "", "", "", *words[3:]]
        rest = words[6:]
        group = " ".join(rest[:-1] if len(rest) > 2 and rest[-1].isdigit() else rest)
    if values is None:
        raise InputError(
            f"{path}: line {number}: CRYST1 has no six numbers (a, b, c in A, alpha, beta, gamma in degrees): "
            f"'{line.strip()[:60]}'. Correct it, or remove the line and give --box a,b,c."
        )
    if not all(0 < angle < 180 for angle in values[3:]):
        if any(values[:3]):
            raise InputError(f"{path}: line {number}: angles {values[3:]} of the CRYST1 line are no cell. Correct it.")
        values[3:] = [90.0] * 3
    lengths = [x * ANGSTROM_TO_NM for x in values[:3]]
    vectors = computePeriodicBoxVectors(*lengths, *np.radians(values[3:])).value_in_unit(unit.nanometer)
    fitting = "CRYST1{:9.3f}{:9.3f}{:9.3f}{:7.2f}{:7.2f}{:7.2f}".format(*values) + f" {group.strip()[:11]:11s}"
    return [fitting], np.array(vectors, dtype=float), group


def _numbers(words: list[str], finite: bool = True) -> list[float] | None:
    try:
        values = [float(word) for word in words]
    except ValueError:
        return None
    return values if not finite or np.isfinite(values).all() else None


@dataclass
class _Atom:
    """One ATOM or HETATM line."""

    number: int
    line: str
    called: str  # the name in the file, before it was made unique
    group: int = 0

    @property
    def name(self) -> str:
        return self.line[12:16]

    @property
    def residue_name(self) -> str:
        return self.line[17:21].strip()

    @property
    def residue(self) -> tuple[str, str]:
        """Chain (and segment, where it has no name), and number with insertion code."""
        return self.line[21:22].strip() or self.line[72:76].strip(), self.line[22:27]

    @property
    def element(self) -> str:
        return self.line[76:78].strip()


def _settled(path: Path, lines: list[Line]) -> tuple[list[str], list[str]]:
    """The lines of a frame with one place for each atom, an element, and a name of its own; and notes."""
    atoms = [_Atom(number, line.ljust(80), line[12:16]) for number, line in lines if line.startswith(_ATOMS)]
    places = _places(path, atoms)
    sites = [
        Site(atom.residue, atom.residue_name, atom.name.strip(), atom.line[16].strip(), occupancy, tuple(place))
        for atom, (*place, occupancy) in zip(atoms, places, strict=True)
    ]
    keep, notes = choose_locations(sites)
    kept = {atom.number: (atom, place) for atom, place, stays in zip(atoms, places, keep, strict=True) if stays}
    ordered = [kept.get(number, line) for number, line in lines if number in kept or not line.startswith(_ATOMS)]
    renamed = _grouped_and_renamed(ordered)
    atoms = [atom for atom, _ in kept.values()]
    notes += _set_elements(path, atoms, np.array([place[:3] for _, place in kept.values()]))
    if renamed:
        shown = ", ".join(renamed[:3]) + (", ..." if len(renamed) > 3 else "")
        notes.append(f"{len(renamed)} atoms had the name of another in their residue: renamed ({shown})")
    return [item if isinstance(item, str) else item[0].line for item in ordered], notes


def _places(path: Path, atoms: list[_Atom]) -> list[tuple[float, ...]]:
    """Coordinates (A) and occupancy of each line."""
    places = []
    for atom in atoms:
        line = atom.line
        values = _numbers([line[30:38], line[38:46], line[46:54]], finite=False)
        if values is None:
            raise InputError(
                f"{path}: line {atom.number}: no three coordinates in the columns 31 to 54 ('{line[30:54].strip()}'), "
                "where a PDB file has them, whatever stands elsewhere. Write the file again with a program that keeps "
                "to the columns, or use mmCIF."
            )
        occupancy = _numbers([line[54:60]])
        places.append((*values, 1.0 if occupancy is None else occupancy[0]))
    return places


def _grouped_and_renamed(ordered: list) -> list[str]:
    """Number the residues (`group`), make names unique in each; returns what was renamed."""
    renamed: list[str] = []
    residue, seen, group = None, set(), 0
    for item in ordered:
        if isinstance(item, str):
            residue = None  # TER
            continue
        atom = item[0]
        own = (atom.residue_name, atom.residue)
        starred = not atom.line[22:26].strip(" *")  # numbers past 9999: a new residue each time a name comes again
        doubled = own == residue and atom.name in seen
        if own != residue or (doubled and (starred or ion_of(atom.residue_name))):
            group += 1
        if own != residue or (doubled and starred):
            residue, seen, doubled = own, set(), False
        if doubled:
            new = _free_name(atom, seen)
            renamed.append(f"{atom.residue_name} {atom.residue[1].strip()}: {atom.name.strip()} -> {new.strip()}")
            atom.line = atom.line[:12] + new + atom.line[16:]
        seen.add(atom.name)
        atom.group = group
        atom.line = atom.line[:16] + " " + atom.line[17:]
    return renamed


def _free_name(atom: _Atom, seen: set[str]) -> str:
    """Element (or first letter of the name) and the first number that makes a name not in use, in four characters."""
    symbol = atom.element if element_of_symbol(atom.element) else atom.name.strip(" 0123456789")[:1] or "X"
    for k in range(2, 36**2):
        number = str(k) if k < 100 else np.base_repr(k, 36)
        name = f" {symbol}{number}"[-4:].ljust(4) if len(symbol) + len(number) > 3 else f" {symbol}{number}".ljust(4)
        if name not in seen:
            return name
    return atom.name


def _set_elements(path: Path, atoms: list[_Atom], positions: np.ndarray) -> list[str]:
    """Write the element of each atom into its columns; returns notes. Names that say nothing get EP, for none."""
    aligned = not all(element_of_symbol(atom.element) for atom in atoms) and _names_are_aligned(atoms)
    named = []
    for atom in atoms:
        stated = atom.element if element_of_symbol(atom.element) else ""
        named.append(
            NamedAtom(
                atom.called.strip(), atom.residue_name, atom.group, stated,
                _two_letters(atom.called) if aligned else None, f"of line {atom.number}",
            )
        )  # fmt: skip
    elements, notes = settle(path, named, positions * ANGSTROM_TO_NM, "no element column, 77-78")
    for atom, element in zip(atoms, elements, strict=True):
        symbol = "EP" if element is None or atom.element.upper() in _VIRTUAL else element.symbol
        if element is not None and element.atomic_number == 1 and mass_of(element) > 1.5:
            symbol = "D"
            if mass_of(element) > 2.5:
                raise InputError(
                    f"{path}: line {atom.number}: tritium; a PDB file cannot say so to other programs. Give an "
                    "extended XYZ file with a column 'masses'."
                )
        charge = atom.line[78:80] if re.fullmatch(r"\d[+-]|[+-]\d|  ", atom.line[78:80]) else "  "
        atom.line = f"{atom.line[:76]}{symbol.upper():>2}{charge}"
    return notes


def _names_are_aligned(atoms: list[_Atom]) -> bool:
    """Whether the file keeps the rule that one-letter elements begin in column 14, by the names that can tell."""
    left = right = 0
    for atom in atoms:
        name = atom.called
        if name[:1].strip() and name.strip()[:1] in "CNOH" and len(name.strip()) < 4:
            left += name.strip()[:2].upper() not in _TWO_LETTERS
        right += not name[:1].strip()
    return right > 0 and left == 0


_TWO_LETTERS = frozenset(symbol for symbol in app.Element._elements_by_symbol if len(symbol) == 2)


def _two_letters(name: str) -> bool | None:
    """What the columns of an aligned name say: False with a blank or a digit first, None for names of four letters."""
    if not name[:1].strip() or name[:1].isdigit():
        return False
    return True if len(name.strip()) < 4 else None


def space_group(text: str) -> str:
    """The Hermann-Mauguin symbol, or '' for P 1, for none, and for what stands where there is none."""
    symbol = " ".join(text.strip().strip("'\"").split())
    return "" if symbol.replace(" ", "").upper() in ("", "P1", "?", ".", "1") else symbol
