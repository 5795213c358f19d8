"""Reading a structure: a file in, topology + positions + box out, with every assumption written down.

PDB and mmCIF go through OpenMM's own readers, so residues, chains and bonds survive. Everything else (xyz, extxyz,
CIF, POSCAR, ...) goes through ASE, and a topology is built from the molecules found by distance.
Lengths are nm, boxes are rows in OpenMM's reduced form.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from openmm import app, unit
from openmm.app.internal.unitcell import computePeriodicBoxVectors, reducePeriodicBoxVectors

from mace_md.errors import InputError
from mace_md.md.molecules import Molecules, find_molecules
from mace_md.units import ANGSTROM_TO_NM

_CHARGE_KEYS = ("charge", "total_charge")
_SPIN_KEYS = ("spin", "spin_multiplicity", "total_spin", "multiplicity")
_WATER_NAMES = ("O", "H1", "H2")  # the names the residue HOH has in every force field and viewer


@dataclass(frozen=True)
class Structure:
    """What was read from one file.

    topology : openmm.app.Topology, with bonds and, for a periodic system, box vectors.
    positions : [n_atoms, 3], nm, float64; molecules are whole.
    box : [3, 3] rows, nm, reduced; None when not periodic.
    charge, spin : as the file states them (spin as multiplicity 2S + 1), or None.
    molecules : how the atoms are joined; see `molecules.find_molecules`.
    notes : sentences for the log, one for each assumption made.
    """

    path: Path
    topology: app.Topology
    positions: np.ndarray
    box: np.ndarray | None
    charge: int | None
    spin: int | None
    molecules: Molecules
    notes: tuple[str, ...]

    @property
    def atomic_numbers(self) -> list[int]:
        return [atom.element.atomic_number for atom in self.topology.atoms()]

    @property
    def masses(self) -> np.ndarray:
        """[n_atoms], Da."""
        return np.array([atom.element.mass.value_in_unit(unit.dalton) for atom in self.topology.atoms()])


def read_structure(
    path: str | Path, *, periodic: str = "auto", box: Sequence[float] | None = None, add_hydrogens: bool = False
) -> Structure:
    """The structure in a PDB, mmCIF, or any file ASE reads; `file.xyz@7` takes the frame with index 7.

    Parameters
    ----------
    periodic : 'auto' (when the file or `box` gives one), 'yes' or 'no'.
    box : lengths a, b, c in A, or a, b, c and alpha, beta, gamma in degrees, in place of the file's.
    add_hydrogens : put in what standard residues lack at pH 7, by OpenMM's Modeller.

    Raises InputError when the file is missing, unreadable, empty, has atoms without an element or coordinates
    that are not numbers, or is periodic in one or two directions only.
    """
    path, frame = _split_frame(Path(path))
    if not path.is_file():
        raise InputError(f"{path}: there is no such file. Give a PDB, mmCIF, xyz, extxyz, CIF or POSCAR file.")
    kind = _file_kind(path)
    try:
        read = _read_openmm(path, kind, frame) if kind in ("pdb", "mmcif") else _read_ase(path, frame)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # the readers raise whatever their parser met: KeyError, IndexError, StopIteration, ...
        reason = str(error).strip() or type(error).__name__
        raise InputError(f"{path}: cannot be read as {kind or 'a structure'} ({reason}). Check the file.") from error
    topology, positions, file_box, charge, spin, notes = read
    file_box, box_notes = _choose_box(path, file_box, periodic, box)
    notes = notes + box_notes
    _check_atoms(path, topology, positions)
    if add_hydrogens:
        topology, positions, added = _with_hydrogens(path, topology, positions)
        notes.append(added)
    return _finish(path, topology, positions, file_box, charge, spin, notes)


def _split_frame(path: Path) -> tuple[Path, int | None]:
    match = re.fullmatch(r"(.+)@(-?\d+)", path.name)
    if match is None or path.exists():
        return path, None
    return path.with_name(match.group(1)), int(match.group(2))


def _file_kind(path: Path) -> str:
    """'pdb', 'mmcif', or '' for ASE; a .cif is macromolecular when it lists atoms the mmCIF way."""
    suffix = path.suffix.lower()
    if suffix in (".pdb", ".ent"):
        return "pdb"
    if suffix in (".cif", ".mmcif", ".pdbx") and "_atom_site.Cartn_x" in path.read_text(errors="replace"):
        return "mmcif"
    return ""


def _read_openmm(path: Path, kind: str, frame: int | None):
    notes = _pdb_notes(path) if kind == "pdb" else []
    file = app.PDBFile(str(path)) if kind == "pdb" else app.PDBxFile(str(path))
    topology = file.topology
    num_frames = file.getNumFrames()
    index = _frame_index(path, frame, num_frames)
    if num_frames > 1:
        notes.append(f"the file has {num_frames} models; number {index + 1} was taken (another: {path.name}@INDEX)")
    positions = np.array(file.getPositions(asNumpy=True, frame=index).value_in_unit(unit.nanometer), dtype=float)
    vectors = topology.getPeriodicBoxVectors()
    box = None if vectors is None else np.array(vectors.value_in_unit(unit.nanometer), dtype=float)
    if box is not None and np.linalg.det(box) < 0.008:  # entries without a crystal carry CRYST1 1 1 1 (A)
        notes.append("the unit cell in the file is the 1 A placeholder of structures that are not crystals: no box")
        box = None
    missing = [atom for atom in topology.atoms() if atom.element is None]
    if missing:
        atom = missing[0]
        raise InputError(
            f"{path}: residue {atom.residue.name} {atom.residue.id}, atom {atom.name}: no chemical element (and "
            f"{len(missing) - 1} more). Fill the element column (77-78); remove virtual sites, MACE has none."
        )
    return topology, positions, box, None, None, notes


def _pdb_notes(path: Path) -> list[str]:
    """What OpenMM's reader settles without a word: alternate locations and missing element columns."""
    alternates, guessed = 0, 0
    for line in path.read_text(errors="replace").splitlines():
        if line.startswith("ENDMDL"):
            break
        if line.startswith(("ATOM", "HETATM")):
            alternates += line[16:17] not in (" ", "", "A", "1")
            guessed += not line[76:78].strip()
    notes = []
    if alternates:
        notes.append(f"{alternates} atoms at alternate locations were left out; the first location was taken")
    if guessed:
        notes.append(f"{guessed} atoms have no element column (77-78); elements were taken from the atom names")
    return notes


