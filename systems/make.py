"""Makes every structure of this folder: `python systems/make.py [name ...]`.

Nothing is downloaded. Water and solvated alanine dipeptide are packed by OpenMM and equilibrated with TIP3P and
Amber14; alanine dipeptide is built from standard bond lengths and angles; ethanol is ASE's G2 geometry; urea is the
neutron structure at 12 K (Swaminathan, Craven, McMullan, Acta Cryst. B 40, 300, 1984).
"""

import sys
from pathlib import Path

import ase.build
import ase.spacegroup
import numpy as np
from ase.neighborlist import build_neighbor_list, natural_cutoffs
from openmm import LangevinMiddleIntegrator, MonteCarloBarostat, Platform, Vec3, app, unit

HERE = Path(__file__).parent
AMBER = ("amber14-all.xml", "amber14/tip3p.xml")


def write_pdb(name: str, topology: app.Topology, positions) -> None:
    path = HERE / name / f"{name}.pdb"
    path.parent.mkdir(exist_ok=True)
    with open(path, "w") as file:
        app.PDBFile.writeFile(topology, positions, file, keepIds=True)
    print(f"{path}: {topology.getNumAtoms()} atoms")


def simulate(topology, positions, picoseconds: float, *, periodic: bool, pressure: float | None = None):
    """Positions after minimisation and Langevin dynamics at 300 K: at constant volume with flexible bonds, or at
    `pressure` (bar) with rigid water, which also sets the box of `topology`."""
    npt = pressure is not None
    system = app.ForceField(*AMBER).createSystem(
        topology,
        nonbondedMethod=app.PME if periodic else app.NoCutoff,
        nonbondedCutoff=0.6 * unit.nanometer,
        constraints=app.HBonds if npt else None,
        rigidWater=npt,
    )
    if npt:
        system.addForce(MonteCarloBarostat(pressure, 300))
    step = 0.002 if npt else 0.0005
    integrator = LangevinMiddleIntegrator(300, 2.0, step)
    integrator.setRandomNumberSeed(1)
    simulation = app.Simulation(topology, system, integrator, Platform.getPlatformByName("CPU"))
    simulation.context.setPositions(positions)
    simulation.minimizeEnergy()
    simulation.context.setVelocitiesToTemperature(300, 1)
    simulation.step(int(picoseconds / step))
    state = simulation.context.getState(positions=True, energy=True, enforcePeriodicBox=periodic)
    if npt:
        topology.setPeriodicBoxVectors(state.getPeriodicBoxVectors())
    print(f"  potential energy {state.getPotentialEnergy()}, box {topology.getUnitCellDimensions()}")
    return state.getPositions()


def water() -> None:
    """64 molecules at 0.997 g/mL: a cube of 12.42 A."""
    edge = (64 * 18.01528 / 0.997 / 0.602214076) ** (1 / 3) / 10
    field = app.ForceField(*AMBER)
    modeller = app.Modeller(app.Topology(), [] * unit.nanometer)
    modeller.addSolvent(field, model="tip3p", boxSize=Vec3(2, 2, 2) * unit.nanometer)
    # keep the molecules nearest the corner, squeeze them into the final cube on a grid, and let the dynamics mix them
    residues = list(modeller.topology.residues())
    modeller.delete(residues[64:])
    positions = np.array(modeller.positions.value_in_unit(unit.nanometer)).reshape(64, 3, 3)
    grid = np.stack(np.meshgrid(*[np.arange(4)] * 3, indexing="ij"), -1).reshape(64, 3) * edge / 4
    positions = positions - positions[:, :1] + grid[:, None]
    modeller.topology.setUnitCellDimensions(Vec3(edge, edge, edge) * unit.nanometer)
    positions = simulate(modeller.topology, positions.reshape(-1, 3) * unit.nanometer, 100, periodic=True)
    write_pdb("water", modeller.topology, positions)


def place(a, b, c, length: float, angle: float, torsion: float) -> np.ndarray:
    """The atom at `length` from c, with the angle b-c-x and the torsion a-b-c-x (degrees)."""
    angle, torsion = np.radians(angle), np.radians(torsion)
    bc = (c - b) / np.linalg.norm(c - b)
    normal = np.cross(b - a, bc)
    normal /= np.linalg.norm(normal)
    frame = np.stack([bc, np.cross(normal, bc), normal])
    local = [-np.cos(angle), np.sin(angle) * np.cos(torsion), np.sin(angle) * np.sin(torsion)]
    return c + length * np.array(local) @ frame


