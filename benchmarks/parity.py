"""Are the numbers right? Three questions, each with its own oracle and its own file of results.

    python -m benchmarks.parity mace-torch    does mace-md repeat mace-torch's energies and forces?  [--only TEXT]
    python -m benchmarks.parity native        are the native kernels the plain float64 model?
    python -m benchmarks.parity positions     what do positions rounded to float32 in nm cost, as OpenMM hands them to a
                                              model on a GPU?  [--model NAME] [--structure FILE]

The models are those in ../shared/models and every published architecture at full size, with random weights, since the
published ones cannot be had everywhere. mace-torch runs in a process of its own (benchmarks/oracle.py). The native
kernels pack only the elements of a structure, so four are drawn from those that a model knows. `--output` names another
file than benchmarks/results/parity.json, native_parity.json; `positions` writes none without it.
"""

from __future__ import annotations

import argparse
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

from benchmarks.oracle import ARCHITECTURES
from mace_md.model.build import build_model, select_species
from mace_md.model.graph import single_graph
from mace_md.model.hyperparameters import ModelConfig
from mace_md.model.mace import MACE, predict
from mace_md.model.potential import NativePotential, Potential, make_potential
from mace_md.model.reading.checkpoint import load_model
from mace_md.ops.neighbor_list import neighbor_list
from mace_md.provenance import collect_provenance, version_of, write_json
from mace_md.units import EV_PER_ANGSTROM_TO_KJ_MOL_NM

HERE = Path(__file__).parent
MODELS = HERE.parent.parent / "shared" / "models"
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
        **{name: version for name in packages if (version := version_of(name)) is not None},
    }


def against_mace_torch(arguments: argparse.Namespace) -> bool:
    """Compare, print a table, write the JSON; whether all is within the limits."""
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
    output = arguments.output or HERE / "results" / "parity.json"
    output.parent.mkdir(exist_ok=True)
    result = {"limits": LIMITS, "versions": versions(), "models": rows}
    output.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{sum(row['passed'] for row in rows)} of {len(rows)} models within the limits; {output}")
    return all(row["passed"] for row in rows)


NATIVE_LIMITS = {"float64_max": 1e-8, "float32_rms_relative": 5e-6}


def published(name: str, elements: tuple[int, ...]) -> MACE:
    """A model of a published architecture for `elements`, with random weights."""
    a = ARCHITECTURES[name]
    config = ModelConfig(
        atomic_numbers=elements,
        r_max=a["r_max"],
        num_bessel=a.get("num_bessel", 8),
        num_channels=a["channels"],
        max_L=a["max_L"],
        interactions=a["blocks"],
        distance_transform=a.get("distance_transform", "None").lower(),
        pair_repulsion=a.get("pair_repulsion", False),
        avg_num_neighbors=(20.0, 20.0),
    )
    return build_model(config, seed=0)


def compare_native(model: MACE, structures: list[dict]) -> dict:
    """Largest float64 force deviation (eV/A) and largest relative rms float32 deviation over the structures."""
    worst = {"float64_max": 0.0, "float32_rms_relative": 0.0, "largest_force": 0.0}
    for structure in structures:
        periodic, numbers = structure["cell"] is not None, structure["numbers"]
        positions = torch.tensor(structure["positions"], dtype=torch.float64) / 10
        box = torch.tensor(structure["cell"], dtype=torch.float64) / 10 if periodic else None
        forces = {}
        for dtype in (torch.float64, torch.float32):
            small = select_species(model, numbers).to(dtype)
            forces[dtype] = NativePotential(small, numbers, periodic)(positions, box)[1]
        plain = Potential(select_species(model, numbers), numbers, periodic)(positions, box)[1]
        rms = (forces[torch.float32] - plain).square().mean().sqrt() / plain.square().mean().sqrt()
        deviation = (forces[torch.float64] - plain).abs().max() / EV_PER_ANGSTROM_TO_KJ_MOL_NM
        worst["float64_max"] = max(worst["float64_max"], float(deviation))
        worst["float32_rms_relative"] = max(worst["float32_rms_relative"], float(rms))
        largest = float(plain.abs().max()) / EV_PER_ANGSTROM_TO_KJ_MOL_NM
        worst["largest_force"] = max(worst["largest_force"], largest)
    return worst | {"passed": all(worst[key] < limit for key, limit in NATIVE_LIMITS.items())}


