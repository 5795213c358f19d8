"""Which atoms form a molecule: bonds from the file, or from distances where the file has none.

OpenMM knows molecules only by bonds, and uses them to wrap coordinates and to scale the box. A machine-learned force
has no bonds, so they are found here. They never enter the energy.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from openmm import app

from mace_md.units import ANGSTROM_TO_NM

# A pair is bonded below the sum of the covalent radii (Cordero 2008) plus this. Water at 1 bar: O-H bonds below 1.2 A,
# hydrogen bonds above 1.5 A; the limit falls at 1.37 A.
BOND_TOLERANCE = 0.40  # A
# A bond of the file longer than this many times the sum of the covalent radii is a gap in a chain, not a bond.
MAX_BOND_STRETCH = 2.0
# Elements that exchange neighbours all the time in solution; calling a coordination a bond would fuse ion and solvent.
IONIC_METALS = frozenset((3, 11, 19, 37, 55, 87, 12, 20, 38, 56, 88))  # Li Na K Rb Cs Fr Mg Ca Sr Ba Ra


@dataclass(frozen=True)
class Molecules:
    """The partition of the atoms into molecules.

    index : [n_atoms] int, the molecule each atom belongs to.
    bonds : [n_bonds, 2] int.
    stated : [n_bonds] bool, True for those that a file, a SMILES or a known residue states, not found by distance.
    offsets : [n_atoms, 3] nm, whole = positions + offsets puts each molecule in one piece.
    networks : molecules that are bonded to their own periodic image (crystals, polymers): they have no inside.
    dropped : how many bonds of the file are far too long, and not in `bonds`.
    """

    index: np.ndarray
    bonds: np.ndarray
    stated: np.ndarray
    offsets: np.ndarray
    networks: tuple[int, ...]
    dropped: int = 0

    @property
    def count(self) -> int:
        return int(self.index.max()) + 1

    def groups(self) -> list[list[int]]:
        """The atoms of each molecule, ascending."""
        groups: list[list[int]] = [[] for _ in range(self.count)]
        for atom, molecule in enumerate(self.index.tolist()):
            groups[molecule].append(atom)
        return groups

    def in_network(self) -> np.ndarray:
        """[n_atoms] bool, True for the atoms of endless molecules."""
        return np.isin(self.index, self.networks)

    def whole(self, positions: np.ndarray) -> np.ndarray:
        """[n_atoms, 3] nm, the positions with every molecule in one piece; atoms move by lattice vectors only."""
        return positions + self.offsets


def find_molecules(
    topology: app.Topology,
    positions: np.ndarray,
    box: np.ndarray | None,
    bonds_from: str = "of the file",
    guessed: frozenset[tuple[int, int]] = frozenset(),
) -> tuple[Molecules, list[str]]:
    """Molecules from the bonds of the topology, with bonds from distances for atoms that have none; and notes.

    positions [n_atoms, 3] nm; box [3, 3] rows nm, reduced, or None. guessed : bonds of the topology, i < j, that were
    found by distance before.
    """
    numbers = np.array([atom.element.atomic_number for atom in topology.atoms()])
    pairs = np.array([(a.index, b.index) for a, b in topology.bonds()], dtype=int).reshape(-1, 2)
    vectors = _bond_vectors(numbers, pairs, positions, box)
    pairs, vectors, dropped = _without_gaps(numbers, pairs, vectors)
    lonely = _without_bond(topology, pairs)
    found = 0
    if lonely.any():
        extra, extra_vectors = perceive_bonds(numbers, positions, box)
        wanted = lonely[extra].any(axis=1)
        found = int(wanted.sum())
        pairs = np.concatenate([pairs, extra[wanted]])
        vectors = np.concatenate([vectors, extra_vectors[wanted]])
    index, offsets, networks = _walk(len(numbers), pairs, vectors, positions)
    stated = np.arange(len(pairs)) < len(pairs) - found
    if guessed:
        stated &= [tuple(pair) not in guessed for pair in np.sort(pairs, axis=1).tolist()]
    molecules = Molecules(index, pairs, stated, offsets, networks, dropped)
    return molecules, _notes(molecules, len(pairs) - found, found, bonds_from)


def perceive_bonds(numbers, positions, box) -> tuple[np.ndarray, np.ndarray]:
    """Pairs [n, 2] (i <= j; one row an image) closer than a bond, and their vectors [n, 3] nm from i to j.

    A hydrogen keeps its nearest partner only, so that a short hydrogen bond does not join two molecules; and another
    hydrogen only where there is nothing else, so that two that are too close do not become H2.
    """
    from ase.data import covalent_radii

    numbers = np.asarray(numbers)
    radii = covalent_radii[numbers]
    bonding = ~np.isin(numbers, list(IONIC_METALS))
    cutoff = (2 * radii.max() + BOND_TOLERANCE) * ANGSTROM_TO_NM
    i, j, distances, vectors = pairs_within(positions, box, cutoff)
    limit = (radii[i] + radii[j] + BOND_TOLERANCE) * ANGSTROM_TO_NM
    keep = (distances < limit) & bonding[i] & bonding[j]
    i, j, distances, vectors = i[keep], j[keep], distances[keep], vectors[keep]
    h_h = (numbers[i] == 1) & (numbers[j] == 1)
    heavy = np.zeros(len(numbers), dtype=bool)
    heavy[i[~h_h]] = True  # has a partner that is not a hydrogen, or is none itself
    keep = ~(h_h & (heavy[i] | heavy[j]))
    i, j, distances, vectors = i[keep], j[keep], distances[keep], vectors[keep]
    nearest = np.full(len(numbers), np.inf)
    np.minimum.at(nearest, i, distances)
    slack = 1e-9  # nm: the two directions of a pair may differ by rounding
    first, second = ((numbers[end] != 1) | (distances <= nearest[end] + slack) for end in (i, j))
    forward = first & second & ((i < j) | ((i == j) & _is_positive(vectors)))
    return np.stack([i[forward], j[forward]], axis=1), vectors[forward]


def pairs_within(positions, box, cutoff: float):
    """All pairs closer than `cutoff` (nm), both directions, all images: i, j, distance and the vector from i to j."""
    import torch

    from mace_md.ops.neighbor_list import neighbor_list

    x = torch.as_tensor(np.asarray(positions, dtype=float))
    cell = torch.zeros(3, 3, dtype=torch.float64) if box is None else torch.as_tensor(np.asarray(box, dtype=float))
    edge_index, shifts = neighbor_list(x, cell, box is not None, cutoff)
    i, j = edge_index
    vectors = (x[j] - x[i] + shifts @ cell).numpy()
    return i.numpy(), j.numpy(), np.linalg.norm(vectors, axis=1), vectors


def close_pairs(
    positions: np.ndarray, box: np.ndarray | None, cutoff: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs closer than `cutoff` (nm), once each, through the box too: i, j and their distance, nm.

    Made for few pairs and a cutoff below half the box, where it is many times faster than `pairs_within`; in a smaller
    box only the neighbouring images are seen. Positions must be finite; box in reduced form.
    """
    from scipy.spatial import cKDTree

    if box is None:
        places, owner = positions, None
    else:
        places, owner = _with_ghosts(positions, box, cutoff)
    tree = cKDTree(places, balanced_tree=False, compact_nodes=False)
    i, j = tree.query_pairs(cutoff, output_type="ndarray").T
    difference = places[i] - places[j]
    distances = np.sqrt(np.einsum("ij,ij->i", difference, difference))
    if owner is None:
        return i, j, distances
    # i < j here; a pair of two ghosts is a copy of another one, and one of two mirror images is enough
    real = (i < len(positions)) & ((j < len(positions)) | (owner[j] >= i))
    return owner[i[real]], owner[j[real]], distances[real]


