"""What is simulated: a gas without interaction, a rare-gas crystal, a crystal of two-atom molecules, any file."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import openmm
from openmm import app

from mace_md.units import BOLTZMANN_KJ_MOL_K
from validation.models import HEAVY, LIGHT, ideal_gas_model, rare_gas_model

BAR_NM3 = 0.0602214076  # kJ/mol: 1 bar nm^3
# kJ/mol/nm^2, of the bond of a two-atom molecule. In the gas it is soft, or a barostat that scales atoms would accept
# nothing but tiny moves.
CRYSTAL_SPRING, GAS_SPRING = 3000.0, 150.0
BOND = 0.35  # nm
FACE_CENTRED = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])


@dataclass(frozen=True)
class Matter:
    """Atoms, where they start, and the force that acts on them.

    positions : [n_atoms, 3], nm.   box : [3, 3], rows, nm, or None.   model : a MACE, or the path of one.
    spring : kJ/mol/nm^2, of a harmonic force along the bonds, beside the MACE; 0: bonds only define molecules.
    shape_energy : kJ/mol, of a force that depends on the shape of the box and not on its volume. Without it the shape
        of a box of gas wanders off without bounds; with it the volume is still distributed as that of an ideal gas.
    whole : molecules are never cut by the box, as where a barostat scales them, and bonds have no images: in a box
        that is for once shorter than two bonds an atom would find the image of its partner, and hold the box there.
    timestep : fs, at which errors of the integration are far below the statistical ones.
    """

    name: str
    topology: app.Topology
    positions: np.ndarray
    box: np.ndarray | None
    model: object
    timestep: float
    spring: float = 0.0
    shape_energy: float = 0.0
    whole: bool = False
    options: dict = field(default_factory=dict)  # of make_force

    @property
    def masses(self) -> np.ndarray:
        """[n_atoms], Da."""
        return np.array([atom.element.mass._value for atom in self.topology.atoms()])

    @property
    def molecules(self) -> np.ndarray:
        """[n_atoms] int, the residue of each atom."""
        return np.array([atom.residue.index for atom in self.topology.atoms()])

    def extra_forces(self) -> list[openmm.Force]:
        """Harmonic bonds, and what holds the shape of the box, when this matter has them."""
        forces: list[openmm.Force] = []
        if self.spring:
            bonds = openmm.HarmonicBondForce()
            bonds.setUsesPeriodicBoundaryConditions(not self.whole)
            for a, b in self.topology.bonds():
                bonds.addBond(a.index, b.index, BOND, self.spring)
            forces.append(bonds)
        if self.shape_energy:
            terms = "log(ax/by)^2 + log(by/cz)^2 + (bx/ax)^2 + (cx/ax)^2 + (cy/by)^2"
            forces.append(openmm.CustomVolumeForce(f"{self.shape_energy}*({terms})"))
        return forces


def _topology(numbers: list[int], molecules: list[list[int]], box: np.ndarray | None) -> app.Topology:
    topology = app.Topology()
    chain = topology.addChain()
    atoms = {}
    for molecule in molecules:
        residue = topology.addResidue("MOL", chain)
        for i in molecule:
            element = app.Element.getByAtomicNumber(numbers[i])
            atoms[i] = topology.addAtom(element.symbol, element, residue)
        for i, j in zip(molecule, molecule[1:], strict=False):
            topology.addBond(atoms[i], atoms[j])
    if box is not None:
        topology.setPeriodicBoxVectors([openmm.Vec3(*row) for row in box])
    return topology


def rare_gas(lattice: float = 0.536, molecules: bool = False, repeats: int = 2) -> Matter:
    """4 repeats^3 atoms on a face-centred lattice (nm), light and heavy in turn; or joined to two-atom molecules."""
    cells = np.stack(np.meshgrid(*[np.arange(repeats)] * 3, indexing="ij"), -1).reshape(-1, 1, 3)
    positions = (cells + FACE_CENTRED).reshape(-1, 3) * lattice
    count = len(positions)
    box = np.eye(3) * repeats * lattice
    # neighbours in the list of one cell are neighbours in space: (0, 0, 0) and (0, 1/2, 1/2), and so on
    groups = [[i, i + 1] for i in range(0, count, 2)] if molecules else [[i] for i in range(count)]
    numbers = [LIGHT, HEAVY] * (count // 2)
    model = rare_gas_model()
    name = "crystal of two-atom molecules" if molecules else "rare gas"
    return Matter(name, _topology(numbers, groups, box), positions, box, model, 8.0, CRYSTAL_SPRING * molecules)


def ideal_gas(temperature: float, pressure: float, num_molecules: int = 32, atoms_each: int = 1) -> Matter:
    """Molecules without interaction on a lattice, at the volume (N + 1) kT / P of their ideal gas; K, bar."""
    spring = GAS_SPRING if atoms_each > 1 else 0.0
    shape_energy = 10 * BOLTZMANN_KJ_MOL_K * temperature
    volume = ideal_gas_volume(num_molecules, temperature, pressure)
    side = volume ** (1 / 3)
    per_side = int(np.ceil(num_molecules ** (1 / 3) - 1e-9))
    grid = np.stack(np.meshgrid(*[np.arange(per_side)] * 3, indexing="ij"), -1).reshape(-1, 3)[:num_molecules]
    places = np.repeat(grid * side / per_side, atoms_each, axis=0)
    offsets = np.tile(np.arange(atoms_each)[:, None] * np.array([[BOND, 0, 0]]), (num_molecules, 1))
    groups = [list(range(atoms_each * k, atoms_each * (k + 1))) for k in range(num_molecules)]
    numbers = [LIGHT, HEAVY] * (num_molecules * atoms_each) if atoms_each > 1 else [HEAVY] * num_molecules
    box = np.eye(3) * side
    topology = _topology(numbers, groups, box)
    return Matter("ideal gas", topology, places + offsets, box, ideal_gas_model(), 8.0, spring, shape_energy)


def ideal_gas_volume(num_molecules: int, temperature: float, pressure: float) -> float:
    """Mean volume (nm^3) of an ideal gas at constant pressure (bar): the mode would be N kT / P."""
    return (num_molecules + 1) * BOLTZMANN_KJ_MOL_K * temperature / (pressure * BAR_NM3)


def from_file(structure: Path, model: Path, timestep: float = 0.5, dtype: str = "float32") -> Matter:
    """A structure file and a published model."""
    from mace_md.structures.structure import read_structure

    read = read_structure(structure)
    options = {"dtype": dtype}
    return Matter(structure.stem, read.topology, read.positions, read.box, str(model), timestep, options=options)
