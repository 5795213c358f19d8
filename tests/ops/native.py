"""Models, structures and references for the tests of the native op."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.neighborlist import neighbor_list

from mace_md.errors import InputError
from mace_md.model.build import build_model
from mace_md.model.fast.folded import fold
from mace_md.model.fast.packing import pack, with_flags
from mace_md.model.hyperparameters import ModelConfig
from mace_md.ops.energy_forces import LIBRARY, DeviceStatus, energy_forces, load_library, new_state
from mace_md.units import EV_TO_KJ_MOL, NM_TO_ANGSTROM

RESIDUAL = "RealAgnosticResidualInteractionBlock"
DENSITY = ("RealAgnosticDensityInteractionBlock", "RealAgnosticDensityResidualInteractionBlock")
KINDS = {  # every channel count needs padding
    "scalars": {"max_L": 0, "num_channels": 5},
    "vectors": {"max_L": 1, "num_channels": 17},
    "tensors": {"max_L": 2, "num_channels": 3, "correlation": (2, 3)},
    "max_ell 2": {"max_L": 1, "max_ell": 2, "correlation": (3, 1)},
    "tensors of max_ell 2": {"max_L": 2, "max_ell": 2, "correlation": (3, 2)},
    "residual": {"interactions": (RESIDUAL, RESIDUAL)},
    "mixing by element": {"interactions": ("RealAgnosticInteractionBlock",) * 2},
    "density": {"interactions": DENSITY, "distance_transform": "agnesi", "pair_repulsion": True},
    "soft": {"distance_transform": "soft", "radial_type": "gaussian", "apply_cutoff": False, "gate": "tanh"},
    "narrow edges": {"edge_channels": 3, "edge_max_L": 0, "agnostic_product": True, "gate": "abs"},
}
BASE = {"atomic_numbers": (1, 6, 8), "r_max": 3.6, "num_channels": 6, "radial_MLP": (8, 8), "MLP_channels": 4,
        "avg_num_neighbors": (9.0, 9.0), "max_ell": 3, "correlation": (3, 3), "max_L": 1}  # fmt: skip
TRICLINIC = np.array([[5.0, 0.0, 0.0], [1.0, 6.0, 0.0], [0.5, -1.0, 4.0]])  # A, smaller than twice the cutoff

needs_library = pytest.mark.skipif(not LIBRARY.exists(), reason="the native kernels were not built")


def instruction_sets() -> list[str]:
    """Those that this processor has, of which the library has kernels."""
    try:
        best = load_library()
    except InputError:
        return []
    ordered = ["generic", "avx2", "avx512"]
    return ordered[: ordered.index(best) + 1]


def make_model(kind="vectors", **changes):
    """A small float64 model of one kind with random weights."""
    model = build_model(ModelConfig(**{**BASE, **KINDS[kind], **changes}), seed=3)
    model.scale.fill_(0.8), model.shift.fill_(0.1)
    return model


def random_atoms(n_atoms=12, seed=0, cell=None, spacing=1.0, box=None) -> Atoms:
    """Atoms of H, C and O at random places no closer than `spacing` A, periodic in `cell` or free in a cube."""
    rng = np.random.default_rng(seed)
    edges = np.eye(3) * (box or 2.2 * n_atoms ** (1 / 3)) if cell is None else cell
    atoms = Atoms(cell=edges, pbc=cell is not None)
    while len(atoms) < n_atoms:
        trial = atoms + Atoms(rng.choice(["H", "C", "O"]), positions=[rng.random(3) @ edges])
        trial.set_cell(edges), trial.set_pbc(cell is not None)
        distances = trial.get_distances(-1, range(len(atoms)), mic=cell is not None) if len(atoms) else [9.0]
        if min(distances) > spacing:
            atoms = trial
    return atoms


_packed: dict = {}


def packed(folded, dtype, skin, instruction_set, **variant):
    """`pack`, once for each model and precision: finding the knots of the tables takes longer than the tests."""
    weights = tuple(float(t.detach().double().sum()) for t in folded.state_dict().values())
    key = (weights, folded.r_max, folded.gate, dtype, skin, instruction_set)
    if key not in _packed:
        _packed[key] = pack(folded, dtype=dtype, skin=skin, instruction_set=instruction_set)
    flags = tuple(variant.items())
    if (key, flags) not in _packed:
        _packed[(key, flags)] = with_flags(_packed[key], **variant)
    return _packed[(key, flags)]


class Native:
    """The op for one packed model, in eV and A. engine: as the fixture of that name (conftest.py); variant: further
    arguments of `pack`."""

    def __init__(self, model, dtype=torch.float64, instruction_set="auto", skin=0.5, engine="cpu", **variant):
        load_library()
        self.engine = engine
        self.device = "cuda" if engine == "cuda" else "cpu"
        self.folded = fold(model)
        self.numbers = self.folded.atomic_numbers.tolist()
        self.blob = packed(self.folded, dtype, skin, instruction_set, **variant).to(self.device)
        self.state = new_state().to(self.device)
        self._types = {}  # one tensor for the same atoms, as a module has it

    def arguments(self, atoms):
        """positions, box, types, blob, state"""
        positions = torch.tensor(atoms.positions / NM_TO_ANGSTROM)
        box = torch.tensor(np.array(atoms.cell) / NM_TO_ANGSTROM) if atoms.pbc.any() else None
        numbers = tuple(atoms.numbers)
        if numbers not in self._types:
            types = torch.tensor([self.numbers.index(z) for z in numbers], dtype=torch.int32)
            self._types[numbers] = types.to(self.device)
        box = box.to(self.device) if box is not None else None
        return positions.to(self.device), box, self._types[numbers], self.blob, self.state

    def raw(self, *arguments):
        """The op as the caller's arguments have it: energy, forces, virial in kJ/mol and nm."""
        op = torch.ops.mace_md.emulated_energy_forces if self.engine == "emulated" else energy_forces
        return op(*arguments)

    def __call__(self, atoms):
        energy, forces, virial = (result.cpu() for result in self.raw(*self.arguments(atoms)))
        return (
            float(energy) / EV_TO_KJ_MOL,
            forces.numpy() / (EV_TO_KJ_MOL * NM_TO_ANGSTROM),
            virial.numpy() / EV_TO_KJ_MOL,
        )

    def neighbors(self, atoms):
        """(i receiver, j sender, vectors) of the edges in use, sorted; and how often the list was built."""
        ops = torch.ops.mace_md
        op = ops.emulated_neighbors if self.engine == "emulated" else ops.neighbors
        index, vectors, builds = op(*self.arguments(atoms))
        return index, vectors, int(builds)

    def status(self, clear=False):
        """What `DeviceStatus` of energy_forces.py has."""
        ops = torch.ops.mace_md
        op = ops.emulated_status if self.engine == "emulated" else ops.status
        return DeviceStatus(*op(self.state, clear).tolist())


