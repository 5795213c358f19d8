"""Is a step of molecular dynamics through the plain PyTorch path as fast as openmm-ml with mace-torch?

    python benchmarks/plain_step.py [--rounds 12] [--threads 2] [--output benchmarks/results/plain_step.json]

The same random weights in the shapes of MACE-OFF23 small (96x0e) and medium (128x0e + 128x1o), float32, 64 waters in a
periodic box, a LangevinMiddle step of 0.5 fs on OpenMM's CPU platform. The engines take turns in one process, one step
at a time, so that whatever else the machine does falls on all of them. The first steps, in which TorchScript compiles,
are not counted. Needs openmmml and mace-torch.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # e3nn 0.4.4 does not import without

import numpy as np
import openmm
import torch
from openmm import app, unit

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from oracle import ARCHITECTURES, make_model  # noqa: E402

from mace_md.md.forces.model import make_force  # noqa: E402
from mace_md.model.reading.checkpoint import load_model  # noqa: E402
from mace_md.ops.energy_forces import LIBRARY  # noqa: E402

MODELS = ("MACE-OFF23 small", "MACE-OFF23 medium")
WATER = np.array([[0.0, 0.0, 0.0], [0.0957, 0.0, 0.0], [-0.0240, 0.0927, 0.0]])  # nm: O, H, H
WARM_UP = 4  # steps


def water_box(per_side: int = 4, spacing: float = 0.31, seed: int = 0) -> tuple[app.Topology, np.ndarray]:
    """(topology, positions in nm) of per_side^3 molecules, turned at random, at the density of the liquid."""
    rng = np.random.default_rng(seed)
    topology, positions = app.Topology(), []
    chain = topology.addChain()
    for corner in np.stack(np.meshgrid(*[np.arange(per_side)] * 3, indexing="ij"), -1).reshape(-1, 3):
        residue = topology.addResidue("HOH", chain)
        for name in ("O", "H1", "H2"):
            topology.addAtom(name, app.Element.getBySymbol(name[0]), residue)
        rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        positions.append(corner * spacing + WATER @ rotation)
    topology.setPeriodicBoxVectors(np.eye(3) * per_side * spacing * unit.nanometer)
    return topology, np.concatenate(positions)


def ours(topology: app.Topology, path: Path, **options) -> openmm.System:
    system = openmm.System()
    for atom in topology.atoms():
        system.addParticle(atom.element.mass)
    system.setDefaultPeriodicBoxVectors(*topology.getPeriodicBoxVectors())
    system.addForce(make_force(topology, load_model(path, dtype="float32"), **options))
    return system


def theirs(topology: app.Topology, path: Path) -> openmm.System:
    from openmmml import MLPotential

    potential = MLPotential("mace", modelPath=str(path))
    return potential.createSystem(topology, precision="single", removeCMMotion=False, device="cpu")


def context_of(system: openmm.System, positions: np.ndarray) -> openmm.Context:
    integrator = openmm.LangevinMiddleIntegrator(300, 1, 0.0005)
    integrator.setRandomNumberSeed(1)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("CPU"))
    context.setPositions(positions)
    context.setVelocitiesToTemperature(300, 1)
    return context


def forces_of(context: openmm.Context) -> np.ndarray:
    forces = context.getState(forces=True).getForces(asNumpy=True)
    return forces.value_in_unit(unit.kilojoule_per_mole / unit.nanometer)


def take_turns(contexts: dict[str, openmm.Context], rounds: int) -> dict[str, list[float]]:
    """Wall seconds of every step of every engine; who begins changes from round to round."""
    seconds: dict[str, list[float]] = {name: [] for name in contexts}
    names = list(contexts)
    for turn in range(WARM_UP + rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            start = time.perf_counter()
            contexts[name].getIntegrator().step(1)
            if turn >= WARM_UP:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def measure(architecture: str, rounds: int) -> dict:
    topology, positions = water_box()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.model"
        torch.save(make_model(**ARCHITECTURES[architecture] | {"scale": 1.0}), path)
        systems = {
            "openmm-ml": theirs(topology, path),
            "mace-md, plain PyTorch": ours(topology, path, kernels="reference"),
            "mace-md, plain PyTorch, PythonForce": ours(topology, path, kernels="reference", backend="python"),
        }
        if LIBRARY.exists():
            systems["mace-md, native"] = ours(topology, path, kernels="native")
    contexts = {name: context_of(system, positions) for name, system in systems.items()}
    forces = {name: forces_of(context) for name, context in contexts.items()}
    largest = float(np.abs(forces["openmm-ml"]).max())
    engines = {}
    for name, seconds in take_turns(contexts, rounds).items():
        low, median, high = np.percentile(seconds, [25, 50, 75])
        engines[name] = {
            "ms_per_step": {"median": median * 1e3, "quartiles": [low * 1e3, high * 1e3], "min": min(seconds) * 1e3},
            "steps": len(seconds),
            "force_deviation_relative": float(np.abs(forces[name] - forces["openmm-ml"]).max()) / largest,
        }
    reference = engines["openmm-ml"]["ms_per_step"]["median"]
    for engine in engines.values():
        engine["speed_relative_to_openmm_ml"] = reference / engine["ms_per_step"]["median"]
    return {"n_atoms": len(positions), "engines": engines}


def environment(threads: int) -> dict:
    packages = ("torch", "openmm", "acellera-openmmtorch-cpu", "openmmml", "mace-torch", "e3nn", "numpy")
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=HERE).stdout.strip()
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), processor)
    return {
        "processor": processor,
        "threads": threads,
        "load_average_at_start": os.getloadavg()[0],
        "commit": commit,
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12, help="steps of each engine that are timed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--models", nargs="+", default=MODELS, choices=sorted(ARCHITECTURES))
    parser.add_argument("--output", type=Path, default=HERE / "results" / "plain_step.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    openmm.Platform.getPlatformByName("CPU").setPropertyDefaultValue("Threads", str(options.threads))
    result = {"what": __doc__.splitlines()[0], "environment": environment(options.threads), "models": {}}
    for name in options.models:
        result["models"][name] = measure(name, options.rounds)
        for engine, found in result["models"][name]["engines"].items():
            time_ms, speed = found["ms_per_step"], found["speed_relative_to_openmm_ml"]
            print(
                f"{name:20s} {engine:36s} {time_ms['median']:8.1f} ms "
                f"[{time_ms['quartiles'][0]:.1f}, {time_ms['quartiles'][1]:.1f}]  {speed:5.2f} x openmm-ml"
            )
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    slower = [
        name
        for name, found in result["models"].items()
        if found["engines"]["mace-md, plain PyTorch"]["speed_relative_to_openmm_ml"] < 1
    ]
    if slower:
        print(f"slower than openmm-ml: {', '.join(slower)}")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
