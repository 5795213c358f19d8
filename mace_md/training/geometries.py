"""Geometries without labels: extended XYZ and all that ASE reads, HDF5 in SPICE's layout, trajectories of simulations.

SPICE's layout is one group for each molecule with `conformations` [n, n_atoms, 3] (attribute `units`) and either
`atomic_numbers` [n_atoms] or a mapped `smiles`, whose map numbers are the order of the atoms.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mace_md.errors import InputError
from mace_md.training.configuration import Configuration, LabelFormat
from mace_md.training.data import read_configurations
from mace_md.units import NM_TO_ANGSTROM, unit_size

_TRAJECTORIES = (".dcd", ".xtc", ".trr", ".nc")
_HDF5 = (".h5", ".hdf5")
_UNIT_NAMES = {"nanometers": "nm", "nanometer": "nm", "angstrom": "A", "angstroms": "A", "bohr": "Bohr"}


def read_geometries(
    path: Path, *, topology: Path | None = None, length_unit: str | None = None, every: int = 1
) -> Iterator[Configuration]:
    """Every n-th geometry of a file, in A; of SPICE's layout every n-th of each molecule, with its name as the type.

    Labels that the file has come along. Raises InputError with the file and what to do.
    """
    suffix = path.suffix.lower()
    if path.is_dir():
        raise InputError(f"{path}: this is a folder; give the file inside it")
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    if suffix in _TRAJECTORIES:
        yield from _trajectory(path, topology, every)
    elif suffix in _HDF5 and not _is_own(path):
        yield from _spice(path, length_unit, every)
    else:
        frames = read_configurations(path, LabelFormat(length_unit=length_unit))
        for frame in range(0, len(frames), every):
            yield frames[frame]


def _is_own(path: Path) -> bool:
    h5py = _h5py()
    try:
        with h5py.File(path, "r") as file:
            return "format" in file.attrs
    except OSError as error:
        raise InputError(f"{path}: not a readable HDF5 file ({error})") from None


def _spice(path: Path, length_unit: str | None, every: int) -> Iterator[Configuration]:
    with _h5py().File(path, "r") as file:
        frame = 0
        for name in file:
            group = file[name]
            if "conformations" not in group or not {"atomic_numbers", "smiles"} & set(group):
                raise InputError(
                    f"{path}: the group '{name}' has {', '.join(group)}, where SPICE's layout has conformations and "
                    "atomic_numbers or smiles"
                )
            numbers = _numbers(group, f"{path}, {name}")
            conformations = group["conformations"]
            if conformations.shape[1:] != (len(numbers), 3):
                raise InputError(f"{path}, {name}: {len(numbers)} atoms, conformations of shape {conformations.shape}")
            factor = _unit(conformations, length_unit, f"{path}, {name}")
            for positions in conformations[::every]:
                yield Configuration(
                    atomic_numbers=numbers,
                    positions=positions.astype(np.float64) * factor,
                    cell=np.zeros((3, 3)),
                    config_type=name,
                    file=str(path),
                    frame=frame,
                )
                frame += 1


def _unit(conformations: Any, length_unit: str | None, where: str) -> float:
    """Angstrom in the unit of the positions: as given, as the file says, or Bohr, which SPICE's releases have."""
    found = conformations.attrs.get("units", "bohr")
    name = length_unit or _UNIT_NAMES.get(found.decode() if isinstance(found, bytes) else str(found))
    if name is None:
        raise InputError(
            f"{where}: the unit of its positions, '{found}', is unknown here. Say --length-unit nm, A or Bohr."
        )
    return unit_size(name, "length")


def _numbers(group: Any, where: str) -> np.ndarray:
    if "atomic_numbers" in group:
        return group["atomic_numbers"][:].astype(np.int64)
    smiles = group["smiles"].asstr()[...]
    return numbers_from_smiles(str(np.ravel(smiles)[0]), where)


def numbers_from_smiles(smiles: str, where: str = "SMILES") -> np.ndarray:
    """Atomic numbers [n_atoms] in the order of the map numbers of a SMILES in which every atom has one."""
    try:
        from rdkit import Chem
    except ImportError:
        raise InputError("molecules given as SMILES need RDKit: pip install rdkit") from None
    parameters = Chem.SmilesParserParams()
    parameters.removeHs = False
    parameters.sanitize = False
    molecule = Chem.MolFromSmiles(smiles, parameters)
    atoms = [] if molecule is None else sorted(molecule.GetAtoms(), key=lambda atom: atom.GetAtomMapNum())
    if [atom.GetAtomMapNum() for atom in atoms] != list(range(1, len(atoms) + 1)) or not atoms:
        shown = smiles if len(smiles) < 60 else smiles[:57] + "..."
        raise InputError(
            f"{where}: '{shown}' is not a SMILES whose atoms are numbered 1, 2, ... (all hydrogens included)"
        )
    return np.array([atom.GetAtomicNum() for atom in atoms], dtype=np.int64)


def _trajectory(path: Path, topology: Path | None, every: int) -> Iterator[Configuration]:
    import mdtraj

    if topology is None:
        names = ("topology.pdb", "topology.cif")  # where `mace-md run` puts it
        beside = next((path.with_name(name) for name in names if path.with_name(name).is_file()), None)
        if beside is None:
            raise InputError(f"{path}: such a file has no elements in it. Give its topology: --topology FILE.pdb")
        topology = beside
    try:
        described = mdtraj.load_topology(str(topology))
        numbers = np.array([atom.element.atomic_number for atom in described.atoms], dtype=np.int64)
        chunks = mdtraj.iterload(str(path), top=described, chunk=100)
        frame = 0
        for chunk in chunks:
            for i in range(chunk.n_frames):
                if frame % every == 0:
                    yield _frame(chunk, i, numbers, str(path), frame)
                frame += 1
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{path} with {topology}: cannot be read ({error})") from None


def _frame(chunk: Any, i: int, numbers: np.ndarray, file: str, frame: int) -> Configuration:
    box = chunk.unitcell_vectors
    periodic = box is not None
    return Configuration(
        atomic_numbers=numbers,
        positions=chunk.xyz[i].astype(np.float64) * NM_TO_ANGSTROM,
        cell=box[i].astype(np.float64) * NM_TO_ANGSTROM if periodic else np.zeros((3, 3)),
        pbc=(periodic,) * 3,
        file=file,
        frame=frame,
    )


def named(configuration: Configuration, config_type: str | None, head: str) -> Configuration:
    """With its type as given, or as in its file, or else the name of the file; and the head that its labels are for."""
    if config_type is None:
        config_type = configuration.config_type
        if config_type == "Default":
            config_type = Path(configuration.file).name.partition(".")[0] or "Default"
    return replace(configuration, config_type=config_type, head=head)


def _h5py() -> Any:
    try:
        import h5py
    except ImportError:
        raise InputError("HDF5 files need h5py: pip install h5py") from None
    return h5py
