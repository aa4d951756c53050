import pytest
import torch
from torch import nn

from ldkit.training.state_tensors import StateTensors, capture, differences, restore
from tests.training.toy import bits, toy_batch, toy_state, toy_step


@pytest.mark.law
def test_what_is_captured_fits_and_restores_to_the_bit() -> None:
    state, other = toy_state("adamw"), toy_state("adamw", seed=1)
    toy_step(state)(toy_batch(0)).total.backward()
    state.optimizer.step()
    saved = capture(state.model, state.optimizer)
    assert differences(other.model, other.optimizer, saved) == []
    restore(other.model, other.optimizer, saved)
    assert bits(other) == bits(state)


@pytest.mark.contract
def test_optimizer_state_is_named_after_its_parameter_whatever_the_order_of_groups() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    forth = torch.optim.SGD(list(model.parameters()), lr=0.1, momentum=0.9)
    back = torch.optim.SGD(list(model.parameters())[::-1], lr=0.1, momentum=0.9)
    model(torch.ones(1, 2)).sum().backward()
    forth.step()
    saved = capture(model, forth)
    assert sorted(saved.optimizer) == [
        f"{name}/momentum_buffer" for name in ("0.bias", "0.weight", "1.bias", "1.weight")
    ]
    restore(model, back, saved)
    for parameter in model.parameters():
        buffer = back.state[parameter]["momentum_buffer"]
        assert torch.equal(buffer, forth.state[parameter]["momentum_buffer"])


@pytest.mark.contract
def test_an_optimizer_without_state_has_nothing_to_capture() -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert capture(model, optimizer).optimizer == {}


@pytest.mark.contract
def test_state_of_another_shape_is_named() -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    saved = StateTensors(
        dict(model.state_dict()),
        {"weight/momentum_buffer": torch.zeros(3), "x/step": torch.ones(())},
    )
    assert differences(model, optimizer, saved) == [
        "shape       weight/momentum_buffer is (3,), expected (2, 2)",
        "unexpected  x/step: no such trainable parameter",
    ]
