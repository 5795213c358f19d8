"""PDB and mmCIF, through OpenMM's readers; what those settle without a word is said here, and names are made unique.

OpenMM takes two atoms of one name in a residue for one atom at two alternate locations and leaves the second out.
Files written by programs without atom names (C, H, H, H, H) would lose most of their atoms that way.
"""

import io
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from openmm import app, unit

from mace_md.structures.formats.contents import Contents, box_of, frame_index

SMALLEST_CELL = 0.008  # nm^3; entries without a crystal carry CRYST1 1 1 1 (A), or zeros


def read_pdb(path: Path, frame: int | None = None) -> Contents:
    """A PDB file. Raises whatever OpenMM's reader raises, and InputError for a frame that is not there."""
    mended = _mend(path.read_text(errors="replace"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on residues that share a number; nothing is lost by them
        file = app.PDBFile(io.StringIO(mended.text))
    return replace(_contents(path, frame, file, mended.notes(), mended.symmetry), text=mended.text)


def read_mmcif(path: Path, frame: int | None = None) -> Contents:
    """An mmCIF (PDBx) file, the macromolecular kind."""
    text, symmetry = path.read_text(errors="replace"), ""
    for line in text.splitlines():
        if line.startswith(("_symmetry.space_group_name_H-M", "_space_group.name_H-M_alt")):
            symmetry = _space_group(line.partition(" ")[2])
    return replace(_contents(path, frame, app.PDBxFile(io.StringIO(text)), [], symmetry), text=text)


def _contents(path: Path, frame: int | None, file, notes: list[str], symmetry: str) -> Contents:
    topology, count = file.topology, file.getNumFrames()
    index = frame_index(path, frame, count)
    if count > 1:
        notes.append(f"the file has {count} models; number {index + 1} was taken (another: {path.name}@INDEX)")
    positions = np.array(file.getPositions(asNumpy=True, frame=index).value_in_unit(unit.nanometer), dtype=float)
    box = box_of(topology.getPeriodicBoxVectors())
    if box is not None and not abs(np.linalg.det(box)) >= SMALLEST_CELL:
        notes.append("the unit cell in the file is the 1 A placeholder of structures that are not crystals: no box")
        box, symmetry = None, ""
    return Contents(path, topology, positions, box, notes=tuple(notes), files=(path,), symmetry=symmetry)


@dataclass
class _Mended:
    """A PDB text whose atom names are unique in each residue, and what was seen on the way (in the first model)."""

    text: str = ""
    symmetry: str = ""
    alternates: int = 0
    guessed: int = 0
    renamed: list[str] = field(default_factory=list)

    def notes(self) -> list[str]:
        notes = []
        if self.alternates:
            notes.append(f"{self.alternates} atoms at alternate locations were left out; the first location was taken")
        if self.guessed:
            notes.append(
                f"{self.guessed} atoms have no element column (77-78); elements were taken from the atom names"
            )
        if self.renamed:
            shown = ", ".join(self.renamed[:3]) + (", ..." if len(self.renamed) > 3 else "")
            notes.append(f"{len(self.renamed)} atoms had the name of another in their residue: renamed ({shown})")
        return notes


def _mend(text: str) -> _Mended:
    mended, lines = _Mended(), []
    models, counting = 0, True
    residue, seen, first_location = "", set(), {}
    for line in text.splitlines():
        if line.startswith("MODEL") and line[5:6] in ("", " "):
            models += 1
            line = f"MODEL     {models:4d}"  # the serial is not always there, nor always in its columns
        elif line.startswith("ENDMDL"):
            counting, residue = False, ""
        elif line.startswith("TER"):
            residue = ""
        elif line.startswith("CRYST1"):
            mended.symmetry = _space_group(line[55:66])
        elif line.startswith(("ATOM  ", "HETATM")):
            if line[17:27] != residue:
                residue, seen, first_location = line[17:27], set(), {}
            name, location = line[12:16], line[16:17]
            if (name, location) in seen and line[22:26].strip(" *"):  # *** stands for a new residue each time
                new = _free_name(line, seen)
                if counting:
                    mended.renamed.append(
                        f"{residue[:3].strip()} {residue[5:].strip()}: {name.strip()} -> {new.strip()}"
                    )
                line, name = line[:12] + new + line[16:], new
            seen.add((name, location))
            if counting:
                mended.guessed += not line[76:78].strip()
                mended.alternates += first_location.setdefault(name, location) != location
        lines.append(line)
    mended.text = "\n".join(lines) + "\n"
    return mended


def _free_name(line: str, seen: set[tuple[str, str]]) -> str:
    """Element (or first letter of the name) and the first number that makes a name not in use, in four characters."""
    symbol = line[76:78].strip() or line[12:16].strip(" 0123456789")[:1] or "X"
    location = line[16:17]
    for k in range(2, 36**2):
        number = str(k) if k < 100 else np.base_repr(k, 36)
        name = f" {symbol}{number}"[-4:].ljust(4) if len(symbol) + len(number) > 3 else f" {symbol}{number}".ljust(4)
        if (name, location) not in seen:
            return name
    return line[12:16]


def _space_group(text: str) -> str:
    """The Hermann-Mauguin symbol, or '' for P 1, for none, and for what stands where there is none."""
    symbol = " ".join(text.strip().strip("'\"").split())
    return "" if symbol.replace(" ", "").upper() in ("", "P1", "?", ".", "1") else symbol
