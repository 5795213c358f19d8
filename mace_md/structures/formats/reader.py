"""Which reader a file gets, and what every format has to satisfy."""

import importlib
import lzma
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from mace_md.errors import InputError
from mace_md.structures.formats import amber, cif, coordinates, gro, gromacs, mmcif, mol2, molfile, pdb
from mace_md.structures.formats.contents import VIRTUAL_SITE_NAMES, Contents, describe_atom, without_atoms
from mace_md.structures.formats.text import has_mark, read_text

_KINDS = {
    ".pdb": "pdb", ".ent": "pdb", ".mmcif": "mmcif", ".pdbx": "mmcif", ".sdf": "sdf", ".mol": "sdf", ".sd": "sdf",
    ".prmtop": "amber", ".parm7": "amber", ".gro": "gro", ".inpcrd": "crd", ".rst7": "crd", ".ncrst": "crd",
    ".itp": "itp", ".mol2": "mol2",
}  # fmt: skip
_OWN_READING = frozenset((".top",))  # includes files that lie beside it
FARTHEST = 1e6  # nm; a millimetre is no molecule, and beyond it float32 coordinates have no digits left for bonds
# What people try, and what to give in its place.
_NOT_READ = {
    ".pdbqt": "holds no hydrogens on carbon; give the PDB, SDF or mol2 file that it was made from",
    ".mae": "is Maestro's; export SDF, mol2 or PDB", ".maegz": "is Maestro's; export SDF, mol2 or PDB",
    ".psf": "is a topology without coordinates; write a PDB file with elements (VMD: animate write pdb)",
    ".dcd": "holds coordinates only; write a frame as PDB", ".xtc": "holds coordinates only; write a frame as PDB",
    ".trr": "holds coordinates only; write a frame as PDB", ".tpr": "is binary; write a frame as gro",
    ".pqr": "has radii where a PDB file has elements; give the PDB file that it was made from",
    ".cml": "is not read here; write SDF or xyz (obabel)", ".smi": "holds SMILES; give one with --smiles",
    ".log": "is an output; write its last geometry as xyz", ".gjf": "is an input; write its geometry as xyz",
}  # fmt: skip
_PACKED = {".gz": "gzip", ".bz2": "bz2", ".xz": "lzma"}
_NAMES = {"pdb": "PDB", "mmcif": "mmCIF", "sdf": "SDF", "mol2": "mol2", "amber": "AMBER prmtop",
          "top": "GROMACS topology", "gro": "GROMACS coordinates", "cif": "CIF"}  # fmt: skip


def read_contents(
    path: Path,
    *,
    coordinates_file: Path | None = None,
    include: Path | None = None,
    virtual_sites: str = "refuse",
    add_hydrogens: bool = False,
    complete: bool = True,
) -> Contents:
    """What is in a file; `name.xyz@7` takes the frame (model, molecule, data block) with index 7.

    Parameters
    ----------
    coordinates_file : inpcrd or rst7 of a prmtop, gro of a top.
    include : folder of the force field files that a GROMACS .top includes.
    virtual_sites : 'refuse' or 'drop' massless sites, which MACE does not know.
    add_hydrogens : add those the valences of an SDF imply (those of residues are added by `hydrogens`).
    complete : compare the atoms of a CIF with its formula.

    Raises InputError when the file is missing, unreadable, empty, or has atoms without an element or coordinates that
    are not numbers.
    """
    path, frame = split_frame(path)
    with _unpacked(path) as plain:
        kind = file_kind(plain)
        if plain.suffix.lower() in _NOT_READ:
            raise InputError(f"{path}: {_NOT_READ[plain.suffix.lower()]}.")
        _check_pair(path, kind, coordinates_file)
        try:
            if kind == "amber":
                contents = amber.read_amber(plain, coordinates_file)
            elif kind == "top":
                contents = gromacs.read_top(plain, coordinates_file, include=include)
            elif kind == "sdf":
                contents = molfile.read_sdf(plain, frame, add_hydrogens=add_hydrogens)
            elif kind == "mol2":
                contents = mol2.read_mol2(plain, frame, add_hydrogens=add_hydrogens)
            elif kind == "cif":
                contents = cif.read_cif(plain, frame, complete=complete)
            else:
                simple = {"pdb": pdb.read_pdb, "mmcif": mmcif.read_mmcif, "gro": gro.read_gro}
                contents = simple.get(kind, coordinates.read_with_ase)(plain, frame)
        except (InputError, MemoryError):
            raise
        except Exception as error:  # the readers raise whatever their parser met: KeyError, StopIteration, ...
            reason = " ".join(str(error).split())
            reason = f"{type(error).__name__}: {reason}" if len(reason) < 12 else reason
            where = path if coordinates_file is None else f"{path} with {coordinates_file}"
            raise InputError(
                f"{where}: cannot be read as {_NAMES.get(kind, 'a structure')} ({reason[:200]}). Check the file."
            ) from error
    contents = replace(contents, path=path, files=(path, *contents.files[1:]))
    contents = _settle_virtual_sites(contents, virtual_sites)
    _check_atoms(contents)
    return contents


@contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
    """The file itself, or for as long as needed what a .gz, .bz2 or .xz file holds, under its own name.

    A file with a byte-order mark is copied without it, where the reader is another library's.
    """
    if path.suffix.lower() not in _PACKED:
        if not path.is_file() or _OWN_READING & {path.suffix.lower()} or not has_mark(path):
            yield path
            return
        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder) / path.name
            plain.write_text(read_text(path), encoding="utf-8")
            with _under_its_name(plain, path):
                yield plain
        return
    _require_file(path)
    opener = importlib.import_module(_PACKED[path.suffix.lower()]).open
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / path.stem
        try:
            with opener(path) as packed, open(plain, "wb") as file:
                shutil.copyfileobj(packed, file)
        except (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error) as error:
            raise InputError(f"{path}: cannot be unpacked ({error}). Check the file.") from error
        if has_mark(plain):
            plain.write_text(read_text(plain), encoding="utf-8")
        with _under_its_name(plain, path):
            yield plain


@contextmanager
def _under_its_name(plain: Path, path: Path) -> Iterator[None]:
    """Messages name the file that was given."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).replace(str(plain), str(path))) from error


def _require_file(path: Path) -> None:
    if path.is_dir():
        raise InputError(f"{path}: this is a folder; give the structure file inside it.")
    if not path.is_file():
        raise InputError(
            f"{path}: there is no such file. Give a PDB, mmCIF, SDF, mol2, prmtop, top, gro, xyz, extxyz, CIF or "
            "POSCAR file."
        )


def split_frame(path: Path) -> tuple[Path, int | None]:
    """The file and the index after `@`, or None; a file whose own name ends so is taken as it is."""
    match = re.fullmatch(r"(.+)@(-?\d+)", path.name)
    if match is None or path.exists():
        return path, None
    return path.with_name(match.group(1)), int(match.group(2))


def is_sdf(path: Path) -> bool:
    """Whether the name, without index and packing, is that of an SDF or MOL file."""
    path = split_frame(path)[0]
    return _KINDS.get(Path(path.stem if path.suffix.lower() in _PACKED else path.name).suffix.lower()) == "sdf"


def file_kind(path: Path) -> str:
    """The format by the suffix, and by the content where a suffix has two meanings; '' leaves it to ASE."""
    _require_file(path)
    suffix = path.suffix.lower()
    if suffix == ".cif":  # the crystal's kind names its tags without a point
        return "mmcif" if "_atom_site.Cartn_x" in read_text(path) else "cif"
    if suffix == ".top":
        return "amber" if read_text(path).startswith("%VERSION") else "top"
    return _KINDS.get(suffix, "")


def _check_pair(path: Path, kind: str, coordinates_file: Path | None) -> None:
    """A topology file needs its coordinates, and coordinates need their topology."""
    if kind in ("amber", "top"):
        wanted = (".inpcrd", ".rst7", ".ncrst", ".crd") if kind == "amber" else (".gro",)
        if coordinates_file is None:
            near = [path.with_suffix(suffix) for suffix in wanted if path.with_suffix(suffix).is_file()]
            example = near[0] if near else path.with_suffix(wanted[0])
            raise InputError(f"{path}: holds no coordinates. Give them with --coordinates {example}.")
        if not coordinates_file.is_file():
            raise InputError(f"--coordinates: {coordinates_file}: there is no such file.")
    elif kind in ("crd", "itp"):
        example = "system.prmtop --coordinates " + path.name if kind == "crd" else "system.top --coordinates system.gro"
        what = "coordinates without elements" if kind == "crd" else "a part of a topology"
        raise InputError(f"{path}: is {what}. Give the topology: {example}.")
    elif coordinates_file is not None:
        raise InputError(f"--coordinates {coordinates_file}: {path} has coordinates of its own. Leave the option out.")


def _settle_virtual_sites(contents: Contents, policy: str) -> Contents:
    """Refuse or drop what is no atom; refuse atoms whose element is unknown."""
    without = [atom for atom in contents.topology.atoms() if atom.element is None]
    if not without:
        return contents
    unknown = [atom for atom in without if atom.name.upper() not in VIRTUAL_SITE_NAMES]
    if unknown:
        raise InputError(
            f"{contents.path}: {describe_atom(unknown[0])}: no chemical element (and {len(unknown) - 1} more). Name "
            "it: in a PDB file in the element column (77-78), in a topology by the atomic number."
        )
    if policy != "drop":
        raise InputError(
            f"{contents.path}: {describe_atom(without[0])}: a virtual site without an element (and {len(without) - 1} "
            "more, as in four-site water); MACE knows nuclei only. Leave them out with --virtual-sites drop."
        )
    topology, positions = without_atoms(contents.topology, contents.positions, [atom.index for atom in without])
    note = f"{len(without)} virtual sites were left out, as asked; the nuclei stay where they are"
    return replace(contents, topology=topology, positions=positions, notes=(*contents.notes, note))


def _check_atoms(contents: Contents) -> None:
    if contents.topology.getNumAtoms() == 0:
        raise InputError(f"{contents.path}: holds no atoms.")
    bad = np.flatnonzero(~np.isfinite(contents.positions).all(axis=1))
    if len(bad):
        atom = list(contents.topology.atoms())[bad[0]]
        others = f" (and of {len(bad) - 1} more)" if len(bad) > 1 else ""
        raise InputError(
            f"{contents.path}: the coordinates of atom {bad[0] + 1} ({atom.name}, residue {atom.residue.name} "
            f"{atom.residue.id}){others} are not finite numbers. Correct the file."
        )
    if contents.box is not None and not np.abs(contents.box).max() <= FARTHEST:  # also for NaN
        raise InputError(f"{contents.path}: the box {contents.box.tolist()} (nm) is no size of a system. Correct it.")
    far = np.abs(contents.positions).max(axis=1)
    if far.max() > FARTHEST:
        raise InputError(
            f"{contents.path}: atom {int(far.argmax()) + 1} is {far.max():.3g} nm from the origin. Correct the file."
        )
