"""What training changes, and the same as named tensors, and back.

Optimizer state is named PARAMETER/KEY after the parameter it belongs to, so that it survives
another order of modules or groups and can be read without torch's pickled state. There, and in
messages, what belongs to a companion is named companion.NAME.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


@dataclass(slots=True)
class TrainState:
    """What a step of training changes. `step` counts completed optimizer steps.

    `companion` is what is trained along with the model and stays out of its file, if anything.
    """

    model: nn.Module
    optimizer: Optimizer
    step: int = 0
    companion: nn.Module | None = None

    @property
    def modules(self) -> nn.ModuleList:
        """Return the model and its companion: whatever is trained."""
        return nn.ModuleList(
            [self.model] if self.companion is None else [self.model, self.companion]
        )


class StateTensors(NamedTuple):
    """Everything that training has changed, by name, on the CPU."""

    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    companion: dict[str, Tensor]


def capture(state: TrainState) -> StateTensors:
    """Return the tensors of model and companion (buffers included) and of the optimizer."""
    optimizer = {
        f"{name}/{key}": _on_cpu(value)
        for name, parameter in _optimized(state)
        for key, value in state.optimizer.state.get(parameter, {}).items()
        if value is not None
    }
    return StateTensors(_weights(state.model), optimizer, _weights(state.companion))


def differences(state: TrainState, saved: StateTensors) -> list[str]:
    """Return one line for each saved tensor that does not fit, or is missing; best case none."""
    expected = _shapes(_state_dict(state.model), _state_dict(state.companion))
    found = _shapes(saved.model, saved.companion)
    lines = [f"missing     {name} {expected[name]}" for name in sorted(expected.keys() - found)]
    lines += [f"unexpected  {name} {found[name]}" for name in sorted(found.keys() - expected)]
    lines += [
        f"shape       {name} is {found[name]}, the model has {expected[name]}"
        for name in sorted(expected.keys() & found)
        if expected[name] != found[name]
    ]
    shapes = {name: parameter.shape for name, parameter in _optimized(state)}
    for name, value in sorted(saved.optimizer.items()):
        shape = shapes.get(name.rpartition("/")[0])
        if shape is None:
            lines.append(f"unexpected  {name}: no such trainable parameter")
        elif value.ndim and value.shape != shape:
            lines.append(f"shape       {name} is {tuple(value.shape)}, expected {tuple(shape)}")
    return lines


def restore(state: TrainState, saved: StateTensors) -> None:
    """Copy saved tensors, which must fit, into the model, its companion and the optimizer.

    Each keeps the device and the memory layout of its parameter: a layout decides which
    elements a CPU kernel handles one by one, and so the last bit of a sum.
    """
    state.model.load_state_dict(saved.model)
    if state.companion is not None:
        state.companion.load_state_dict(saved.companion)
    moments: dict[int, dict[str, Tensor]] = {}
    for index, (name, parameter) in enumerate(_optimized(state)):
        keys = [key for key in saved.optimizer if key.rpartition("/")[0] == name]
        if keys:
            moments[index] = {
                key.rpartition("/")[2]: _laid_out_like(parameter, saved.optimizer[key])
                for key in keys
            }
    groups = state.optimizer.state_dict()["param_groups"]
    state.optimizer.load_state_dict({"state": moments, "param_groups": groups})


def _optimized(state: TrainState) -> Iterator[tuple[str, Tensor]]:
    names: dict[int, str] = {}
    if state.companion is not None:
        own = state.companion.named_parameters()
        names = {id(parameter): f"companion.{name}" for name, parameter in own}
    names |= {id(parameter): name for name, parameter in state.model.named_parameters()}
    for group in state.optimizer.param_groups:
        for parameter in group["params"]:
            yield names[id(parameter)], parameter


def _state_dict(module: nn.Module | None) -> dict[str, Tensor]:
    return {} if module is None else module.state_dict()


def _weights(module: nn.Module | None) -> dict[str, Tensor]:
    return {name: _on_cpu(value) for name, value in _state_dict(module).items()}


def _shapes(model: dict[str, Tensor], companion: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    named = {**model, **{f"companion.{name}": value for name, value in companion.items()}}
    return {name: tuple(value.shape) for name, value in named.items()}


def _on_cpu(value: Tensor) -> Tensor:
    return value.detach().cpu().contiguous()


def _laid_out_like(parameter: Tensor, value: Tensor) -> Tensor:
    if value.shape != parameter.shape:
        return value
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
