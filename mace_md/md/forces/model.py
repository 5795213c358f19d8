"""An openmm.Force from a MACE model. The only module that knows OpenMM-Torch.

Two back ends evaluate the same potential: openmmtorch.TorchForce runs it as TorchScript inside OpenMM,
openmm.PythonForce calls Python every step. The first is faster for small systems; the second needs no plug-in, and can
be copied and serialised, which a TorchForce cannot (see `refuse_serialization`).
"""

import contextlib
import importlib.metadata
import importlib.util
import io
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import torch
from openmm import app, unit

from mace_md.errors import InputError
from mace_md.model.artifact import (
    PotentialInfo,
    is_potential_file,
    load_potential,
    load_script,
    read_info,
    resolve_model,
    script_potential,
)
from mace_md.model.chosen_atoms import checked_atoms
from mace_md.model.potential import DEFAULT_SKIN, KernelChoice, make_potential
from mace_md.model.precision import float_dtype
from mace_md.ops.energy_forces import load_library

_log = logging.getLogger("mace_md")

BACKENDS = ("torchforce", "python")
# torch from this version on is another ABI than the OpenMM-Torch wheels were built for: they die at the first force.
_FIRST_TORCH_WITHOUT_WHEEL = (2, 13)
_INSTALL = 'pip install "torch>=2.10,<2.13" acellera-openmmtorch-cpu  (NVIDIA: acellera-openmmtorch-cu12 or -cu13)'


def make_force(
    topology: app.Topology | Sequence[int],
    model: torch.nn.Module | str | Path,
    *,
    periodic: bool | None = None,
    atoms: Sequence[int] | None = None,
    backend: str = "torchforce",
    kernels: str = "auto",
    tensor_cores: bool = False,
    dtype: str | torch.dtype | None = None,
    head: str | None = None,
    skin: float = DEFAULT_SKIN,
    device: str | None = None,
    charge: float | None = None,
    spin: int | None = None,
    force_group: int = 0,
    name: str = "MACE",
) -> openmm.Force:
    """An openmm.Force with the interaction energy of a MACE model, for a System whose particles are in this order.

    Parameters
    ----------
    topology : an openmm.app.Topology, or the atomic numbers of all particles.
    model : a model, a name or file for `load_model`, or a potential written by `export_potential`.
    periodic : default for a Topology: whether it has box vectors.
    atoms : particles that the model acts on: indices, a mask, or what else `checked_atoms` takes; all by default.
    backend : "torchforce" or "python".
    kernels : "auto", "native" or "reference", see `make_potential`.
    tensor_cores : with native kernels on an NVIDIA GPU, products with weights in three parts of TF32 (`pack`).
    dtype : "float32" or "float64", that the model computes in; its own by default.
    skin : margin of the neighbour list, A.
    device : where the Python back end computes: "cpu", "cuda", ...; a GPU if there is one by default. A TorchForce
        computes where its OpenMM platform does; "cpu" then only means that no GPU has to be tried (`make_potential`).
    charge, spin : total charge (e) and multiplicity 2S + 1 of the atoms that the model acts on, for models that use
        them; 0 and 1 by default.
    force_group, name : of the force.

    The object returned has the attributes `kernels`, the `KernelChoice` made, and `blob`, the packed model of native
    kernels; they are not part of OpenMM's force, and a System does not hand them out again.

    Raises InputError for elements that the model does not know, for a potential made for other atoms, for options that
    contradict a potential file, and when OpenMM-Torch is missing or does not fit the installed torch.
    """
    if backend not in BACKENDS:
        raise InputError(f"backend is 'torchforce' or 'python', not {backend!r}")
    if backend == "torchforce":
        require_openmmtorch()
    if not hasattr(topology, "atoms"):
        topology = list(topology)
    if atoms is not None:
        n_particles = topology.getNumAtoms() if hasattr(topology, "atoms") else len(topology)
        atoms = checked_atoms(atoms, n_particles)
    dtype = float_dtype(dtype)
    atomic_numbers = _atomic_numbers(topology, atoms)
    if periodic is None:
        periodic = _is_periodic(topology)
    particles: list[int] = []  # all
    if isinstance(model, (str, os.PathLike)) and is_potential_file(model):
        info = read_info(model)
        wanted = {"head": head, "atoms": None if atoms is None else tuple(int(i) for i in atoms)}
        wanted |= {"dtype": None if dtype is None else str(dtype).removeprefix("torch.")}
        wanted |= {"kernels": None if kernels == "auto" else kernels, "charge": charge, "spin": spin}
        if tensor_cores:
            raise InputError(f"{model}: tensor cores are chosen when a force is made from a model, not from this file")
        _refuse_other_options(Path(model), info, wanted)
        _refuse_other_atoms(Path(model), info, atomic_numbers, periodic)
        potential = load_potential(model)[0]
        choice = KernelChoice(info.kernels, "chosen at export")
    else:
        model = resolve_model(model, head=head, dtype=dtype, charge=charge, spin=spin)
        if backend == "python" and atoms is not None:  # a PythonForce hands over only the particles it acts on
            particles = checked_atoms(atoms, len(atomic_numbers))
            atomic_numbers, atoms = [atomic_numbers[i] for i in particles], None
        potential, choice = make_potential(
            model, atomic_numbers, periodic=periodic, atoms=atoms, skin=skin, kernels=kernels,
            tensor_cores=tensor_cores, device=device,
        )  # fmt: skip
    _log.info("force: %s, %s kernels (%s)", backend, choice.name, choice.reason)
    if backend == "torchforce":
        force = _torch_force(potential)
    else:
        force = openmm.PythonForce(PythonPotential(potential, periodic, device), {}, particles)
    force.setUsesPeriodicBoundaryConditions(bool(periodic))
    force.setForceGroup(force_group)
    force.setName(name)
    force.kernels = choice
    force.blob = getattr(potential, "blob", None)
    return force


