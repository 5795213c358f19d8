"""Energy conservation: the drift of the total energy in NVE, native kernels against the PyTorch model.

One equilibrated state (NVT at 300 K); from it, velocity Verlet with each evaluation of the same model and with several
time steps. The drift is the slope of a straight line through the total energy; the fluctuation is what is left, which
for Verlet is proportional to dt^2.

    python benchmarks/nve.py water.pdb model.model --picoseconds 20 --reference-picoseconds 1

The PyTorch model is slow: its run is shorter, and native float64, which is the same function to 1e-8 eV/A, stands in
for it over the full length.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np
import openmm
import torch
from openmm import app, unit

import mace_md
from mace_md.units import EV_TO_KJ_MOL

BOLTZMANN = 8.617333262e-5  # eV/K
PLATFORM = "Reference"  # its own arithmetic is float64; gpu.py takes CUDA


def simulation_of(pdb: app.PDBFile, model: str, kernels: str, dtype: str, integrator: openmm.Integrator):
    """A Simulation on PLATFORM."""
    force = mace_md.make_force(pdb.topology, mace_md.load_model(model, dtype=dtype), kernels=kernels, periodic=True)
    system = openmm.System()
    system.setDefaultPeriodicBoxVectors(*pdb.topology.getPeriodicBoxVectors())
    for atom in pdb.topology.atoms():
        system.addParticle(atom.element.mass)
    system.addForce(force)
    platform = openmm.Platform.getPlatformByName(PLATFORM)
    properties = {"Precision": "double" if dtype == "float64" else "mixed"} if PLATFORM == "CUDA" else {}
    simulation = app.Simulation(pdb.topology, system, integrator, platform, properties)
    simulation.context.setPositions(pdb.positions)
    return simulation


def equilibrated(pdb: app.PDBFile, model: str, picoseconds: float, kernels: str = "auto"):
    """Positions and velocities after minimisation and Langevin dynamics at 300 K."""
    integrator = openmm.LangevinMiddleIntegrator(300, 2.0, 0.0005)
    integrator.setRandomNumberSeed(11)
    simulation = simulation_of(pdb, model, kernels, "float32", integrator)
    openmm.LocalEnergyMinimizer.minimize(simulation.context, 50, 100)
    simulation.context.setVelocitiesToTemperature(300, 12)
    simulation.step(round(picoseconds / 0.0005))
    state = simulation.context.getState(positions=True, velocities=True)
    return state.getPositions(asNumpy=True), state.getVelocities(asNumpy=True)


def conserve(pdb, model, start, kernels: str, dtype: str, timestep: float, picoseconds: float) -> dict:
    """NVE from `start` with `timestep` (fs): drift and fluctuation of the total energy."""
    simulation = simulation_of(pdb, model, kernels, dtype, openmm.VerletIntegrator(timestep * 1e-3))
    simulation.context.setPositions(start[0])
    simulation.context.setVelocities(start[1])
    every = round(10.0 / timestep)
    times, totals, temperatures, began = [], [], [], time.perf_counter()
    n_atoms = pdb.topology.getNumAtoms()
    for _ in range(round(picoseconds * 1000 / (every * timestep))):
        simulation.step(every)
        state = simulation.context.getState(energy=True)  # OpenMM shifts leapfrog velocities to the time of positions
        kinetic = state.getKineticEnergy().value_in_unit(unit.kilojoule_per_mole)
        totals.append((state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole) + kinetic) / EV_TO_KJ_MOL)
        temperatures.append(2 * kinetic / EV_TO_KJ_MOL / (3 * n_atoms * BOLTZMANN))
        times.append(state.getTime().value_in_unit(unit.picosecond))
    seconds = time.perf_counter() - began
    energy, when = np.array(totals), np.array(times)
    slope, intercept = np.polyfit(when, energy, 1)
    rest = energy - slope * when - intercept
    halves = [np.polyfit(t, e, 1)[0] for t, e in zip(np.array_split(when, 2), np.array_split(energy, 2), strict=True)]
    temperature = float(np.mean(temperatures))
    return {
        "kernels": kernels,
        "dtype": dtype,
        "timestep_fs": timestep,
        "picoseconds": picoseconds,
        "drift_meV_per_atom_per_ps": 1000 * float(slope) / n_atoms,
        "drift_kT_per_atom_per_ps": float(slope) / n_atoms / (BOLTZMANN * temperature),
        "drift_of_each_half_meV_per_atom_per_ps": [1000 * float(half) / n_atoms for half in halves],
        "fluctuation_meV_per_atom": 1000 * float(rest.std()) / n_atoms,
        "temperature_K": temperature,
        "ms_per_step": 1000 * seconds / (len(times) * every),
    }


def main() -> None:
    """Run everything that the options ask for, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("structure", help="PDB file with a box")
    parser.add_argument("model")
    parser.add_argument("--picoseconds", type=float, default=20.0)
    parser.add_argument("--reference-picoseconds", type=float, default=1.0, help="length of the PyTorch float64 run")
    parser.add_argument("--equilibrate", type=float, default=2.0, help="ps of NVT before")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/nve.json"))
    options = parser.parse_args()
    pdb = app.PDBFile(options.structure)
    start = equilibrated(pdb, options.model, options.equilibrate)
    long, short = options.picoseconds, options.reference_picoseconds
    plan = [("reference", "float64", 0.5, short)]
    plan += [("native", "float64", 0.5, short), ("native", "float32", 0.5, short)]
    plan += [("native", "float32", 0.5, long), ("native", "float64", 0.5, long)]
    plan += [("native", "float64", dt, min(long, 2.0)) for dt in (1.0, 0.5, 0.25)]
    runs = []
    for kernels, dtype, timestep, picoseconds in plan:
        runs.append(conserve(pdb, options.model, start, kernels, dtype, timestep, picoseconds))
        print({key: round(v, 6) if isinstance(v, float) else v for key, v in runs[-1].items()}, flush=True)
    fluctuation = {run["timestep_fs"]: run["fluctuation_meV_per_atom"] for run in runs[-3:]}
    record = {
        "structure": Path(options.structure).name,
        "atoms": pdb.topology.getNumAtoms(),
        "model": Path(options.model).name,
        "runs": runs,
        "fluctuation_ratio_on_halving_dt": [fluctuation[1.0] / fluctuation[0.5], fluctuation[0.5] / fluctuation[0.25]],
        "versions": {"torch": torch.__version__, "openmm": openmm.version.version, "python": platform.python_version()},
        "threads": torch.get_num_threads(),
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(record, indent=1) + "\n")
    print("fluctuation ratios on halving the step:", record["fluctuation_ratio_on_halving_dt"])


if __name__ == "__main__":
    main()
