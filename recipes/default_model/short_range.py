"""Structures with atoms that are too close, which SPICE does not have and where the teacher has holes.

Pairs of atoms alone, molecules and ions pushed into each other, and molecules with a squeezed bond or squeezed as a
whole. Their forces are those of the ZBL potential (pairs, innermost part) and of GFN2-xTB; the teacher's where GFN2
confirms them.
"""

from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np
from ase.data import covalent_radii
from frames import Engine, Frame, closest_contact, gfn2, label
from scipy.spatial.transform import Rotation

CATIONS, ANIONS = {3: 1, 11: 1, 19: 1, 12: 2, 20: 2}, {9: -1, 17: -1, 35: -1, 53: -1}
IONS = CATIONS | ANIONS
INNERMOST, INNER, OUTER = 0.2, 0.47, 0.85  # of the sum of covalent radii: ZBL up to INNER, GFN2 up to OUTER
SHORTEST = 0.3  # A


def zbl_force(z_i: int, z_j: int, r: float) -> float:
    """Repulsive force, eV/A, of the universal Ziegler-Biersack-Littmark potential at r, A."""
    length = 0.8854 * 0.529 / (z_i**0.23 + z_j**0.23)
    weights, exponents = np.array([0.1818, 0.5099, 0.2802, 0.02817]), np.array([3.2, 0.9423, 0.4028, 0.2016])
    terms = weights * np.exp(-exponents * r / length)
    return float(14.3996 * z_i * z_j * (terms.sum() / r**2 + (terms * exponents).sum() / (r * length)))


def dimers(elements: list[int], rng: np.random.Generator) -> list[Frame]:
    """Pairs of atoms from INNERMOST to OUTER; repulsive ones only, since attraction of bare atoms is no law here."""
    frames = []
    for i, j in combinations_with_replacement(elements, 2):
        for x in [*rng.uniform(INNERMOST, INNER, 6), *rng.uniform(INNER, OUTER, 9)]:
            forces = repulsion(i, j, x)
            if forces is not None:
                frames.append(bare_pair("dimer", i, j, x, forces))
    return frames


def holes(student: Engine) -> list[Frame]:
    """Pairs of atoms that the student lets attract each other inside 0.6, at all distances from INNERMOST to OUTER."""
    frames = []
    for i, j in combinations_with_replacement(student.elements, 2):
        contact, grid = covalent_radii[i] + covalent_radii[j], np.arange(INNERMOST, OUTER, 0.01)
        inside = grid[(grid < 0.6) & (grid * contact > SHORTEST)]
        if min(student([i, j], np.array([[0, 0, 0], [0, 0, x * contact]]))[1][1, 2] for x in inside) > 0:
            continue
        for x in grid:
            forces = repulsion(i, j, x)
            if forces is not None:
                frames.append(bare_pair("hole", i, j, x, forces))
    return frames


def charge_of(i: int, j: int) -> int:
    """Charge of a bare pair: as in the ions of SPICE, 0 of others."""
    return IONS[i] + IONS[j] if {i, j} <= set(IONS) else 0


def bare_pair(kind: str, i: int, j: int, x: float, forces: np.ndarray) -> Frame:
    """A pair of atoms at `x` (sums of covalent radii), without energy."""
    positions = np.array([[0, 0, 0], [0, 0, x * (covalent_radii[i] + covalent_radii[j])]])
    return Frame(kind, f"{i}-{j}", np.array([i, j]), positions, charge_of(i, j), np.nan, forces)


def repulsion(i: int, j: int, x: float) -> np.ndarray | None:
    """Forces, eV/A, of a bare pair: ZBL below INNER, else GFN2-xTB; None where it attracts or is too close."""
    r = x * (covalent_radii[i] + covalent_radii[j])
    if r < SHORTEST:
        return None
    if x < INNER:
        return np.array([[0, 0, -1], [0, 0, 1]]) * zbl_force(i, j, r)
    judged = gfn2(np.array([i, j]), np.array([[0, 0, 0], [0, 0, r]]), charge_of(i, j))
    return None if judged is None or judged[1][1, 2] < 0 else judged[1]


