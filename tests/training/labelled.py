"""Labelled configurations with an energy that is known in closed form, and files of them."""

from __future__ import annotations

from pathlib import Path

import ase
import ase.io
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator

from mace_md.training.checks import electronic_energy
from mace_md.training.configuration import Configuration

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def molecule(rng: np.random.Generator, n_atoms: int = 6, spread: float = 0.08, box: float | None = None):
    """H, C and O on a bent chain, with harmonic springs between near pairs: exact forces and stress."""
    numbers = np.array([8, 6, 1, 1, 6, 1, 1, 1])[:n_atoms]
    step = np.arange(n_atoms)
    rest = np.stack([1.0 * step, 0.6 * (step % 2), 0.3 * (step % 3)], axis=1)
    positions = rest + rng.normal(scale=spread, size=rest.shape)
    vectors = positions[:, None] - positions[None]
    lengths = np.linalg.norm(vectors, axis=-1) + np.eye(n_atoms)
    ideal = np.linalg.norm(rest[:, None] - rest[None], axis=-1) + np.eye(n_atoms)
    stiffness = 10.0 * (ideal < 2.2)  # eV/A^2
    energy = 0.25 * (stiffness * (lengths - ideal) ** 2).sum()
    forces = -((stiffness * (lengths - ideal) / lengths)[..., None] * vectors).sum(axis=1)
    stress = None
    if box is not None:
        pull = stiffness * ((lengths - ideal) / lengths)
        stress = 0.5 * np.einsum("ij,ija,ijb->ab", pull, vectors, vectors) / box**3
    return Configuration(
        atomic_numbers=numbers,
        positions=positions,
        cell=np.zeros((3, 3)) if box is None else box * np.eye(3),
        pbc=(box is not None,) * 3,
        energy=float(energy + electronic_energy(numbers)),
        forces=forces,
        stress=stress,
    )


def molecules(count: int, seed: int = 0, **how) -> list[Configuration]:
    """Frames of the same molecule."""
    rng = np.random.default_rng(seed)
    return [molecule(rng, **how) for _ in range(count)]


def to_atoms(configuration: Configuration, energy: str = "energy", forces: str = "forces") -> ase.Atoms:
    """As ASE has it; labels under the names `energy` and `forces` go to a calculator, as they do when ASE writes."""
    atoms = ase.Atoms(
        configuration.atomic_numbers, configuration.positions, cell=configuration.cell, pbc=configuration.pbc
    )
    results = {}
    for name, value in ((energy, configuration.energy), ("stress", configuration.stress)):
        if value is not None:
            (results if name in ("energy", "stress") else atoms.info)[name] = value
    if configuration.forces is not None:
        (results if forces == "forces" else atoms.arrays)[forces] = configuration.forces
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def write_xyz(path: Path, configurations: list[Configuration], **keys) -> Path:
    """An extended XYZ file of the configurations."""
    ase.io.write(path, [to_atoms(configuration, **keys) for configuration in configurations], format="extxyz")
    return path
