"""The engines of gpu.py, ours and the peers': each a function of a box that makes one call of a force, or some steps.

For a dry run (`cpu`) the native op runs on the emulated GPU of the tests.
"""

from __future__ import annotations

import os
import sys
from itertools import cycle
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from cpu import water  # noqa: E402

CHUNK = 20  # steps between two looks of `mace-md run`


class Bench:
    """Where an engine runs, on which model and box."""

    def __init__(self, question: dict, device: str, models: dict[str, str]) -> None:
        self.question, self.device = question, device
        self.file = models.get(question["model"], question["model"])
        self.atoms = question["atoms"]
        self.structure = water(self.atoms) if self.atoms else {}
        self.numbers = self.structure.get("numbers", [])
        self.flags = question["more"].get("flags", {})

    @property
    def emulated(self) -> bool:
        return self.device == "cpu"

    def moves(self, count: int = 8, scale: float = 1e-3) -> list[np.ndarray]:
        """Positions, A, each a little different: nothing can be remembered from the call before."""
        rng, x = np.random.default_rng(1), np.array(self.structure["positions"])
        return [x + rng.normal(scale=scale, size=x.shape) for _ in range(count)]

    def tensors(self, dtype=torch.float32, **more) -> tuple[list[torch.Tensor], torch.Tensor]:
        """`moves` and the box on the device, nm."""
        box = torch.tensor(np.array(self.structure["cell"]) / 10.0, dtype=dtype, device=self.device)
        return [torch.tensor(x / 10.0, dtype=dtype, device=self.device) for x in self.moves(**more)], box


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


# --- calls of a force -------------------------------------------------------------------------------------------------


def own_potential(bench: Bench, kernels: str = "native", dtype=torch.float32, flags: dict | None = None):
    """The module that `mace-md run` gives to OpenMM, on the device; native kernels with `flags` for `pack`."""
    from mace_md.model.build import select_species
    from mace_md.model.fast.folded import fold
    from mace_md.model.fast.packing import pack
    from mace_md.model.potential import DEFAULT_SKIN, make_potential
    from mace_md.model.reading.checkpoint import load_model

    model = load_model(bench.file, dtype=dtype)
    potential = make_potential(model, bench.numbers, periodic=True, kernels=kernels)[0]
    if flags:
        folded = fold(select_species(model, bench.numbers))
        potential.blob = pack(folded, dtype=dtype, skin=DEFAULT_SKIN, **flags)
    if kernels == "native" and bench.emulated:
        return Emulated(potential)
    return torch.jit.script(potential).to(bench.device)


class Emulated:
    """A native potential on the emulated GPU of the tests."""

    def __init__(self, potential) -> None:
        sys.path[:0] = [str(HERE.parent / "tests" / "ops")]
        import tempfile

        from cuda_emulation import EmulatedDriver

        self.potential = potential
        folder = Path(tempfile.gettempdir()) / "mace-md-emulation"
        folder.mkdir(exist_ok=True)
        os.environ["MACE_MD_CACHE"] = str(folder)
        EmulatedDriver(folder).use()

    def __call__(self, positions, box):
        p = self.potential
        return torch.ops.mace_md.emulated_energy_forces(positions, box, p.types, p.blob, p.state)[:2]

    @property
    def blob(self):
        return self.potential.blob


def own_call(bench: Bench, kernels: str, *, graph: bool = False, rebuild: bool = False):
    potential = own_potential(bench, kernels, flags=bench.flags)
    moves, box = bench.tensors()
    if rebuild:  # every second position has an atom beyond half the skin, so the list is made in every call
        for x in moves[::2]:
            x[0, 0] += 0.06
    turns = cycle(moves)
    if not graph:
        return lambda: float(potential(next(turns), box)[0])
    positions = moves[0].clone()
    replay, energy = captured(lambda: potential(positions, box)[0], bench.emulated)

    def act() -> None:
        positions.copy_(next(turns))
        replay()
        float(energy)

    return act


def captured(evaluate, emulated: bool):
    """A function that makes the evaluation again from a CUDA graph, and the energy tensor that it writes."""
    if emulated:
        return evaluate, evaluate()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            evaluate()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        energy = evaluate()
    return graph.replay, energy


