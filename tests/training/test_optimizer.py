"""Which weights decay, which stay, and the moving average."""

import pytest
import torch
from small_model import small_model

from mace_md.errors import InputError
from mace_md.training.optimizer import MovingAverage, freeze_parts, make_optimizer, parameter_groups


def names_of(model, weights):
    identity = {id(weight): name for name, weight in model.named_parameters()}
    return {identity[id(weight)] for weight in weights}


def test_weights_decay_as_in_mace_torch():
    """There: interactions' `linear.weight` (behind the convolution) and all of the products; nothing else."""
    model = small_model()
    decayed, others = parameter_groups(model, 5e-7)
    assert decayed["weight_decay"] == 5e-7 and others["weight_decay"] == 0.0
    names = names_of(model, decayed["params"])
    assert names == {
        name for name, _ in model.named_parameters() if name.startswith("products") or ".convolution." in name
    }
    kept = names_of(model, others["params"])
    assert names | kept == {name for name, _ in model.named_parameters()} and not names & kept
    assert {"embedding", "interactions.0.skip.weight", "interactions.1.linear_up.weight"} <= kept


@pytest.mark.parametrize("kind, decoupled", [("adamw", True), ("adam", False)])
def test_decay_apart_from_the_gradient_shrinks_weights_that_have_none(kind, decoupled):
    """A step with zero gradient: AdamW multiplies by 1 - lr * decay exactly, Adam moves by about lr."""
    model = small_model()
    optimizer = make_optimizer(model, kind, lr=0.1, weight_decay=0.01, amsgrad=True)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    for name, weight in model.named_parameters():
        decays = name.startswith("products") or ".convolution." in name
        expected = before[name] * (1 - 0.1 * 0.01) if decays else before[name]
        same = torch.allclose(weight, expected, rtol=0, atol=1e-15)
        assert same if decoupled or not decays else not same, name


def test_frozen_parts_stay():
    model = small_model()
    freeze_parts(model, ("embedding", "interactions"))
    free = {name.split(".")[0] for name, weight in model.named_parameters() if weight.requires_grad}
    assert free == {"products", "readouts"}
    freeze_parts(model, ())
    assert all(weight.requires_grad for weight in model.parameters())
    with pytest.raises(InputError, match="no part 'radial' to freeze"):
        freeze_parts(model, ("radial",))
    with pytest.raises(InputError, match="leaves nothing to train"):
        freeze_parts(model, ("embedding", "interactions", "products", "readouts"))


def test_the_moving_average_is_the_sum_it_stands_for():
    """w'_n = sum_k (1 - d_k) prod_{j > k} d_j w_k + prod_k d_k w_0, d_k = min(decay, (1 + k) / (10 + k))."""
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    average = MovingAverage(model, decay=0.5)
    values = [1.0, -2.0, 5.0, 0.5, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0]
    expected = 0.0
    for k, value in enumerate(values, start=1):
        torch.nn.init.constant_(model.weight, value)
        average.update()
        decay = min(0.5, (1 + k) / (10 + k))
        expected = decay * expected + (1 - decay) * value
    assert average.average[0].item() == pytest.approx(expected, rel=1e-6)
    with average.in_place():
        assert model.weight.item() == pytest.approx(expected, rel=1e-6)
    assert model.weight.item() == 4.0
