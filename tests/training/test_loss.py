"""Losses against those of mace-torch 0.3.16 (tests/data/make_losses.py)."""

import json
from pathlib import Path

import pytest
import torch

from mace_md.model.graph import Graph
from mace_md.model.mace import Prediction
from mace_md.training.batches import Batch
from mace_md.training.loss import Loss

REFERENCE = json.loads((Path(__file__).parent.parent / "data" / "losses.json").read_text())


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def batch_of(labels: dict, frame_weights: dict, num_atoms: list[int], first: int = 0) -> Batch:
    count = torch.tensor(num_atoms)
    nothing = torch.zeros(0)
    graph = Graph(nothing, nothing, nothing, nothing, torch.repeat_interleave(count), nothing, nothing)
    names = ("weight", "energy_weight", "forces_weight", "stress_weight")
    return Batch(
        graph,
        count,
        *(tensor(labels[n]) for n in ("energy", "forces", "stress")),
        *(tensor(frame_weights[n]) for n in names),
    )


def prediction(found: dict) -> Prediction:
    return Prediction(*(tensor(found[name]) for name in ("energy", "forces", "stress")))


def loss_named(name: str) -> Loss:
    weights = dict(REFERENCE["weights"])
    if "without stress" in name:
        weights["stress_weight"] = 0.0
    return Loss(**weights, kind=name.split()[0], huber_delta=REFERENCE["huber_delta"])


@pytest.mark.parametrize("name", REFERENCE["losses"])
def test_losses_are_those_of_mace_torch(name):
    expected = REFERENCE["losses"][name]
    batch = batch_of(REFERENCE["labels"], expected["frame_weights"], REFERENCE["num_atoms"])
    found = loss_named(name)(batch, prediction(REFERENCE["found"]))
    assert float(found) == pytest.approx(expected["value"], rel=1e-12)


def test_sums_of_parts_over_counts_of_the_whole_are_the_loss():
    """What several processes do."""
    expected = REFERENCE["losses"]["mse"]
    loss, n = loss_named("mse"), REFERENCE["num_atoms"]
    sums, counts = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    start = 0
    for i, size in enumerate(n):
        atoms = slice(start, start + size)
        start += size
        pick = {"energy": slice(i, i + 1), "forces": atoms, "stress": slice(i, i + 1)}
        labels = {name: REFERENCE["labels"][name][where] for name, where in pick.items()}
        found = {name: REFERENCE["found"][name][where] for name, where in pick.items()}
        weights = {name: values[i : i + 1] for name, values in expected["frame_weights"].items()}
        terms = loss.terms(batch_of(labels, weights, [size]), prediction(found))
        sums, counts = sums + terms.sums, counts + terms.counts
    assert float((sums / counts).sum()) == pytest.approx(expected["value"], rel=1e-12)


def test_a_label_without_weight_has_no_influence():
    weights = {"weight": [1.0], "energy_weight": [0.0], "forces_weight": [0.0], "stress_weight": [0.0]}
    labels = {"energy": [1e9], "forces": [[1e9] * 3], "stress": [[[1e9] * 3] * 3]}
    found = {name: torch.zeros_like(tensor(value)).tolist() for name, value in labels.items()}
    for kind in ("mse", "huber", "universal"):
        assert float(Loss(1.0, 1.0, 1.0, kind)(batch_of(labels, weights, [1]), prediction(found))) == 0.0