def require_openmmtorch() -> None:
    """Import OpenMM-Torch. Raises InputError, with the line that installs what is missing, when it would not work."""
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version >= _FIRST_TORCH_WITHOUT_WHEEL:
        raise InputError(
            f"torch {torch.__version__} is too new for the OpenMM-Torch wheels, which would crash at the first force. "
            f"{_INSTALL}, or use the backend 'python'"
        )
    if importlib.util.find_spec("openmmtorch") is None:
        raise InputError(f"OpenMM-Torch is not installed. {_INSTALL}, or use the backend 'python'")
    try:
        with _silent_logging():  # it warns that simtk.openmm, which it imports, is deprecated
            import openmmtorch  # noqa: F401
    except (ImportError, OSError) as error:
        raise InputError(f"OpenMM-Torch cannot be loaded ({error}). {_INSTALL}, or use the backend 'python'") from None


@contextlib.contextmanager
def _silent_logging() -> Iterator[None]:
    root, before, handler = logging.getLogger(), logging.root.manager.disable, logging.NullHandler()
    root.addHandler(handler)  # without one, logging.warning would configure the root logger for good
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
        root.removeHandler(handler)


def torch_forces(system: openmm.System) -> list[int]:
    """Indices of the System's TorchForces, those inside a CustomCVForce included."""
    return [index for index, force in enumerate(system.getForces()) if _holds_torch_force(force)]


def refuse_serialization(system: openmm.System) -> None:
    """Raise InputError if `system` cannot be copied, or written as XML and read again.

    OpenMM's XmlSerializer writes a TorchForce, but reading it back ends the process with a segmentation fault: the
    wheels of OpenMM-Torch were compiled against another layout of OpenMM's serialization nodes than OpenMM 8.6 has
    (seen with 8.6.1 and acellera-openmmtorch-cpu 1.10). copy.deepcopy(system) and copy.copy(force) go the same way.
    Call this before either.
    """
    found = torch_forces(system)
    if found:
        raise InputError(
            f"force {found[0]} of the System is a TorchForce: reading it back from XML, or copying it, would crash the "
            "process. Keep the model or potential.pt and call make_force again, save a State (which has no forces) "
            "for positions and velocities, or use make_force(..., backend='python')"
        )


def _holds_torch_force(force: openmm.Force) -> bool:
    if isinstance(force, openmm.CustomCVForce):
        inner = (force.getCollectiveVariable(i) for i in range(force.getNumCollectiveVariables()))
        return any(_holds_torch_force(variable) for variable in inner)
    if type(force).__name__ == "TorchForce":
        return True
    if type(force) is not openmm.Force or importlib.util.find_spec("openmmtorch") is None:
        return False
    import openmmtorch  # a System hands out forces of plug-ins as plain openmm.Force

    return openmmtorch.TorchForce.isinstance(force)


