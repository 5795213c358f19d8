"""A MACE model bound to one list of atoms, as OpenMM wants it: nm in, kJ/mol out, forces with the energy."""

import copy
import threading
from collections.abc import Sequence
from typing import NamedTuple, Optional

import torch
from torch import Tensor, nn

from mace_md.errors import InputError
from mace_md.model.build import select_species
from mace_md.model.chosen_atoms import checked_atoms
from mace_md.model.families import gives_energy
from mace_md.model.fast.cache import cached_pack
from mace_md.model.fast.folded import CannotFold, fold
from mace_md.model.fast.packing import with_flags
from mace_md.model.fast.trial import try_kernels
from mace_md.model.long_range import LongRangePotential
from mace_md.model.mace import MACE
from mace_md.model.particles import GradientsOn, check_particles, model_dtype, species_of
from mace_md.model.reading.zoo import cache_folder
from mace_md.model.settle import settle
from mace_md.ops.energy_forces import load_library, new_state
from mace_md.ops.neighbor_list import VerletList, check_cell, check_positions
from mace_md.units import EV_PER_ANGSTROM_TO_KJ_MOL_NM, EV_TO_KJ_MOL, NM_TO_ANGSTROM

# Folding, packing and scripting are made by one thread at a time: torch's transforms and compiler, the library's first
# call and the files of the cache are not made for several.
MAKING = threading.RLock()
DEFAULT_SKIN = 0.5  # A; liquid water at 300 K then rebuilds its list every 15 to 40 steps


