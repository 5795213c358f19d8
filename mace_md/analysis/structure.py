"""How far a structure is from a reference: root mean square deviations, and the radius of gyration."""

import numpy as np


def rmsd(positions: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """[f] nm, after the best rotation (Kabsch, Acta Cryst. A 32, 922, 1976) of whole molecules.

    positions [f, n, 3] nm, reference [n, 3] nm.
    """
    moved = np.asarray(positions, dtype=float)
    moved = moved - moved.mean(axis=1, keepdims=True)
    fixed = np.asarray(reference, dtype=float)
    fixed = fixed - fixed.mean(axis=0)
    covariance = np.einsum("fni,nj->fij", moved, fixed)
    values = np.linalg.svd(covariance, compute_uv=False)
    values[:, 2] *= np.sign(np.linalg.det(covariance))  # no mirror images
    squares = (moved**2).sum(axis=(1, 2)) + (fixed**2).sum() - 2 * values.sum(axis=1)
    return np.sqrt(np.maximum(squares, 0.0) / len(fixed))


def displacement(way: np.ndarray) -> np.ndarray:
    """[f] nm, root mean square of the way [f, n, 3] of the atoms of a crystal since the reference, not rotated."""
    return np.sqrt((np.asarray(way) ** 2).sum(axis=2).mean(axis=1))


def radius_of_gyration(positions: np.ndarray, masses: np.ndarray) -> np.ndarray:
    """[f] nm, weighted by mass; positions [f, n, 3] of one whole molecule, masses [n]."""
    weights = np.asarray(masses, dtype=float) / np.sum(masses)
    centre = np.einsum("fni,n->fi", positions, weights)
    return np.sqrt((((positions - centre[:, None]) ** 2).sum(axis=2) * weights).sum(axis=1))


def fluctuations(positions: np.ndarray, rounds: int = 3) -> np.ndarray:
    """[n] nm, root mean square fluctuation of each atom around the mean structure, after superposition on it."""
    positions = np.asarray(positions, dtype=float)
    mean = positions[0]
    for _ in range(rounds):
        fitted = superposed(positions, mean)
        mean = fitted.mean(axis=0)
    return np.sqrt(((fitted - mean) ** 2).sum(axis=2).mean(axis=0))


def superposed(positions: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """[f, n, 3], each frame rotated and shifted onto the reference [n, 3]."""
    moved = positions - positions.mean(axis=1, keepdims=True)
    fixed = reference - reference.mean(axis=0)
    u, _, vt = np.linalg.svd(np.einsum("fni,nj->fij", moved, fixed))
    sign = np.sign(np.linalg.det(u @ vt))
    u[:, :, 2] *= sign[:, None]
    return moved @ (u @ vt) + reference.mean(axis=0)
