"""Small systems whose answers are known."""

import mdtraj
import numpy as np


def gas(num_atoms: int, symbol: str = "Ar") -> mdtraj.Topology:
    """Atoms without bonds."""
    topology = mdtraj.Topology()
    chain = topology.add_chain()
    for _ in range(num_atoms):
        topology.add_atom(symbol, mdtraj.element.get_by_symbol(symbol), topology.add_residue(symbol.upper(), chain))
    return topology


def waters(count: int) -> mdtraj.Topology:
    """O, H, H with bonds."""
    topology = mdtraj.Topology()
    chain = topology.add_chain()
    for _ in range(count):
        residue = topology.add_residue("HOH", chain)
        atoms = [topology.add_atom(name, mdtraj.element.get_by_symbol(name[0]), residue) for name in ("O", "H1", "H2")]
        topology.add_bond(atoms[0], atoms[1])
        topology.add_bond(atoms[0], atoms[2])
    return topology


WATER = np.array([[0.0, 0.0, 0.0], [0.0957, 0.0, 0.0], [-0.024, 0.0927, 0.0]])  # nm
