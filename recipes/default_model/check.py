"""What docs/default_model.md claims, measured: errors by class, holes, dynamics, drift, speed. Writes JSON.

python recipes/default_model/check.py --work WORK --water water_255.pdb [--model FILE] [PART ...]
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from itertools import combinations_with_replacement
from pathlib import Path

import mdtraj
import numpy as np
import torch
from ase.data import chemical_symbols, covalent_radii
from frames import Engine, Frame, closest_contact, gfn2, load_frames, rms, save_frames
from sample import relax
from short_range import compact, draw_molecule, squeeze

from mace_md import load_model
from mace_md.cli import main as mace_md
from mace_md.provenance import sha256_of, versions

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).with_name("results.json")
BOLTZMANN = 0.00831446261815324  # kJ/mol/K


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="the work folder of make.py")
    parser.add_argument("--water", type=Path, required=True, help="a periodic box of 255 atoms of water")
    parser.add_argument("--model", default="mace-md-small")
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=", ".join(PARTS))
    words = parser.parse_args()
    model = load_model(words.model, dtype="float32")
    sha256 = sha256_of(model.info.path)
    for part in words.parts:
        found = PARTS[part](words, model)
        print(json.dumps({part: found}, indent=1), flush=True)
        results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}  # other parts may run beside this
        if results.get("model sha256") != sha256:
            results = {"model sha256": sha256, "versions": versions()}
        RESULTS.write_text(json.dumps(results | {part: found}, indent=1) + "\n")


# --------------------------------------------------------------------------------------------- against the teacher


def errors(words, model) -> dict:
    """Deviation from the teacher's labels on the held-out structures, by class: meV/A and meV/atom."""
    engine, by_kind = Engine(model), {}
    for frame in load_frames(words.work / "test.npz"):
        energy, forces = engine(frame.numbers, frame.positions)
        row = by_kind.setdefault(frame.kind, {"molecules": set(), "forces": [], "labels": [], "energies": []})
        row["molecules"].add(frame.group)
        row["forces"].append((forces - frame.forces).ravel())
        row["labels"].append(frame.forces.ravel())
        row["energies"].append((energy - frame.energy) / len(frame.numbers))
    table = {}
    for kind, row in by_kind.items():
        deviation, labels = np.concatenate(row["forces"]), np.concatenate(row["labels"])
        table[kind] = {
            "molecules": len(row["molecules"]),
            "structures": len(row["energies"]),
            "force RMSE, meV/A": round(1e3 * rms(deviation), 2),
            "force MAE, meV/A": round(1e3 * float(np.abs(deviation).mean()), 2),
            "force RMSE, % of the RMS force": round(100 * rms(deviation) / rms(labels), 2),
            "energy RMSE, meV/atom": round(1e3 * rms(np.array(row["energies"])), 2),
        }
    return table


STORED = {"monomers": 10, "ions": 60, "water30": 1, "water60": 1, "amino acids": 2, "ligands": 8}


def reference(words, model) -> dict:
    """tests/data/teacher.npz: a few of the held-out structures with the teacher's labels, for the test suite."""
    rng, chosen = np.random.default_rng(0), []
    frames = load_frames(words.work / "test.npz")
    for kind, count in STORED.items():
        pool = [frame for frame in frames if frame.kind == kind]
        chosen += [pool[i] for i in rng.choice(len(pool), count, replace=False)]
    save_frames(chosen, REPOSITORY / "tests" / "data" / "teacher.npz")
    return {"structures": len(chosen)}


# --------------------------------------------------------------------------------------------- holes


def dimers(words, model) -> dict:
    """Energies of all pairs of elements from 0.25 (at least 0.35 A) to 0.6 of the sum of covalent radii."""
    engine, falling, lowest = Engine(model), [], np.inf
    pairs = list(combinations_with_replacement(engine.elements, 2))
    for i, j in pairs:
        contact = covalent_radii[i] + covalent_radii[j]
        r = np.linspace(max(0.25 * contact, 0.35), 0.6 * contact, 100)
        energy = np.array([engine([i, j], [[0, 0, 0], [0, 0, x]])[0] for x in r])
        lowest = min(lowest, float(energy[0] - energy[-1]))
        if (np.diff(energy) >= 0).any():
            falling.append(chemical_symbols[i] + chemical_symbols[j])
    return {"pairs": len(pairs), "not rising towards short distances": falling,
            "smallest rise, eV": round(lowest, 2)}  # fmt: skip