# ------------------------------------------------------------------------------------------------ back ends


def _torch_force(potential: torch.nn.Module) -> openmm.Force:
    """A TorchForce of an eager or scripted potential. The module is handed over in memory; no file is written."""
    import openmmtorch

    module = potential if isinstance(potential, torch.jit.ScriptModule) else script_potential(potential)
    force = openmmtorch.TorchForce(module)
    force.setOutputsForces(True)
    return force


class PythonPotential:
    """What a PythonForce calls: a State in, energy (kJ/mol) and forces [n, 3] (kJ/mol/nm) out.

    Can be pickled, so that a System with it can be copied and serialised; every copy has its own neighbour list.
    """

    def __init__(self, potential: torch.nn.Module, periodic: bool, device: str | None = None) -> None:
        """device: None takes a GPU if there is one."""
        self.periodic = periodic
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.potential = potential.to(self.device)

    def __call__(self, state: openmm.State) -> tuple[float, np.ndarray]:
        positions = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        x = torch.from_numpy(np.array(positions, dtype=np.float64)).to(self.device)
        box = None
        if self.periodic:  # a State of a force without periodic boundaries has no box
            vectors = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.nanometer)
            box = torch.from_numpy(np.array(vectors, dtype=np.float64)).to(self.device)
        energy, forces = self.potential(x, box)
        return float(energy.detach()), forces.cpu().numpy()

    def __getstate__(self) -> dict[str, Any]:
        content = io.BytesIO()
        module = self.potential
        torch.jit.save(module if isinstance(module, torch.jit.ScriptModule) else script_potential(module), content)
        native = hasattr(module, "blob")
        return {
            "device": self.device,
            "periodic": self.periodic,
            "native": native,
            "potential": content.getvalue(),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.device, self.periodic = state["device"], state["periodic"]
        if state["native"]:
            load_library()
        self.potential = load_script(io.BytesIO(state["potential"]), self.device)


# ------------------------------------------------------------------------------------------------ input


def _atomic_numbers(topology: Any, atoms: Sequence[int] | None) -> list[int]:
    """Atomic numbers of all particles, 0 for those without an element, which must not be among `atoms`."""
    if not hasattr(topology, "atoms"):
        return [int(z) for z in topology]
    elements = [(atom, atom.element) for atom in topology.atoms()]
    numbers = [0 if element is None else element.atomic_number for _, element in elements]
    nameless = [i for i in checked_atoms(atoms, len(numbers)) if numbers[i] == 0]
    if nameless:
        atom = elements[nameless[0]][0]
        raise InputError(
            f"atom {atom.index} ({atom.name} of {atom.residue.name}) has no element; give it one in the structure "
            "file, or leave it out of the model's region (atoms)"
        )
    return numbers


def _is_periodic(topology: Any) -> bool:
    if not hasattr(topology, "getPeriodicBoxVectors"):
        raise InputError("atomic numbers do not say whether the system is periodic: give periodic=True or False")
    return topology.getPeriodicBoxVectors() is not None


def _refuse_other_options(path: Path, info: PotentialInfo, wanted: dict[str, Any]) -> None:
    for option, value in wanted.items():
        if value is not None and value != getattr(info, option):
            raise InputError(
                f"{path} was exported with {option} {getattr(info, option)!r}, which is fixed in it; "
                f"export it again with {value!r}"
            )


def _refuse_other_atoms(path: Path, info: PotentialInfo, atomic_numbers: list[int], periodic: bool) -> None:
    if len(info.atomic_numbers) != len(atomic_numbers):
        raise InputError(
            f"{path} was made for {len(info.atomic_numbers)} particles, this system has {len(atomic_numbers)}; "
            "export it again for this system"
        )
    acting = range(len(atomic_numbers)) if info.atoms is None else info.atoms
    for i in acting:
        if info.atomic_numbers[i] != atomic_numbers[i]:
            raise InputError(
                f"{path} was made for atomic number {info.atomic_numbers[i]} at atom {i} (counted from 0), this system "
                f"has {atomic_numbers[i]} there; export it again for this order of atoms"
            )
    if info.periodic != bool(periodic):
        kinds = {True: "a periodic box", False: "no periodic box"}
        raise InputError(f"{path} was made for {kinds[info.periodic]}, this system has {kinds[bool(periodic)]}")
