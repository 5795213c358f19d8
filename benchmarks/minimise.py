"""Minimise molecules and systems as `mace-md run` does by default, and count the bonds that are kept.

    python benchmarks/minimise.py --output benchmarks/results/minimise.json
    python benchmarks/minimise.py --table benchmarks/results/minimise.json     # the table of docs/minimisation.md

Molecules: the SMILES of benchmarks/minimise.smi, with RDKit's coordinates. Systems: all of systems/, and those of
../shared/systems where it is there. OpenMM's own minimiser starts from the same molecules, for comparison.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import openmm
import torch
from openmm import app

import mace_md
from mace_md.config import RunConfig
from mace_md.errors import InputError, SafetyStop
from mace_md.md.stepping.minimization import minimize
from mace_md.md.watch.limits import Bonds
from mace_md.structures import preflight
from mace_md.structures.formats.molfile import from_smiles
from mace_md.structures.prepare import prepare
from mace_md.structures.structure import Structure, assemble
from mace_md.units import EV_PER_ANGSTROM_TO_KJ_MOL_NM

HERE = Path(__file__).parent
SHARED = HERE.parents[1] / "shared" / "systems"
TOLERANCE, STEPS = 100.0, 100  # kJ/mol/nm and steps, the defaults of `mace-md run`


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    if chosen.table:
        print(table(json.loads(chosen.table.read_text())))
        return
    torch.set_num_threads(chosen.threads)
    model = mace_md.load_model("mace-md-small", dtype="float32")
    record = {"model": "mace-md-small", "dtype": "float32", "tolerance_kJ_mol_nm": TOLERANCE, "most_steps": STEPS}
    record["openmm"] = openmm.version.version
    record["molecules"] = [row(name, structure, model, openmm_too=True) for name, structure in molecules()]
    record["systems"] = [row(name, structure, model) for name, structure in systems()]
    chosen.output.write_text(json.dumps(record, indent=1) + "\n")


def molecules():
    """(SMILES, Structure) of the list."""
    for line in (HERE / "minimise.smi").read_text().split():
        yield line, assemble(from_smiles(line, seed=1))


def systems():
    """(name, Structure) of the inputs of the project, and of those beside it."""
    root = HERE.parent
    paths = sorted({*root.glob("systems/*/*.pdb"), *root.glob("systems/inputs/*")})
    paths += sorted(SHARED.glob("*.pdb")) if SHARED.exists() else []
    for path in paths:
        if path.suffix not in (".py", ".rst7") and path.name != "salt_water.gro":  # not structures of their own
            yield path.name, read(path)


def read(path: Path) -> Structure:
    """A structure file with the file that belongs to it, and the hydrogens that are missing."""
    beside = {".top": ".gro", ".prmtop": ".rst7"}.get(path.suffix)
    coordinates = None if beside is None else path.with_suffix(beside)
    options = {"structure": path, "coordinates": coordinates, "seed": 1, "virtual_sites": "drop"}
    structure = prepare(RunConfig(**options))
    try:
        preflight.check_hydrogens(structure)
    except InputError:
        structure = prepare(RunConfig(**options, hydrogens="add"))
    return structure


def row(name: str, structure: Structure, model, *, openmm_too: bool = False) -> dict:
    """What the minimisation of one structure did: kJ/mol, eV/A, bonds at the start and bonds that broke."""
    system = mace_md.make_system(structure.topology, model, periodic=structure.box is not None)
    platform = openmm.Platform.getPlatformByName("Reference")
    simulation = app.Simulation(structure.topology, system, openmm.VerletIntegrator(0.001), platform)
    simulation.context.setPositions(structure.positions)
    begin = time.process_time()
    try:
        found = minimize(simulation, tolerance=TOLERANCE, max_iterations=STEPS)
    except SafetyStop as stop:
        return {"name": name, "atoms": len(structure.positions), "stopped": str(stop)}
    result = {
        "name": name, "atoms": len(structure.positions),
        "energy_before": round(found.energy_before, 3), "energy_after": round(found.energy_after, 3),
        "force_before": round(found.force_before / EV_PER_ANGSTROM_TO_KJ_MOL_NM, 4),
        "force_after": round(found.force_after / EV_PER_ANGSTROM_TO_KJ_MOL_NM, 4),
        "steps": found.iterations, "converged": found.converged,
        "bonds": len(structure.molecules.bonds), "broken": broken(simulation, structure),
        "cpu_s": round(time.process_time() - begin, 2),
    }  # fmt: skip
    if openmm_too:
        simulation.context.setPositions(structure.positions)
        openmm.LocalEnergyMinimizer.minimize(simulation.context, TOLERANCE, STEPS)
        result["broken_by_openmm"] = broken(simulation, structure)
    print(json.dumps(result), flush=True)
    return result


def broken(simulation: app.Simulation, structure: Structure) -> int:
    """How many bonds of the start are longer than bonds are."""
    positions = np.array(simulation.context.getState(positions=True).getPositions(asNumpy=True)._value)
    bonds = Bonds(structure.molecules.bonds, np.array(structure.atomic_numbers))
    bonds.newly_broken(positions, structure.box)
    return int(bonds.broken.sum())


def table(record: dict) -> str:
    """Markdown: the molecules in one line a size, the systems one by one."""
    lines = ["| | atoms | energy, kJ/mol | largest force, eV/A | steps | bonds kept | by OpenMM's own |", "|---|" * 7]
    lines[1] = "|---|---|---|---|---|---|---|"
    done = [entry for entry in record["molecules"] if "bonds" in entry]
    for least, most in ((2, 2), (3, 4), (5, 9), (10, 19), (20, 40)):
        rows = [entry for entry in done if least <= entry["atoms"] <= most]
        falls = sorted(entry["energy_after"] - entry["energy_before"] for entry in rows)
        lines.append(
            f"| {len(rows)} molecules | {least} to {most} | {falls[0]:.0f} to {falls[-1]:.1f} | "
            f"{max(r['force_before'] for r in rows):.1f} -> {max(r['force_after'] for r in rows):.2f} | "
            f"{np.median([r['steps'] for r in rows]):.0f}, at most {max(r['steps'] for r in rows)} | "
            f"{kept(rows, 'broken')} | {kept(rows, 'broken_by_openmm')} |"
        )
    return "\n".join([*lines, *map(_system_line, record["systems"])])


def _system_line(entry: dict) -> str:
    return (
        f"| {entry['name']} | {entry['atoms']} | {entry['energy_before']:.0f} -> {entry['energy_after']:.0f} | "
        f"{entry['force_before']:.2f} -> {entry['force_after']:.2f} | {entry['steps']} | {kept([entry], 'broken')} | |"
    )


def kept(rows: list[dict], what: str) -> str:
    """Bonds that are left, of how many."""
    bonds, gone = sum(row["bonds"] for row in rows), sum(row[what] for row in rows)
    return f"all {bonds}" if not gone else f"{bonds - gone} of {bonds}"


if __name__ == "__main__":
    main()
