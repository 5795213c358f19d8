"""The workers of gpu.py: processes that import one engine and answer what they are asked.

    python benchmarks/gpu_tasks.py WORKER DEVICE MODELS.json

Reads questions (gpu_plan.Question), a JSON object a line, and writes an answer a line. After an answer with an error
the process ends: what a GPU does after an error is not worth timing. DEVICE: `cuda`, or `cpu` for a dry run.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from cpu import water  # noqa: E402
from gpu_engines import CHUNK, ENGINES, Bench, own_potential, synchronize, topology_of  # noqa: E402

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
    import gpu_peaks

    return gpu_peaks.peaks(bench.device)


def nve(bench: Bench) -> dict:
    """Drift of the total energy from one equilibrated state, with nve.py."""
    from types import SimpleNamespace

    import nve as run

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
        environment = os.environ | {"PYTHONPATH": f"{HERE.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError((done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1])
        record = json.loads((output / "run.json").read_text())
    return {"us": 1000 * record["timings"]["production_ms_per_step"], "cuda_graphs": record["cuda_graphs"]["use"]}


def largest(bench: Bench) -> dict:
    """The largest box of water by the forecast of memory, and whether it runs."""
    from cpu import EDGES, MODELS

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