def squeezed(words, model) -> dict:
    """Random squeezed molecules and pairs, relaxed: atoms that overlap at the end, and forces of GFN2 there."""
    engine, rng = Engine(model), np.random.default_rng(99)
    test = [frame for frame in load_frames(words.work / "test.npz") if frame.kind in ("monomers", "water30")]
    contacts, judged, overlapping, charges = [], [], [], []
    while len(contacts) < 60:
        numbers, positions, charge = squeezed_start(test, rng)
        if not 3 <= len(numbers) <= 26:
            continue
        path = relax(engine, numbers, positions)
        contacts.append(closest_contact(numbers, path[-1]))
        if contacts[-1] < 0.7:
            overlapping.append("".join(chemical_symbols[z] for z in numbers))
        reference = gfn2(numbers, path[-1], charge)
        if reference is not None:
            judged.append(rms(engine(numbers, path[-1])[1] - reference[1]))
            charges.append(charge)
    return {
        "starts": len(contacts),
        "overlapping at the end (contact below 0.7 of the sum of covalent radii)": overlapping,
        "smallest contact at the end": round(min(contacts), 3),
        "forces against GFN2 at the end, median, eV/A": round(float(np.median(judged)), 3),
        "forces against GFN2 at the end, largest, eV/A": round(float(np.max(judged)), 3),
    }


def squeezed_start(frames: list[Frame], rng: np.random.Generator):
    molecule = draw_molecule(frames, rng)
    if rng.random() < 0.4 and len(molecule[0]) > 3:
        return squeeze(molecule, rng.uniform(0.45, 0.8), rng)
    return compact(frames, rng)


# --------------------------------------------------------------------------------------------- dynamics


def run(words, structure: Path, name: str, *options: str) -> Path:
    """The folder of a run of `mace-md run` with the model, made anew."""
    folder = words.work / "check" / f"{name}-{time.time_ns()}"
    arguments = ["run", str(structure), "--model", str(words.model), "--output", str(folder), "--seed", "1", "--quiet"]
    code = mace_md([*arguments, *options])
    if code != 0:
        raise SystemExit(f"mace-md run ended with {code}; see {folder}/run.log")
    return folder


def column(folder: Path, start: str) -> np.ndarray:
    """The column of log.csv whose name begins with `start`, in any case."""
    with open(folder / "log.csv") as file:
        rows = list(csv.DictReader(file))
    name = next(name for name in rows[0] if name.lower().startswith(start))
    return np.array([float(row[name]) for row in rows])


def dynamics(words, model) -> dict:
    """20 ps at 300 K with 1 fs: longest and shortest of all bonds in all frames, relative to their lengths before."""
    starts = {
        "water, 255 atoms": words.water,
        "alanine dipeptide": REPOSITORY / "systems/alanine_dipeptide/alanine_dipeptide.pdb",
        "ethanol": REPOSITORY / "systems/ethanol/ethanol.pdb",
    }
    found = {}
    for name, start in starts.items():
        options = ["--time", "20ps", "--timestep", "1.0", "--temperature", "300", "--trajectory-interval", "20"]
        folder = run(words, start, name.split(",")[0].replace(" ", "-"), *options)
        trajectory = mdtraj.load(folder / "trajectory.dcd", top=folder / "topology.pdb")
        first = mdtraj.load(start)
        bonds = np.array([(a.index, b.index) for a, b in first.topology.bonds])
        lengths, before = mdtraj.compute_distances(trajectory, bonds), mdtraj.compute_distances(first, bonds)
        temperature = column(folder, "temperature")
        found[name] = {
            "frames": len(trajectory),
            "bonds": len(bonds),
            "longest bond, of its first length": round(float((lengths / before).max()), 3),
            "shortest bond, of its first length": round(float((lengths / before).min()), 3),
            "mean temperature of the second half, K": round(float(temperature[len(temperature) // 2 :].mean()), 1),
        }
    return found


def drift(words, model) -> dict:
    """Slope of the total energy of 64 waters at constant energy, 0.5 fs, kT per atom and ps."""
    options = ["--ensemble", "nve", "--time", "20ps", "--timestep", "0.5", "--report-interval", "40"]
    folder = run(words, REPOSITORY / "systems/water/water.pdb", "nve", *options)
    clock = column(folder, "time")
    slope = np.polyfit(clock, column(folder, "total"), 1)[0]
    return {"picoseconds": float(np.ptp(clock)), "kT per atom and ps": float(slope / (192 * BOLTZMANN * 300))}


def speed(words, model) -> dict:
    """Production speed of 255 atoms of water, 1 fs; the machine should be quiet."""
    found = {"threads": torch.get_num_threads()}
    for kernels, steps in (("native", 2000), ("reference", 30)):
        options = ["--steps", str(steps), "--timestep", "1.0", "--kernels", kernels, "--no-minimize"]
        folder = run(words, words.water, kernels, *options)
        timings = json.loads((folder / "run.json").read_text())["timings"]
        found[f"{kernels}, ns/day"] = round(timings["production_ns_day"], 2)
    return found


PARTS = {
    "errors": errors,
    "reference": reference,
    "dimers": dimers,
    "squeezed": squeezed,
    "dynamics": dynamics,
    "drift": drift,
    "speed": speed,
}

if __name__ == "__main__":
    main()