def _with_ghosts(positions: np.ndarray, box: np.ndarray, cutoff: float) -> tuple[np.ndarray, np.ndarray]:
    """The atoms moved into the brick of a reduced box, then the images within `cutoff` outside of it; whose each is."""
    places = positions.copy()
    for axis in (2, 1, 0):
        places -= np.floor(places[:, axis] / box[axis, axis])[:, None] * box[axis]
    owner = np.arange(len(places))
    for axis in (2, 1, 0):  # a later axis also copies the ghosts of the earlier ones: edges and corners
        low = places[:, axis] < cutoff
        high = places[:, axis] > box[axis, axis] - cutoff
        places = np.concatenate([places, places[low] + box[axis], places[high] - box[axis]])
        owner = np.concatenate([owner, owner[low], owner[high]])
    return places, owner


def face_distances(box: np.ndarray) -> np.ndarray:
    """[3], the distances between opposite faces of a box of row vectors, in its unit."""
    normals = np.cross(np.roll(box, -1, axis=0), np.roll(box, -2, axis=0))
    return np.abs(np.linalg.det(box)) / np.linalg.norm(normals, axis=1)


def minimum_image(vectors: np.ndarray, box: np.ndarray | None) -> np.ndarray:
    """`vectors` [n, 3] nm moved by lattice vectors into the brick around the origin of a reduced box."""
    if box is None:
        return vectors
    vectors = vectors.copy()
    for axis in (2, 1, 0):
        vectors -= np.round(vectors[:, axis] / box[axis, axis])[:, None] * box[axis]
    return vectors


