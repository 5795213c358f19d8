"""Water and ions around a structure, by geometry alone: the forces are the model's from the first step on.

Water is cut from the equilibrated TIP3P box that OpenMM ships. One cut leaves gaps around the solute and at the faces
of the box (in a box of 2 nm a tenth of the water is missing), so further cuts, each at a random place, fill them until
the number of molecules is that of a solution of 1 g/mL or nothing fits any more.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import openmm
from openmm import app, unit

from mace_md.errors import InputError
from mace_md.structures.formats.contents import nanometers
from mace_md.structures.formats.isotopes import without_isotopes
from mace_md.structures.molecules import minimum_image, pairs_within
from mace_md.structures.structure import Structure, assemble, contents_of
from mace_md.units import ANGSTROM_TO_NM, DALTON_PER_CUBIC_NM_TO_G_ML, NM_TO_ANGSTROM

# Closest approach of an atom of water, nm, a little inside the first peaks of liquids. Rows: H, O of water; columns: H,
# N O F, any other element.
_CLOSEST = np.array([[0.17, 0.17, 0.23], [0.17, 0.255, 0.295]])
_FARTHEST = _CLOSEST.max()
_MOST_CUTS = 40
WATER_MOLARITY = 55.4  # mol/L, 0.998 g/mL
WATER_VOLUME = 0.02997  # nm^3, a molecule at 0.998 g/mL
SOLUTE_VOLUME = 0.75 * DALTON_PER_CUBIC_NM_TO_G_ML  # nm^3/Da: 0.75 mL/g, between proteins (0.73) and small molecules
ION_DISTANCE = 0.5  # nm, between any two ions that are placed


@dataclass(frozen=True)
class Solvent:
    """What to put around a structure.

    padding : A, from the sphere around the solute to the faces of the box; two images are twice that apart.
    shape : 'cube', 'dodecahedron' or 'octahedron'.
    concentration : mol/L of salt, on top of the ions that neutralise.
    neutralize : add ions until the total charge is zero.
    positive, negative : the ions, as 'Na+' and 'Cl-'.
    solute_charge : e; None takes the file's, or the sum over residue templates.
    """

    padding: float
    shape: str = "cube"
    concentration: float = 0.0
    neutralize: bool = True
    positive: str = "Na+"
    negative: str = "Cl-"
    solute_charge: int | None = None


def solvate(structure: Structure, solvent: Solvent, *, seed: int) -> Structure:
    """The structure in a box of water; `seed` decides where the water is cut and which molecules become ions.

    Raises InputError when ions are wanted and the charge of the solute cannot be known.
    """
    rng = np.random.default_rng(seed)
    notes = list(structure.assumptions)
    if structure.box is not None:
        notes.append("the box of the file gives way to the box of water")
    needed = solvent.neutralize or solvent.concentration > 0
    charge, source = _charge(structure, solvent.solute_charge) if needed else (structure.charge, "")
    box = _box_vectors(structure.positions, solvent)
    centre = (structure.positions.min(axis=0) + structure.positions.max(axis=0)) / 2
    solute = structure.positions - centre + box.sum(axis=0) / 2
    waters = _fill(structure.atomic_numbers, solute, box, _wanted(structure, box), rng)
    ions = {solvent.positive: 0, solvent.negative: 0}
    if needed:
        ions = _numbers(solvent, len(waters), charge)
    places, waters = _places_of_ions(structure, waters, box, ions, rng)
    topology = _with_solvent(structure.topology, len(waters), ions)
    notes += _notes(solvent, len(waters), box)
    if needed:
        notes.append(_ion_note(solvent, ions, charge, source))
    contents = replace(
        contents_of(structure),
        topology=topology,
        positions=np.concatenate([solute, waters.reshape(-1, 3), places]),
        box=box,
        charge=None if charge is None else charge + ions[solvent.positive] - ions[solvent.negative],
        notes=tuple(notes),
        fixed=_with_free(structure.fixed, waters.size // 3 + len(places)),
        velocities=None,
    )
    return assemble(contents, bonds_from="of solute and water")


def _with_free(fixed: np.ndarray | None, count: int) -> np.ndarray | None:
    """What the file holds still, followed by `count` atoms that it does not know."""
    return None if fixed is None else np.concatenate([fixed, np.zeros((count, 3), dtype=bool)])


def _charge(structure: Structure, given: int | None) -> tuple[int, str]:
    """Charge of the solute, and where it is from."""
    if given is not None:
        return given, "--solute-charge"
    if structure.charge is not None:
        return structure.charge, "the file"
    field = app.ForceField("amber14-all.xml", "amber14/tip3p.xml")
    topology = without_isotopes(structure.topology)
    unmatched = field.getUnmatchedResidues(topology)
    if unmatched:
        residue = unmatched[0]
        raise InputError(
            f"{structure.path}: the charge of residue {residue.name} {residue.id} (chain {residue.chain.id}; "
            f"{len(unmatched) - 1} more) is not known, and the ions have to balance it. Give the charge of all that is "
            "solvated with --solute-charge, or leave ions out with --neutralize no."
        )
    system = field.createSystem(topology)
    force = next(force for force in system.getForces() if isinstance(force, openmm.NonbondedForce))
    charges = [force.getParticleParameters(i)[0]._value for i in range(force.getNumParticles())]
    return round(sum(charges)), "Amber residue templates"


def _box_vectors(positions: np.ndarray, solvent: Solvent) -> np.ndarray:
    """[3, 3] nm; the smallest box of the shape that leaves the padding around the sphere that holds the solute."""
    centre = (positions.min(axis=0) + positions.max(axis=0)) / 2
    radius = float(np.linalg.norm(positions - centre, axis=1).max())
    width = 2 * (radius + solvent.padding * ANGSTROM_TO_NM)
    shapes = {
        "cube": np.eye(3),
        "dodecahedron": np.array([[1, 0, 0], [0, 1, 0], [0.5, 0.5, 0.5**0.5]]),
        "octahedron": np.array([[1, 0, 0], [1 / 3, 8**0.5 / 3, 0], [-1 / 3, 2**0.5 / 3, 6**0.5 / 3]]),
    }
    return width * shapes[solvent.shape]


def _wanted(structure: Structure, box: np.ndarray) -> int:
    """How many waters the volume has room for beside the solute."""
    free = np.linalg.det(box) - structure.masses.sum() * SOLUTE_VOLUME
    return max(int(free / WATER_VOLUME), 0)


@cache
def _tile() -> tuple[np.ndarray, np.ndarray]:
    """Equilibrated water: [n, 3, 3] nm (O, H, H of each molecule), and the three edges of its box."""
    pdb = app.PDBFile(str(Path(app.__file__).parent / "data" / "tip3p.pdb"))
    edges = np.array(pdb.topology.getUnitCellDimensions().value_in_unit(unit.nanometer))
    return nanometers(pdb.positions).reshape(-1, 3, 3), edges


def _cut(box: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[n, 3, 3] nm: the molecules of endless equilibrated water, moved at random, whose oxygen is in the box."""
    tile, edges = _tile()
    corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) @ box
    shift = rng.uniform(0, 1, 3) * edges
    low = np.floor((corners.min(axis=0) - shift) / edges).astype(int) - 1
    high = np.ceil((corners.max(axis=0) - shift) / edges).astype(int) + 1
    ranges = [np.arange(a, b) for a, b in zip(low, high, strict=True)]
    images = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, 3) * edges + shift
    water = (tile[None] + images[:, None, None]).reshape(-1, 3, 3)
    inside = np.linalg.solve(box.T, water[:, 0].T).T
    return water[((inside >= 0) & (inside < 1)).all(axis=1)]


