"""The workers of gpu.py: processes that import one engine and answer what they are asked.

    python -m benchmarks.gpu_tasks WORKER DEVICE MODELS.json

Reads questions (gpu_report.Question), a JSON object a line, and writes an answer a line. After an answer with an error
the process ends: what a GPU does after an error is not worth timing. DEVICE: `cuda`, or `cpu` for a dry run, where the
native op runs on the emulated GPU of the tests.

The engines, ours and the peers', are functions of a box that make one call of a force, or some steps.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import statistics
import sys
import time
from itertools import cycle
from pathlib import Path

import numpy as np
import torch

from benchmarks.cpu import water

try:  # torch brings Triton along where there can be a GPU
    import triton
    import triton.language as tl
except ImportError:
    triton = None

ROOT = Path(__file__).resolve().parent.parent
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
        sys.path[:0] = [str(ROOT / "tests" / "ops")]
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
        from mace_md.md.stepping.graphs import GraphStepper

        stepper = GraphStepper(simulation, force, required=True)
        stepper.start()
        step = stepper.advance

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


# --- what the GPU can do at most ----------------------------------------------------------------------------------

BLOCK, WARPS, BLOCKS_A_MULTIPROCESSOR = 512, 4, 16
CHAINS, UNROLLED = 8, 4

if triton is not None:

    @triton.jit
    def multiply_add(out, ROUNDS: tl.constexpr, BLOCK: tl.constexpr, UNROLLED: tl.constexpr):
        """Eight independent chains for every element, so that none waits for its own last result."""
        lane = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        x = lane.to(tl.float32) * 1e-6
        scale, shift = 1.0 - x, x + 0.5  # known at run time only
        a, b, c, d = x, x + 1.0, x + 2.0, x + 3.0
        e, f, g, h = x + 4.0, x + 5.0, x + 6.0, x + 7.0
        for _ in range(ROUNDS):
            for _ in tl.static_range(UNROLLED):
                a, b, c, d = a * scale + shift, b * scale + shift, c * scale + shift, d * scale + shift
                e, f, g, h = e * scale + shift, f * scale + shift, g * scale + shift, h * scale + shift
        tl.store(out + lane, a + b + c + d + e + f + g + h)


def multiply_adds(rounds: int, blocks: int) -> float:
    """How many one launch of `multiply_add` makes."""
    return float(rounds) * blocks * BLOCK * CHAINS * UNROLLED


def best_of(action, device: str, repetitions: int = 6) -> float:
    """Seconds of the fastest call after the first."""
    best = float("inf")
    for repetition in range(repetitions + 1):
        _wait(device)
        start = time.perf_counter()
        action()
        _wait(device)
        if repetition:
            best = min(best, time.perf_counter() - start)
    return best


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def peaks_of(device: str) -> dict[str, float | str]:
    """Measured: `fma_per_s` (by Triton), `sgemm_fma_per_s` (a matrix product without TF32), `bytes_per_s` (a copy)."""
    torch.backends.cuda.matmul.allow_tf32 = False
    n, size = (8192, 2**30) if device == "cuda" else (256, 2**20)
    a = torch.randn(n, n, device=device)
    found: dict[str, float | str] = {"sgemm_fma_per_s": n**3 / best_of(lambda: torch.mm(a, a), device)}
    source = torch.empty(size, dtype=torch.float32, device=device).normal_()
    target = torch.empty_like(source)
    found["bytes_per_s"] = 2 * 4 * size / best_of(lambda: target.copy_(source), device)
    if device == "cuda" and triton is not None:
        try:
            found["fma_per_s"] = _chains()
        except Exception as error:  # the other numbers are still good
            found["fma_error"] = f"{type(error).__name__}: {error}"[:200]
    return found


def _chains() -> float:
    blocks = torch.cuda.get_device_properties(0).multi_processor_count * BLOCKS_A_MULTIPROCESSOR
    out, rounds = torch.empty(blocks * BLOCK, device="cuda"), 20_000

    def launch() -> None:
        multiply_add[(blocks,)](out, ROUNDS=rounds, BLOCK=BLOCK, UNROLLED=UNROLLED, num_warps=WARPS)

    return multiply_adds(rounds, blocks) / best_of(launch, "cuda")


# --- tasks --------------------------------------------------------------------------------------------------------

SECONDS, FEWEST, MOST = 1.0, 5, 300  # of the timing of one engine; rounds
PATIENCE = 8.0  # s, for fewer rounds


def seconds_of(act, budget: float = SECONDS) -> list[float]:
    """Times of calls, after some that are not counted, until the budget is spent; FEWEST, if they take no minutes."""
    begin = time.perf_counter()
    for _ in range(3):
        act()
        if time.perf_counter() - begin > PATIENCE:
            break
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < MOST:
        synchronize()
        start = time.perf_counter()
        act()
        synchronize()
        end = time.perf_counter()
        times.append(end - start)
        if end - begin > (budget if len(times) >= FEWEST else PATIENCE):
            break
    return times


def used_bytes() -> int:
    if not torch.cuda.is_available():
        return 0
    free, total = torch.cuda.mem_get_info()
    return total - free


def time_engine(bench: Bench) -> dict:
    """Median, quartiles and best, us, of a call or of a step; memory of the device that the engine took."""
    before, engine, begin = used_bytes(), bench.question["engine"], time.perf_counter()
    act = ENGINES[engine](bench)
    act()
    ready = time.perf_counter() - begin  # made, and compiled where it compiles
    count = CHUNK if "step" in engine else 1
    times = [1e6 * t / count for t in seconds_of(act)]
    low, middle, high = statistics.quantiles(times, n=4) if len(times) > 1 else times * 3
    return {
        "us": middle, "quartiles_us": [low, high], "best_us": min(times), "rounds": len(times),
        "memory_mb": (used_bytes() - before) / 1e6, "ready_s": ready,
    }  # fmt: skip


def parity(bench: Bench) -> dict:
    """Forces (eV/A) and energy of the native kernels beside the plain model in float64, which is not folded."""
    from mace_md.model.potential import Potential
    from mace_md.model.reading.checkpoint import load_model
    from mace_md.units import EV_PER_ANGSTROM_TO_KJ_MOL_NM, EV_TO_KJ_MOL

    dtype = getattr(torch, bench.question["more"]["dtype"])
    moves, box = bench.tensors(torch.float64, count=1, scale=0.05)
    plain = Potential(load_model(bench.file, dtype=torch.float64), bench.numbers, True).to(bench.device)
    expected, wanted = (x.detach().cpu().double() for x in plain(moves[0], box))
    # the same positions for both: what float32 loses of them is no error of the kernels
    native = own_potential(bench, "native", dtype, bench.flags)
    energy, forces = (x.detach().cpu().double() for x in native(moves[0], box))
    difference = (forces - wanted) / EV_PER_ANGSTROM_TO_KJ_MOL_NM
    return {
        "rms_relative": float((forces - wanted).norm() / wanted.norm()),
        "largest": float(difference.abs().max()),
        "largest_force": float(wanted.abs().max() / EV_PER_ANGSTROM_TO_KJ_MOL_NM),
        "meV_per_atom": 1000 * float((energy - expected).abs()) / EV_TO_KJ_MOL / bench.atoms,
        "repeatable": bool(torch.equal(native(moves[0], box)[1].cpu().double(), forces)),
    }


def kernels(bench: Bench, evaluations: int = 20) -> dict:
    """The kernels of an evaluation: name, how often, us; and how often something was launched."""
    from torch.profiler import ProfilerActivity, profile

    act = ENGINES[bench.question["engine"]](bench)
    evaluations = 2 if bench.emulated else evaluations
    call = statistics.median(seconds_of(act, 0.3))
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if bench.device == "cuda" else [])
    with profile(activities=activities) as profiled:
        for _ in range(evaluations):
            act()
        synchronize()
    found = kernels_in(profiled.events(), evaluations, bench.device)
    if not found["kernels"]:
        raise RuntimeError("the profiler saw no kernel")
    return found | {"call_us": 1e6 * call}


LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch", "cuGraphLaunch")


def kernels_in(events, evaluations: int, device: str) -> dict:
    """Events of torch's profiler, summed by name, for one evaluation."""
    kernels: dict[str, list[float]] = {}
    launches = 0
    for event in events:
        launches += event.name.startswith(LAUNCHES)
        if event.device_type.name.lower() == device and not event.is_user_annotation:
            kernels.setdefault(event.name, []).append(event.time_range.elapsed_us())
    table = [
        {"name": name, "calls": len(us) / evaluations, "us": sum(us) / evaluations} for name, us in kernels.items()
    ]
    return {"launches": launches / evaluations, "kernels": table}


