"""Does OpenMM's flexible barostat sample the volume of an ideal gas, and where not?

    python benchmarks/flexible_edges.py [--steps 4000000] [--output FILE.json]

OpenMM alone, no MACE: 24 atoms without interaction under a force on the shape of the box, which is exactly
<V> = (N + 1) kT / P. With a soft force boxes reach the edges of OpenMM's reduced form (|bx| <= ax / 2, ...). A move
beyond an edge goes on with other vectors of the same lattice, from which no single move leads back: probably the reason
for the volumes that are too small there. About a minute.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import openmm
from openmm import unit

ATOMS, TEMPERATURE, PRESSURE = 24, 60.0, 50.0  # K, bar
KT = 0.00831446261815324 * TEMPERATURE
EXPECTED = (ATOMS + 1) * KT / (PRESSURE * 0.060221407)  # nm^3
BATCHES, EVERY, SEED = 20, 20, 1


def barostat(kind: str) -> openmm.Force:
    """One of OpenMM's, which tries a move at every step."""
    if kind == "flexible":
        return openmm.MonteCarloFlexibleBarostat(PRESSURE * unit.bar, TEMPERATURE, 1)
    if kind == "anisotropic":
        pressure = openmm.Vec3(PRESSURE, PRESSURE, PRESSURE) * unit.bar
        return openmm.MonteCarloAnisotropicBarostat(pressure, TEMPERATURE, True, True, True, 1)
    return openmm.MonteCarloBarostat(PRESSURE * unit.bar, TEMPERATURE, 1)


def mean_volume(kind: str, stiffness: float, steps: int) -> dict:
    """Mean volume over that of theory, and its standard error from batch means. stiffness: of the shape, kT."""
    side = EXPECTED ** (1 / 3)
    system = openmm.System()
    system.setDefaultPeriodicBoxVectors([side, 0, 0], [0, side, 0], [0, 0, side])
    for _ in range(ATOMS):
        system.addParticle(40.0)
    terms = "log(ax/by)^2 + log(by/cz)^2 + (bx/ax)^2 + (cx/ax)^2 + (cy/by)^2"
    system.addForce(openmm.CustomVolumeForce(f"{stiffness * KT}*({terms})"))
    force = barostat(kind)
    force.setRandomNumberSeed(SEED)
    system.addForce(force)
    integrator = openmm.LangevinMiddleIntegrator(TEMPERATURE, 1.0, 0.008)
    integrator.setRandomNumberSeed(SEED)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(np.random.default_rng(SEED).random((ATOMS, 3)) * side)
    context.setVelocitiesToTemperature(TEMPERATURE, SEED)
    integrator.step(5000)
    volumes, edges = [], 0
    for _ in range(steps // EVERY):
        integrator.step(EVERY)
        (ax, _, _), (bx, by, _), (cx, cy, cz) = context.getState().getPeriodicBoxVectors()._value
        volumes.append(ax * by * cz)
        edges += max(abs(bx / ax), abs(cx / ax), abs(cy / by)) > 0.45
    means = np.array(volumes).reshape(BATCHES, -1).mean(axis=1) / EXPECTED
    error = float(means.std(ddof=1) / np.sqrt(BATCHES))
    return {"barostat": kind, "stiffness_kT": stiffness, "ratio": float(means.mean()), "error": error,
            "near_edges": edges / len(volumes)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=4_000_000)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    results = []
    for kind, stiffness in [("isotropic", 10), ("anisotropic", 10)] + [("flexible", kT) for kT in (10, 40, 100)]:
        results.append(mean_volume(kind, stiffness, options.steps))
        print("{barostat:12s} {stiffness_kT:4d} kT   V / V0 = {ratio:.4f} +- {error:.4f}   "
              "{near_edges:.1%} within 10 % of an edge".format(**results[-1]), flush=True)  # fmt: skip
    if options.output:
        record = {"openmm": openmm.version.full_version, "steps": options.steps, "results": results}
        options.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