def _fill(numbers: Sequence[int], solute: np.ndarray, box: np.ndarray, wanted: int, rng) -> np.ndarray:
    """[n, 3, 3] nm, at most `wanted` waters that come too close neither to the solute nor to one another."""
    kinds = np.array([0 if z == 1 else 1 if z in (7, 8, 9) else 2 for z in numbers])
    waters = np.zeros((0, 3, 3))
    for _ in range(_MOST_CUTS):
        taken = np.concatenate([solute, waters.reshape(-1, 3)])
        taken_kinds = np.concatenate([kinds, np.tile([1, 0, 0], len(waters))])
        cut = _cut(box, rng)
        cut = cut[_oxygen_fits(cut, taken[taken_kinds > 0], box)]
        cut = cut[_fits(cut, taken, taken_kinds, box)]
        waters = np.concatenate([waters, cut])
        if len(waters) >= wanted:
            return waters[:wanted]
    return waters


def _oxygen_fits(cut: np.ndarray, heavy: np.ndarray, box: np.ndarray) -> np.ndarray:
    """[n] bool: waters whose oxygen is clear of all heavy atoms; a quick first sieve, most fail it in later cuts."""
    from scipy.spatial import cKDTree  # takes longer to import than most runs to start

    limit = _CLOSEST[1, 1]
    margin = limit * np.linalg.norm(np.linalg.inv(box), axis=0)  # in fractions of the box
    fractions = heavy @ np.linalg.inv(box)
    fractions -= np.floor(fractions)
    images = []
    for shift in np.ndindex(3, 3, 3):
        moved = fractions + np.array(shift) - 1
        images.append(moved[((moved > -margin) & (moved < 1 + margin)).all(axis=1)])
    nearest, _ = cKDTree(np.concatenate(images) @ box).query(cut[:, 0], distance_upper_bound=limit)
    return nearest >= limit


