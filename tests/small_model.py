"""A MACE small enough for tests, and atoms for it."""

import copy
import functools

import numpy as np
import torch

from mace_md.model.build import build_model
from mace_md.model.hyperparameters import ModelConfig
from mace_md.model.mace import MACE


def small_model(dtype: torch.dtype = torch.float64, seed: int = 0) -> MACE:
    """Random weights for H, C, O; two layers, L = 1, correlation 3, r_max 3.5 A, E0s of -10, -1000 and -2000 eV."""
    return copy.deepcopy(_made(seed)).to(dtype)


@functools.cache
def _made(seed: int) -> MACE:
    config = ModelConfig(
        atomic_numbers=(1, 6, 8),
        r_max=3.5,
        num_bessel=5,
        num_channels=4,
        max_ell=2,
        max_L=1,
        radial_MLP=(8,),
        avg_num_neighbors=(6.0, 6.0),
    )
    model = build_model(config, seed=seed)
    model.atomic_energies[0] = torch.tensor([-10.0, -1000.0, -2000.0], dtype=torch.float64)
    return model


def cluster(n_atoms: int, seed: int = 0, spacing: float = 1.4) -> tuple[list[int], np.ndarray]:
    """Atomic numbers and positions [n_atoms, 3], A, of a jittered cubic lattice of H, C and O."""
    rng = np.random.default_rng(seed)
    side = int(np.ceil(n_atoms ** (1 / 3)))
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3)[:n_atoms]
    return rng.choice([1, 6, 8], n_atoms).tolist(), grid * spacing + rng.uniform(-0.2, 0.2, (n_atoms, 3))
