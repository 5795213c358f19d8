"""How uncertain are forces that come from positions rounded to float32 in nm, as OpenMM hands them to a model on a GPU?

    python benchmarks/precision.py [--model mace-off23-small] [--output benchmarks/results/precision.json]

Liquid water, far from the origin by 1, 10 and 100 nm (a trajectory that is never wrapped), in float64; against the
same forces with positions that were not rounded. Beside it what float32 arithmetic of the model does. A minute.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mace_md.model.potential import make_potential
from mace_md.model.reading.checkpoint import load_model
from mace_md.provenance import collect_provenance, write_json
from mace_md.structures.structure import read_structure
from mace_md.units import EV_PER_ANGSTROM_TO_KJ_MOL_NM

OFFSETS = (1.0, 10.0, 100.0)  # nm
REPEATS = 5  # shifts by which the rounding differs


def forces_of(potential, positions, box):
    return potential(torch.tensor(positions), box)[1].double().numpy() / EV_PER_ANGSTROM_TO_KJ_MOL_NM


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mace-off23-small")
    parser.add_argument("--structure", type=Path, default=Path(__file__).parent.parent / "systems/water/water.pdb")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
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
        json.loads(arguments.output.read_text())


if __name__ == "__main__":
    main()