def _read_ase(path: Path, frame: int | None):
    import ase.io

    index = 0 if frame is None else frame
    try:
        atoms = ase.io.read(path, index=index)
        several = frame is None and len(ase.io.read(path, index=slice(0, 2))) > 1
    except IndexError as error:
        raise InputError(f"{path}: has no frame with index {index}; the first is @0, the last is @-1.") from error
    notes = [f"the file has several frames; the first was taken (another: {path.name}@INDEX)"] if several else []
    if len(atoms) and 0 in atoms.numbers:
        raise InputError(
            f"{path}: atom {int(np.argmin(atoms.numbers)) + 1} has no chemical element ('X'). Name its element."
        )
    positions = atoms.positions * ANGSTROM_TO_NM
    box = None
    if atoms.pbc.any() and not atoms.pbc.all():
        axes = ", ".join(axis for axis, on in zip("xyz", atoms.pbc, strict=True) if on)
        raise InputError(
            f"{path}: is periodic along {axes} only; OpenMM knows fully periodic and open systems. For a slab put at "
            'least twice the cutoff of vacuum in the open direction and set pbc="T T T".'
        )
    if atoms.pbc.all():
        positions, box, rotated = _standard_box(path, positions, np.asarray(atoms.cell) * ANGSTROM_TO_NM)
        if rotated:
            notes.append("the cell and the atoms were rotated so that the first vector lies along x, as OpenMM wants")
    elif atoms.cell.rank:
        notes.append('the file has a cell but pbc="F F F": treated as not periodic')
    charge, spin = (_integer_info(path, atoms.info, keys) for keys in (_CHARGE_KEYS, _SPIN_KEYS))
    topology = _chain_of(atoms.get_chemical_symbols())
    return topology, positions, box, charge, spin, notes


