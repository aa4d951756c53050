import pytest
import torch
from torch import nn

from ldkit.training.state_tensors import (
    StateTensors,
    TrainState,
    capture,
    differences,
    restore,
)
from tests.training.toy import bits, toy_batch, toy_state, toy_step


@pytest.mark.law
def test_what_is_captured_fits_and_restores_to_the_bit() -> None:
    state, other = toy_state("adamw"), toy_state("adamw", seed=1)
    toy_step(state)(toy_batch(0)).total.backward()
    state.optimizer.step()
    saved = capture(state)
    assert differences(other, saved) == []
    restore(other, saved)
    assert bits(other) == bits(state)


@pytest.mark.contract
def test_optimizer_state_is_named_after_its_parameter_whatever_the_order_of_groups() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    forth = torch.optim.SGD(list(model.parameters()), lr=0.1, momentum=0.9)
    back = torch.optim.SGD(list(model.parameters())[::-1], lr=0.1, momentum=0.9)
    model(torch.ones(1, 2)).sum().backward()
    forth.step()
    saved = capture(TrainState(model, forth))
    assert sorted(saved.optimizer) == [
        f"{name}/momentum_buffer" for name in ("0.bias", "0.weight", "1.bias", "1.weight")
    ]
    restore(TrainState(model, back), saved)
    for parameter in model.parameters():
        buffer = back.state[parameter]["momentum_buffer"]
        assert torch.equal(buffer, forth.state[parameter]["momentum_buffer"])


@pytest.mark.contract
def test_an_optimizer_without_state_has_nothing_to_capture() -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert capture(TrainState(model, optimizer)).optimizer == {}


@pytest.mark.contract
def test_state_of_another_shape_is_named() -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    saved = StateTensors(
        dict(model.state_dict()),
        {"weight/momentum_buffer": torch.zeros(3), "x/step": torch.ones(())},
        {},
    )
    assert differences(TrainState(model, optimizer), saved) == [
        "shape       weight/momentum_buffer is (3,), expected (2, 2)",
        "unexpected  x/step: no such trainable parameter",
    ]


@pytest.mark.contract
def test_what_belongs_to_a_companion_is_named_after_it() -> None:
    state, alone = toy_state("adamw", companion=True), toy_state("adamw")
    toy_step(state)(toy_batch(0)).total.backward()
    state.optimizer.step()
    saved = capture(state)
    assert "1.running_mean" in saved.companion
    assert "companion.0.weight/exp_avg" in saved.optimizer
    assert differences(state, saved) == []
    lines = differences(alone, saved)
    assert "unexpected  companion.0.weight (5, 3, 1, 1)" in lines
    assert "unexpected  companion.1.bias/exp_avg: no such trainable parameter" in lines
    assert "missing     companion.1.running_var (5,)" in differences(state, capture(alone))


@pytest.mark.law
def test_a_parameter_that_model_and_companion_share_is_saved_once_and_named_by_the_model() -> None:
    model = nn.Linear(2, 2)
    companion = nn.ModuleDict({"tied": model})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    state = TrainState(model, optimizer, companion=companion)
    assert len(list(state.modules.parameters())) == 2
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert sorted(capture(state).optimizer) == ["bias/momentum_buffer", "weight/momentum_buffer"]