def build_alanine_dipeptide() -> app.Modeller:
    """ACE-ALA-NME at phi = -75, psi = 75 (C7eq), hydrogens added by OpenMM."""
    ch3 = np.zeros(3)
    c = np.array([1.51, 0, 0])
    o = c + 1.23 * np.array([np.cos(np.radians(59.5)), np.sin(np.radians(59.5)), 0])
    n = place(o, ch3, c, 1.335, 116.6, 180.0)
    ca = place(ch3, c, n, 1.449, 121.9, 180.0)
    c2 = place(c, n, ca, 1.522, 111.0, -75.0)
    cb = place(c, n, ca, 1.526, 110.1, 165.0)
    n2 = place(n, ca, c2, 1.335, 116.6, 75.0)
    o2 = place(n, ca, c2, 1.229, 120.4, -105.0)
    ch3b = place(ca, c2, n2, 1.449, 121.9, 180.0)
    residues = {
        "ACE": {"CH3": ch3, "C": c, "O": o},
        "ALA": {"N": n, "CA": ca, "C": c2, "O": o2, "CB": cb},
        "NME": {"N": n2, "C": ch3b},
    }
    topology = app.Topology()
    chain = topology.addChain("A")
    positions = []
    for name, atoms in residues.items():
        residue = topology.addResidue(name, chain)
        for atom, position in atoms.items():
            topology.addAtom(atom, app.element.get_by_symbol(atom[0]), residue)
            positions.append(Vec3(*position) * 0.1)
    topology.createStandardBonds()
    modeller = app.Modeller(topology, positions * unit.nanometer)
    modeller.addHydrogens(app.ForceField(*AMBER))
    return modeller


def alanine_dipeptide() -> None:
    modeller = build_alanine_dipeptide()
    positions = simulate(modeller.topology, modeller.positions, 0, periodic=False)
    write_pdb("alanine_dipeptide", modeller.topology, positions)


def alanine_dipeptide_water() -> None:
    """In 236 waters, after 60 ps at 1 bar and 10 ps at that volume."""
    modeller = build_alanine_dipeptide()
    start = simulate(modeller.topology, modeller.positions, 0, periodic=False)
    modeller = app.Modeller(modeller.topology, start)
    modeller.addSolvent(app.ForceField(*AMBER), model="tip3p", boxSize=Vec3(2.0, 2.0, 2.0) * unit.nanometer)
    positions = simulate(modeller.topology, modeller.positions, 60, periodic=True, pressure=1.0)
    positions = simulate(modeller.topology, positions, 10, periodic=True)
    write_pdb("alanine_dipeptide_water", modeller.topology, positions)


def topology_of(atoms, residue_name: str, periodic: bool):
    """Topology and positions (whole molecules) from the bonds that covalent radii imply."""
    neighbors = build_neighbor_list(atoms, natural_cutoffs(atoms), self_interaction=False, bothways=True)
    topology = app.Topology()
    chain = topology.addChain("A")
    made, positions = {}, []
    for seed in range(len(atoms)):
        if seed in made:
            continue
        residue, counts, queue = topology.addResidue(residue_name, chain), {}, [(seed, None)]
        while queue:  # walk along the bonds, bringing each atom next to the one it is bonded to
            i, previous = queue.pop(0)
            if i in made:
                continue
            if previous is not None:
                shift = atoms.get_distance(previous, i, mic=periodic, vector=True)
                atoms.positions[i] = atoms.positions[previous] + shift
            symbol = atoms[i].symbol
            counts[symbol] = counts.get(symbol, 0) + 1
            made[i] = topology.addAtom(f"{symbol}{counts[symbol]}", app.element.get_by_symbol(symbol), residue)
            positions.append(Vec3(*(float(x) / 10 for x in atoms.positions[i])))
            queue += [(int(j), i) for j in neighbors.get_neighbors(i)[0]]
    for i in made:
        for j in neighbors.get_neighbors(i)[0]:
            if i < j:
                topology.addBond(made[i], made[int(j)])
    if periodic:
        topology.setPeriodicBoxVectors([Vec3(*map(float, row)) * 0.1 for row in atoms.cell] * unit.nanometer)
    return topology, positions * unit.nanometer


def ethanol() -> None:
    write_pdb("ethanol", *topology_of(ase.build.molecule("CH3CH2OH"), "EOH", periodic=False))


def urea() -> None:
    """2 x 2 x 3 unit cells, P-42_1m, a = 5.565 A, c = 4.684 A."""
    sites = {
        "C": (0, 0.5, 0.3260),
        "O": (0, 0.5, 0.5953),
        "N": (0.1459, 0.6459, 0.1766),
        "H1": (0.2575, 0.7575, 0.2827),
        "H2": (0.1441, 0.6441, -0.0380),
    }
    cell = ase.spacegroup.crystal(
        [name[0] for name in sites], list(sites.values()), spacegroup=113, cellpar=[5.565, 5.565, 4.684, 90, 90, 90]
    )
    write_pdb("urea", *topology_of(cell * (2, 2, 3), "URE", periodic=True))


MAKERS = (water, alanine_dipeptide, alanine_dipeptide_water, ethanol, urea)

if __name__ == "__main__":
    for maker in MAKERS:
        if len(sys.argv) == 1 or maker.__name__ in sys.argv[1:]:
            maker()
