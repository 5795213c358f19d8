"""Torsion angles, their populations, and Ramachandran maps. Angles are circular: -179 and 179 are neighbours."""

import math
from dataclasses import dataclass

import numpy as np

from mace_md.analysis.statistics import Mean, mean_of
from mace_md.errors import InputError

# Regions of phi, psi (degrees, [low, high) modulo 360) of the alanine dipeptide and of proteins.
BASINS = {
    "C7eq/beta": ((-180.0, 0.0), (60.0, 240.0)),
    "alpha R": ((-180.0, 0.0), (-120.0, 60.0)),
    "C7ax/alpha L": ((0.0, 180.0), (-180.0, 180.0)),
}
STATES = {"gauche+": (0.0, 120.0), "trans": (120.0, 240.0), "gauche-": (240.0, 360.0)}
MAX_TORSIONS = 12  # of a molecule without backbone, that are shown


@dataclass(frozen=True)
class Torsion:
    """Four atoms in a row, and what people call it."""

    name: str
    atoms: tuple[int, int, int, int]


def dihedrals(positions: np.ndarray, quadruples: np.ndarray) -> np.ndarray:
    """Angles [f, n] in degrees, (-180, 180], IUPAC's sign; positions [f, n_atoms, 3] of whole molecules, [n, 4]."""
    a, b, c, d = (np.asarray(positions, dtype=float)[:, quadruples[:, k]] for k in range(4))
    b1, b2, b3 = b - a, c - b, d - c
    n1, n2 = np.cross(b1, b2), np.cross(b2, b3)
    y = np.linalg.norm(b2, axis=2) * (b1 * n2).sum(axis=2)
    return np.degrees(np.arctan2(y, (n1 * n2).sum(axis=2)))


def circular_mean(angles: np.ndarray) -> tuple[float, float]:
    """Direction of the mean of unit vectors (degrees), and its length: 1 where all angles are the same, 0 where any."""
    vector = np.exp(1j * np.radians(angles)).mean()
    return float(np.degrees(np.angle(vector))), float(abs(vector))


def populations(angles: np.ndarray, states: dict[str, tuple[float, float]] = STATES) -> dict[str, np.ndarray]:
    """For each state, whether a frame is in it [f]; angles [f] degrees, states [low, high) modulo 360."""
    return {name: _between(angles, low, high) for name, (low, high) in states.items()}


def ramachandran_populations(phi: np.ndarray, psi: np.ndarray) -> dict[str, np.ndarray]:
    """For each basin, whether a frame is in it [f]."""
    return {name: _between(phi, *first) & _between(psi, *second) for name, (first, second) in BASINS.items()}


def population(inside: np.ndarray) -> Mean:
    """The fraction of frames in a state, with its error; raises TooShort where it is hardly ever left or entered."""
    return mean_of(np.asarray(inside, dtype=float))


def transitions(inside: dict[str, np.ndarray]) -> int:
    """How often the state changes from one frame to the next."""
    which = np.argmax(np.stack(list(inside.values())), axis=0)
    return int((np.diff(which) != 0).sum())


def _between(angles: np.ndarray, low: float, high: float) -> np.ndarray:
    return (np.asarray(angles) - low) % 360.0 < (high - low if high - low < 360.0 else 361.0)


def backbone_torsions(topology) -> list[Torsion]:
    """phi and psi of each residue that has them, in the order of residues: phi 2, psi 2, ..."""
    residues = list(topology.residues)
    found = []
    for before, this, after in zip([None, *residues[:-1]], residues, [*residues[1:], None], strict=True):
        names = {atom.name: atom.index for atom in this.atoms}
        if not {"N", "CA", "C"} <= set(names):
            continue
        label = f"{this.name} {this.resSeq}"
        previous = None if before is None else {atom.name: atom.index for atom in before.atoms}.get("C")
        following = None if after is None else {atom.name: atom.index for atom in after.atoms}.get("N")
        if previous is not None and _bonded(topology, previous, names["N"]):
            found.append(Torsion(f"phi {label}", (previous, names["N"], names["CA"], names["C"])))
        if following is not None and _bonded(topology, names["C"], following):
            found.append(Torsion(f"psi {label}", (names["N"], names["CA"], names["C"], following)))
    return found


