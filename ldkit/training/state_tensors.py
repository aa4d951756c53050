"""A model and its optimizer as named tensors, and back.

Optimizer state is named PARAMETER/KEY after the parameter it belongs to, so that it survives
another order of modules or groups and can be read without torch's pickled state.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class StateTensors(NamedTuple):
    """Everything that training has changed, by name, on the CPU."""

    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]


def capture(model: nn.Module, optimizer: Optimizer) -> StateTensors:
    """Return the tensors of the model (buffers included) and of the optimizer."""
    weights = {name: _on_cpu(value) for name, value in model.state_dict().items()}
    state = {
        f"{name}/{key}": _on_cpu(value)
        for name, parameter in _optimized(model, optimizer)
        for key, value in optimizer.state.get(parameter, {}).items()
        if value is not None
    }
    return StateTensors(weights, state)


def differences(model: nn.Module, optimizer: Optimizer, saved: StateTensors) -> list[str]:
    """Return one line for each saved tensor that does not fit, or is missing; best case none."""
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in saved.model.items()}
    lines = [f"missing     {name} {expected[name]}" for name in sorted(expected.keys() - found)]
    lines += [f"unexpected  {name} {found[name]}" for name in sorted(found.keys() - expected)]
    lines += [
        f"shape       {name} is {found[name]}, the model has {expected[name]}"
        for name in sorted(expected.keys() & found)
        if expected[name] != found[name]
    ]
    shapes = {name: parameter.shape for name, parameter in _optimized(model, optimizer)}
    for name, value in sorted(saved.optimizer.items()):
        shape = shapes.get(name.rpartition("/")[0])
        if shape is None:
            lines.append(f"unexpected  {name}: no such trainable parameter")
        elif value.ndim and value.shape != shape:
            lines.append(f"shape       {name} is {tuple(value.shape)}, expected {tuple(shape)}")
    return lines


def restore(model: nn.Module, optimizer: Optimizer, saved: StateTensors) -> None:
    """Copy saved tensors, which must fit, into the model and the optimizer.

    Each keeps the device and the memory layout of its parameter: a layout decides which
    elements a CPU kernel handles one by one, and so the last bit of a sum.
    """
    model.load_state_dict(saved.model)
    state: dict[int, dict[str, Tensor]] = {}
    for index, (name, parameter) in enumerate(_optimized(model, optimizer)):
        keys = [key for key in saved.optimizer if key.rpartition("/")[0] == name]
        if keys:
            state[index] = {
                key.rpartition("/")[2]: _laid_out_like(parameter, saved.optimizer[key])
                for key in keys
            }
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _optimized(model: nn.Module, optimizer: Optimizer) -> Iterator[tuple[str, Tensor]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            yield names[id(parameter)], parameter


def _on_cpu(value: Tensor) -> Tensor:
    return value.detach().cpu().contiguous()


def _laid_out_like(parameter: Tensor, value: Tensor) -> Tensor:
    if value.shape != parameter.shape:
        return value
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