def pairs(teacher: Engine, left_out: set[frozenset[int]], rng: np.random.Generator) -> list[Frame]:
    """Pairs of atoms from contact to the cutoff with the teacher's forces, without the pairs of ions of the test.

    They hold the student where it was: elements that training rarely shows would drift otherwise.
    """
    frames = []
    for i, j in combinations_with_replacement(teacher.elements, 2):
        if frozenset((i, j)) in left_out:
            continue
        for r in rng.uniform(covalent_radii[i] + covalent_radii[j], 4.4, 12):
            numbers, positions = np.array([i, j]), np.array([[0, 0, 0], [0, 0, r]])
            energy, forces = teacher(numbers, positions)
            if np.abs(forces).max() < 12.0:  # eV/A
                frames.append(Frame("pair", f"{i}-{j}", numbers, positions, 0, energy, forces))
    return frames


Molecule = tuple[np.ndarray, np.ndarray, int]  # numbers, positions in A, charge


def draw_molecule(frames: list[Frame], rng: np.random.Generator) -> Molecule:
    """An ion (1 of 5), a water (1 of 10), or a small monomer of the training set."""
    kind = rng.random()
    if kind < 0.2:
        ion = int(rng.choice(list(IONS)))
        return np.array([ion]), np.zeros((1, 3)), IONS[ion]
    wanted = "water30" if kind < 0.3 else "monomers"
    while True:
        frame = frames[rng.integers(len(frames))]
        if frame.kind == "water30" == wanted:
            first = 3 * rng.integers(len(frame.numbers) // 3)
            return frame.numbers[first : first + 3], frame.positions[first : first + 3], 0
        if frame.kind == wanted and len(frame.numbers) <= 13:
            return frame.numbers, frame.positions, frame.charge


def approach(a: Molecule, b: Molecule, contact: float, rng: np.random.Generator) -> Molecule:
    """Both in random orientation, at the first distance where their closest contact is `contact` (sums of radii)."""
    x_a, x_b = (Rotation.random(random_state=rng).apply(m[1] - m[1].mean(0)) for m in (a, b))
    limits = contact * (covalent_radii[a[0]][:, None] + covalent_radii[b[0]][None])
    # A pair (i, j) touches when |x_a - x_b - d z| is its limit: the outermost solution of a quadratic in d.
    apart = x_a[:, None] - x_b[None]
    height = limits**2 - (apart[..., :2] ** 2).sum(-1)
    reach = np.where(height > 0, apart[..., 2] + np.sqrt(np.maximum(height, 0)), -np.inf)
    d = max(float(reach.max()), 0.0)
    return np.concatenate([a[0], b[0]]), np.concatenate([x_a, x_b + [0, 0, d]]), a[2] + b[2]


def squeeze(molecule: Molecule, contact: float, rng: np.random.Generator) -> Molecule:
    """The molecule scaled down, or with one atom moved to `contact` (sums of radii) from a neighbour."""
    numbers, positions, charge = molecule
    positions = positions.copy()
    if rng.random() < 0.4:
        return numbers, positions * rng.uniform(0.55, 0.9) + rng.normal(0, 0.03, positions.shape), charge
    i = rng.integers(len(numbers))
    near = np.argsort(np.linalg.norm(positions - positions[i], axis=1))[1:4]
    j = near[rng.integers(len(near))]
    along = positions[j] - positions[i]
    wanted = contact * (covalent_radii[numbers[i]] + covalent_radii[numbers[j]])
    positions[j] = positions[i] + along / np.linalg.norm(along) * wanted
    return numbers, positions, charge


def compact(frames: list[Frame], rng: np.random.Generator) -> Molecule:
    """Two molecules in contact, scaled down with all their bonds and rattled."""
    numbers, positions, charge = approach(draw_molecule(frames, rng), draw_molecule(frames, rng), 1.2, rng)
    return numbers, positions * rng.uniform(0.55, 0.95) + rng.normal(0, 0.05, positions.shape), charge


def crushed(frames: list[Frame], teacher: Engine, count: int, rng: np.random.Generator) -> list[Frame]:
    """`count` structures with labels (see `label`), of molecules of `frames`."""
    found: list[Frame] = []
    while len(found) < count:
        molecule, contact = draw_molecule(frames, rng), rng.uniform(0.45, 1.15)
        if len(found) % 2 == 0:
            molecule = compact(frames, rng)
        elif len(molecule[0]) > 2 and rng.random() < 0.35:
            molecule = squeeze(molecule, min(contact, OUTER), rng)
        else:
            molecule = approach(molecule, draw_molecule(frames, rng), contact, rng)
        if not 3 <= len(molecule[0]) <= 18 or closest_contact(*molecule[:2]) < 0.4:
            continue
        frame = label(teacher, "clash", *molecule)
        if frame is not None:
            found.append(frame)
    return found