def ase_call(bench: Bench, calculator):
    from ase import Atoms

    atoms = Atoms(bench.numbers, bench.structure["positions"], cell=bench.structure["cell"], pbc=True)
    atoms.calc = calculator
    turns = cycle(bench.moves())

    def act() -> None:
        atoms.positions = next(turns)
        atoms.get_forces()

    return act


def mace_torch_call(bench: Bench, **options):
    from mace.calculators import MACECalculator

    torch.set_grad_enabled(True)
    return ase_call(bench, MACECalculator(bench.file, device=bench.device, default_dtype="float32", **options))


def symmetrix_call(bench: Bench, profile: str):
    from symmetrix import Symmetrix, selected_backend

    calculator = Symmetrix(bench.file, dtype="float32", execution_profile=profile, species=sorted(set(bench.numbers)))
    backend = selected_backend()
    if bench.device == "cuda" and getattr(backend, "backend", "") != "cuda":
        raise ImportError(f"symmetrix-xl has no backend for this GPU here ({getattr(backend, 'selector', backend)})")
    return ase_call(bench, calculator)


# --- steps of molecular dynamics --------------------------------------------------------------------------------------


def topology_of(structure: dict):
    """Waters as OpenMM knows them, with names and bonds."""
    from openmm import app, unit

    topology = app.Topology()
    chain = topology.addChain()
    hydrogen, oxygen = app.Element.getBySymbol("H"), app.Element.getBySymbol("O")
    for _ in range(len(structure["numbers"]) // 3):
        residue = topology.addResidue("HOH", chain)
        atoms = [topology.addAtom(n, e, residue) for n, e in (("O", oxygen), ("H1", hydrogen), ("H2", hydrogen))]
        topology.addBond(atoms[0], atoms[1])
        topology.addBond(atoms[0], atoms[2])
    topology.setPeriodicBoxVectors(np.array(structure["cell"]) * unit.angstrom)
    return topology


def platform_of(device: str, precision: str = "mixed"):
    import openmm

    platform = openmm.Platform.getPlatformByName("CUDA" if device == "cuda" else "Reference")
    return platform, ({"Precision": precision} if device == "cuda" else {})


def steps(bench: Bench, engine: str):
    """A function that makes CHUNK steps of Langevin dynamics and waits for them."""
    from openmm import LangevinMiddleIntegrator, app

    topology, force = topology_of(bench.structure), None
    if engine == "openmm-ml step":
        from openmmml import MLPotential

        system = MLPotential("mace", modelPath=bench.file).createSystem(topology, precision="single")
    else:
        import mace_md

        # An emulated GPU takes no TorchForce; there the native kernels are those of the CPU.
        kernels = "native" if engine.startswith("native") else "reference"
        model = mace_md.load_model(bench.file, dtype="float32")
        force = mace_md.make_force(topology, model, kernels=kernels)
        system = mace_md.make_system(topology, force)
    # Weights are random, so steps are short: what costs time is the same.
    integrator = LangevinMiddleIntegrator(300, 10.0, 0.0001)
    simulation = app.Simulation(topology, system, integrator, *platform_of(bench.device))
    simulation.context.setPositions(np.array(bench.structure["positions"]) / 10.0)
    simulation.context.setVelocitiesToTemperature(300, 1)
    step = simulation.step
    if engine == "native step" and bench.device == "cuda":
        from mace_md.md.stepping.graphs import Graphs

        graphs = Graphs(simulation, force, required=True)
        graphs.start()
        step = graphs.step

    def act() -> None:
        step(CHUNK)
        simulation.context.getState(positions=True)

    return act


ENGINES = {
    "native": lambda bench: own_call(bench, "native"),
    "native graph": lambda bench: own_call(bench, "native", graph=True),
    "native rebuild": lambda bench: own_call(bench, "native", rebuild=True),
    "pytorch": lambda bench: own_call(bench, "reference"),
    "mace-torch": lambda bench: mace_torch_call(bench),
    "mace-torch cueq": lambda bench: mace_torch_call(bench, enable_cueq=True),
    "symmetrix-xl": lambda bench: symmetrix_call(bench, "speed"),
    "symmetrix-xl capacity": lambda bench: symmetrix_call(bench, "capacity"),
    **{name: (lambda bench, name=name: steps(bench, name))
       for name in ("native step", "native step, no graph", "pytorch step", "openmm-ml step")},
}  # fmt: skip
