"""The training loop, as one generator of events.

The caller says what a step computes and where batches come from, and decides what to do with
each event: write it, draw it, save, evaluate. Between two events the state is consistent, so a
run may be saved, interrupted or abandoned there.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ldkit.interrupts import interrupts_held
from ldkit.structures import Batch, LossTerms
from ldkit.training.contributions import gradient_norms, shares
from ldkit.training.events import Contributions, Event, Finished, Started, Step
from ldkit.training.guards import SilenceWatch, raise_if_not_finite
from ldkit.training.optimizer import trainable_parameters
from ldkit.training.schedule import Schedule, learning_rate
from ldkit.training.state_tensors import TrainState

StepFunction = Callable[[Batch], LossTerms]
"""From a batch to its weighted loss terms, with their graph."""

EpochBatches = Callable[[int, int], Iterable[Batch]]
"""`batches(epoch, first)`: the batches of an epoch, from position `first` on."""


@dataclass(frozen=True, slots=True)
class Course:
    """How far a run goes, how fast, and how often it measures what its terms contribute.

    `max_steps` ends it early (`None`: after all epochs); `clip_norm` is the largest gradient
    norm of a step (`None`: no clipping). Every `measure_every`th step is measured (`None`: none).
    """

    schedule: Schedule
    steps_per_epoch: int
    max_steps: int | None = None
    clip_norm: float | None = None
    measure_every: int | None = None

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
    """Yield an event at the start, after every optimizer step (two if measured), and at the end.

    Goes on at `state.step`. `watched` names loss terms that must not be zero throughout the
    first steps they are on. Ctrl-C takes effect between steps only; `state` can then be saved and
    resumed.

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
            done = _update(step, batch, state, course, lr)
        seconds = time.perf_counter() - asked
        terms = done.terms
        if done.grad_norms is not None:
            yield Contributions(state.step, shares(terms), done.grad_norms)
        yield Step(state.step, epoch, lr, terms, done.grad_norm, seconds, waited, len(batch.keys))
        held.release()
        silence.see(terms)
    yield Finished(state.step, time.perf_counter() - began)


class _Update(NamedTuple):
    """One optimizer step: its terms, the norm where it is clipped, each term's where measured."""

    terms: dict[str, float]
    grad_norm: float | None
    grad_norms: dict[str, float] | None


def _update(
    step: StepFunction, batch: Batch, state: TrainState, course: Course, lr: float
) -> _Update:
    """Take one optimizer step."""
    for group in state.optimizer.param_groups:
        group["lr"] = lr
    modules = state.modules
    if not state.model.training:  # an evaluation may have come between
        modules.train()
    terms = step(batch)
    grad_norms = _measured(terms, modules, state.step, course.measure_every)
    torch.autograd.backward(terms.total)
    norm = None if course.clip_norm is None else _clip(modules, course.clip_norm)
    # The device is waited for once, here, after all of the step's work has been queued.
    values = terms.values()
    grad_norm = None if norm is None else norm.item()
    raise_if_not_finite(values, grad_norm, batch.keys, state.step)
    if grad_norms is not None:
        gradients = {f"gradient norm of {name}": norm for name, norm in grad_norms.items()}
        raise_if_not_finite(gradients, None, batch.keys, state.step)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.step += 1
    return _Update(values, grad_norm, grad_norms)


def _measured(
    terms: LossTerms, modules: nn.Module, step: int, every: int | None
) -> dict[str, float] | None:
    """Return each term's gradient norm, `None` where this step is not measured."""
    if every is None or (step + 1) % every:
        return None
    return gradient_norms(terms, trainable_parameters(modules))


def _clip(modules: nn.Module, clip_norm: float) -> Tensor:
    return nn.utils.clip_grad_norm_(modules.parameters(), clip_norm)


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