def _bond_vectors(numbers, pairs, positions, box) -> np.ndarray:
    """[n_bonds, 3] nm, from the first atom to the second: as in the file, or through the box where that is too far.

    In a box smaller than the molecule an image is nearer than the atom the bond means.
    """
    from ase.data import covalent_radii

    direct = positions[pairs[:, 1]] - positions[pairs[:, 0]]
    limit = (covalent_radii[numbers[pairs]].sum(axis=1) + BOND_TOLERANCE) * ANGSTROM_TO_NM
    within = np.linalg.norm(direct, axis=1) < limit
    return np.where(within[:, None], direct, minimum_image(direct, box))


def _is_positive(vectors: np.ndarray) -> np.ndarray:
    """One of v and -v: the sign of the first component that is not zero."""
    signs = np.sign(np.round(vectors, 9))
    return np.array([next((s for s in row if s), 0) > 0 for row in signs], dtype=bool).reshape(len(vectors))


def _without_gaps(numbers, pairs, vectors):
    from ase.data import covalent_radii

    limit = MAX_BOND_STRETCH * ANGSTROM_TO_NM * covalent_radii[numbers[pairs]].sum(axis=1)
    keep = np.linalg.norm(vectors, axis=1) < limit
    return pairs[keep], vectors[keep], int((~keep).sum())


def _without_bond(topology: app.Topology, pairs: np.ndarray) -> np.ndarray:
    """[n_atoms] bool: atoms the file gives no bond although their residue has company for them."""
    lonely = np.ones(topology.getNumAtoms(), dtype=bool)
    lonely[pairs.ravel()] = False
    for residue in topology.residues():
        atoms = list(residue.atoms())
        if len(atoms) == 1:
            lonely[atoms[0].index] = False
    return lonely


def _walk(num_atoms, pairs, vectors, positions):
    """Breadth-first over the bonds: molecule of each atom, offset that makes it whole, and endless molecules."""
    neighbours: list[list[tuple[int, np.ndarray]]] = [[] for _ in range(num_atoms)]
    for (i, j), vector in zip(pairs.tolist(), vectors, strict=True):
        neighbours[i].append((j, vector))
        neighbours[j].append((i, -vector))
    index = np.full(num_atoms, -1)
    whole = np.array(positions, dtype=float)
    networks = set()
    count = 0
    for start in range(num_atoms):
        if index[start] >= 0:
            continue
        index[start] = count
        queue = [start]
        for i in queue:
            for j, vector in neighbours[i]:
                if index[j] < 0:
                    index[j] = count
                    whole[j] = whole[i] + vector
                    queue.append(j)
                elif np.abs(whole[i] + vector - whole[j]).max() > 1e-4:  # nm; a lattice vector is far longer
                    networks.add(count)
        count += 1
    offsets = whole - positions
    offsets[np.abs(offsets).max(axis=1) < 1e-4] = 0.0  # rounding of the walk is no reason to touch a coordinate
    offsets[np.isin(index, list(networks))] = 0.0
    return index, offsets, tuple(sorted(networks))


def _notes(molecules: Molecules, from_file: int, found: int, bonds_from: str) -> list[str]:
    sizes = Counter(np.bincount(molecules.index).tolist())
    largest = ", ".join(f"{n} of {size} atoms" for size, n in sorted(sizes.items(), reverse=True)[:3])
    more = f", {len(sizes) - 3} other sizes" if len(sizes) > 3 else ""
    source = " and ".join(
        text
        for n, text in ((from_file, f"{from_file} bonds {bonds_from}"), (found, f"{found} bonds found by distance"))
        if n
    )
    plural = "s" if molecules.count > 1 else ""
    notes = [f"{molecules.count} molecule{plural} ({largest}{more}) from {source or 'no bonds at all'}"]
    if molecules.dropped:
        notes.append(
            f"{molecules.dropped} bonds of the file are over {MAX_BOND_STRETCH:g} times their length: not used (a gap?)"
        )
    if molecules.networks:
        notes.append(f"{len(molecules.networks)} of the molecules are endless (bonded to their own periodic image)")
    if (np.abs(molecules.offsets).max(axis=1) > 0).any():
        notes.append("molecules that were cut by the box were made whole")
    return notes