def peaks(bench: Bench) -> dict:
    return peaks_of(bench.device)


def nve(bench: Bench) -> dict:
    """Drift of the total energy from one equilibrated state, with nve.py."""
    from types import SimpleNamespace

    from benchmarks import nve as run

    topology, cuda = topology_of(bench.structure), bench.device == "cuda"
    box = SimpleNamespace(topology=topology, positions=np.array(bench.structure["positions"]) / 10.0)
    run.PLATFORM = "CUDA" if cuda else "Reference"
    start = run.equilibrated(box, bench.file, 1.0 if cuda else 0.02, "native")
    compared, long = (0.4, 5.0) if cuda else (0.04, 0.1)  # ps; the plain model is slow
    plan = [("reference", "float64", compared), ("native", "float64", compared), ("native", "float32", compared)]
    plan += [("native", "float32", long), ("native", "float64", long)]
    runs = []
    for kernels, dtype, picoseconds in plan:
        one = run.conserve(box, bench.file, start, kernels, dtype, 0.5, picoseconds)
        one["halves"] = one.pop("drift_of_each_half_meV_per_atom_per_ps")
        runs.append(one)
    return {"runs": runs, "lengths_ps": [compared, long]}


def mace_md_run(bench: Bench) -> dict:
    """`mace-md run` itself: ms for a step of the production, as its run.json says."""
    import subprocess
    import tempfile

    from openmm import app, unit

    with tempfile.TemporaryDirectory() as folder:
        pdb, output = Path(folder) / "water.pdb", Path(folder) / "run"
        with open(pdb, "w") as file:
            positions = np.array(bench.structure["positions"]) * unit.angstrom
            app.PDBFile.writeFile(topology_of(bench.structure), positions, file)
        command = [sys.executable, "-m", "mace_md", "run", str(pdb), "--output", str(output), "--kernels", "native"]
        command += ["--platform", "CUDA" if bench.device == "cuda" else "Reference", "--quiet"]
        command += ["--steps", "5000" if bench.device == "cuda" else "40"]
        environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError((done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1])
        record = json.loads((output / "run.json").read_text())
    return {"us": 1000 * record["timings"]["production_ms_per_step"], "cuda_graphs": record["cuda_graphs"]["use"]}


