"""The average of the weights against a loop over plain numbers, and that the model's own weights come back."""

import pytest
import torch
from rhapsode.recipes.training.ema import WeightAverage
from torch import nn

TOLERANCE = 1e-6  # float32 against float64, on numbers of about 1
DECAY = 0.8


def history(steps: int, dtype=torch.float32) -> list[dict]:
    generator = torch.Generator().manual_seed(torch.initial_seed() % 2**31)
    return [
        {
            "weight": torch.randn(3, 4, generator=generator).to(dtype),
            "bias": torch.randn(3, generator=generator).to(dtype),
        }
        for _ in range(steps + 1)
    ]


def followed(states: list[dict], dtype=torch.float32, average=None):
    model = nn.Linear(4, 3).to(dtype)
    model.load_state_dict(states[0])
    average = average or WeightAverage(model, DECAY)
    for state in states[1:]:
        model.load_state_dict(state)
        average.update(model)
    return model, average


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_against_the_equation(dtype, seed):
    """60 updates: the decay is below its full 0.8 for the first 35 of them, (1 + t) / (10 + t) < 0.8."""
    states = history(60, dtype)
    _, average = followed(states, dtype)
    for name, found in average.tensors().items():
        expected = states[0][name].double()
        for t, state in enumerate(states[1:]):
            d = min(DECAY, (1 + t) / (10 + t))
            expected = d * expected + (1 - d) * state[name].double()
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_small_updates_are_not_lost_in_bfloat16():
    """(1 - 0.999) of a change by 1/128, bfloat16's own step at 1, is far below what it could hold."""
    model = nn.Linear(1, 1, bias=False).bfloat16()
    nn.init.ones_(model.weight)
    average = WeightAverage(model, 0.999)
    average.load(average.tensors(), 100_000)  # past the warm-up
    nn.init.constant_(model.weight, 1 + 1 / 128)
    for _ in range(100):
        average.update(model)
    assert average.tensors()["weight"].item() == pytest.approx(1 + (1 - 0.999**100) / 128, abs=TOLERANCE)


def test_weights_come_back_to_the_bit_also_after_an_error(seed):
    model, average = followed(history(5))
    own = {name: t.clone() for name, t in model.state_dict().items()}
    with average.in_place_of_weights(model):
        assert all(torch.equal(t, average.tensors()[name]) for name, t in model.state_dict().items())
        assert not torch.equal(model.weight, own["weight"])
    assert all(torch.equal(t, own[name]) for name, t in model.state_dict().items())
    with pytest.raises(ZeroDivisionError), average.in_place_of_weights(model):
        raise ZeroDivisionError
    assert all(torch.equal(t, own[name]) for name, t in model.state_dict().items())


def test_going_on_from_what_was_saved(seed):
    states = history(50)
    _, whole = followed(states)
    model, first = followed(states[:21])
    saved, updates = {name: t.clone() for name, t in first.tensors().items()}, first.updates
    second = WeightAverage(model, DECAY)
    second.load(saved, updates)
    followed(states[20:], average=second)
    assert all(torch.equal(t, whole.tensors()[name]) for name, t in second.tensors().items())
    with pytest.raises(ValueError, match="bias"):
        second.load({"weight": saved["weight"]}, updates)


def test_frozen_and_tied_weights():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    model[0].bias.requires_grad_(False)
    assert set(WeightAverage(model, 0.9).tensors()) == {"0.weight", "1.bias"}
