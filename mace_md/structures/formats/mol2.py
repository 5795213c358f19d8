"""Tripos mol2: atoms with names, types, residues and bonds, as docking, Amber's antechamber and Open Babel write it.

RDKit reads the types of one of these programs only, so elements are settled here: a SYBYL type names its element before
the point (`C.ar`, `Cl`), a GAFF type begins with it in small letters, and for other types the atom's name decides.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from openmm import app, unit
from openmm.app.internal.unitcell import computePeriodicBoxVectors

from mace_md.errors import InputError
from mace_md.structures.formats.contents import Contents
from mace_md.structures.formats.elements import NamedAtom, settle
from mace_md.structures.formats.ions import is_water
from mace_md.structures.formats.isotopes import element_of_symbol
from mace_md.structures.formats.text import read_text
from mace_md.units import ANGSTROM_TO_NM

WHOLE_CHARGE = 0.02  # e; partial charges are written with a few digits each
_ORDERS = {"1": (app.Single, 1), "2": (app.Double, 2), "3": (app.Triple, 3), "am": (app.Amide, 1),
           "ar": (app.Aromatic, None)}  # fmt: skip
_NO_NUCLEUS = ("Du", "LP", "Any", "Hal", "Het", "Hev")


@dataclass
class _Record:
    """One molecule: its sections, each a list of (line number, words)."""

    title: str = ""
    head: list[str] = field(default_factory=list)
    sections: dict[str, list[tuple[int, list[str]]]] = field(default_factory=dict)

    def rows(self, name: str) -> list[tuple[int, list[str]]]:
        return self.sections.get(name, [])


def read_mol2(path: Path, frame: int | None = None, *, add_hydrogens: bool = False) -> Contents:
    """One molecule of a mol2 file: the first, or the one with the index `frame`. Raises InputError naming the line."""
    records = _records(path)
    index = 0 if frame is None else frame
    if not -len(records) <= index < len(records):
        raise InputError(
            f"{path}: has no molecule with index {index}; it has {len(records)} (0 to {len(records) - 1})."
        )
    record = records[index]
    notes = []
    if len(records) > 1:
        more = f" was taken (another: {path.name}@INDEX)" if frame is None else ""
        notes.append(f"molecule {index % len(records) + 1} of {len(records)} ({record.title}){more}")
    atoms = [_atom(path, number, words) for number, words in record.rows("ATOM")]
    if not atoms:
        raise InputError(f"{path}: holds no atoms (no @<TRIPOS>ATOM section). Is it a mol2 file?")
    positions = np.array([atom.position for atom in atoms]) * ANGSTROM_TO_NM
    named = [NamedAtom(a.name, a.residue, a.group, _stated(path, a), label=f"of line {a.line}") for a in atoms]
    elements, guessed = settle(path, named, positions, "their types are not SYBYL's")
    topology = _topology(path, atoms, elements, record.rows("BOND"))
    box, symmetry = _box(path, record)
    charge, said = _charge(record, atoms)
    known = _no_hydrogens_missing(path, topology)
    if known is not True and add_hydrogens:
        raise InputError(f"{path}: hydrogens are missing, and cannot be added to a mol2 file. Give it as SDF.")
    if isinstance(known, int) and known is not True:
        raise InputError(
            f"{path}: {known} hydrogens are implied by the bonds, and not in the file; MACE needs every atom. Write "
            "the file with all hydrogens, or give it as SDF with --hydrogens add."
        )
    return Contents(
        path, topology, positions, box, charge, notes=tuple(notes + guessed + said), files=(path,), symmetry=symmetry,
        hydrogens_known=known is True,
    )  # fmt: skip


def _records(path: Path) -> list[_Record]:
    records: list[_Record] = []
    section = ""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        line = line.strip()
        if line.startswith("@<TRIPOS>"):
            section = line[9:].strip().upper()
            if section == "MOLECULE":
                records.append(_Record())
        elif section == "MOLECULE" and records:
            records[-1].head.append(line)
            records[-1].title = records[-1].head[0]
        elif section and records and line and not line.startswith("#"):
            records[-1].sections.setdefault(section, []).append((number, line.split()))
    if not records:
        raise InputError(f"{path}: is not a mol2 file (no line @<TRIPOS>MOLECULE). Check the file.")
    return records


@dataclass(frozen=True)
class _Atom:
    line: int
    id: str
    name: str
    position: tuple[float, float, float]
    kind: str
    group: int
    residue: str
    charge: float | None


def _atom(path: Path, number: int, words: list[str]) -> _Atom:
    try:
        position = (float(words[2]), float(words[3]), float(words[4]))
        kind = words[5]
    except (IndexError, ValueError):
        raise InputError(
            f"{path}: line {number}: no atom of a mol2 file ('{' '.join(words)[:60]}'): id, name, x, y, z in A, type."
        ) from None
    group = int(words[6]) if len(words) > 6 and words[6].lstrip("-").isdigit() else 1
    name = words[7] if len(words) > 7 else "MOL"
    ending = re.fullmatch(r"(.*\D)(\d+)", name)
    if ending and ending.group(2) == str(group) and len(ending.group(1)) >= 2:
        name = ending.group(1)  # ALA12 of residue 12
    try:
        charge = float(words[8])
    except (IndexError, ValueError):
        charge = None
    return _Atom(number, words[0], words[1], position, kind, group, name.strip("<>*") or "MOL", charge)


def _stated(path: Path, atom: _Atom) -> str:
    """The element that the type names; '' where it is no SYBYL and no GAFF type. Raises InputError for a dummy."""
    base = atom.kind.partition(".")[0]
    if base in _NO_NUCLEUS:
        raise InputError(
            f"{path}: line {atom.line}: atom {atom.name} has the type {atom.kind}, which is no element. Take the line "
            "out, or give it the type of its element."
        )
    if base[:1].islower():
        base = base[:2].capitalize() if base[:2] in ("cl", "br") else base[0].upper()
    proper = len(base) == 1 or (len(base) == 2 and base[1].islower())
    return base if proper and element_of_symbol(base) else ""


def _topology(path: Path, atoms: list[_Atom], elements: list, bonds: list) -> app.Topology:
    topology = app.Topology()
    chain = topology.addChain("A")
    made: dict[str, app.topology.Atom] = {}
    residue, last = None, None
    for atom, element in zip(atoms, elements, strict=True):
        if element is None:
            raise InputError(
                f"{path}: line {atom.line}: no element can be told from the atom {atom.name} of type {atom.kind}. Give "
                "it the SYBYL type of its element."
            )
        if (atom.group, atom.residue) != last:
            last = (atom.group, atom.residue)
            residue = topology.addResidue("HOH" if is_water(atom.residue) else atom.residue, chain, str(atom.group))
        made[atom.id] = topology.addAtom(atom.name, element, residue)
    for number, words in bonds:
        if len(words) < 3 or words[1] not in made or words[2] not in made:
            raise InputError(
                f"{path}: line {number}: no bond between two atoms of the file ('{' '.join(words)[:60]}')."
            )
        if (words[3] if len(words) > 3 else "1") != "nc":
            topology.addBond(made[words[1]], made[words[2]], *_ORDERS.get((words + ["un"])[3], (None, None)))
    return topology


def _box(path: Path, record: _Record) -> tuple[np.ndarray | None, str]:
    """[3, 3] nm of a CRYSIN section, and the space group when it is not P 1."""
    if not record.rows("CRYSIN"):
        return None, ""
    number, words = record.rows("CRYSIN")[0]
    try:
        a, b, c, alpha, beta, gamma = (float(word) for word in words[:6])
    except ValueError:
        raise InputError(f"{path}: line {number}: CRYSIN has no six numbers ('{' '.join(words)[:60]}').") from None
    vectors = computePeriodicBoxVectors(*(x * ANGSTROM_TO_NM for x in (a, b, c)), *np.radians([alpha, beta, gamma]))
    group = words[6] if len(words) > 6 else "1"
    return np.array(vectors.value_in_unit(unit.nanometer), dtype=float), "" if group == "1" else f"number {group}"


def _charge(record: _Record, atoms: list[_Atom]) -> tuple[int | None, list[str]]:
    """The sum of the partial charges where it is whole; None where there are none."""
    charges = [atom.charge for atom in atoms]
    kind = record.head[3].upper() if len(record.head) > 3 else ""
    if kind == "NO_CHARGES" or None in charges or not any(charges):
        return None, []
    total = sum(charges)
    if abs(total - round(total)) > WHOLE_CHARGE + 1e-4 * len(charges):
        return None, [f"the charges of the file add up to {total:+.3f}, no whole charge: not used"]
    return round(total), []


def _no_hydrogens_missing(path: Path, topology: app.Topology) -> bool | int | None:
    """True when the valences of carbon are filled; how many hydrogens carbons lack; None where bonds do not say."""
    bonds: dict[int, list[float | None]] = {atom.index: [] for atom in topology.atoms()}
    for bond in topology.bonds():
        order = 1.5 if bond.type is app.Aromatic else bond.order
        for end in bond:
            bonds[end.index].append(order)
    carbons = [atom for atom in topology.atoms() if atom.element.atomic_number == 6]
    if not topology.getNumBonds() or any(None in bonds[atom.index] for atom in carbons):
        return None
    lacking = [4 - sum(bonds[atom.index]) for atom in carbons]
    # a carbon of a carbocation or an aromatic ring drawn in an odd way lacks one half or one; a united CH2 lacks two
    missing = sum(round(x) for x in lacking if x >= 1.5)
    return missing or all(x < 0.75 for x in lacking) or None
