"""One step of a training, taken apart: native kernels, plain PyTorch and mace-torch in turns in one process.

    PYTHON benchmarks/train_step.py --output benchmarks/results/train_step.json

PYTHON has mace-torch 0.3.16 beside mace-md. The same model, five frames of 3BPA, one thread: loss, gradient, clipping
and the step of AMSGrad Adam. Reported is processor time, which a busy machine disturbs less than wall time; a ratio is
the median over rounds, in each of which every program takes its turn. `--threads 2` gives the wall time of the native
kernels with one and two threads, `--memory` the peak of each program, in processes of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

CASES = {
    "64x0e, float32": (64, 0, torch.float32),
    "256x0e, float64": (256, 0, torch.float64),
    "128x0e+128x1o, float32": (128, 1, torch.float32),
    "256x0e+256x1o+256x2e, float64": (256, 2, torch.float64),
}
NUMBERS, R_MAX, NEIGHBOURS, N_FRAMES = (1, 6, 7, 8), 5.0, 16.0, 5
PROGRAMS = ("native", "reference", "mace-torch")


def read_frames(data: Path) -> list:
    """The first frames of 3BPA at 300 K."""
    from mace_md.training.data import read_configurations

    frames = read_configurations([data / "3bpa" / "train_300K.xyz.gz"])
    return [frames[i] for i in range(1, N_FRAMES + 1)]


def step_here(kernels: str, case: tuple, frames: list) -> Callable[[], float]:
    """A step of mace-md with these kernels; returns the loss."""
    from mace_md.model.build import build_model
    from mace_md.model.hyperparameters import ModelConfig
    from mace_md.training.batches import PackedGraphs
    from mace_md.training.evaluators import make_evaluator
    from mace_md.training.loss import Loss
    from mace_md.training.optimizer import make_optimizer

    channels, max_L, dtype = case
    config = ModelConfig(atomic_numbers=NUMBERS, r_max=R_MAX, num_channels=channels, max_L=max_L,
                         avg_num_neighbors=(NEIGHBOURS, NEIGHBOURS))  # fmt: skip
    model = build_model(config, seed=1, dtype=dtype)
    graphs = PackedGraphs(frames, r_max=R_MAX, atomic_numbers=NUMBERS, dtype=dtype)
    weights, evaluator = list(model.parameters()), make_evaluator(model, kernels)
    optimizer, loss = make_optimizer(model, "adam", 1e-4, 5e-7, True), Loss(forces_weight=1000.0)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        batch = graphs.batch(range(len(frames)))
        prediction = evaluator.predict(evaluator.prepare(batch.graph), training=True)
        value = loss(batch, prediction)
        value.backward(inputs=weights)
        torch.nn.utils.clip_grad_norm_(weights, 10.0)
        optimizer.step()
        return float(value)

    return step


def step_there(case: tuple, frames: list) -> Callable[[], float]:
    """A step of mace-torch on the same frames with a model of the same shape."""
    torch.serialization.add_safe_globals([slice])
    from e3nn import o3
    from mace import data, modules, tools
    from mace.tools import torch_geometric

    channels, max_L, dtype = case
    torch.set_default_dtype(dtype)
    blocks = modules.interaction_classes
    model = modules.ScaleShiftMACE(
        r_max=R_MAX, num_bessel=8, num_polynomial_cutoff=5, max_ell=3,
        interaction_cls=blocks["RealAgnosticResidualInteractionBlock"],
        interaction_cls_first=blocks["RealAgnosticInteractionBlock"], num_interactions=2, num_elements=len(NUMBERS),
        hidden_irreps=o3.Irreps("+".join(f"{channels}x{l}{'eo'[l % 2]}" for l in range(max_L + 1))),
        MLP_irreps=o3.Irreps("16x0e"), atomic_energies=np.zeros(len(NUMBERS)), avg_num_neighbors=NEIGHBOURS,
        atomic_numbers=list(NUMBERS), correlation=3, gate=torch.nn.functional.silu, atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    )  # fmt: skip
    table = tools.AtomicNumberTable(list(NUMBERS))
    ones = {"energy": 1.0, "forces": 1.0}
    configurations = [
        data.Configuration(
            atomic_numbers=f.atomic_numbers, positions=f.positions, property_weights=ones, cell=np.zeros((3, 3)),
            properties={"energy": f.energy, "forces": f.forces}, pbc=(False,) * 3,
        )
        for f in frames
    ]  # fmt: skip
    graphs = [data.AtomicData.from_config(c, z_table=table, cutoff=R_MAX) for c in configurations]
    batch = next(iter(torch_geometric.dataloader.DataLoader(graphs, batch_size=len(frames), shuffle=False)))
    loss, weights = modules.WeightedEnergyForcesLoss(1, 1000), list(model.parameters())
    optimizer = torch.optim.Adam(weights, lr=1e-4, amsgrad=True, weight_decay=5e-7)
    torch.set_default_dtype(torch.float32)

    def step() -> float:
        torch.set_default_dtype(dtype)
        optimizer.zero_grad(set_to_none=True)
        found = model(batch.to_dict(), training=True, compute_force=True)
        value = loss(pred=found, ref=batch)
        value.backward()
        torch.nn.utils.clip_grad_norm_(weights, 10.0)
        optimizer.step()
        torch.set_default_dtype(torch.float32)
        return float(value)

    return step


def make_step(program: str, name: str, data: Path) -> Callable[[], float]:
    """The step of a program for the case of this name."""
    frames = read_frames(data)
    if program == "mace-torch":
        return step_there(CASES[name], frames)
    return step_here(program, CASES[name], frames)


def in_turns(name: str, programs: list[str], rounds: int, data: Path) -> dict:
    """Processor and wall time of a step of each program, and how many times longer than the native one it takes."""
    steps = {program: make_step(program, name, data) for program in programs}
    cpu, wall = {p: [] for p in programs}, {p: [] for p in programs}
    for number in range(rounds + 1):
        for program, step in steps.items():
            started, used = time.perf_counter(), time.process_time()
            step()
            if number:  # the first is not counted
                wall[program].append(time.perf_counter() - started)
                cpu[program].append(time.process_time() - used)
    result = {
        program: {"cpu_s": statistics.median(cpu[program]), "least_cpu_s": min(cpu[program]),
                  "wall_s": statistics.median(wall[program])}
        for program in programs
    }  # fmt: skip
    for program in programs[1:]:
        ratios = [theirs / ours for ours, theirs in zip(cpu[programs[0]], cpu[program], strict=True)]
        result[f"{program} / {programs[0]}"] = statistics.median(ratios)
    return result | {"rounds": rounds}


def peak_memory(program: str, name: str, data: Path) -> float:
    """Peak resident memory of three steps above that before the model was made, MiB, in a process of its own."""
    words = [sys.executable, __file__, "--peak", program, "--cases", name, "--data", str(data)]
    answer = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return json.loads(answer.splitlines()[-1])["peak"]


def _own_peak(program: str, name: str, data: Path) -> None:
    frames = read_frames(data)
    if program == "mace-torch":
        torch.serialization.add_safe_globals([slice])
        import mace.modules  # noqa: F401 (its memory is not that of a step)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = step_there(CASES[name], frames) if program == "mace-torch" else step_here(program, CASES[name], frames)
    for _ in range(3):
        step()
    print(json.dumps({"peak": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024}))


def threads_scaling(name: str, threads: int, rounds: int, data: Path) -> float:
    """How many times faster (wall time, medians) the native kernels are with so many threads than with one."""
    step, times = make_step("native", name, data), {1: [], threads: []}
    for number in range(rounds + 1):
        for count in times:
            torch.set_num_threads(count)
            started = time.perf_counter()
            step()
            if number:
                times[count].append(time.perf_counter() - started)
    torch.set_num_threads(1)
    return statistics.median(times[1]) / statistics.median(times[threads])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="", help="only cases whose name begins so")
    parser.add_argument("--programs", default=",".join(PROGRAMS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="also the wall time with so many threads")
    parser.add_argument("--memory", action="store_true", help="also the peak memory of each program")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--output", type=Path, help="JSON file for the results; others that are in it are kept")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    names = [name for name in CASES if name.startswith(arguments.cases)]
    if arguments.peak:
        _own_peak(arguments.peak, names[0], arguments.data)
        return
    programs = arguments.programs.split(",")
    for name in names:
        result = in_turns(name, programs, arguments.rounds, arguments.data)
        if arguments.threads:
            result[f"speed-up of {arguments.threads} threads"] = threads_scaling(
                name, arguments.threads, arguments.rounds, arguments.data
            )
        if arguments.memory:
            result["peak_MiB"] = {program: peak_memory(program, name, arguments.data) for program in programs}
        print(name, json.dumps(result), flush=True)
        if arguments.output:
            _keep(arguments.output, name, result)


def _keep(path: Path, name: str, result: dict) -> None:
    from mace_md.provenance import collect_provenance, write_json

    before = json.loads(path.read_text())["results"] if path.exists() else {}
    about = {key: collect_provenance()[key] for key in ("created", "versions", "device")}
    about["load"] = os.getloadavg()[1]
    write_json(path, {"about": about, "results": before | {name: result}})


if __name__ == "__main__":
    main()