def native(arguments: argparse.Namespace) -> bool:
    """Compare, print a table, write the JSON; whether all is within the limits."""
    rng = np.random.default_rng(1)
    rows = []
    for source in [*sorted(arguments.models.glob("*.model")), *ARCHITECTURES]:
        if arguments.only not in str(source):
            continue
        if isinstance(source, Path):
            name, model = source.stem, load_model(source, dtype="float64")
            known = model.atomic_numbers.tolist()
        else:
            name, model, known = source, None, list(ARCHITECTURES[source]["elements"])
        elements = tuple(sorted(int(z) for z in rng.choice(known, min(4, len(known)), replace=False)))
        model = model or published(name, elements)
        rows.append({"model": name, "elements": elements} | compare_native(model, make_structures(elements)))
        row = rows[-1]
        print(f"{name:48s} float64 {row['float64_max']:8.1e} eV/A   float32 {row['float32_rms_relative']:8.1e}   "
              f"{'' if row['passed'] else 'TOO LARGE'}", flush=True)  # fmt: skip
    output = arguments.output or HERE / "results" / "native_parity.json"
    output.write_text(json.dumps({"limits": NATIVE_LIMITS, "versions": versions(), "models": rows}, indent=1) + "\n")
    return all(row["passed"] for row in rows)


OFFSETS = (1.0, 10.0, 100.0)  # nm
REPEATS = 5  # shifts by which the rounding differs


def forces_of(potential, positions, box):
    return potential(torch.tensor(positions), box)[1].double().numpy() / EV_PER_ANGSTROM_TO_KJ_MOL_NM


def rounded_positions(arguments: argparse.Namespace) -> bool:
    """Liquid water 1, 10 and 100 nm from the origin (a trajectory that is never wrapped), in float64, against the same
    forces with positions that were not rounded; beside it what float32 arithmetic of the model does. A minute."""
    from mace_md.structures.structure import read_structure  # OpenMM, which the other two do without

    structure = read_structure(arguments.structure)
    box = torch.tensor(structure.box)
    exact, _ = make_potential(load_model(arguments.model, dtype="float64"), structure.atomic_numbers, periodic=True)
    single, _ = make_potential(load_model(arguments.model, dtype="float32"), structure.atomic_numbers, periodic=True)
    rng, x = np.random.default_rng(0), np.asarray(structure.positions, dtype=np.float64)
    rms = lambda deviations: float(np.sqrt(np.mean(np.square(deviations))))  # noqa: E731
    here = forces_of(exact, x, box)
    results = {
        "atoms": len(x),
        "rms_force": rms(here),
        "float32_model": rms(forces_of(single, x, box) - here),
        "float32_positions": {},
    }
    for offset in OFFSETS:
        found = []
        for _ in range(REPEATS):
            moved = x - x.mean(axis=0) + offset + rng.uniform(-0.1, 0.1, 3)
            rounded = moved.astype(np.float32).astype(np.float64)
            found.append(forces_of(exact, rounded, box) - forces_of(exact, moved, box))
        results["float32_positions"][f"{offset:g} nm"] = rms(found)
        print(f"coordinates of {offset:5g} nm: {rms(found):.2e} eV/A")
    print(f"float32 model: {results['float32_model']:.2e} eV/A; forces {results['rms_force']:.2f} eV/A (rms)")
    if arguments.output:
        about = collect_provenance(model={"name": arguments.model})
        record = {"versions": about["versions"], "model": arguments.model, "unit": "eV/A, rms of a component"}
        write_json(arguments.output, record | {"results": results})
    return True


QUESTIONS = {"mace-torch": against_mace_torch, "native": native, "positions": rounded_positions}


def main() -> None:
    """Answer one question; exit code 1 when a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", choices=QUESTIONS)
    parser.add_argument("--only", default="", help="models whose name contains this")
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--model", default="mace-off23-small")
    parser.add_argument("--structure", type=Path, default=HERE.parent / "systems" / "water" / "water.pdb")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    sys.exit(not QUESTIONS[arguments.question](arguments))


if __name__ == "__main__":
    main()