def edges_of(atoms, r_max):
    """edge_index [2, n] (sender, receiver) and r_receiver - r_sender [n, 3] from ASE's list, an independent oracle."""
    receiver, sender, vectors = neighbor_list("ijD", atoms, r_max)
    return torch.tensor(np.stack([sender, receiver])).long(), torch.tensor(-vectors)


def reference(model, atoms, r_max):
    """Energy (eV), forces (eV/A) and virial (eV) of a model with `node_energies`, by automatic differentiation."""
    edge_index, vectors = edges_of(atoms, r_max)
    vectors = vectors.clone().requires_grad_(True)
    numbers = model.atomic_numbers.tolist()
    species = torch.tensor([numbers.index(z) for z in atoms.numbers])
    energy = model.node_energies(vectors, species, edge_index, torch.zeros_like(species)).sum()
    if len(vectors) == 0:
        return float(energy.detach()), np.zeros((len(atoms), 3)), np.zeros((3, 3))
    (gradient,) = torch.autograd.grad(energy, [vectors])
    forces = torch.zeros(len(atoms), 3, dtype=torch.float64)
    forces.index_add_(0, edge_index[0], gradient).index_add_(0, edge_index[1], -gradient)
    return float(energy.detach()), forces.numpy(), -(vectors.detach().T @ gradient).numpy()