def _bonded(topology, first: int, second: int) -> bool:
    return any({bond[0].index, bond[1].index} == {first, second} for bond in topology.bonds)


def bond_torsions(topology, atoms: np.ndarray) -> list[Torsion]:
    """One for each bond of these atoms that is in no ring and has atoms on both sides, but for methyl groups and the
    like: what turns. Bond orders are not known, so double bonds are among them."""
    neighbours: dict[int, list[int]] = {int(atom): [] for atom in atoms}
    for bond in topology.bonds:
        first, second = bond[0].index, bond[1].index
        if first in neighbours and second in neighbours:
            neighbours[first].append(second)
            neighbours[second].append(first)
    element = {atom.index: "X" if atom.element is None else atom.element.symbol for atom in topology.atoms}

    def rank(atom: int) -> tuple:
        return (element[atom] == "H", -len(neighbours[atom]), atom)

    found = []
    for b, c in sorted({tuple(sorted((i, j))) for i in neighbours for j in neighbours[i]}):
        ends = [[n for n in neighbours[b] if n != c], [n for n in neighbours[c] if n != b]]
        if not all(ends) or any(len(end) >= 3 and all(element[n] == "H" for n in end) for end in ends):
            continue
        if _connected_without(neighbours, b, c):
            continue
        quadruple = (min(ends[0], key=rank), b, c, min(ends[1], key=rank))
        names = "-".join(_name(topology.atom(i)) for i in quadruple)
        found.append(Torsion(names, quadruple))
    return found


def _connected_without(neighbours: dict[int, list[int]], first: int, second: int) -> bool:
    """Whether two bonded atoms are in a ring."""
    seen, layer = {first}, [first]
    while layer:
        layer = [n for i in layer for n in neighbours[i] if n not in seen and (i, n) != (first, second)]
        seen.update(layer)
        if second in seen:
            return True
    return False


def named_torsions(topology, texts: tuple[str, ...]) -> list[Torsion]:
    """From the command line: `backbone`, `bonds`, or four numbers of atoms from 1, such as 5-7-9-15."""
    found: list[Torsion] = []
    for text in texts:
        if text == "backbone":
            found += backbone_torsions(topology)
        elif text == "bonds":
            found += bond_torsions(topology, np.arange(topology.n_atoms))
        else:
            numbers = text.split("-")
            if len(numbers) != 4 or not all(part.isdigit() for part in numbers):
                raise InputError(f"--torsions {text}: expected backbone, bonds, or four atoms such as 5-7-9-15")
            atoms = tuple(int(part) - 1 for part in numbers)
            if not all(0 <= atom < topology.n_atoms for atom in atoms) or len(set(atoms)) < 4:
                raise InputError(f"--torsions {text}: atoms are counted from 1 to {topology.n_atoms}, and are four")
            found.append(Torsion("-".join(_name(topology.atom(i)) for i in atoms), atoms))
    if not found:
        raise InputError(f"--torsions {','.join(texts)}: there is none in this topology")
    return found


def _name(atom) -> str:
    return f"{atom.name}"


def ramachandran(torsions: list[Torsion]) -> list[tuple[str, int, int]]:
    """Residues with both angles: name, index of phi, index of psi."""
    at = {torsion.name: k for k, torsion in enumerate(torsions)}
    labels = [name.removeprefix("phi ") for name in at if name.startswith("phi ")]
    return [(label, at[f"phi {label}"], at[f"psi {label}"]) for label in labels if f"psi {label}" in at]


def histogram(angles: np.ndarray, width: float = 5.0) -> tuple[np.ndarray, np.ndarray]:
    """Middles of the bins (degrees) and the density (1/degree)."""
    edges = np.arange(-180.0, 180.0 + width, width)
    counts, _ = np.histogram(angles, edges)
    return (edges[1:] + edges[:-1]) / 2, counts / max(1, counts.sum()) / width


def free_energy(density: np.ndarray, kT: float) -> np.ndarray:
    """-kT ln p, lowest at 0; NaN where there was nothing."""
    with np.errstate(divide="ignore"):
        energy = -kT * np.log(density / density.max())
    return np.where(density > 0, energy, math.nan)
