"""Molecules and boxes of a trajectory: what belongs together, made whole, followed through the boundaries."""

from dataclasses import dataclass

import numpy as np

from mace_md.errors import InputError

LARGEST_MOVE = 0.4  # of a box length between two frames; beyond half of one, nobody can tell which way it went


@dataclass(frozen=True)
class Molecules:
    """Which atoms are bonded. index [n_atoms]: the molecule of each; levels: pairs (parent, child) to walk in order."""

    index: np.ndarray
    levels: tuple[tuple[np.ndarray, np.ndarray], ...]
    kinds: tuple[str, ...]  # chemical formula of each molecule

    @property
    def count(self) -> int:
        return len(self.kinds)

    def atoms(self, molecule: int) -> np.ndarray:
        return np.flatnonzero(self.index == molecule)

    def centres(self, whole: np.ndarray, masses: np.ndarray) -> np.ndarray:
        """Centres of mass [f, n_molecules, 3] of whole molecules [f, n_atoms, 3]."""
        order = np.argsort(self.index, kind="stable")
        starts = np.flatnonzero(np.r_[True, np.diff(self.index[order]) > 0])
        weighted = whole[:, order].astype(float) * masses[order, None]
        total = np.add.reduceat(masses[order], starts)
        return np.add.reduceat(weighted, starts, axis=1) / total[:, None]


def molecules_of(topology) -> Molecules:
    """From the bonds of an mdtraj topology; an atom without a bond is a molecule of its own."""
    neighbours: list[list[int]] = [[] for _ in range(topology.n_atoms)]
    for first, second in ((bond[0].index, bond[1].index) for bond in topology.bonds):
        neighbours[first].append(second)
        neighbours[second].append(first)
    index = np.full(topology.n_atoms, -1)
    symbols = [element_of(atom) for atom in topology.atoms]
    levels: list[tuple[list[int], list[int]]] = []
    kinds = []
    for first in range(topology.n_atoms):
        if index[first] >= 0:
            continue
        index[first], layer, members, depth = len(kinds), [first], [first], 0
        while layer:
            found = []
            for parent in layer:
                for child in neighbours[parent]:
                    if index[child] < 0:
                        index[child] = len(kinds)
                        found.append((parent, child))
            if found:
                if depth == len(levels):
                    levels.append(([], []))
                levels[depth][0].extend(parent for parent, _ in found)
                levels[depth][1].extend(child for _, child in found)
            layer, depth = [child for _, child in found], depth + 1
            members += layer
        kinds.append(formula([symbols[member] for member in members]))
    pairs = tuple((np.array(parents), np.array(children)) for parents, children in levels)
    return Molecules(index, pairs, tuple(kinds))


def element_of(atom) -> str:
    return "X" if atom.element is None else atom.element.symbol


def formula(symbols: list[str]) -> str:
    """Hill's order: C, H, then by the alphabet; H2O."""
    counts = {symbol: symbols.count(symbol) for symbol in sorted(set(symbols))}
    first = [symbol for symbol in ("C", "H") if symbol in counts and "C" in counts]
    order = first + [symbol for symbol in counts if symbol not in first]
    return "".join(symbol + (str(counts[symbol]) if counts[symbol] > 1 else "") for symbol in order)


def minimum_image(vectors: np.ndarray, boxes: np.ndarray | None) -> np.ndarray:
    """Vectors [f, ..., 3] nm as short as rounding in fractions of the box [f, 3, 3] makes them.

    That is the nearest image up to half the shortest height of the box, which is as far as anything here looks.
    """
    if boxes is None:
        return vectors
    shape = vectors.shape
    flat = vectors.reshape(len(vectors), -1, 3)
    fractions = np.round(flat @ np.linalg.inv(boxes)) @ boxes
    return (flat - fractions.astype(vectors.dtype)).reshape(shape)


def make_whole(positions: np.ndarray, boxes: np.ndarray | None, molecules: Molecules) -> np.ndarray:
    """[f, n_atoms, 3] nm with every molecule in one piece: each atom at the image nearest to its neighbour."""
    if boxes is None:
        return positions
    whole = np.array(positions)
    for parents, children in molecules.levels:
        whole[:, children] = whole[:, parents] + minimum_image(whole[:, children] - whole[:, parents], boxes)
    return whole


