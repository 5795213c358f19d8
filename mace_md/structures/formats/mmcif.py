"""mmCIF (PDBx), the macromolecular kind, through OpenMM's reader.

Before that the rows of the atoms are settled as the lines of a PDB file are: one model, one place for each atom, and an
element for each.
"""

import io
from pathlib import Path

import numpy as np
from openmm import app
from openmm.app.internal.pdbx.reader.PdbxReader import PdbxReader
from openmm.app.internal.pdbx.writer.PdbxWriter import PdbxWriter

from mace_md.errors import InputError
from mace_md.structures.formats.alternates import Site, choose_locations
from mace_md.structures.formats.contents import Contents, box_of, frame_index
from mace_md.structures.formats.elements import NamedAtom, settle
from mace_md.structures.formats.isotopes import element_of_symbol, mass_of
from mace_md.structures.formats.pdb import contents_of_file
from mace_md.structures.formats.pdb_lines import space_group
from mace_md.structures.formats.text import read_text
from mace_md.units import ANGSTROM_TO_NM

_EMPTY = (".", "?", "")
_GROUPS = (("symmetry", "space_group_name_H-M"), ("space_group", "name_H-M_alt"), ("space_group", "name_h-m_alt"))


def read_mmcif(path: Path, frame: int | None = None) -> Contents:
    """One model of an mmCIF file. Raises InputError for rows and models that cannot be used."""
    blocks: list = []
    PdbxReader(io.StringIO(read_text(path))).read(blocks)
    block = next((block for block in blocks if block.getObj("atom_site") is not None), None)
    if block is None:
        raise InputError(f"{path}: holds no atoms (no _atom_site rows). Is it an mmCIF file of a structure?")
    sites = block.getObj("atom_site")
    _complete_columns(path, sites)
    notes = _take_model(path, sites, frame)
    notes += _take_locations(sites)
    notes += _set_elements(path, sites)
    notes += _check_cell(block)
    text = io.StringIO()
    PdbxWriter(text).write([block])
    file = app.PDBxFile(io.StringIO(text.getvalue()))
    box = box_of(file.topology.getPeriodicBoxVectors())
    return contents_of_file(path, file, box, notes, _symmetry(block), text.getvalue())


def _column(sites, name: str) -> list[str]:
    k = sites.getAttributeIndex(name)
    return [row[k] for row in sites.getRowList()]


def _first_column(sites, *names: str) -> list[str]:
    """The first of these columns that the file has; empty strings when it has none."""
    name = next((name for name in names if sites.getAttributeIndex(name) >= 0), None)
    return [""] * sites.getRowCount() if name is None else _column(sites, name)


def _complete_columns(path: Path, sites) -> None:
    """Add the columns that OpenMM's reader counts on, as the small files of some programs lack them."""
    needed = ("Cartn_x", "Cartn_y", "Cartn_z")
    if any(sites.getAttributeIndex(name) < 0 for name in needed):
        raise InputError(f"{path}: the atoms have no Cartesian coordinates (_atom_site.Cartn_x, _y, _z).")
    rows = sites.getRowList()
    defaults = {
        "id": [str(k + 1) for k in range(len(rows))],
        "label_atom_id": _first_column(sites, "auth_atom_id", "type_symbol"),
        "label_comp_id": [name or "MOL" for name in _first_column(sites, "auth_comp_id")],
        "label_asym_id": [name or "A" for name in _first_column(sites, "auth_asym_id")],
        "label_seq_id": _first_column(sites, "auth_seq_id") if sites.getAttributeIndex("auth_seq_id") >= 0 else None,
        "label_alt_id": ["."] * len(rows),
        "type_symbol": ["?"] * len(rows),
    }
    for name, values in defaults.items():
        if sites.getAttributeIndex(name) < 0:
            sites.appendAttribute(name)
            for row, value in zip(rows, values or ["1"] * len(rows), strict=True):
                row.append(value)
    _check_coordinates(path, sites, needed)


def _check_coordinates(path: Path, sites, names: tuple[str, ...]) -> None:
    for number, row in enumerate(sites.getRowList(), start=1):
        for name in names:
            value = row[sites.getAttributeIndex(name)]
            try:
                float(value)
            except ValueError:
                raise InputError(
                    f"{path}: row {number} of the atoms (id {row[sites.getAttributeIndex('id')]}): the coordinate "
                    f"{name} is '{value}', no number. Complete the file, or leave the atom out."
                ) from None


def _take_model(path: Path, sites, frame: int | None) -> list[str]:
    """Keep the rows of one model; a note when there are several."""
    if sites.getAttributeIndex("pdbx_PDB_model_num") < 0:
        frame_index(path, frame, 1)
        return []
    models = _column(sites, "pdbx_PDB_model_num")
    names = list(dict.fromkeys(models))
    index = frame_index(path, frame, len(names))
    if len(names) == 1:
        return []
    _keep(sites, [model == names[index] for model in models])
    return [f"the file has {len(names)} models; number {index + 1} was taken (another: {path.name}@INDEX)"]


