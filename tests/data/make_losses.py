"""Writes losses.json: losses of mace-torch 0.3.16 for labels and predictions drawn at random.

Run in an environment with mace-torch: `python tests/data/make_losses.py`.
"""

import json
from pathlib import Path

import numpy as np
import torch
from mace.modules.loss import (
    UniversalLoss,
    WeightedEnergyForcesLoss,
    WeightedEnergyForcesStressLoss,
    WeightedHuberEnergyForcesStressLoss,
)

WEIGHTS = {"energy_weight": 2.0, "forces_weight": 30.0, "stress_weight": 5.0}


class Batch(dict):
    """As mace-torch's: keys and attributes."""

    def __getattr__(self, name):
        return self[name]


def main() -> None:
    torch.set_default_dtype(torch.float64)
    rng = np.random.default_rng(5)
    num_atoms = [3, 1, 5]
    n, total = len(num_atoms), sum(num_atoms)
    labels = {
        "energy": rng.normal(size=n) * 3,
        "forces": rng.normal(size=(total, 3)) * np.repeat([1, 100, 200, 400], [3, 2, 2, 2])[:, None],
        "stress": rng.normal(size=(n, 3, 3)),
    }
    shift = {"energy": 0.05, "forces": 0.02, "stress": 0.03}
    found = {name: value + shift[name] * rng.normal(size=value.shape) for name, value in labels.items()}
    frame = {
        "weight": np.array([1.0, 2.0, 0.5]),
        "energy_weight": np.array([1.0, 0.0, 3.0]),
        "forces_weight": np.array([0.5, 1.0, 0.0]),
        "stress_weight": np.array([1.0, 0.0, 2.0]),
    }
    ones = frame | {"weight": np.ones(n)}
    mse_weights = {k: v for k, v in WEIGHTS.items() if k != "stress_weight"}
    losses = {
        "mse without stress": (WeightedEnergyForcesLoss(**mse_weights), frame),
        "mse": (WeightedEnergyForcesStressLoss(**WEIGHTS), frame),
        "huber": (WeightedHuberEnergyForcesStressLoss(**WEIGHTS, huber_delta=0.02), {k: np.ones(n) for k in frame}),
        "universal": (UniversalLoss(**WEIGHTS, huber_delta=0.02), ones),
    }
    content = {"num_atoms": num_atoms, "labels": labels, "found": found, "weights": WEIGHTS, "huber_delta": 0.02}
    content["losses"] = {}
    for name, (loss, weights) in losses.items():
        ptr = torch.tensor([0, *num_atoms]).cumsum(0)
        reference = Batch({k: torch.tensor(v) for k, v in (labels | weights).items()} | {"ptr": ptr})
        value = loss(reference, {k: torch.tensor(v) for k, v in found.items()})
        content["losses"][name] = {"frame_weights": weights, "value": value.item()}
    path = Path(__file__).with_name("losses.json")
    path.write_text(json.dumps(content, indent=1, default=lambda array: array.tolist()) + "\n")


if __name__ == "__main__":
    main()