class EdgeDerivative(nn.Module):
    """Interaction energies and their derivative with respect to the edge vectors.

    Everything else follows from these by linear sums that are done in float64: the forces, and the virial. `model` is
    anything with `node_energies(vectors, species, edge_index, head)` and `r_max`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("of_model_dtype", torch.zeros(0, dtype=model_dtype(model)), persistent=False)

    def forward(self, vectors: Tensor, species: Tensor, edge_index: Tensor, head: Tensor) -> tuple[Tensor, Tensor]:
        """(energy [n_atoms], dE/dvectors [n_edges, 3]) in float64, eV and eV/A, for float64 vectors in A.

        The vectors are cast to the model's dtype here, after the subtraction of positions that may be large. Works
        under `torch.no_grad()` too.
        """
        with GradientsOn():
            leaf = vectors.detach().to(self.of_model_dtype.dtype).requires_grad_(True)
            energy = self.model.node_energies(leaf, species, edge_index, head).to(torch.float64)
            derivative = torch.zeros_like(vectors)
            if vectors.size(0) > 0:
                found = torch.autograd.grad([energy.sum()], [leaf])[0]
                if found is not None:
                    derivative = found.to(torch.float64)
        return energy.detach(), derivative


class Potential(nn.Module):
    """Interaction energy of `atoms` and the forces on all particles; scriptable. See `make_potential`.

    The energy is without the E0s of the isolated atoms, which do not fit in float32 next to it.
    """

    def __init__(
        self,
        model: nn.Module,
        atomic_numbers: Sequence[int],
        periodic: bool,
        atoms: Sequence[int] | None = None,
        skin: float = DEFAULT_SKIN,
    ) -> None:
        """atomic_numbers: of all particles; only those of `atoms` matter (default: all). skin: A.

        Raises InputError for an element that the model does not know, and for atoms that are not there or named twice.
        """
        super().__init__()
        indices = checked_atoms(atoms, len(atomic_numbers))
        self.n_particles = len(atomic_numbers)
        self.subset = atoms is not None
        self.periodic = bool(periodic)
        self.r_max = float(model.r_max)
        self.energy_and_derivative = EdgeDerivative(model.eval())
        self.neighbors = VerletList(self.r_max, skin, self.periodic)
        species = species_of(model, [atomic_numbers[i] for i in indices])
        self.register_buffer("atoms", torch.tensor(indices, dtype=torch.int64))
        self.register_buffer("species", species)
        self.register_buffer("head", torch.zeros_like(species))
        self.angstrom_per_nm = NM_TO_ANGSTROM
        self.kj_mol_per_ev = EV_TO_KJ_MOL
        self.kj_mol_nm_per_ev_angstrom = EV_PER_ANGSTROM_TO_KJ_MOL_NM

    def forward(self, positions: Tensor, box: Optional[Tensor] = None) -> tuple[Tensor, Tensor]:
        """(energy: float64 scalar, kJ/mol; forces: [n_particles, 3] in the dtype of `positions`, kJ/mol/nm).

        positions: [n_particles, 3], nm, any float dtype, wrapped or not. box: [3, 3], rows, nm; needed when periodic
        and ignored otherwise. Raises RuntimeError for another number of particles, a missing box, and positions or
        boxes that the neighbour list refuses.
        """
        check_particles(positions, self.n_particles, box, self.periodic)
        x = positions.detach().to(torch.float64) * self.angstrom_per_nm
        if self.subset:
            x = x.index_select(0, self.atoms)
        cell = torch.zeros([3, 3], dtype=torch.float64, device=x.device)
        if self.periodic and box is not None:
            cell = box.detach().to(torch.float64) * self.angstrom_per_nm

        check_positions(x, self.r_max)
        if self.periodic:
            check_cell(cell, self.r_max)
        edge_index, vectors = self.neighbors(x, cell)
        energy, derivative = self.energy_and_derivative(vectors, self.species, edge_index, self.head)

        # vector = r_receiver - r_sender, force = -dE/dr
        on_atoms = torch.zeros_like(x)
        on_atoms = on_atoms.index_add(0, edge_index[0], derivative).index_add(0, edge_index[1], derivative, alpha=-1)
        on_atoms = on_atoms * self.kj_mol_nm_per_ev_angstrom
        forces = on_atoms
        if self.subset:
            forces = torch.zeros([self.n_particles, 3], dtype=torch.float64, device=x.device)
            forces = forces.index_copy(0, self.atoms, on_atoms)
        return energy.sum() * self.kj_mol_per_ev, forces.to(positions.dtype).contiguous()


class NativePotential(nn.Module):
    """What `Potential` is, by the native op: folded model, neighbour list and forces in one call, on the CPU or, after
    `.to("cuda")`, on an NVIDIA GPU, for which the kernels are compiled at the first call."""

    def __init__(
        self,
        model: nn.Module,
        atomic_numbers: Sequence[int],
        periodic: bool,
        atoms: Sequence[int] | None = None,
        skin: float = DEFAULT_SKIN,
        tensor_cores: bool = False,
    ) -> None:
        """Arguments as for `Potential`, and for `pack`. Raises InputError, with the reason, when the kernels cannot run
        this model."""
        super().__init__()
        load_library()
        indices = checked_atoms(atoms, len(atomic_numbers))
        try:
            folded = fold(model)
        except CannotFold as error:
            raise InputError(str(error)) from None
        types = torch.full([len(atomic_numbers)], -1, dtype=torch.int32)
        types[indices] = species_of(model, [atomic_numbers[i] for i in indices]).to(torch.int32)
        self.n_particles = len(atomic_numbers)
        self.periodic = bool(periodic)
        self.register_buffer("types", types)
        options = {"dtype": model_dtype(model), "skin": skin, "tensor_cores": tensor_cores}
        self.register_buffer("blob", cached_pack(folded, cache_folder() / "packed", **options))
        self.register_buffer("state", new_state(), persistent=False)

    def tune(self) -> str:
        """Takes the variant that a trial on this machine's GPU found to be the fastest; returns what it found.

        Raises InputError when the kernels failed."""
        trial = try_kernels(self.blob, self.types, self.periodic, cache_folder())
        if not trial.passed:
            raise InputError(trial.text)
        self.blob = with_flags(self.blob, **trial.flags)
        return trial.text

    def forward(self, positions: Tensor, box: Optional[Tensor] = None) -> tuple[Tensor, Tensor]:
        """As `Potential.forward`."""
        check_particles(positions, self.n_particles, box, self.periodic)
        cell: Optional[Tensor] = None
        if self.periodic and box is not None:
            cell = box.detach().contiguous()
        # the op itself: its forces are the answer here, and no gradient has to be prepared
        energy, forces, _ = torch.ops.mace_md.energy_forces(
            positions.detach().contiguous(), cell, self.types, self.blob, self.state
        )
        return energy, forces


class KernelChoice(NamedTuple):
    """What evaluates the model inside a potential, and why."""

    name: str  # "native" or "reference"
    reason: str


def make_potential(
    model: nn.Module,
    atomic_numbers: Sequence[int],
    *,
    periodic: bool,
    atoms: Sequence[int] | None = None,
    skin: float = DEFAULT_SKIN,
    kernels: str = "auto",
    tensor_cores: bool = False,
    device: str | torch.device | None = None,
    charge: float | None = None,
    spin: int | None = None,
) -> tuple[nn.Module, KernelChoice]:
    """A scriptable potential, and which kernels it uses. `model` is copied.

    charge, spin: total charge (e) and multiplicity 2S + 1 of the model's atoms, for models that use them (`settle`).

    kernels: "reference" (`Potential`, PyTorch, of the folded model where there is one), "native" (`NativePotential`,
    InputError when it cannot), or "auto": native where it can, on a machine with an NVIDIA GPU after a trial on it
    (`mace_md.model.fast.trial`), which also finds the fastest variant. This function is the only place where that is
    decided. tensor_cores: with kernels="native", see `pack`. device: where it will compute, when that is known; a GPU
    that is not used needs no trial. atoms: see `checked_atoms`. Threads may call it at the same time.
    """
    if kernels not in ("auto", "native", "reference"):
        raise InputError(f"kernels is 'auto', 'native' or 'reference', not {kernels!r}")
    if tensor_cores and kernels != "native":
        raise InputError(f"tensor cores are used by the native kernels: ask for kernels='native', not {kernels!r}")
    indices = checked_atoms(atoms, len(atomic_numbers))
    chosen = None if atoms is None else indices
    if not gives_energy(model):
        raise InputError("this model gives dipoles, no energies: it cannot drive a simulation; see --properties")
    model = settle(model, charge, spin)
    with MAKING:
        return _make(model, atomic_numbers, indices, periodic, chosen, skin, kernels, tensor_cores, device)


def _make(
    model: nn.Module,
    atomic_numbers: Sequence[int],
    indices: list[int],
    periodic: bool,
    atoms: list[int] | None,
    skin: float,
    kernels: str,
    tensor_cores: bool,
    device: str | torch.device | None,
) -> tuple[nn.Module, KernelChoice]:
    """See `make_potential`."""
    model = _for_elements(model, [atomic_numbers[i] for i in indices])
    if getattr(model, "long_range", False):
        return _long_range(model, atomic_numbers, periodic, atoms, skin, kernels)
    if kernels == "reference":
        choice = KernelChoice("reference", "asked for")
    else:
        try:
            native = NativePotential(model, atomic_numbers, periodic, atoms, skin, tensor_cores)
            reason = "asked for" if kernels == "native" else "they can run this model"
            on_gpu = torch.cuda.is_available() and (device is None or torch.device(device).type == "cuda")
            if kernels == "auto" and on_gpu:
                reason = native.tune()
            return native, KernelChoice("native", reason + ", on tensor cores" * tensor_cores)
        except InputError as error:
            if kernels == "native":
                raise InputError(f"the native kernels cannot run this model: {error}") from None
            choice = KernelChoice("reference", str(error))
    model, form = _reference_form(model)
    potential = Potential(model, atomic_numbers, periodic, atoms, skin)
    return potential, KernelChoice(choice.name, f"{choice.reason}; {form}")


def _long_range(
    model: nn.Module,
    atomic_numbers: Sequence[int],
    periodic: bool,
    atoms: Sequence[int] | None,
    skin: float,
    kernels: str,
) -> tuple[nn.Module, KernelChoice]:
    if kernels == "native":
        raise InputError("the native kernels cannot run this model: its energy is not of edges within a cutoff alone")
    reason = "asked for" if kernels == "reference" else "long-ranged"
    potential = LongRangePotential(model, atomic_numbers, periodic, atoms, skin)
    return potential, KernelChoice("reference", f"{reason}; PyTorch")


def _reference_form(model: nn.Module) -> tuple[nn.Module, str]:
    """The folded form of a MACE, which is the same function and faster, or the model as it is; and what it is."""
    if not isinstance(model, MACE):
        return model, "PyTorch"
    try:
        return fold(model).to(model_dtype(model)), "PyTorch, folded"
    except CannotFold as error:
        return model, f"PyTorch, not folded: {error}"


def _for_elements(model: nn.Module, atomic_numbers: Sequence[int]) -> nn.Module:
    """A frozen copy of the model; of a MACE only the elements that are there, which is smaller and faster."""
    species_of(model, atomic_numbers)
    if isinstance(model, MACE) and len(atomic_numbers) > 0:
        smaller = select_species(model, [int(z) for z in atomic_numbers])
    else:
        smaller = copy.deepcopy(model)
    return smaller.eval().requires_grad_(False)


def isolated_energy(model: nn.Module, atomic_numbers: Sequence[int]) -> float:
    """Sum of the model's E0s over the atoms, eV; 0 for a model without."""
    energies = getattr(model, "atomic_energies", None)
    if energies is None:
        return 0.0
    species = species_of(model, atomic_numbers)
    return float(energies.reshape(-1, energies.shape[-1])[0].double().cpu()[species].sum())
