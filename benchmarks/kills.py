"""Kill a run with SIGKILL at random moments, many times; writes benchmarks/results/kills.json.

    python benchmarks/kills.py [--kills 50] [--steps 300] [--seed 1]

Each part is continued with --restart. At the end rows and frames are compared, byte by byte, with a run in one piece.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))
RESULT = HERE / "results" / "kills.json"


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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    from killing import kill_loop

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        record = kill_loop(
            folder, small_model(folder), kills=arguments.kills, steps=arguments.steps, seed=arguments.seed
        )
    arguments.output.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record))
    return 1 if record["problems"] or not record["same_as_uninterrupted"] else 0


if __name__ == "__main__":
    sys.exit(main())
