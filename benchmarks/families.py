"""Every model file of a folder, of every family, against mace-torch with its packages, in double precision.

    LES_SOURCE=.../les/src python -m benchmarks.families --oracle PYTHON [--models FOLDER ...] [--output FILE]

PYTHON is the interpreter of an environment with mace-torch 0.3.16 (graph-longrange 0.4.0 for POLAR), which evaluates
five structures of 12 atoms by benchmarks/families_oracle.py: a molecule, a triclinic crystal, the molecule with an atom
30 A away, and molecule and crystal with charge 1 and multiplicity 2. A model that cannot be read is in the table with
the words of its refusal. Stress is compared with finite differences (`check_model`), and mace-torch's stress with ours.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.families_oracle import structures
from benchmarks.oracle import quiet
from mace_md.errors import InputError
from mace_md.model.families import FAMILIES, gives_energy
from mace_md.model.families.checks import check_model
from mace_md.model.families.latent_ewald import born_charges
from mace_md.model.graph import Graph, single_graph
from mace_md.model.mace import predict
from mace_md.model.reading.checkpoint import describe_model, load_model
from mace_md.model.settle import settle
from mace_md.ops.neighbor_list import neighbor_list
from mace_md.provenance import write_json
from mace_md.units import DEBYE_PER_E_ANGSTROM

HERE = Path(__file__).parent
SHARED = HERE.parent.parent / "shared" / "models"
LIMITS = {"energy_relative": 1e-9, "forces": 1e-8, "forces_polar": 1e-7, "properties": 1e-9}


def systems_of(elements: tuple[int, ...]) -> list[dict]:
    """The five structures, of the elements of a model."""
    molecule, crystal, *charged = structures(elements)
    far = molecule | {"positions": [*molecule["positions"][:-1], [30.0, 2.0, 1.0]]}
    return [molecule, crystal, far, *charged]


def graph_of(model: torch.nn.Module, system: dict) -> Graph:
    """The graph of a structure with its charge and multiplicity."""
    positions, periodic = torch.tensor(system["positions"], dtype=torch.float64), system["cell"] is not None
    cell = torch.tensor(system["cell"] if periodic else [[0.0] * 3] * 3, dtype=torch.float64)
    edge_index, shifts = neighbor_list(positions, cell, periodic, model.r_max)
    species = torch.searchsorted(model.atomic_numbers, torch.tensor(system["numbers"]))
    charge, spin = (torch.tensor([float(system[name])], dtype=torch.float64) for name in ("charge", "spin"))
    return single_graph(positions, species, edge_index, shifts, cell)._replace(charge=charge, spin=spin)


def ask_oracle(python: str, path: Path, systems: list[dict]) -> dict | None:
    """What mace-torch says for each head, None where it cannot."""
    with tempfile.TemporaryDirectory() as folder:
        given, answer = Path(folder) / "systems.json", Path(folder) / "answer.json"
        given.write_text(json.dumps(systems))
        command = [python, "-m", "benchmarks.families_oracle", str(path), str(given), str(answer)]
        environment = os.environ | {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, cwd=HERE.parent, capture_output=True, text=True)
        return json.loads(answer.read_text()) if done.returncode == 0 else None


def compare(path: Path, heads: dict, systems: list[dict]) -> dict[str, float]:
    """Largest deviations from the oracle over heads and structures."""
    worst: dict[str, float] = {}

    def note(name: str, value: float) -> None:
        worst[name] = max(worst.get(name, 0.0), float(value))

    for head, results in heads.items():
        model = load_model(path, head=head, dtype="float64")
        for system, expected in zip(systems, results, strict=True):
            graph = graph_of(model, system)
            if "energy" in expected:
                found = predict(model, graph, stress=system["cell"] is not None)
                energy = _only(expected["energy"])
                note("energy_relative", abs(float(found.energy) - energy) / max(1.0, abs(energy)))
                note("forces", (found.forces - _tensor(expected["forces"])).abs().max())
                note("largest_force", found.forces.abs().max())
                if system["cell"] is not None:
                    note("stress_of_mace_torch", (found.stress[0] - _tensor(expected["stress"][0])).abs().max())
            _compare_properties(model, graph, expected, note)
    return worst


def _compare_properties(model: torch.nn.Module, graph: Graph, expected: dict, note) -> None:
    if hasattr(model, "response"):
        response = model.response(graph)
        unit = 1.0 if model.family == "dielectric" else DEBYE_PER_E_ANGSTROM
        note("dipole", (response.dipole.detach() * unit - _tensor(expected["dipole"])).abs().max())
        if response.polarizability is not None:
            note("polarizability", (response.polarizability.detach() - _tensor(expected["polarizability"])).abs().max())
    if "BEC" in expected:
        note("born_charges", (born_charges(model, graph) - _tensor(expected["BEC"])).abs().max())


def _tensor(values: list) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _only(value: float | list) -> float:
    return value[0] if isinstance(value, list) else value


def check(path: Path, python: str) -> dict:
    """One row of the table."""
    try:
        config, info, _ = describe_model(path)
    except InputError as error:
        return {"model": path.name, "refused": str(error).removeprefix(f"{path}: ")}
    systems = systems_of(config.atomic_numbers[:3])
    row = {"model": path.name, "family": config.family, "range": FAMILIES[config.family].range, "dtype": info.dtype}
    heads = ask_oracle(python, path, systems)
    row |= compare(path, heads, systems) if heads else {"oracle": "mace-torch 0.3.16 cannot evaluate it"}
    model = settle(load_model(path, head=config.heads[0]))
    laws = check_model(model)
    row["laws"] = f"{sum(law.passed for law in laws)} of {len(laws)}"
    if gives_energy(model):
        row["stress_by_differences"] = next(law.deviation for law in laws if law.law.startswith("stress"))
    row["passed"] = _passes(row, config.family) and all(law.passed for law in laws)
    return row


def _passes(row: dict, family: str) -> bool:
    force_limit = LIMITS["forces_polar" if family == "polar" else "forces"]
    properties = max(row.get(name, 0.0) for name in ("dipole", "polarizability", "born_charges"))
    small = row.get("energy_relative", 0.0) < LIMITS["energy_relative"] and properties < LIMITS["properties"]
    return small and row.get("forces", 0.0) < force_limit


def main() -> None:
    """Write the table as JSON; exit code 1 when a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--oracle", required=True, help="python of an environment with mace-torch")
    parser.add_argument("--models", type=Path, nargs="*", default=[SHARED, SHARED / "random"])
    parser.add_argument("--only", default="", help="files whose name contains this")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "families.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for path in [path for folder in arguments.models for path in sorted(folder.glob("*.model"))]:
        if arguments.only in path.name:
            with quiet():
                row = check(path, arguments.oracle)
            rows.append(row)
            numbers = {key: f"{value:.1e}" if isinstance(value, float) else value for key, value in row.items()}
            print(numbers, flush=True)
    write_json(arguments.output, {"limits": LIMITS, "units": "eV, eV/A, eV/A^3, Debye or e A", "models": rows})
    sys.exit(not all(row.get("passed", True) for row in rows))


if __name__ == "__main__":
    main()
