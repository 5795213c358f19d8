"""Everything that is to be known on an NVIDIA GPU, in one command of under ten minutes: tests, then measurements.

    python benchmarks/gpu.py --output benchmarks/results/gpu.json [--minutes 9] [--symmetrix FOLDER] [--skip-tests]
    python benchmarks/gpu.py --dry-run       the same logic with tiny sizes on a CPU

First `pytest -m gpu`. Then liquid water, float32, with the models of benchmarks/cpu.py, 33 to 100,000 atoms: a call
of the force, and a step of molecular dynamics. Every engine is a process of its own; they take turns; positions move
before every call, so nothing is remembered. Reported: best and median time, launches of kernels in a call, memory that
torch allocated, part of the rate of a large float32 matrix product (TF32 off) that the counted operations reach, and
the size at which an engine ran out of memory. Last, training, in the time that is left. A peer that is not installed is
a line of the report.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from cpu import MODELS, Worker, operations, water  # noqa: E402

CALLS = ["native", "pytorch", "mace-torch", "mace-torch cueq", "symmetrix-xl"]
STEPS = ["native step", "native step, no graph", "pytorch step", "openmm-ml step"]
ATOMS = [33, 99, 999, 4998, 20001, 99999]
ROUNDS, STEPS_A_ROUND = 12, 50
TINY = {"tiny": {"channels": 8, "max_L": 0, "r_max": 4.5}}


# --- an engine, in a process of its own -------------------------------------------------------------------------------


def call_of(name: str, model_file: str, structure: dict, device: str):
    """A function of positions [n, 3], A, that evaluates energy and forces and waits for them."""
    import torch

    numbers, cell = structure["numbers"], np.array(structure["cell"])
    if name in ("native", "pytorch"):
        from mace_md.model.checkpoint import load_model
        from mace_md.model.potential import make_potential

        kernels = "native" if name == "native" else "reference"
        model = load_model(model_file, dtype=torch.float32)
        potential = torch.jit.script(make_potential(model, numbers, periodic=True, kernels=kernels)[0]).to(device)
        box = torch.tensor(cell / 10.0, device=device)
        return lambda x: float(potential(torch.tensor(x / 10.0, device=device), box)[0])
    from ase import Atoms

    atoms = Atoms(numbers, structure["positions"], cell=cell, pbc=True)
    if name.startswith("mace-torch"):
        from mace.calculators import MACECalculator

        options = {"enable_cueq": True} if "cueq" in name else {}
        atoms.calc = MACECalculator(model_paths=model_file, device=device, default_dtype="float32", **options)
    else:
        sys.path.append(os.environ.get("SYMMETRIX", ""))
        from symmetrix import Symmetrix

        atoms.calc = Symmetrix(model_file, dtype="float32")
    torch.set_grad_enabled(True)

    def evaluate(positions):
        atoms.positions = positions
        return atoms.get_forces()

    return evaluate


def steps_of(name: str, model_file: str, structure: dict, device: str):
    """A function that makes some steps of Langevin dynamics and waits for them."""
    import openmm
    from openmm import app, unit

    topology = app.Topology()
    residue = topology.addResidue("HOH", topology.addChain())
    for number in structure["numbers"]:
        element = app.Element.getByAtomicNumber(number)
        topology.addAtom(element.symbol, element, residue)
    topology.setPeriodicBoxVectors(np.array(structure["cell"]) * unit.angstrom)
    force = None
    if name.startswith("openmm-ml"):
        from openmmml import MLPotential

        system = MLPotential("mace", modelPath=model_file).createSystem(topology, precision="single")
    else:
        import mace_md

        kernels = "native" if name.startswith("native") else "reference"
        model = mace_md.load_model(model_file, dtype="float32")
        force = mace_md.make_force(topology, model, kernels=kernels)
        system = mace_md.make_system(topology, force)
    platform = openmm.Platform.getPlatformByName("CUDA" if device == "cuda" else "Reference")
    properties = {"Precision": "mixed"} if device == "cuda" else {}
    integrator = openmm.LangevinMiddleIntegrator(300, 1.0, 0.0001)
    simulation = app.Simulation(topology, system, integrator, platform, properties)
    simulation.context.setPositions(np.array(structure["positions"]) / 10.0)
    simulation.context.setVelocitiesToTemperature(300, 1)
    step = simulation.step
    if name == "native step" and device == "cuda":
        from mace_md.md.graphs import Graphs

        graphs = Graphs(simulation, force, required=True)
        graphs.start()
        step = graphs.step

    def some(count):
        step(count)
        simulation.context.getState(positions=True)

    return some


def launches_in(action) -> int | None:
    """Kernels launched on the GPU by `action`."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    if not torch.cuda.is_available():
        return None
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as found:
        action()
        torch.cuda.synchronize()
    named = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch")
    return sum(event.count for event in found.key_averages() if event.key.startswith(named))


