from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import Optimizer

from ldkit.training.optimizer import adamw, sgd
from tests.training.toy import ToyNet

MAKERS: dict[str, Callable[[nn.Module], Optimizer]] = {
    "sgd": lambda model: sgd(model, lr=0.1, momentum=0.9, weight_decay=1e-4),
    "adamw": lambda model: adamw(model, lr=0.1, betas=(0.9, 0.99), weight_decay=0.02),
}


@pytest.mark.law
@pytest.mark.parametrize("kind", sorted(MAKERS))
@settings(deadline=None, max_examples=20)
@given(trained=st.lists(st.booleans(), min_size=8, max_size=8).filter(any))
def test_every_trainable_parameter_is_in_exactly_one_group(kind: str, trained: list[bool]) -> None:
    model = ToyNet()
    parameters = list(model.parameters())
    for parameter, is_trained in zip(parameters, trained, strict=True):
        parameter.requires_grad_(is_trained)
    groups = MAKERS[kind](model).param_groups
    found = [id(parameter) for group in groups for parameter in group["params"]]
    expected = [id(parameter) for parameter in parameters if parameter.requires_grad]
    assert sorted(found) == sorted(expected)


@pytest.mark.law
def test_a_parameter_shared_by_two_modules_is_taken_once() -> None:
    tower = nn.Linear(3, 3)
    optimizer = MAKERS["adamw"](nn.ModuleList([tower, tower]))
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 2


@pytest.mark.contract
def test_sgd_decays_every_parameter_as_published() -> None:
    optimizer = MAKERS["sgd"](ToyNet())
    assert {group["weight_decay"] for group in optimizer.param_groups} == {1e-4}
    assert not any(group["nesterov"] for group in optimizer.param_groups)


@pytest.mark.contract
def test_adamw_does_not_decay_vectors_and_scalars() -> None:
    for group in MAKERS["adamw"](ToyNet()).param_groups:
        is_decayed = group["weight_decay"] > 0
        assert group["params"]
        assert all((parameter.ndim > 1) == is_decayed for parameter in group["params"])


@pytest.mark.law
def test_without_gradients_of_the_loss_sgd_shrinks_a_parameter_by_lr_times_decay() -> None:
    model = nn.Linear(2, 1)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = sgd(model, lr=0.5, momentum=0.0, weight_decay=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for parameter, old in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(parameter.detach(), old * 0.95)
