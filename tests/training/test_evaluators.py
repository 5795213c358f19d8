"""Gradients of the native kernels for training against autograd of the plain model, and against finite differences."""

import dataclasses
import sys
from pathlib import Path

import pytest
import torch
from labelled import molecules

sys.path.insert(0, str(Path(__file__).parents[1] / "model"))
from kinds import KINDS, make_model
from structures import TRICLINIC, graph_of, random_atoms

from mace_md.config import TrainConfig
from mace_md.errors import InputError, SafetyStop
from mace_md.model.fast.trainable import why_not_native
from mace_md.model.graph import merge_graphs
from mace_md.training.batches import Batch, PackedGraphs
from mace_md.training.evaluators import check_gradients, loss_gradients, make_evaluator
from mace_md.training.loss import Loss
from mace_md.training.trainer import Trainer

LOSS = Loss(energy_weight=1.0, forces_weight=100.0, stress_weight=10.0, kind="huber", huber_delta=0.5)


def needs_native(model):
    reason = why_not_native(model)
    if reason is not None:
        pytest.skip(reason)


def make_batch(model, periodic: bool, dtype=torch.float64) -> Batch:
    """Three systems of different sizes with random labels, on the heads of the model in turn."""
    numbers, heads = model.config.atomic_numbers, len(model.config.heads)
    graph = merge_graphs(
        [
            graph_of(random_atoms(n_atoms=n, seed=n, cell=TRICLINIC if periodic else None), numbers, model.r_max, dtype)
            for n in (9, 7, 10)
        ]
    )
    graph = graph._replace(head=torch.arange(3) % heads)
    generator = torch.Generator().manual_seed(1)
    counts = torch.bincount(graph.batch)
    atoms, systems = len(graph.positions), 3
    e0 = model.atomic_energies[graph.head[graph.batch], graph.species]
    energy = torch.zeros(systems, dtype=torch.float64).index_add(0, graph.batch, e0)
    normal = {"generator": generator, "dtype": torch.float64}
    ones = torch.ones(systems, dtype=dtype)
    return Batch(
        graph, counts, energy + torch.randn(systems, **normal), torch.randn(atoms, 3, **normal).to(dtype),
        torch.randn(systems, 3, 3, **normal).to(dtype), ones, ones, ones, ones * periodic,
    )  # fmt: skip


def worst_deviation(model, batch, loss=LOSS) -> float:
    """Of the gradients of all parameters, relative to the largest of each."""
    right = loss_gradients(model, make_evaluator(model, "reference"), batch, loss)
    found = loss_gradients(model, make_evaluator(model, "native"), batch, loss)
    sizes = [max(float(r.abs().max()), 1e-12) for r in right]
    return max(float((r - f).abs().max()) / size for r, f, size in zip(right, found, sizes, strict=True))


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_plain_model(kind, periodic):
    """Energies, forces and, in boxes, stress in the loss; 1e-9 is far above rounding (1e-14 is found)."""
    model = make_model(kind)
    needs_native(model)
    batch = make_batch(model, periodic)
    assert worst_deviation(model, batch) < 1e-9
    plain = make_evaluator(model, "reference").predict(batch.graph, stress=True)
    native = make_evaluator(model, "native")
    found = native.predict(native.prepare(batch.graph), stress=True)
    for mine, right in zip(found, plain, strict=True):
        assert torch.allclose(mine, right, rtol=0.0, atol=1e-10)  # eV, eV/A, eV/A^3


@pytest.mark.parametrize("kind", ["scalars", "vectors", "density"])
def test_gradients_in_single_precision(kind):
    """Against the plain model in float64: 1e-5 of the largest gradient, or twice what float32 does to the plain model.

    Rounding is 1e-7, and sums cancel; the steep repulsion of "density" leaves 1.2e-5 of the plain model's gradients.
    """
    model = make_model(kind).to(torch.float32)
    needs_native(model)
    batch = make_batch(model, True, torch.float32)
    found = {name: check_gradients(model, make_evaluator(model, name), batch, LOSS) for name in ("native", "reference")}
    assert found["native"] < max(1e-5, 2.0 * found["reference"])


