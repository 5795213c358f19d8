"""Random structures as graphs, with edges from ASE's neighbour list: an oracle that is not ours."""

import numpy as np
import torch
from ase import Atoms
from ase.neighborlist import neighbor_list

from mace_md.model.graph import Graph, single_graph

TRICLINIC = np.array([[5.0, 0.0, 0.0], [1.0, 6.0, 0.0], [0.5, -1.0, 4.0]])  # A, smaller than twice the cutoffs in use


def random_atoms(numbers=(1, 6, 8), n_atoms=12, seed=0, cell=None, spacing=1.1) -> Atoms:
    """Atoms of random elements at random places no closer than `spacing` A, in `cell` or in a sphere of their own."""
    rng = np.random.default_rng(seed)
    box = np.eye(3) * (2.6 * n_atoms ** (1 / 3)) if cell is None else cell
    atoms = Atoms(cell=box, pbc=cell is not None)
    while len(atoms) < n_atoms:
        trial = atoms + Atoms(_symbol(rng.choice(numbers)), positions=[rng.random(3) @ box])
        if len(atoms) == 0 or trial.get_distances(-1, range(len(atoms)), mic=cell is not None).min() > spacing:
            trial.set_cell(box), trial.set_pbc(cell is not None)
            atoms = trial
    if cell is None:
        atoms.set_cell(np.zeros((3, 3)))
    return atoms


def _symbol(number: int) -> str:
    """Chemical symbol of an atomic number."""
    from ase.data import chemical_symbols

    return chemical_symbols[int(number)]


def graph_of(atoms: Atoms, atomic_numbers, r_max: float, dtype=torch.float64) -> Graph:
    """The graph of `atoms` for a model of these elements and cutoff."""
    i, j, shifts = neighbor_list("ijS", atoms, r_max)
    species = torch.tensor([list(atomic_numbers).index(z) for z in atoms.numbers])
    edge_index = torch.tensor(np.stack([i, j])).long()
    positions, cell = torch.tensor(atoms.positions, dtype=dtype), torch.tensor(np.array(atoms.cell), dtype=dtype)
    return single_graph(positions, species, edge_index, torch.tensor(shifts), cell)
