"""How long does one evaluation of energy and forces take on a CPU, in every engine there is?

    python benchmarks/cpu.py [--models TEXT] [--atoms 24 192 648] [--engines native mace-torch] [--threads 2]
                             [--symmetrix FOLDER] [--before FOLDER] [--output benchmarks/results/cpu.json]

Liquid water at 0.1 atoms/A^3, models of published shape with random weights, float32. Every engine is a process of its
own and they take turns, so that whatever else the machine does hits all of them; positions move by 1e-3 A before every
evaluation, so nothing is remembered. Reported: the fastest and the median evaluation, peak memory of the process, and
what part of the rate of a large matrix product (the practical peak of multiply-adds) the counted operations reach.

With one thread the time is that of the processor, which other work on the machine changes least.

Needs mace-torch for the models; `--symmetrix` is the folder (site-packages) of an installation of symmetrix-xl,
`--before` another checkout of this package with its kernels built: the engine "native before".
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
ENGINES = ["native", "native before", "native avx2", "pytorch", "mace-torch", "openmm-ml", "symmetrix-xl"]
SLOW = {"mace-torch", "openmm-ml"}  # minutes and many gigabytes for large boxes
RESIDUAL = ("RealAgnosticResidualInteractionBlock", "RealAgnosticResidualInteractionBlock")
MODELS = {
    "off small": {"channels": 96, "max_L": 0, "r_max": 4.5},
    "off medium": {"channels": 128, "max_L": 1, "r_max": 5.0},
    "mp-0 medium": {"channels": 128, "max_L": 1, "r_max": 6.0, "blocks": RESIDUAL},
}
EDGES = {4.5: 37.6, 5.0: 52.0, 6.0: 90.0}  # neighbours of an atom at 0.1 atoms/A^3
MOLECULE = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])


def water(n_atoms: int, seed: int = 0) -> dict:
    """Molecules of random orientation on a lattice: numbers, positions and cell, A."""
    rng = np.random.default_rng(seed)
    n = n_atoms // 3
    sides = [next(s for s in range(round(n ** (1 / 3)), 0, -1) if n % s == 0)]
    rest = n // sides[0]
    sides.append(next(s for s in range(round(rest**0.5), 0, -1) if rest % s == 0))
    sides.append(rest // sides[1])
    spacing = 30.0 ** (1 / 3)
    places = np.stack(np.meshgrid(*[np.arange(s) for s in sides], indexing="ij"), -1).reshape(-1, 3) * spacing
    turned = MOLECULE @ np.linalg.qr(rng.normal(size=(n, 3, 3)))[0]
    positions = (places[:, None] + turned).reshape(-1, 3)
    return {"numbers": [8, 1, 1] * n, "positions": positions.tolist(), "cell": (spacing * np.diag(sides)).tolist()}


def operations(shape: dict) -> float:
    """Multiply-adds for an atom that the algorithm needs, from the counts of its inner loops; see docs/theory.md."""
    c, edges = shape["channels"], EDGES[shape["r_max"]]
    layer_1 = (16 + 16) + (32 + 4 + 32)
    layer_2 = (16 + 4 + 16) + (32 + 16 + 32) if shape["max_L"] == 0 else (40 + 22 + 88) + (80 + 76 + 176)
    linear = 2 * (16.25 if shape["max_L"] == 0 else 44.25) * c * c + 64 * c
    products = (1000 if shape["max_L"] == 0 else 2500) * c
    return edges * c * (layer_1 + layer_2) + linear + products


# --- one engine, in a process of its own -----------------------------------------------------------------------------


def engine(name: str, model_file: str, structure: dict):
    """A function of the positions [n, 3] in A that evaluates energy and forces."""
    import torch

    numbers, cell = structure["numbers"], np.array(structure["cell"])
    if name in ("native", "native before", "native avx2", "pytorch"):
        return own_engine(name, model_file, numbers, cell)
    from ase import Atoms

    atoms = Atoms(numbers, structure["positions"], cell=cell, pbc=True)
    if name == "openmm-ml":
        return openmm_ml(model_file, atoms)
    if name == "mace-torch":
        from mace.calculators import MACECalculator

        calculator = MACECalculator(model_paths=model_file, device="cpu", default_dtype="float32")
    else:
        sys.path.append(os.environ["SYMMETRIX"])
        from symmetrix import Symmetrix

        calculator = Symmetrix(model_file, dtype="float32")
    atoms.calc = calculator

    def evaluate(positions):
        atoms.positions = positions
        return atoms.get_forces()

    torch.set_grad_enabled(True)
    return evaluate


def own_engine(name: str, model_file: str, numbers: list[int], cell: np.ndarray):
    import torch

    sys.path.insert(0, os.environ["BEFORE"] if name == "native before" else str(HERE.parent))
    from mace_md import load_model
    from mace_md.model.potential import make_potential

    model = load_model(model_file, dtype=torch.float32)
    kernels = "reference" if name == "pytorch" else "native"
    potential, _ = make_potential(model, numbers, periodic=True, kernels=kernels)
    if name == "native avx2":
        from mace_md.model.build import select_species
        from mace_md.model.fast.folded import fold
        from mace_md.model.fast.packing import pack

        folded = fold(select_species(model, numbers))
        potential.blob = pack(folded, dtype=torch.float32, skin=0.5, instruction_set="avx2")
    potential, box = torch.jit.script(potential), torch.tensor(cell / 10.0)
    return lambda positions: potential(torch.tensor(positions / 10.0), box)


def openmm_ml(model_file: str, atoms):
    import openmm
    from openmm import app, unit
    from openmmml import MLPotential

    topology = app.Topology()
    residue = topology.addResidue("water", topology.addChain())
    for symbol in atoms.symbols:
        topology.addAtom(symbol, app.Element.getBySymbol(symbol), residue)
    topology.setPeriodicBoxVectors(atoms.cell.array * unit.angstrom)
    system = MLPotential("mace", modelPath=model_file).createSystem(topology, precision="single")
    integrator = openmm.LangevinMiddleIntegrator(300, 1.0, 0.0005)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("CPU"))

    def evaluate(positions):
        context.setPositions(positions / 10.0)
        context.getState(energy=True, forces=True)

    return evaluate


def worker(name: str, model_file: str, threads: int) -> None:
    """Reads a structure, then a line for every evaluation wanted; writes its time (s) and the peak memory (MB)."""
    import torch

    torch.set_num_threads(threads)
    answers, sys.stdout = sys.stdout, sys.stderr
    structure = json.loads(sys.stdin.readline())
    positions, rng = np.array(structure["positions"]), np.random.default_rng(1)
    try:
        evaluate = engine(name, model_file, structure)
        for _ in range(2):
            evaluate(positions + rng.normal(scale=1e-3, size=positions.shape))
    except Exception as error:  # a peer that is not installed or refuses the model is a result, too
        print(json.dumps({"error": f"{type(error).__name__}: {error}"[:200]}), file=answers, flush=True)
        return
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for _ in sys.stdin:
        moved = positions + rng.normal(scale=1e-3, size=positions.shape)
        clock = time.process_time if threads == 1 else time.perf_counter
        start = clock()
        evaluate(moved)
        seconds = clock() - start
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "memory": memory}), file=answers, flush=True)


# --- all engines, in turns --------------------------------------------------------------------------------------------


class Worker:
    """A process with one engine."""

    def __init__(self, name: str, model_file: Path, structure: dict, threads: int):
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "OPENMM_CPU_THREADS": str(threads),
                                    "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}  # fmt: skip
        command = [sys.executable, __file__, "--worker", name, str(model_file), str(threads)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self.ask(json.dumps(structure))
        self.error: str | None = None
        self.seconds, self.memory = [], 0.0

    def wait(self) -> None:
        """Until the engine has evaluated twice, or has said why it cannot."""
        self.error = self.answer().get("error")

    def ask(self, line: str) -> None:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict:
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"error": "the process died"}

    def evaluate(self) -> None:
        self.ask("again")
        answer = self.answer()
        self.seconds.append(answer["seconds"])
        self.memory = answer["memory"]


def matrix_rate(threads: int) -> float:
    """Multiply-adds per second of a large float32 matrix product."""
    import torch

    torch.set_num_threads(threads)
    a, best = torch.randn(1536, 1536), float("inf")
    for _ in range(5):
        clock = time.process_time if threads == 1 else time.perf_counter
        start = clock()
        torch.mm(a, a)
        best = min(best, clock() - start)
    return 1536**3 / best


def measure(model: str, model_file: Path, n_atoms: int, engines: list[str], threads: int, budget: float) -> list[dict]:
    """Every engine on one box: a list of results."""
    structure, results = water(n_atoms), []
    workers = {name: Worker(name, model_file, structure, threads) for name in engines}  # they start side by side
    for worker in workers.values():
        worker.wait()
    rate = matrix_rate(threads)
    for _ in range(15):
        for w in workers.values():
            if w.error is None and (len(w.seconds) < 3 or sum(w.seconds) < budget):
                w.evaluate()
        rate = max(rate, matrix_rate(threads))
    for name, w in workers.items():
        w.process.stdin.close()
        w.process.wait()
        result = {"model": model, "atoms": n_atoms, "engine": name, "threads": threads}
        if w.error is not None:
            results.append(result | {"error": w.error})
            continue
        best, median = min(w.seconds), statistics.median(w.seconds)
        quartiles = statistics.quantiles(w.seconds, n=4) if len(w.seconds) > 1 else [median] * 3
        result |= {"ms": best * 1e3, "median_ms": median * 1e3, "us_per_atom": best * 1e6 / n_atoms}
        result |= {"median_us_per_atom": median * 1e6 / n_atoms, "quartiles_ms": [1e3 * q for q in quartiles[::2]]}
        result |= {"evaluations": len(w.seconds), "memory_mb": round(w.memory)}
        result["of_peak"] = operations(MODELS[model]) * n_atoms / best / rate
        results.append(result)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="", help="only models with this in their name")
    parser.add_argument("--atoms", type=int, nargs="+", default=[24, 192, 648, 1536])
    parser.add_argument("--engines", nargs="+", default=ENGINES)
    parser.add_argument("--slow-atoms", type=int, default=192, help="largest box for mace-torch and openmm-ml")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--budget", type=float, default=20.0, help="seconds of evaluations for an engine and box")
    parser.add_argument("--symmetrix", default="", help="site-packages of an installation of symmetrix-xl")
    parser.add_argument("--before", default="", help="another checkout of this package, with its kernels built")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    os.environ |= {"SYMMETRIX": arguments.symmetrix, "BEFORE": arguments.before}
    missing = {"symmetrix-xl": arguments.symmetrix, "native before": arguments.before}
    arguments.engines = [engine for engine in arguments.engines if missing.get(engine, "given")]
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"

    import torch

    sys.path.insert(0, str(HERE))
    from oracle import make_model

    results = []
    with tempfile.TemporaryDirectory() as folder:
        for model, shape in MODELS.items():
            if arguments.models not in model:
                continue
            file = Path(folder) / f"{model}.model"
            torch.set_default_dtype(torch.float32)
            torch.save(make_model(elements=(1, 8), scale=50.0, **shape), file)
            for n_atoms in arguments.atoms:
                engines = [e for e in arguments.engines if n_atoms <= arguments.slow_atoms or e not in SLOW]
                results += measure(model, file, n_atoms, engines, arguments.threads, arguments.budget)
                for r in results[-len(engines) :]:
                    numbers = r.get("error") or (
                        f"{r['ms']:9.2f} ms {r['us_per_atom']:9.1f} us/atom  median {r['median_ms']:9.2f} ms"
                        f"  {100 * r['of_peak']:4.0f} % of peak  {r['memory_mb']:5d} MB"
                    )
                    print(f"{r['model']:12s} {r['atoms']:6d} atoms  {r['engine']:12s} {numbers}", flush=True)
    if arguments.output:
        about = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count(),
                 "torch": torch.__version__, "python": platform.python_version()}  # fmt: skip
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps({"about": about, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] == "--worker":
        worker(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        main()
