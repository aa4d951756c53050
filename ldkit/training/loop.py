"""The training loop, as one generator of events.

The caller says what a step computes and where batches come from, and decides what to do with
each event: write it, draw it, save, evaluate. Between two events the state is consistent, so a
run may be saved, interrupted or abandoned there.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ldkit.interrupts import interrupts_held
from ldkit.structures import Batch, LossTerms
from ldkit.training.checkpoint import TrainState
from ldkit.training.events import Event, Finished, Started, Step
from ldkit.training.guards import SilenceWatch, raise_if_not_finite
from ldkit.training.schedule import Schedule, learning_rate

StepFunction = Callable[[Batch], LossTerms]
"""From a batch to its weighted loss terms, with their graph."""

EpochBatches = Callable[[int, int], Iterable[Batch]]
"""`batches(epoch, first)`: the batches of an epoch, from position `first` on."""


@dataclass(frozen=True, slots=True)
class Course:
    """How far a run goes, and how fast.

    `max_steps` ends it early (`None`: after all epochs); `clip_norm` is the largest gradient
    norm of a step (`None`: no clipping).
    """

    schedule: Schedule
    steps_per_epoch: int
    max_steps: int | None = None
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        if self.steps_per_epoch < 1:
            raise ValueError("a course needs at least one step per epoch")

    @property
    def total_steps(self) -> int:
        """Return the number of optimizer steps of the whole run."""
        steps = self.schedule.epochs * self.steps_per_epoch
        return steps if self.max_steps is None else min(steps, self.max_steps)


def fit(
    step: StepFunction,
    batches: EpochBatches,
    state: TrainState,
    course: Course,
    watched: Sequence[str] = (),
) -> Iterator[Event]:
    """Yield an event at the start, after every optimizer step, and at the end.

    Goes on at `state.step`. `watched` names loss terms that must not be zero throughout the
    first steps. Ctrl-C takes effect between steps only; `state` can then be saved and resumed.

    Raises:
        TrainingError: A loss term is not finite (the step is not taken), or a watched one is
            silent.
    """
    began = time.perf_counter()
    silence = SilenceWatch(watched)
    upcoming = _from_position(batches, state.step, course)
    yield Started(state.step, course.total_steps, course.steps_per_epoch)
    while state.step < course.total_steps:
        asked = time.perf_counter()
        epoch, batch = next(upcoming)
        waited = time.perf_counter() - asked
        lr = learning_rate(course.schedule, state.step, course.steps_per_epoch)
        with interrupts_held() as held:
            terms, grad_norm = _update(step, batch, state, lr, course.clip_norm)
        seconds = time.perf_counter() - asked
        yield Step(state.step, epoch, lr, terms, grad_norm, seconds, waited, len(batch.keys))
        held.release()
        silence.see(terms)
    yield Finished(state.step, time.perf_counter() - began)


def _update(
    step: StepFunction, batch: Batch, state: TrainState, lr: float, clip_norm: float | None
) -> tuple[dict[str, float], float | None]:
    """Take one optimizer step; return the terms and the gradient norm (where it is clipped)."""
    for group in state.optimizer.param_groups:
        group["lr"] = lr
    if not state.model.training:  # an evaluation may have come between
        state.model.train()
    terms = step(batch)
    torch.autograd.backward(terms.total)
    norm = None if clip_norm is None else _clip(state.model, clip_norm)
    # The device is waited for once, here, after all of the step's work has been queued.
    values = terms.values()
    grad_norm = None if norm is None else norm.item()
    raise_if_not_finite(values, grad_norm, batch.keys, state.step)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.step += 1
    return values, grad_norm


def _clip(model: nn.Module, clip_norm: float) -> torch.Tensor:
    return nn.utils.clip_grad_norm_(model.parameters(), clip_norm)


def _from_position(
    batches: EpochBatches, position: int, course: Course
) -> Iterator[tuple[int, Batch]]:
    """Yield each remaining batch with its epoch; every epoch must have as many as promised."""
    epoch, first = divmod(position, course.steps_per_epoch)
    while True:
        remaining = range(first, course.steps_per_epoch)
        for _, batch in zip(remaining, batches(epoch, first), strict=True):
            yield epoch, batch
        epoch, first = epoch + 1, 0
