"""A training learns, does so again with the same seed, and goes on from its state as if it had never stopped."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from labelled import molecules
from small_model import small_model

from mace_md.config import TrainConfig
from mace_md.errors import SafetyStop
from mace_md.model.mace import predict
from mace_md.training.batches import PackedGraphs
from mace_md.training.checks import electronic_energy
from mace_md.training.trainer import Trainer

HOW = {"r_max": 3.5, "atomic_numbers": [1, 6, 8]}


def options(**changes) -> TrainConfig:
    values = {"epochs": 4, "batch_size": 4, "lr": 0.01, "stage_two_start": 2, "lr_patience": 0, "dtype": "float64"}
    return TrainConfig(data=("none.xyz",), **(values | changes))


def new_model(seed=0):
    model = small_model(seed=seed)
    model.atomic_energies[0] = torch.tensor([electronic_energy(np.array([z])) for z in (1, 6, 8)])
    model.scale.fill_(1.5)
    return model


@pytest.fixture(scope="module")
def frames():
    data = molecules(14)
    return PackedGraphs(data[:10], **HOW), PackedGraphs(data[10:], **HOW)


def trainer_of(frames, config=None, **how) -> Trainer:
    return Trainer(new_model(), *frames, config or options(), **how)


def weights_of(trainer: Trainer) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in trainer.model.parameters()])


def test_it_learns(frames):
    """Forces of springs, of frames never seen, to less than 0.4 of their size in 30 epochs."""
    trainer = trainer_of(
        frames, options(epochs=30, stage_two=False, stage_two_start=None, ema=0.9, lr=0.05, lr_patience=50)
    )
    records = []
    assert trainer.run(records.append)
    spread = float(frames[1].batch(range(4)).forces.square().mean().sqrt())
    assert records[-1].valid.rmse["forces"] < 0.4 * spread
    assert [record.epoch for record in records] == list(range(1, 31))
    best = trainer.best_model()
    batch = frames[1].batch(range(4))
    found = predict(best, batch.graph).forces - batch.forces
    lowest = min(records, key=lambda record: record.valid.loss)
    assert float(found.square().mean().sqrt()) == pytest.approx(lowest.valid.rmse["forces"], rel=1e-9)


def test_the_same_seed_gives_the_same_weights(frames):
    runs = [trainer_of(frames, options(epochs=2, seed=seed)) for seed in (3, 3, 4)]
    for trainer in runs:
        trainer.run()
    assert torch.equal(weights_of(runs[0]), weights_of(runs[1]))
    assert not torch.equal(weights_of(runs[0]), weights_of(runs[2]))


@pytest.mark.parametrize("scheduler", ["plateau", "exponential"])
@pytest.mark.parametrize("steps", [1, 4, 7])
def test_a_stopped_training_goes_on_to_the_same_weights(frames, scheduler, steps):
    """Bit by bit: stopped inside the first epoch, inside the second, and in the second stage."""
    config = options(scheduler=scheduler)
    whole = trainer_of(frames, config)
    whole_records = []
    whole.run(whole_records.append)

    taken = iter(range(1000))
    first = trainer_of(frames, config)
    before = []
    assert not first.run(before.append, should_stop=lambda: next(taken) >= steps)
    saved = io.BytesIO()
    torch.save(first.state_dict(), saved)
    saved.seek(0)
    second = trainer_of(frames, config)
    second.load_state_dict(torch.load(saved, weights_only=True))
    after = []
    assert second.run(after.append)

    assert torch.equal(weights_of(whole), weights_of(second))
    for mine, other in zip(whole.average.average, second.average.average, strict=True):
        assert torch.equal(mine, other)
    for name, tensor in whole.best_state.items():
        assert torch.equal(tensor, second.best_state[name]), name
    together = [*before, *after]
    assert [r.valid.loss for r in together] == [r.valid.loss for r in whole_records]
    assert [r.lr for r in together] == [r.lr for r in whole_records]
    assert [r.train_loss for r in together] == pytest.approx([r.train_loss for r in whole_records], rel=1e-12)


def test_the_second_stage_raises_the_energy_weight_and_lowers_the_rate(frames):
    trainer = trainer_of(frames, options(epochs=3, stage_two_lr=5e-4))
    assert (trainer.loss.energy_weight, trainer.loss.forces_weight) == (1.0, 100.0)
    records = []
    trainer.run(records.append)
    assert [record.stage for record in records] == [1, 1, 2] and records[-1].lr == 5e-4
    assert (trainer.loss.energy_weight, trainer.loss.forces_weight) == (1000.0, 100.0)
    assert trainer.progress.best_epoch == 3  # the best is looked for anew


def test_the_learning_rate_falls_on_a_plateau(frames):
    """With a rate far too high for validation to improve at each epoch, patience 0, factor 0.5."""
    config = options(epochs=8, stage_two=False, stage_two_start=None, lr=0.5, lr_factor=0.5, ema=0.0)
    records = []
    trainer_of(frames, config).run(records.append)
    lowest, expected = float("inf"), 0.5
    for record in records:
        assert record.lr == expected
        if record.valid.loss < lowest * (1 - 1e-4):  # torch's threshold
            lowest = record.valid.loss
        else:
            expected *= 0.5
    assert records[-1].lr < 0.5


def test_exponential_decay(frames):
    records = []
    config = options(epochs=3, stage_two=False, stage_two_start=None, scheduler="exponential", lr_decay=0.5)
    trainer_of(frames, config).run(records.append)
    assert [record.lr for record in records] == [0.01, 0.005, 0.0025]


def test_patience_ends_the_first_stage_then_the_training(frames):
    config = options(epochs=50, stage_two_start=40, lr=1e-30, stage_two_lr=1e-30, patience=3, ema=0.0)
    records = []
    trainer_of(frames, config).run(records.append)
    stages = [record.stage for record in records]
    assert stages.count(1) == stages.count(2) == 4 and records[stages.count(1)].epoch == 41


def test_frozen_weights_stay(frames):
    model = new_model()
    for name, weight in model.named_parameters():
        weight.requires_grad_(name.startswith("readouts"))
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    Trainer(model, *frames, options(epochs=1)).run()
    for name, weight in model.named_parameters():
        assert torch.equal(weight, before[name]) == (not name.startswith("readouts")), name
    assert [weight.requires_grad for weight in model.parameters()].count(True) == len(list(model.readouts.parameters()))


def test_gradients_are_clipped(frames):
    """One step of plain size: Adam's first step is lr whatever the gradient, so look at its first moment."""
    trainer = trainer_of(frames, options(clip_grad=1e-3))
    trainer._step(frames[0].batch(range(4)), trainer.loss)
    first_moments = [state["exp_avg"] / 0.1 for state in trainer.optimizer.state.values()]  # beta_1 = 0.9
    norm = torch.cat([moment.flatten() for moment in first_moments]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)


