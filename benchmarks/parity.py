"""Does mace-md repeat mace-torch's energies and forces? Every model in ../shared/models, every published architecture.

    python benchmarks/parity.py [--only TEXT] [--output benchmarks/results/parity.json]

The published weights cannot be had everywhere, so their architectures are made at full size with random weights.
mace-torch runs in a process of its own (benchmarks/oracle.py); float64 and float32, a molecule and a triclinic crystal.
"""

from __future__ import annotations

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

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
sys.path.insert(0, str(HERE))

from oracle import ARCHITECTURES  # noqa: E402

from mace_md.model.graph import single_graph  # noqa: E402
from mace_md.model.mace import predict  # noqa: E402
from mace_md.model.reading.checkpoint import load_model  # noqa: E402
from mace_md.ops.neighbor_list import neighbor_list  # noqa: E402

LIMITS = {"energy_relative": 1e-9, "force": 1e-8, "force_float32": 1e-4}  # of float64; of float64 and float32, eV/A
N_ATOMS = 12


def make_structures(elements: tuple[int, ...], seed: int = 0) -> list[dict]:
    """A molecule-like cluster and a triclinic crystal of random elements, atoms about 2 A apart."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), -1).reshape(-1, 3)[:N_ATOMS]
    cell = np.array([[6.0, 0.0, 0.0], [1.0, 6.6, 0.0], [-0.7, 1.1, 7.2]])
    structures = []
    for box in (None, cell):
        lattice = 6.3 * np.eye(3) if box is None else box
        positions = grid / 3.0 @ lattice + rng.normal(scale=0.15, size=(N_ATOMS, 3))
        numbers = rng.choice(elements, N_ATOMS)
        structures.append(
            {
                "numbers": numbers.tolist(),
                "positions": positions.tolist(),
                "cell": None if box is None else box.tolist(),
            }
        )
    return structures


def ask_oracle(source: str, folder: Path, structures: list[dict]) -> dict:
    """What mace-torch says of `structures`."""
    (folder / "structures.json").write_text(json.dumps(structures))
    environment = os.environ | {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "oracle.py"), source, str(folder)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"mace-torch failed on {source}:\n{result.stderr[-2000:]}")
    return json.loads((folder / "oracle.json").read_text())


def compare(model: torch.nn.Module, structure: dict, expected: dict) -> dict:
    """Deviations of energy, forces and stress from the oracle's, eV and A."""
    positions = torch.tensor(structure["positions"], dtype=torch.float64)
    periodic = structure["cell"] is not None
    cell = torch.tensor(structure["cell"] if periodic else [[0.0] * 3] * 3, dtype=torch.float64)
    edge_index, shifts = neighbor_list(positions, cell, periodic, model.r_max)
    species = torch.searchsorted(model.atomic_numbers, torch.tensor(structure["numbers"]))
    graph = single_graph(positions.to(model.embedding.dtype), species, edge_index, shifts, cell)
    found = predict(model, graph, stress=periodic)
    energy = float(found.energy) - float(model.atomic_energies[0, species].sum())
    deviation = {
        "periodic": periodic,
        "edges": edge_index.shape[1],
        "interaction_energy": energy,
        "energy_relative": abs(energy - expected["interaction_energy"]) / abs(expected["interaction_energy"]),
        "force": float((found.forces.double() - torch.tensor(expected["forces"], dtype=torch.float64)).abs().max()),
        "largest_force": float(found.forces.abs().max()),
    }
    if periodic:
        expected_stress = torch.tensor(expected["stress"], dtype=torch.float64)
        deviation["stress"] = float((found.stress[0].double() - expected_stress).abs().max())
    return deviation


def check(name: str, source: str) -> dict:
    """All comparisons for one model."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if source in ARCHITECTURES:
            structures = make_structures(ARCHITECTURES[source]["elements"])
            expected = ask_oracle(source, folder, structures)
            path = folder / "model.model"
        else:
            path = Path(source)
            structures = make_structures(tuple(load_model(path).atomic_numbers.tolist()))
            expected = ask_oracle(source, folder, structures)
        models = {dtype: load_model(path, dtype=dtype) for dtype in ("float64", "float32")}
    comparisons = [
        {"dtype": dtype} | compare(model, structure, result)
        for dtype, model in models.items()
        for structure, result in zip(structures, expected[dtype], strict=True)
    ]
    parameters = sum(p.numel() for p in models["float64"].parameters())
    return {
        "model": name,
        "random_weights": source in ARCHITECTURES,
        "parameters": parameters,
        "passed": all(map(passes, comparisons)),
        "seconds": round(time.perf_counter() - start, 1),
        "comparisons": comparisons,
    }


def passes(comparison: dict) -> bool:
    """Whether a comparison is within the stated limits."""
    if comparison["dtype"] == "float32":
        return comparison["force"] < LIMITS["force_float32"]
    return comparison["energy_relative"] < LIMITS["energy_relative"] and comparison["force"] < LIMITS["force"]


def versions() -> dict:
    """What the numbers were made with."""
    packages = ("torch", "e3nn", "mace-torch", "numpy")
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=HERE, capture_output=True, text=True).stdout.strip()
    return {
        "commit": commit,
        "python": platform.python_version(),
        "machine": platform.machine(),
        **{name: importlib.metadata.version(name) for name in packages},
    }


def main() -> None:
    """Compare, print a table, write the JSON; exit code 1 when a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="models whose name contains this")
    parser.add_argument("--models", type=Path, default=HERE.parent.parent / "shared" / "models")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "parity.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sources = {path.stem: str(path) for path in sorted(arguments.models.glob("*.model"))}
    sources |= {name: name for name in ARCHITECTURES}
    print(f"{'model':48s} {'float64: dE/E':>14s} {'dF eV/A':>9s} {'float32: dF':>12s}")
    rows = []
    for name, source in sources.items():
        if arguments.only not in name:
            continue
        row = check(name, source)
        rows.append(row)
        worst = {
            (dtype, key): max(c[key] for c in row["comparisons"] if c["dtype"] == dtype)
            for dtype, key in (("float64", "energy_relative"), ("float64", "force"), ("float32", "force"))
        }
        numbers = "{:14.1e} {:9.1e} {:12.1e}".format(*worst.values())
        print(f"{name:48s} {numbers} {'' if row['passed'] else '  TOO LARGE'}", flush=True)
    arguments.output.parent.mkdir(exist_ok=True)
    result = {"limits": LIMITS, "versions": versions(), "models": rows}
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{sum(row['passed'] for row in rows)} of {len(rows)} models within the limits; {arguments.output}")
    sys.exit(not all(row["passed"] for row in rows))


if __name__ == "__main__":
    main()