def largest(bench: Bench) -> dict:
    """The largest box of water by the forecast of memory, and whether it runs."""
    from benchmarks.cpu import EDGES, MODELS
    from mace_md.md.stepping.memory import native_bytes

    free = torch.cuda.mem_get_info()[0] if bench.device == "cuda" else int(2e7)
    bench.structure = water(24)
    bench.numbers = bench.structure["numbers"]
    blob = own_potential(bench).blob
    r_max = MODELS.get(bench.question["model"], {"r_max": 4.5})["r_max"]
    pairs = EDGES[r_max] * (1 + 0.5 / r_max) ** 3 * 1.05  # of an atom, within cutoff and skin

    def forecast(molecules: int) -> int:
        return native_bytes(blob, 3 * molecules, int(3 * molecules * pairs))

    few, many = 8, 4 * 10**6
    while many - few > few // 100 + 1:
        middle = (few + many) // 2
        few, many = (middle, many) if forecast(middle) < 0.9 * free else (few, middle)
    few -= few % 8  # sides of the box that are alike
    bench.atoms, bench.structure = 3 * few, water(3 * few)
    bench.numbers = bench.structure["numbers"]
    before = used_bytes()
    times = seconds_of(ENGINES["native"](bench), 0.0)
    return {
        "atoms_tried": bench.atoms, "us_per_atom": 1e6 * min(times) / bench.atoms, "free_mb": free / 1e6,
        "forecast_mb": forecast(few) / 1e6, "used_mb": (used_bytes() - before) / 1e6,
    }  # fmt: skip


TASKS = {
    "time": time_engine, "parity": parity, "kernels": kernels, "peaks": peaks, "nve": nve, "run": mace_md_run,
    "largest": largest,
}  # fmt: skip


# --- the process ------------------------------------------------------------------------------------------------------


def import_early(worker: str) -> None:
    """What takes seconds, while others measure. A peer that is missing says so when it is asked."""
    own = ["openmm", "mace_md"]
    names = {"mace-md": own, "profile": own, "openmm-ml": ["openmm", "mace", "openmmml"], "symmetrix-xl": ["ase"]}
    for name in names.get(worker, ["ase", "mace.calculators"]):
        with contextlib.suppress(Exception):
            __import__(name)


def answer_to(question: dict, device: str, models: dict[str, str]) -> dict:
    """The numbers, or `error` with its `kind`: missing, memory or failed."""
    try:
        return TASKS[question["task"]](Bench(question, device, models))
    except Exception as error:
        text = f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]
        kind = "missing" if isinstance(error, ImportError) else "failed"
        return {"error": text, "kind": "memory" if "out of memory" in text.lower() else kind}


def main(worker: str, device: str, models_file: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what an engine prints is no answer
    models = json.loads(Path(models_file).read_text())
    import_early(worker)
    for line in sys.stdin:
        found = answer_to(json.loads(line), device, models)
        print(json.dumps(found), file=answers, flush=True)
        if "error" in found:
            os._exit(0)  # nothing of this process is trusted any more
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main(*sys.argv[1:4])