def test_several_heads_and_other_losses():
    model = make_model("vectors", heads=("a", "b"))
    needs_native(model)
    for loss in (Loss(), Loss(kind="universal", stress_weight=1.0), Loss(forces_weight=0.0)):
        assert worst_deviation(model, make_batch(model, True), loss) < 1e-9


@pytest.mark.parametrize(
    "name", ["embedding", "products.0.contraction.weight", "interactions.1.radial_weights.weights.0"]
)
def test_gradients_are_differences_of_the_loss(name):
    """Central differences of step 1e-4: 1e-5 relative is allowed for terms of third order and rounding."""
    model = make_model("vectors")
    needs_native(model)
    native, batch = make_evaluator(model, "native"), make_batch(model, False)
    loss = Loss(forces_weight=100.0)
    names = [name for name, _ in model.named_parameters()]
    gradient = loss_gradients(model, native, batch, loss)[names.index(name)].flatten()
    weight = model.get_parameter(name).detach().reshape(-1)  # shares memory with the parameter
    chosen = int(gradient.abs().argmax())

    def at(step: float) -> float:
        weight[chosen] += step
        value = float(loss(batch, native.predict(native.prepare(batch.graph))))
        weight[chosen] -= step
        return value

    slope = (at(1e-4) - at(-1e-4)) / 2e-4
    assert slope == pytest.approx(float(gradient[chosen]), rel=1e-5)


def test_gradients_with_several_threads():
    """The same to the last bit each time; of one thread they differ by the rounding of torch's matrix products."""
    model = make_model("tensors")
    needs_native(model)
    batch, native, before = make_batch(model, False), make_evaluator(model, "native"), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        single = loss_gradients(model, native, batch, LOSS)
        torch.set_num_threads(2)
        first, again = (loss_gradients(model, native, batch, LOSS) for _ in range(2))
    finally:
        torch.set_num_threads(before)
    for one, two, three in zip(single, first, again, strict=True):
        assert torch.equal(two, three)
        assert float((one - two).abs().max()) <= 1e-11 * float(one.abs().max())


def test_what_has_no_kernels_is_named_and_falls_back():
    model = make_model("scalars", max_ell=1)
    evaluator = make_evaluator(model)
    assert evaluator.name == "reference"
    assert "max_ell is 1" in evaluator.reason
    with pytest.raises(InputError, match="max_ell is 1"):
        make_evaluator(model, "native")


def test_the_check_stops_on_a_wrong_gradient():
    """Forces that are a thousandth too large; without it the check passes and returns what rounding leaves."""
    model = make_model("scalars")
    needs_native(model)
    batch, native = make_batch(model, False), make_evaluator(model, "native")
    loss = Loss()
    assert check_gradients(model, native, batch, loss) < 1e-9

    def wrong(graph, **how):
        prediction = native.predict(graph, **how)
        return prediction._replace(forces=1.001 * prediction.forces)

    with pytest.raises(SafetyStop, match="the gradient of .* is off by"):
        check_gradients(model, dataclasses.replace(native, predict=wrong), batch, loss)


def test_a_training_is_the_same_with_either_kernels():
    """The losses of three epochs agree to 1e-8 relative, in float64."""
    model = make_model("vectors", avg_num_neighbors=(5.0, 5.0))
    needs_native(model)
    data = molecules(12)
    frames = [PackedGraphs(part, r_max=model.r_max, atomic_numbers=[1, 6, 8]) for part in (data[:8], data[8:])]
    losses = []
    for kernels in ("native", "reference"):
        config = TrainConfig(
            data=(Path("none.xyz"),), epochs=3, batch_size=4, stage_two=False, dtype="float64", kernels=kernels, lr=1e-3
        )
        records = []
        trainer = Trainer(make_model("vectors", avg_num_neighbors=(5.0, 5.0)), *frames, config)
        assert trainer.evaluator.name == kernels
        trainer.run(records.append)
        losses.append(torch.tensor([record.valid.loss for record in records], dtype=torch.float64))
    assert torch.allclose(losses[0], losses[1], rtol=1e-8, atol=0.0)