def test_the_stress_is_learnt():
    graphs = PackedGraphs(molecules(6, box=9.0), **HOW)
    how = {"energy_weight": 0.0, "forces_weight": 0.0, "stress_weight": 1e4, "ema": 0.0, "lr": 0.03, "lr_patience": 50}
    config = options(epochs=20, stage_two=False, stage_two_start=None, batch_size=2, **how)
    trainer = Trainer(new_model(), graphs, graphs, config, with_stress=True)
    records = []
    trainer.run(records.append)
    assert trainer.loss.with_stress and records[-1].valid.rmse["stress"] < 0.5 * records[0].valid.rmse["stress"]


def test_a_loss_that_is_no_number_stops_the_training(frames):
    trainer = trainer_of(frames, options(epochs=2))
    with torch.no_grad():
        trainer.model.embedding.fill_(float("inf"))
    with pytest.raises(SafetyStop, match="epoch 1, step 1: the loss is nan. Lower --lr"):
        trainer.run()


def test_missing_labels_do_not_matter():
    """Frames without forces leave the force loss to the others."""
    data = molecules(4)
    gap = [data[0], replace(data[1], forces=None), data[2], replace(data[3], energy=None)]
    batch = PackedGraphs(gap, **HOW).batch(range(4))
    trainer = trainer_of((PackedGraphs(gap, **HOW), PackedGraphs(data, **HOW)))
    prediction = predict(trainer.model, batch.graph)
    terms = trainer.loss.terms(batch, prediction)
    forces = prediction.forces.reshape(4, 6, 3)[[0, 2, 3]] - torch.tensor(np.stack([data[i].forces for i in (0, 2, 3)]))
    energy = (prediction.energy - torch.tensor([c.energy for c in data], dtype=torch.float64))[:3] / 6
    assert float(terms.sums[0]) == pytest.approx(float(energy.square().sum()), rel=1e-9)
    assert float(terms.sums[1]) == pytest.approx(100.0 * float(forces.square().sum()), rel=1e-9)
