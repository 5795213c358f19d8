"""Hydrogen mass repartitioning: how long may the time step be? Energy drift and temperature, measured.

For each hydrogen mass and time step, from one equilibrated structure: NVE (leapfrog Verlet), for the drift of the total
energy, its fluctuation and the energy error of one step; and NVT (Langevin middle scheme), for the error of the mean
potential energy, which is what a too long step does to a structure, against the shortest step of the light hydrogens.

    python benchmarks/hydrogen_mass.py model.model --picoseconds 4

Writes benchmarks/results/hydrogen_mass.json; `python docs/update_tables.py` makes the tables of docs/guide/.
"""

import argparse
import json
import math
import platform
import time
from pathlib import Path

import numpy as np
import openmm
import torch
from openmm import unit

import mace_md
from mace_md.md.dynamics.masses import masses_of, repartition_hydrogen
from mace_md.structures.structure import Structure, read_structure
from mace_md.units import BOLTZMANN_KJ_MOL_K, EV_TO_KJ_MOL

SYSTEMS = Path(__file__).parent.parent / "systems"
TEMPERATURE, FRICTION, SEED = 300.0, 5.0, 17
MASSES = (None, 1.5, 2.0, 3.0, 4.0)  # Da; None is hydrogen as it is
TIMESTEPS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)  # fs
SAMPLE = 12.0  # fs between samples: a multiple of every time step


def context_of(structure: Structure, model: str, integrator, hydrogen_mass: float | None) -> openmm.Context:
    """A Context on the Reference platform, whose own arithmetic is float64; the model in float32, as by default."""
    masses = masses_of(structure.topology)
    if hydrogen_mass is not None:
        masses = repartition_hydrogen(structure.topology, hydrogen_mass)
    loaded = mace_md.load_model(model, dtype="float32")
    system = mace_md.make_system(structure.topology, loaded, masses=masses)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(structure.positions)
    return context


def equilibrated(structure: Structure, model: str, picoseconds: float) -> np.ndarray:
    """Positions [n_atoms, 3] nm after minimisation and Langevin dynamics at 300 K."""
    integrator = openmm.LangevinMiddleIntegrator(TEMPERATURE, FRICTION, 0.0005)
    integrator.setRandomNumberSeed(SEED)
    context = context_of(structure, model, integrator, None)
    openmm.LocalEnergyMinimizer.minimize(context, 50, 100)
    context.setVelocitiesToTemperature(TEMPERATURE, SEED)
    integrator.step(round(picoseconds / 0.0005))
    return np.array(context.getState(positions=True).getPositions(asNumpy=True)._value)


def sampled(context: openmm.Context, integrator, timestep: float, picoseconds: float) -> np.ndarray | None:
    """[n, 3]: time (ps), potential and kinetic energy (kJ/mol) every 12 fs; None when the run blew up."""
    rows = []
    for _ in range(round(1000 * picoseconds / SAMPLE)):
        try:
            integrator.step(round(SAMPLE / timestep))
            state = context.getState(energy=True)
        except openmm.OpenMMException:
            return None
        rows.append([state.getTime(), state.getPotentialEnergy(), state.getKineticEnergy()])
        rows[-1] = [
            rows[-1][0].value_in_unit(unit.picosecond),
            *(energy.value_in_unit(unit.kilojoule_per_mole) for energy in rows[-1][1:]),
        ]
        if not math.isfinite(sum(rows[-1])) or abs(rows[-1][2]) > 1e7:
            return None
    return np.array(rows)


