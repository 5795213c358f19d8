"""Interrupt runs in every way that is known, hundreds of times; writes benchmarks/results/kills.json.

    python -m benchmarks.kills [--kinds kills,signals] [--counts 100,80] [--seed 1]

Runs are killed with SIGKILL at random moments, ended by signals (a closed terminal among them), stopped while they
minimise, started and continued by two processes at once, and left by a first process that is killed. Each is continued
with --restart, and at the end its rows and frames are compared, byte by byte, with a run in one piece.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
RESULT = HERE / "results" / "kills.json"
COUNTS = {
    "kills": 100, "signals": 80, "starters": 50, "restarters": 50, "while_minimising": 30, "killed_parents": 20,
}  # fmt: skip


def small_model(folder: Path) -> Path:
    """A file with a small model of random weights, as the tests use."""
    import torch

    from mace_md.model.build import build_model
    from mace_md.model.hyperparameters import ModelConfig
    from mace_md.model.reading.checkpoint import save_model

    config = ModelConfig(
        atomic_numbers=(1, 6, 7, 8), r_max=3.5, num_bessel=4, max_ell=2, num_channels=4, max_L=1, correlation=(2, 2),
        radial_MLP=(8,), MLP_channels=4, avg_num_neighbors=(10.0, 10.0),
    )  # fmt: skip
    return save_model(build_model(config, seed=7, dtype=torch.float64), folder / "small.mace")


def interrupted(kind: str, count: int, seed: int) -> dict[str, object]:
    """The record of one kind."""
    sys.path.insert(0, str(HERE.parent / "tests"))
    from interruptions import KINDS
    from killing import kill_loop
    from water_box import water_pdb

    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        model = small_model(place)
        if kind == "kills":
            return kill_loop(place, model, kills=count, steps=300, seed=seed)
        return KINDS[kind](place, water_pdb(place / "water.pdb", per_side=2), model, count=count, seed=seed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", default=",".join(COUNTS))
    parser.add_argument("--counts", help="in the order of --kinds")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    kinds = arguments.kinds.split(",")
    counts = [COUNTS[kind] for kind in kinds]
    if arguments.counts:
        counts = [int(count) for count in arguments.counts.split(",")]
    records = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    failed = False
    for kind, count in zip(kinds, counts, strict=True):
        record = {"seed": arguments.seed} | interrupted(kind, count, arguments.seed)
        failed |= bool(record["problems"]) or not record.get("same_as_uninterrupted", True)
        records[kind] = record
        print(kind, json.dumps(record), flush=True)
        records["total"] = sum(one.get("count", one.get("kills", 0)) for one in records.values() if type(one) is dict)
        arguments.output.write_text(json.dumps(records, indent=1) + "\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
