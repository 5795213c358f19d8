"""Small files of labelled frames, and the folder of those that people reported, where it is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from ase.build import bulk

from mace_md.training.checks import electronic_energy
from mace_md.training.configuration import Configuration

CASES = Path(__file__).parents[2].parent / "shared" / "cases"
VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


def frame_text(c: Configuration, comment: str = "", columns: bool = True) -> str:
    """One frame as text; `comment` is put behind the properties."""
    from ase.data import chemical_symbols

    properties = "species:S:1:pos:R:3" + ":REF_forces:R:3" * columns
    rows = np.hstack([c.positions, c.forces]) if columns else c.positions
    lines = [str(len(c.positions)), f"Properties={properties} {comment}"]
    for z, row in zip(c.atomic_numbers, rows, strict=True):
        lines.append(" ".join([chemical_symbols[z], *(f"{x:.10f}" for x in row)]))
    return "\n".join(lines) + "\n"


def lattice(c: Configuration) -> str:
    """The words of a comment that say the box."""
    return 'Lattice="{}"'.format(" ".join(f"{x:.10f}" for x in c.cell.ravel()))


def strained_crystals(count: int = 30, seed: int = 0) -> list[Configuration]:
    """Diamond with springs between neighbours in boxes strained by 1 % in every component: exact energies, forces and
    stresses."""
    rng = np.random.default_rng(seed)
    crystal = bulk("C", "diamond", 3.57, cubic=True)
    return [_springs(crystal, rng) for _ in range(count)]


def _springs(crystal, rng: np.random.Generator) -> Configuration:
    strain = rng.normal(scale=0.01, size=(3, 3))
    cell = crystal.cell.array @ (np.eye(3) + 0.5 * (strain + strain.T))
    positions = crystal.get_scaled_positions() @ cell + rng.normal(scale=0.01, size=(len(crystal), 3))
    images = np.array([[i, j, k] for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1)]) @ cell
    vectors = positions[None, :, None] + images[None, None] - positions[:, None, None]  # [from, to, image, 3]
    lengths = np.linalg.norm(vectors, axis=-1)
    # a smooth spring on the nearest neighbours (1.55 A) and a softer one on the next (2.52 A), so that shear costs
    energy, pull = 0.0, np.zeros_like(lengths)
    for rest, stiffness, low, high in ((1.50, 20.0, 0.5, 2.0), (2.50, 5.0, 2.0, 2.75)):
        near = (lengths > low) & (lengths < high)
        energy += 0.25 * stiffness * float(((lengths - rest)[near] ** 2).sum())
        pull += np.where(near, stiffness * (lengths - rest) / np.where(near, lengths, 1.0), 0.0)
    forces = (pull[..., None] * vectors).sum(axis=(1, 2))
    stress = 0.5 * np.einsum("ijk,ijka,ijkb->ab", pull, vectors, vectors) / abs(np.linalg.det(cell))
    numbers = np.array(crystal.numbers)
    return Configuration(
        numbers, positions, cell, (True,) * 3, energy + electronic_energy(numbers), forces, stress, file="crystals.xyz"
    )


def with_stress(data: Sequence[Configuration], change: Callable[[np.ndarray], np.ndarray]) -> list[Configuration]:
    """The frames with another stress."""
    return [replace(c, stress=change(c.stress)) for c in data]


def read_in_order(stress: np.ndarray, order: Sequence[int]) -> np.ndarray:
    """What comes of a stress whose six numbers are written in this order (component of each) and read as Voigt's."""
    numbers = [stress[VOIGT[i]] for i in order]
    result = np.zeros((3, 3))
    for (i, j), number in zip(VOIGT, numbers, strict=True):
        result[i, j] = result[j, i] = number
    return result