def _fits(cut: np.ndarray, taken: np.ndarray, taken_kinds: np.ndarray, box: np.ndarray) -> np.ndarray:
    """[n] bool: waters of a cut that are clear of what is taken, and of earlier ones of the cut through the faces."""
    if len(cut) == 0:
        return np.zeros(0, dtype=bool)
    start = len(taken)
    positions = np.concatenate([taken, cut.reshape(-1, 3)])
    kinds = np.concatenate([taken_kinds, np.tile([1, 0, 0], len(cut))])
    owner = np.concatenate([np.full(start, -1), np.repeat(np.arange(len(cut)), 3)])
    i, j, distances, vectors = pairs_within(positions, box, _FARTHEST)
    new = owner[i] >= 0
    i, j, distances, vectors = i[new], j[new], distances[new], vectors[new]
    close = distances < _CLOSEST[kinds[i], kinds[j]]
    i, j, vectors = i[close], j[close], vectors[close]
    fits = np.ones(len(cut), dtype=bool)
    fits[owner[i[owner[j] < 0]]] = False
    # Neighbours inside one cut are as they are in the liquid; only pairs through a face of the box are new.
    through = (owner[j] >= 0) & (np.abs(positions[j] - positions[i] - vectors).max(axis=1) > 1e-6)
    for one, other in zip(owner[i[through]].tolist(), owner[j[through]].tolist(), strict=True):
        if fits[one] and fits[other]:
            fits[max(one, other)] = False
    return fits


def _numbers(solvent: Solvent, waters: int, charge: int) -> dict[str, int]:
    """How many of each ion: pairs for the concentration, and what balances the charge."""
    pairs = round(waters * solvent.concentration / WATER_MOLARITY)
    balance = charge if solvent.neutralize else 0
    return {solvent.positive: pairs + max(-balance, 0), solvent.negative: pairs + max(balance, 0)}


def _places_of_ions(structure: Structure, waters: np.ndarray, box: np.ndarray, ions: dict[str, int], rng):
    """Places [n, 3] of ions, oxygens of waters drawn at random and `ION_DISTANCE` apart; and the waters that stay."""
    places, taken = np.zeros((0, 3)), []
    for k in rng.permutation(len(waters)).tolist():
        if len(taken) == sum(ions.values()):
            break
        apart = np.linalg.norm(minimum_image(places - waters[k, 0], box), axis=1)
        if (apart > ION_DISTANCE).all():
            places = np.concatenate([places, waters[k, :1]])
            taken.append(k)
    if len(taken) < sum(ions.values()):
        wanted = " and ".join(f"{n} {name}" for name, n in ions.items())
        raise InputError(
            f"{structure.path}: {len(waters)} waters have no room for {wanted}. Give a larger margin with --solvate, "
            "or a smaller --ion-concentration."
        )
    return places, np.delete(waters, taken, axis=0)


def _with_solvent(solute: app.Topology, waters: int, ions: dict[str, int]) -> app.Topology:
    """The topology of the solute, then a chain of waters, then one of ions."""
    modeller = app.Modeller(solute, np.zeros((solute.getNumAtoms(), 3)) * unit.nanometer)
    added = app.Topology()
    elements = [app.Element.getBySymbol(symbol) for symbol in "OHH"]
    chain = added.addChain()
    for _ in range(waters):
        residue = added.addResidue("HOH", chain)
        oxygen, *hydrogens = (
            added.addAtom(name, element, residue) for name, element in zip(("O", "H1", "H2"), elements, strict=True)
        )
        for hydrogen in hydrogens:
            added.addBond(oxygen, hydrogen)
    chain = added.addChain() if sum(ions.values()) else None
    for name, count in ions.items():
        element = app.Element.getBySymbol(name.strip("+-"))
        for _ in range(count):
            residue = added.addResidue(element.symbol.upper(), chain)
            added.addAtom(residue.name, element, residue, formalCharge=1 if name.endswith("+") else -1)
    modeller.add(added, np.zeros((added.getNumAtoms(), 3)) * unit.nanometer)
    return modeller.topology


def _notes(solvent: Solvent, waters: int, box: np.ndarray) -> list[str]:
    width = box[0, 0] * NM_TO_ANGSTROM
    return [
        f"solvated: {waters} waters, {solvent.shape} of {width:.1f} A, {solvent.padding:g} A around the solute; cut "
        "from OpenMM's TIP3P box, the forces are the model's",
        "the density is a guess; equilibrate at constant pressure (--ensemble npt)",
    ]


def _ion_note(solvent: Solvent, ions: dict[str, int], charge: int, source: str) -> str:
    parts = " and ".join(f"{number} {name}" for name, number in ions.items() if number) or "none added"
    salt = f", with {solvent.concentration:g} mol/L of salt" if solvent.concentration else ""
    return f"ions: charge of the solute {charge:+d} ({source}); {parts}{salt}"