def worker(name: str, model_file: str, device: str) -> None:
    """Reads a structure, then a line for every round wanted; writes seconds of a call or step, and memory, MB."""
    import torch

    answers, sys.stdout = sys.stdout, sys.stderr
    structure = json.loads(sys.stdin.readline())
    positions, rng = np.array(structure["positions"]), np.random.default_rng(1)
    steps = "step" in name
    count = STEPS_A_ROUND if steps and device == "cuda" else 1
    try:
        run = (steps_of if steps else call_of)(name, model_file, structure, device)

        def act():
            run(count) if steps else run(positions + rng.normal(scale=1e-3, size=positions.shape))

        for _ in range(3):
            act()
        launches = launches_in(act)
    except Exception as error:  # a peer that is not there, a model it refuses, no memory: all are results
        print(json.dumps({"error": f"{type(error).__name__}: {error}"[:300]}), file=answers, flush=True)
        return
    print(json.dumps({"ready": True, "launches": launches and launches / count}), file=answers, flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        act()
        seconds = (time.perf_counter() - start) / count
        memory = torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else 0.0
        print(json.dumps({"seconds": seconds, "memory": memory}), file=answers, flush=True)


# --- all engines, in turns --------------------------------------------------------------------------------------------


class GpuWorker(Worker):
    """A process with one engine; started when the one before is ready, since they share the GPU's memory."""

    def __init__(self, name: str, model_file: Path, structure: dict, device: str) -> None:
        command = [sys.executable, __file__, "--worker", name, str(model_file), device]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        environment = os.environ | {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
        self.process = subprocess.Popen(command, text=True, env=environment, **pipes)
        self.seconds, self.memory = [], 0.0
        self.ask(json.dumps(structure))
        answer = self.answer()
        self.error, self.launches = answer.get("error"), answer.get("launches")


def matrix_rate(device: str) -> float:
    """Multiply-adds per second of a large float32 matrix product, without TF32: the peak that can be reached."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    n = 8192 if device == "cuda" else 512
    a, best = torch.randn(n, n, device=device), float("inf")
    for _ in range(5):
        start = time.perf_counter()
        torch.mm(a, a)
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return n**3 / best


def measure(model: str, shape: dict, model_file: Path, n_atoms: int, engines: list[str], device: str, end: float):
    """One box: a result for every engine."""
    structure = water(n_atoms)
    rate, results, workers = matrix_rate(device), [], {}
    for name in engines:
        if time.monotonic() < end:
            workers[name] = GpuWorker(name, model_file, structure, device)
    for _ in range(ROUNDS):
        for one in workers.values():
            if one.error is None and (len(one.seconds) < 2 or time.monotonic() < end):
                one.evaluate()
    for name in engines:
        result = {"model": model, "atoms": n_atoms, "engine": name}
        if name not in workers:
            results.append(result | {"error": "no time left"})
            continue
        one = workers[name]
        one.process.stdin.close()
        one.process.wait()
        if one.error is not None:
            results.append(result | {"error": one.error})
            continue
        best = min(one.seconds)
        result |= {"us": 1e6 * best, "median_us": 1e6 * statistics.median(one.seconds), "rounds": len(one.seconds)}
        result |= {"us_per_atom": 1e6 * best / n_atoms, "launches": one.launches, "memory_mb": round(one.memory)}
        counted = {"channels": 8, "max_L": 0, "r_max": 4.5} | shape
        results.append(result | {"of_peak": operations(counted) * n_atoms / best / rate})
    return results


def say(result: dict) -> None:
    numbers = result.get("error") or (
        f"{result['us']:11.1f} us {result['us_per_atom']:8.2f} us/atom  {100 * result['of_peak']:5.1f} % of peak  "
        f"{result['launches'] or 0:6.0f} launches  {result['memory_mb']:6d} MB"
    )
    print(f"{result['model']:12s} {result['atoms']:6d} atoms  {result['engine']:22s} {numbers}", flush=True)


def make_models(folder: Path, shapes: dict) -> dict[str, Path]:
    """Files that every engine reads, where mace-torch is there to write them; else ours, which only we read."""
    import torch

    files = {}
    for name, shape in shapes.items():
        files[name] = folder / f"{name}.model"
        try:
            from oracle import make_model

            torch.set_default_dtype(torch.float32)
            torch.save(make_model(elements=(1, 8), scale=50.0, **shape), files[name])
        except ImportError:
            from mace_md.model.build import build_model
            from mace_md.model.checkpoint import save_model
            from mace_md.model.hyperparameters import ModelConfig

            own = {"num_channels": shape["channels"], "max_L": shape["max_L"], "r_max": shape["r_max"]}
            if "blocks" in shape:
                own["interactions"] = shape["blocks"]
            config = ModelConfig(atomic_numbers=(1, 8), avg_num_neighbors=(30.0, 30.0), **own)
            files[name] = save_model(build_model(config, seed=0), folder / f"{name}.mace")
    return files


def gpu_tests() -> dict:
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/gpu", "tests/ops"]
    start = time.monotonic()
    done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, check=False)
    print(done.stdout[-6000:], flush=True)
    summary = done.stdout.strip().splitlines()[-1:] or [done.stderr[-300:]]
    return {"exit": done.returncode, "summary": summary[0], "seconds": time.monotonic() - start}


def training(data: Path, seconds: float) -> dict:
    """Structures per second in training, beside mace-torch (train_throughput.py), in the time that is left."""
    if not data.exists():
        return {"error": f"no data for training in {data} (--data)"}
    if seconds < 60:
        return {"error": "no time left"}
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "training.json"
        command = [sys.executable, str(HERE / "train_throughput.py"), "--epochs", "3", "--data", str(data)]
        environment = {"CUDA_VISIBLE_DEVICES": "0"} | os.environ  # or the peer takes the CPU
        try:
            done = subprocess.run(
                [*command, "--output", str(output)], env=environment, timeout=seconds, capture_output=True, text=True,
                check=False,
            )  # fmt: skip
            error = done.stderr.strip().splitlines()[-1:] if done.returncode else []
        except subprocess.TimeoutExpired:
            error = ["no time left"]
        found = json.loads(output.read_text()) if output.exists() else {}
    return found | ({"error": error[0][:300]} if error else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=9.0, help="time for all of it; what is left out is reported")
    parser.add_argument("--atoms", type=int, nargs="+", default=ATOMS)
    parser.add_argument("--engines", nargs="+", default=CALLS + STEPS)
    parser.add_argument("--symmetrix", default="", help="site-packages of an installation of symmetrix-xl")
    parser.add_argument("--data", type=Path, default=HERE.parent / "shared" / "data", help="for training")
    parser.add_argument("--skip-tests", action="store_true")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes on a CPU: shows that the script works")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    end = time.monotonic() + 60 * arguments.minutes
    os.environ["SYMMETRIX"] = arguments.symmetrix
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    import torch

    from mace_md.provenance import collect_provenance, write_json

    device = "cpu" if arguments.dry_run else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch sees no GPU here; --dry-run tries the script on a CPU")
    about = collect_provenance()
    record = {"versions": about["versions"], "device": {k: v for k, v in about["device"].items() if k != "host"}}
    if not (arguments.skip_tests or arguments.dry_run):
        record["tests"] = gpu_tests()
    shapes = TINY if arguments.dry_run else MODELS
    record["results"] = []
    with tempfile.TemporaryDirectory() as folder:
        files = make_models(Path(folder), shapes)
        for n_atoms in [24] if arguments.dry_run else arguments.atoms:  # every model at every size, small sizes first
            for model, shape in shapes.items():
                found = measure(model, shape, files[model], n_atoms, arguments.engines, device, end)
                record["results"] += found
                for result in found:
                    say(result)
                if arguments.output:
                    write_json(arguments.output, record)
    if not arguments.dry_run:
        record["training"] = training(arguments.data, end - time.monotonic())
        print(json.dumps(record["training"], indent=1), flush=True)
        if arguments.output:
            write_json(arguments.output, record)


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] == "--worker":
        worker(*sys.argv[2:5])
    else:
        main()
