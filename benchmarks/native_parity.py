"""Are the native kernels the plain float64 model? Real checkpoints, and every published architecture at full width.

    python benchmarks/native_parity.py [--models ../shared/models] [--output benchmarks/results/native_parity.json]

Random weights stand in for the published ones. A model packs only the elements of a structure, so four are drawn from
those that the model knows. Limits: float64 forces within 1e-8 eV/A, float32 forces within 5e-6 (rms, relative).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from oracle import ARCHITECTURES  # noqa: E402
from parity import make_structures, versions  # noqa: E402

from mace_md.model.build import build_model, select_species  # noqa: E402
from mace_md.model.hyperparameters import ModelConfig  # noqa: E402
from mace_md.model.mace import MACE  # noqa: E402
from mace_md.model.potential import NativePotential, Potential  # noqa: E402
from mace_md.model.reading.checkpoint import load_model  # noqa: E402
from mace_md.units import EV_PER_ANGSTROM_TO_KJ_MOL_NM  # noqa: E402

LIMITS = {"float64_max": 1e-8, "float32_rms_relative": 5e-6}


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


def compare(model: MACE, structures: list[dict]) -> dict:
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
    return worst | {"passed": all(worst[key] < limit for key, limit in LIMITS.items())}


def main() -> None:
    """Compare, print a table, write the JSON; exit code 1 when a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", type=Path, default=HERE.parent.parent / "shared" / "models")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "native_parity.json")
    arguments = parser.parse_args()
    rng = np.random.default_rng(1)
    rows = []
    for source in [*sorted(arguments.models.glob("*.model")), *ARCHITECTURES]:
        if isinstance(source, Path):
            name, model = source.stem, load_model(source, dtype="float64")
            known = model.atomic_numbers.tolist()
        else:
            name, model, known = source, None, list(ARCHITECTURES[source]["elements"])
        elements = tuple(sorted(int(z) for z in rng.choice(known, min(4, len(known)), replace=False)))
        model = model or published(name, elements)
        rows.append({"model": name, "elements": elements} | compare(model, make_structures(elements)))
        row = rows[-1]
        print(f"{name:48s} float64 {row['float64_max']:8.1e} eV/A   float32 {row['float32_rms_relative']:8.1e}   "
              f"{'' if row['passed'] else 'TOO LARGE'}", flush=True)  # fmt: skip
    arguments.output.write_text(json.dumps({"limits": LIMITS, "versions": versions(), "models": rows}, indent=1) + "\n")
    sys.exit(not all(row["passed"] for row in rows))


if __name__ == "__main__":
    main()