def _frame_index(path: Path, frame: int | None, num_frames: int) -> int:
    index = 0 if frame is None else frame
    if not -num_frames <= index < num_frames:
        raise InputError(f"{path}: has no frame with index {index}; it has {num_frames} (0 to {num_frames - 1}).")
    return index % num_frames


def _integer_info(path: Path, info: dict, keys: Sequence[str]) -> int | None:
    for key in keys:
        if key in info:
            try:
                number = float(info[key])
            except (TypeError, ValueError):
                number = float("nan")
            if number != round(number, 6) or number != int(round(number)):
                raise InputError(f"{path}: {key}={info[key]} in the file is not a whole number. Correct it.")
            return int(round(number))
    return None


def _standard_box(path: Path, positions: np.ndarray, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """Positions and cell turned so that a lies along x and b in the xy plane; True when that changed anything."""
    if abs(np.linalg.det(cell)) < 1e-6:
        raise InputError(f"{path}: is periodic, but its cell has no volume. Correct the cell, or set pbc to F.")
    if np.linalg.det(cell) < 0:
        cell = cell * [[1.0], [1.0], [-1.0]]  # -c spans the same lattice and makes the triple right-handed
    q, r = np.linalg.qr(cell.T)  # cell.T = q @ r, so rows of r.T are the cell in the frame of q's columns
    signs = np.sign(np.diag(r))
    standard = (signs[:, None] * r).T
    rotation = q * signs
    rotated = not np.allclose(rotation, np.eye(3), atol=1e-9)
    return (positions @ rotation if rotated else positions), standard if rotated else cell, rotated


def _chain_of(symbols: Sequence[str]) -> app.Topology:
    topology = app.Topology()
    residue = topology.addResidue("MOL", topology.addChain("A"))
    for symbol in symbols:
        topology.addAtom(symbol, app.Element.getBySymbol(symbol), residue)
    return topology


def _choose_box(path: Path, file_box, periodic: str, lengths_and_angles) -> tuple[np.ndarray | None, list[str]]:
    """The box to use, of the file's and the options', and what to say about it."""
    if periodic == "no":
        return None, [] if file_box is None else ["the box of the file is not used: not periodic, as asked"]
    if lengths_and_angles is not None:
        values = [float(x) for x in lengths_and_angles]
        lengths = [x * ANGSTROM_TO_NM for x in values[:3]]
        angles = [np.radians(x) for x in (values[3:] or (90.0, 90.0, 90.0))]
        vectors = computePeriodicBoxVectors(*lengths, *angles).value_in_unit(unit.nanometer)
        return np.array(vectors, dtype=float), [] if file_box is None else ["the box of the file is replaced, as asked"]
    if periodic == "yes" and file_box is None:
        raise InputError(f"{path}: has no box, and --periodic yes needs one. Give --box a,b,c in A.")
    return file_box, []


def _check_atoms(path: Path, topology: app.Topology, positions: np.ndarray) -> None:
    if topology.getNumAtoms() == 0:
        raise InputError(f"{path}: holds no atoms.")
    bad = np.flatnonzero(~np.isfinite(positions).all(axis=1))
    if len(bad):
        atom = list(topology.atoms())[bad[0]]
        others = f" (and of {len(bad) - 1} more)" if len(bad) > 1 else ""
        raise InputError(
            f"{path}: the coordinates of atom {bad[0] + 1} ({atom.name}, residue {atom.residue.name} "
            f"{atom.residue.id}){others} are not finite numbers. Correct the file."
        )


def _with_hydrogens(path: Path, topology: app.Topology, positions: np.ndarray):
    """Hydrogens where standard residues lack them; OpenMM places them by its residue templates."""
    modeller = app.Modeller(topology, positions * unit.nanometer)
    try:
        modeller.addHydrogens(pH=7.0)
    except Exception as error:  # it raises ValueError, KeyError and Exception alike
        raise InputError(f"{path}: hydrogens cannot be added ({error}). Add them with another program.") from error
    positions = np.array(modeller.positions.value_in_unit(unit.nanometer), dtype=float)
    added = modeller.topology.getNumAtoms() - topology.getNumAtoms()
    return modeller.topology, positions, f"{added} hydrogens were added (pH 7, OpenMM's residue templates)"


def _finish(path, topology, positions, box, charge, spin, notes) -> Structure:
    """Bonds, molecules and residues, which every format gets the same way."""
    if box is not None:
        box = np.array(reducePeriodicBoxVectors(box * unit.nanometer).value_in_unit(unit.nanometer), dtype=float)
    molecules, bond_notes = find_molecules(topology, positions, box)
    if _is_bare(topology):
        topology = _residues_from(topology, molecules)
    topology = _with_bonds(topology, molecules)
    topology.setPeriodicBoxVectors(None if box is None else box * unit.nanometer)
    structure = Structure(path, topology, molecules.whole(positions), box, charge, spin, molecules, tuple(notes))
    return replace(structure, notes=structure.notes + tuple(bond_notes))


def _is_bare(topology: app.Topology) -> bool:
    residues = list(topology.residues())
    return len(residues) == 1 and residues[0].name == "MOL"


def _residues_from(topology: app.Topology, molecules: Molecules) -> app.Topology:
    """One residue a molecule where the atoms of each follow one another, else one residue for all."""
    elements = [atom.element for atom in topology.atoms()]
    groups = molecules.groups()
    if any(group[-1] - group[0] + 1 != len(group) for group in groups) or molecules.networks:
        groups = [list(range(len(elements)))]
    named = app.Topology()
    chain = named.addChain("A")
    for group in sorted(groups):
        symbols = [elements[i].symbol for i in group]
        water = symbols == ["O", "H", "H"]
        name = "HOH" if water else symbols[0].upper() if len(group) == 1 else "MOL"
        residue = named.addResidue(name, chain)
        for k, i in enumerate(group):
            atom_name = _WATER_NAMES[k] if water else _atom_name(symbols, k)
            named.addAtom(atom_name, elements[i], residue)
    return named


def _atom_name(symbols: list[str], k: int) -> str:
    """Element and running number, in the four characters a PDB file has (base 36 beyond, then the bare symbol)."""
    if len(symbols) == 1:
        return symbols[0]
    name = f"{symbols[k]}{k + 1}"
    if len(name) > 4:
        name = f"{symbols[k]}{np.base_repr(k + 1, 36)}"
    return name if len(name) <= 4 else symbols[k]


def _with_bonds(topology: app.Topology, molecules: Molecules) -> app.Topology:
    """The topology with the bonds in use, in place of those of the file (too long ones dropped, found ones added)."""
    clean = app.Topology()
    atoms = []
    for chain in topology.chains():
        new_chain = clean.addChain(chain.id)
        for residue in chain.residues():
            new_residue = clean.addResidue(residue.name, new_chain, residue.id, residue.insertionCode)
            atoms += [clean.addAtom(atom.name, atom.element, new_residue, atom.id) for atom in residue.atoms()]
    network = molecules.in_network()
    seen = set()
    for i, j in molecules.bonds.tolist():
        pair = (min(i, j), max(i, j))
        if i != j and pair not in seen and not network[i]:  # bonds of an endless network cross every face of the box
            seen.add(pair)
            clean.addBond(atoms[i], atoms[j])
    return clean
