"""Hydrogen bonds by geometry: donor and acceptor within 3.5 A, and hydrogen within 30 degrees of the line between them.

The criterion of Luzar and Chandler, Nature 379, 55 (1996), with N, O, F as donors and acceptors.
"""

import numpy as np

FARTHEST = 0.35  # nm
WIDEST = 30.0  # degrees
FRAMES_AT_ONCE = 200
POLAR = ("N", "O", "F")


def donors(topology) -> np.ndarray:
    """[n, 2] donor and its hydrogen."""
    found = []
    for bond in topology.bonds:
        for heavy, hydrogen in ((bond[0], bond[1]), (bond[1], bond[0])):
            if _symbol(hydrogen) == "H" and _symbol(heavy) in POLAR:
                found.append((heavy.index, hydrogen.index))
    return np.array(sorted(found), dtype=int).reshape(-1, 2)


def acceptors(topology) -> np.ndarray:
    """[n] indices."""
    return np.array([atom.index for atom in topology.atoms if _symbol(atom) in POLAR], dtype=int)


def _symbol(atom) -> str:
    return "X" if atom.element is None else atom.element.symbol


def count(
    topology, positions: np.ndarray, boxes: np.ndarray | None, pairs: np.ndarray, others: np.ndarray,
    molecule: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Hydrogen bonds in each frame: between molecules [f], and inside of them [f].

    topology : mdtraj's. positions [f, n_atoms, 3] nm; boxes [f, 3, 3] nm or None; pairs [n, 2] from `donors`; others
    [m] from `acceptors`; molecule [n_atoms].
    """
    if len(positions) > FRAMES_AT_ONCE:
        parts = [
            count(topology, positions[k : k + FRAMES_AT_ONCE], None if boxes is None else boxes[k : k + FRAMES_AT_ONCE],
                  pairs, others, molecule)
            for k in range(0, len(positions), FRAMES_AT_ONCE)
        ]  # fmt: skip
        between, inside = zip(*parts, strict=True)
        return np.concatenate(between), np.concatenate(inside)
    hydrogens: dict[int, list[int]] = {}
    for donor, hydrogen in pairs.tolist():
        hydrogens.setdefault(donor, []).append(hydrogen)
    triples = np.array(
        [(d, h, a) for d, bonded in hydrogens.items() for a in others.tolist() if a != d for h in bonded], dtype=int
    )
    heavy, which = np.unique(np.sort(triples[:, [0, 2]], axis=1), axis=0, return_inverse=True)
    order = np.argsort(which, kind="stable")  # the triples of each heavy pair are in a row
    ends = np.cumsum(np.bincount(which, minlength=len(heavy)))
    frame, pair = np.nonzero(_distances(topology, positions, boxes, heavy) < FARTHEST)
    counts = np.diff(np.r_[0, ends])[pair]
    offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    chosen = triples[order[np.repeat((ends - np.diff(np.r_[0, ends]))[pair], counts) + offsets]]
    frame = np.repeat(frame, counts)
    bonded = _straight(positions, boxes, frame, chosen)
    same = molecule[chosen[:, 0]] == molecule[chosen[:, 2]]
    size = len(positions)
    return np.bincount(frame[bonded & ~same], minlength=size), np.bincount(frame[bonded & same], minlength=size)


def _distances(topology, positions: np.ndarray, boxes: np.ndarray | None, pairs: np.ndarray) -> np.ndarray:
    import mdtraj

    part = mdtraj.Trajectory(positions, topology)
    if boxes is not None:
        part.unitcell_vectors = boxes
    return mdtraj.compute_distances(part, pairs, periodic=boxes is not None)


def _straight(positions: np.ndarray, boxes: np.ndarray | None, frame: np.ndarray, triples: np.ndarray) -> np.ndarray:
    """Whether donor-hydrogen points at the acceptor, within WIDEST degrees."""
    donor, hydrogen, acceptor = (positions[frame, triples[:, k]].astype(float) for k in range(3))
    vectors = [hydrogen - donor, acceptor - donor]
    if boxes is not None:
        inverse = np.linalg.inv(boxes)[frame]
        for k, vector in enumerate(vectors):
            turns = np.round(np.einsum("ni,nij->nj", vector, inverse))
            vectors[k] = vector - np.einsum("ni,nij->nj", turns, boxes[frame])
    along = (vectors[0] * vectors[1]).sum(axis=1)
    lengths = np.linalg.norm(vectors[0], axis=1) * np.linalg.norm(vectors[1], axis=1)
    return along > np.cos(np.radians(WIDEST)) * lengths
