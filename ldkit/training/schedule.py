"""The learning rate of a step: a pure function of the position, without state.

A factor of the warm-up times a factor of the epoch (milestones) or of the whole run (cosine).
Steps and epochs count from 0.
"""

import math
from dataclasses import dataclass
from typing import assert_never


@dataclass(frozen=True, slots=True)
class MilestoneSchedule:
    """A rate that falls by `factor` at the start of each of the epochs in `milestones`."""

    base_lr: float
    epochs: int
    milestones: tuple[int, ...]
    factor: float
    warmup_steps: int
    warmup_start: float


@dataclass(frozen=True, slots=True)
class CosineSchedule:
    """A rate that falls along half a cosine to the share `final` of itself at the run's end."""

    base_lr: float
    epochs: int
    final: float
    warmup_steps: int
    warmup_start: float


Schedule = MilestoneSchedule | CosineSchedule


def learning_rate(schedule: Schedule, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of the update of step `step`.

    During the first `warmup_steps` steps the rate also rises linearly from the share
    `warmup_start` of itself.

    Source: mmdet 2.x reaches the full rate at step 500 (`warmup_steps=500`), mmdet 3.x one step
    earlier (`warmup_steps=499`).
    """
    warmup = _warmup_factor(schedule, step)
    match schedule:
        case MilestoneSchedule(milestones=milestones, factor=factor):
            epoch = step // steps_per_epoch
            passed = sum(milestone <= epoch for milestone in milestones)
            return schedule.base_lr * warmup * factor**passed
        case CosineSchedule(epochs=epochs, final=final):
            progress = min(step / (epochs * steps_per_epoch), 1.0)
            fall = 0.5 * (1.0 + math.cos(math.pi * progress))
            return schedule.base_lr * warmup * (final + (1.0 - final) * fall)
        case _:
            assert_never(schedule)


def _warmup_factor(schedule: Schedule, step: int) -> float:
    if step >= schedule.warmup_steps:
        return 1.0
    start = schedule.warmup_start
    return start + (1.0 - start) * step / schedule.warmup_steps
