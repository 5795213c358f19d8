"""Labelled structures of the recipe, their files, and who labels them: the teacher in native kernels, and GFN2-xTB."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from ase.data import covalent_radii

from mace_md.model.fast.folded import fold
from mace_md.model.fast.packing import pack
from mace_md.ops.energy_forces import energy_forces, load_library, new_state
from mace_md.units import EV_PER_ANGSTROM_TO_KJ_MOL_NM, EV_TO_KJ_MOL, NM_TO_ANGSTROM

BOHR, HARTREE = 0.529177211, 27.211386246  # A, eV


class Frame(NamedTuple):
    """One structure in vacuum with labels; energy is nan where only the forces are known."""

    kind: str  # what is sampled from, and scored, together
    group: str  # molecule: never in training and test at once
    numbers: np.ndarray  # [n_atoms], int
    positions: np.ndarray  # [n_atoms, 3], A
    charge: int  # e, for GFN2; the models do not see it
    energy: float  # eV, without the isolated atoms
    forces: np.ndarray  # [n_atoms, 3], eV/A


def save_frames(frames: Iterable[Frame], path: Path) -> None:
    """Write frames end to end as one .npz."""
    frames = list(frames)
    temporary = path.with_suffix(".tmp.npz")
    np.savez(
        temporary,
        kind=[frame.kind for frame in frames],
        group=[frame.group for frame in frames],
        size=[len(frame.numbers) for frame in frames],
        charge=[frame.charge for frame in frames],
        energy=[frame.energy for frame in frames],
        numbers=np.concatenate([frame.numbers for frame in frames]).astype(np.int8),
        positions=np.concatenate([frame.positions for frame in frames]).astype(np.float32),
        forces=np.concatenate([frame.forces for frame in frames]).astype(np.float32),
    )
    temporary.replace(path)


def load_frames(path: Path) -> list[Frame]:
    """What `save_frames` wrote."""
    data = dict(np.load(path).items())
    ends = np.cumsum(data["size"])[:-1]
    per_atom = [np.split(data[name], ends) for name in ("numbers", "positions", "forces")]
    columns = (data["kind"].tolist(), data["group"].tolist(), *per_atom, data["charge"].tolist(), data["energy"])
    return [
        Frame(kind, group, z.astype(int), x.astype(float), q, float(e), f.astype(float))
        for kind, group, z, x, f, q, e in zip(*columns, strict=True)
    ]


class Engine:
    """Energies and forces of any molecule of a model's elements by the native kernels, packed once."""

    def __init__(self, model: torch.nn.Module, skin: float = 0.0) -> None:
        load_library()
        self.elements = model.atomic_numbers.tolist()
        self._index = np.full(120, -1)
        self._index[self.elements] = np.arange(len(self.elements))
        self._blob, self._state = pack(fold(model), dtype=torch.float32, skin=skin), new_state()

    def __call__(
        self, numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray | None = None
    ) -> tuple[float, np.ndarray]:
        """Interaction energy, eV, and forces [n_atoms, 3], eV/A; positions and cell in A."""
        types = torch.tensor(self._index[np.asarray(numbers, int)], dtype=torch.int32)
        x = torch.as_tensor(np.asarray(positions, float)) / NM_TO_ANGSTROM
        box = None if cell is None else torch.as_tensor(np.asarray(cell, float)) / NM_TO_ANGSTROM
        energy, forces, _ = energy_forces(x, box, types, self._blob, self._state)
        return float(energy) / EV_TO_KJ_MOL, forces.numpy() / EV_PER_ANGSTROM_TO_KJ_MOL_NM


def gfn2(numbers: np.ndarray, positions: np.ndarray, charge: int) -> tuple[float, np.ndarray] | None:
    """Energy, eV, and forces, eV/A, of GFN2-xTB; None where its charges do not converge."""
    from tblite.interface import Calculator

    calculator = Calculator("GFN2-xTB", np.asarray(numbers, int), np.asarray(positions) / BOHR, charge=float(charge))
    calculator.set("verbosity", 0)
    calculator.set("max-iter", 150)
    try:
        result = calculator.singlepoint()
    except RuntimeError:
        return None
    return result.get("energy") * HARTREE, -result.get("gradient") * HARTREE / BOHR


def closest_contact(numbers: np.ndarray, positions: np.ndarray) -> float:
    """Smallest distance of two atoms in units of the sum of their covalent radii."""
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    radii = covalent_radii[numbers]
    return float((distance / (radii[:, None] + radii[None])).min())


def rms(values: np.ndarray) -> float:
    """Root of the mean square of all components."""
    return float(np.sqrt(np.mean(np.square(values))))


# Agreement of the teacher with GFN2 that makes it believable, as rms of the forces: what GFN2 is usually off by on
# ordinary structures (0.1 to 0.3 eV/A), and a share of the forces where these are large.
BELIEVED, BELIEVED_SHARE = 0.4, 0.12  # eV/A, 1
CLASHING = 0.8  # closest contact below which the teacher knows nothing and GFN2 may replace it
LARGEST_FORCE = 600.0  # eV/A; beyond, a structure teaches nothing


def label(teacher: Engine, kind: str, numbers: np.ndarray, positions: np.ndarray, charge: int) -> Frame | None:
    """The structure with the teacher's label where GFN2 agrees with it, with GFN2's forces (kind + "_gfn2") where they
    disagree and atoms clash, None where they disagree and nothing clashes: then GFN2 is not the better judge."""
    judge = gfn2(numbers, positions, charge)
    if judge is None or np.abs(judge[1]).max() > LARGEST_FORCE:
        return None
    energy, forces = teacher(numbers, positions)
    if rms(forces - judge[1]) < BELIEVED + BELIEVED_SHARE * rms(judge[1]):
        return Frame(kind, kind, numbers, positions, charge, energy, forces)
    if closest_contact(numbers, positions) > CLASHING:
        return None
    return Frame(kind + "_gfn2", kind, numbers, positions, charge, np.nan, judge[1])