def measure(structure, model, start, hydrogen_mass, timestep, picoseconds) -> dict:
    """Both runs at one mass and one step; energies per atom. `stable` is False when the NVE run blew up."""
    num_atoms = len(structure.positions)
    num_dof = 3 * num_atoms
    run = {"hydrogen_mass": hydrogen_mass, "timestep_fs": timestep, "picoseconds": picoseconds}
    nvt = openmm.LangevinMiddleIntegrator(TEMPERATURE, FRICTION, timestep * 1e-3)
    nvt.setRandomNumberSeed(SEED)
    context = context_of(structure, model, nvt, hydrogen_mass)
    context.setPositions(start)
    context.setVelocitiesToTemperature(TEMPERATURE, SEED)
    began = time.perf_counter()
    rows = sampled(context, nvt, timestep, 1.25 * picoseconds)
    run["seconds"] = time.perf_counter() - began
    if rows is None or rows[:, 1].max() - rows[:, 1].min() > 1000 * num_atoms:
        return run | {"stable": False}
    kept = rows[len(rows) // 5 :]  # the first fifth is equilibration
    blocks = np.array_split(kept, 5)
    potential = np.array([block[:, 1].mean() for block in blocks]) / num_atoms / EV_TO_KJ_MOL * 1000
    temperature = np.array([2 * block[:, 2].mean() / (num_dof * BOLTZMANN_KJ_MOL_K) for block in blocks])
    run |= {
        "potential_meV_atom": float(potential.mean()),
        "potential_error_meV_atom": float(potential.std(ddof=1) / np.sqrt(len(blocks))),
        "temperature_K": float(temperature.mean()),
        "temperature_error_K": float(temperature.std(ddof=1) / np.sqrt(len(blocks))),
    }
    state = context.getState(positions=True, velocities=True)
    nve = openmm.VerletIntegrator(timestep * 1e-3)
    context = context_of(structure, model, nve, hydrogen_mass)
    context.setPositions(state.getPositions())
    context.setVelocities(state.getVelocities())
    rows = sampled(context, nve, timestep, picoseconds)
    if rows is None:
        return run | {"stable": False}
    total = (rows[:, 1] + rows[:, 2]) / num_atoms / EV_TO_KJ_MOL * 1000  # meV an atom
    slope, intercept = np.polyfit(rows[:, 0], total, 1)
    rest = total - slope * rows[:, 0] - intercept
    error = rest.std() / (np.sqrt(len(rest)) * rows[:, 0].std())
    return run | {
        "stable": bool(abs(slope * picoseconds) < 25.0),  # kT an atom gained or lost: not a simulation any more
        "drift_meV_atom_ps": float(slope),
        "drift_error_meV_atom_ps": float(error),
        "fluctuation_meV_atom": float(rest.std()),
    }


def new_record(model: str) -> dict:
    """What the runs have in common."""
    versions = {"torch": torch.__version__, "openmm": openmm.version.version, "python": platform.python_version()}
    return {
        "model": Path(model).name,
        "versions": versions,
        "dtype": "float32",
        "threads": torch.get_num_threads(),
        "systems": {},
    }


def main() -> None:
    """Measure the grid for water and alanine dipeptide, print as it goes, write JSON after each run.

    Runs that are in the output file are not repeated.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--picoseconds", type=float, default=4.0, help="of each NVE run; NVT is a quarter longer")
    parser.add_argument("--systems", nargs="+", default=["alanine_dipeptide", "water"])
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/hydrogen_mass.json"))
    options = parser.parse_args()
    record = json.loads(options.output.read_text()) if options.output.exists() else new_record(options.model)
    for name in options.systems:
        structure = read_structure(SYSTEMS / name / f"{name}.pdb")
        length = options.picoseconds * (5 if len(structure.positions) < 100 else 1)  # few atoms: longer, for the noise
        start = equilibrated(structure, options.model, 2.0)
        found = record["systems"].setdefault(name, {"atoms": len(structure.positions), "runs": []})
        done = {(run["hydrogen_mass"], run["timestep_fs"]) for run in found["runs"]}
        for hydrogen_mass in MASSES:
            for timestep in TIMESTEPS:
                if (hydrogen_mass, timestep) in done:
                    continue
                found["runs"].append(measure(structure, options.model, start, hydrogen_mass, timestep, length))
                shown = {k: round(v, 5) if isinstance(v, float) else v for k, v in found["runs"][-1].items()}
                print(name, shown, flush=True)
                options.output.parent.mkdir(parents=True, exist_ok=True)
                options.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