def _keep(sites, keep: list[bool]) -> None:
    rows = sites.getRowList()
    rows[:] = [row for row, stays in zip(rows, keep, strict=True) if stays]


def _take_locations(sites) -> list[str]:
    """Keep one location of each residue and clear the column, by which OpenMM would leave out more."""
    names = _first_column(sites, "auth_atom_id", "label_atom_id")
    comps = _first_column(sites, "auth_comp_id", "label_comp_id")
    found = []
    for row, name, comp, residue, alt, occupancy in zip(
        sites.getRowList(), names, comps, _residues(sites), _column(sites, "label_alt_id"),
        _first_column(sites, "occupancy"), strict=True,
    ):  # fmt: skip
        place = tuple(float(row[sites.getAttributeIndex(axis)]) for axis in ("Cartn_x", "Cartn_y", "Cartn_z"))
        found.append(Site(residue, comp, name, "" if alt in _EMPTY else alt, _number(occupancy, 1.0), place))
    keep, notes = choose_locations(found)
    _keep(sites, keep)
    k = sites.getAttributeIndex("label_alt_id")
    for row in sites.getRowList():
        row[k] = "."
    return notes


def _residues(sites) -> list[tuple[str, ...]]:
    """Chain, number and insertion code of each row, which together are one residue."""
    chains = _first_column(sites, "auth_asym_id", "label_asym_id")
    others = _first_column(sites, "label_asym_id")
    numbers = _first_column(sites, "auth_seq_id", "label_seq_id")
    codes = ["" if code in _EMPTY else code for code in _first_column(sites, "pdbx_PDB_ins_code")]
    return [(c, n + i, "" if c == o else o) for c, o, n, i in zip(chains, others, numbers, codes, strict=True)]


def _number(text: str, default: float) -> float:
    try:
        return float(text)
    except ValueError:
        return default


def _set_elements(path: Path, sites) -> list[str]:
    """Write the element of each row; X, which OpenMM takes for none, where there is none."""
    names = _first_column(sites, "auth_atom_id", "label_atom_id")
    comps = _first_column(sites, "auth_comp_id", "label_comp_id")
    symbols = _column(sites, "type_symbol")
    groups, last, group, seen = [], None, 0, set()
    for residue, comp, name in zip(_residues(sites), comps, names, strict=True):
        if (residue, comp) != last or name in seen:
            last, group, seen = (residue, comp), group + 1, set()
        seen.add(name)
        groups.append(group)
    stated = [symbol if element_of_symbol(symbol) else _without_charge(symbol) for symbol in symbols]
    ids = _column(sites, "id")
    atoms = [
        NamedAtom(name, comp, group, symbol, None, f"with id {number}")
        for name, comp, group, symbol, number in zip(names, comps, groups, stated, ids, strict=True)
    ]
    axes = [sites.getAttributeIndex(axis) for axis in ("Cartn_x", "Cartn_y", "Cartn_z")]
    positions = np.array([[float(row[k]) for k in axes] for row in sites.getRowList()]) * ANGSTROM_TO_NM
    elements, notes = settle(path, atoms, positions, "no _atom_site.type_symbol")
    k = sites.getAttributeIndex("type_symbol")
    for row, element in zip(sites.getRowList(), elements, strict=True):
        heavy = element is not None and element.atomic_number == 1 and mass_of(element) > 1.5
        row[k] = "X" if element is None else "D" if heavy else element.symbol
    return notes


def _without_charge(symbol: str) -> str:
    """`Fe3+` and `O1-` without their charge; '' where no symbol is left."""
    bare = symbol.rstrip("+-0123456789")
    return bare if element_of_symbol(bare) else ""


def _check_cell(block) -> list[str]:
    """Remove a cell whose entries are no numbers, with a note."""
    cell = block.getObj("cell")
    names = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    if cell is None or not cell.getRowCount():
        return []
    found = [cell.getAttributeIndex(name) for name in names]
    if all(k >= 0 and _number(cell.getRow(0)[k].partition("(")[0], -1.0) > 0 for k in found):
        for k in found:  # 10.123(4): with its uncertainty
            cell.getRowList()[0][k] = cell.getRow(0)[k].partition("(")[0]
        return []
    block.remove("cell")
    given = any(k >= 0 and cell.getRow(0)[k] not in _EMPTY for k in found)
    return ["the unit cell in the file is incomplete: no box"] if given else []


def _symmetry(block) -> str:
    for category, name in _GROUPS:
        table = block.getObj(category)
        if table is not None and table.getAttributeIndex(name) >= 0 and table.getRowCount():
            return space_group(table.getRow(0)[table.getAttributeIndex(name)])
    return ""