def heights(boxes: np.ndarray) -> np.ndarray:
    """The shortest height of each box [f], nm: the distance between opposite faces."""
    inverse = np.linalg.inv(boxes)
    return 1 / np.linalg.norm(inverse, axis=1).max(axis=1)


def lengths_and_angles(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of boxes [f, 3, 3]: lengths [f, 3] nm, angles [f, 3] (alpha, beta, gamma) degrees."""
    lengths = np.linalg.norm(boxes, axis=2)
    pairs = ((1, 2), (0, 2), (0, 1))
    cosines = np.stack(
        [(boxes[:, i] * boxes[:, j]).sum(axis=1) / (lengths[:, i] * lengths[:, j]) for i, j in pairs], axis=1
    )
    return lengths, np.degrees(np.arccos(np.clip(cosines, -1, 1)))


class Unwrapper:
    """Follows points through the boundaries, in boxes that may change: how far each has gone since the first frame.

    The step between two frames is the nearest image of the difference in fractions of the box, times the mean of the
    two boxes: what the barostat does to the coordinates is no diffusion. It does not matter whether the points were
    wrapped. (In NPT, unwrapping whole positions is wrong: von Bulow, Bullerjahn, Hummer, J. Chem. Phys. 153, 021101.)
    """

    def __init__(self) -> None:
        self._points: np.ndarray | None = None  # the last ones; fractions of the box where there is one
        self._box: np.ndarray | None = None
        self._way: np.ndarray | float = 0.0
        self.largest_step = 0.0  # in fractions of a box length

    def add(self, points: np.ndarray, boxes: np.ndarray | None) -> np.ndarray:
        """The way [f, n, 3] nm of points [f, n, 3] nm since the first frame of all.

        Raises InputError at moves that are too large to be followed.
        """
        points = np.asarray(points, dtype=float)
        if boxes is not None:
            points = points @ np.linalg.inv(boxes)
        before = points[:1] if self._points is None else self._points[None]
        moves = np.diff(np.concatenate([before, points]), axis=0)
        if boxes is not None:
            moves -= np.round(moves)
            self._refuse_large(moves)
            former = np.concatenate([boxes[:1] if self._box is None else self._box[None], boxes[:-1]])
            moves = moves @ ((boxes + former) / 2)
            self._box = boxes[-1]
        way = self._way + np.cumsum(moves, axis=0)
        self._points, self._way = points[-1], way[-1]
        return way

    def _refuse_large(self, moves: np.ndarray) -> None:
        self.largest_step = max(self.largest_step, float(np.abs(moves).max()))
        if self.largest_step > LARGEST_MOVE:
            raise InputError(
                f"a molecule moves by {self.largest_step:.2f} of the box between two frames, so that nobody can tell "
                "which way it went: frames have to be closer (--trajectory-interval of the run, or a smaller --every)"
            )


def unwrap(points: np.ndarray, boxes: np.ndarray | None) -> np.ndarray:
    """How far points [f, n, 3] nm have gone since the first frame, through the boundaries of boxes [f, 3, 3]."""
    return Unwrapper().add(points, boxes)


def repeats_itself(numbers: np.ndarray, positions: np.ndarray, box: np.ndarray, tolerance: float = 0.03) -> bool:
    """Whether a structure is a crystal: some shift, not of the whole box, brings each atom near one of its element."""
    from scipy.spatial import cKDTree

    fractions = (positions @ np.linalg.inv(box)) % 1.0
    lengths = np.linalg.norm(box, axis=1)
    rarest = min(set(numbers.tolist()), key=lambda z: ((numbers == z).sum(), z))
    chosen = np.flatnonzero(numbers == rarest)
    if len(chosen) < 2:
        return False
    trees = {z: cKDTree(fractions[numbers == z] % 1.0 * lengths, boxsize=lengths) for z in set(numbers.tolist())}
    for other in chosen[1:]:
        shift = fractions[other] - fractions[chosen[0]]
        if all(
            (tree.query(((fractions[numbers == z] + shift) % 1.0 * lengths) % lengths)[0] < tolerance).all()
            for z, tree in trees.items()
        ):
            return True
    return False
