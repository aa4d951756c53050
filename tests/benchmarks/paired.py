"""Paired timing: all arms in every round, in random order, and an A/A arm that shows the noise.

A ratio is the median over the rounds of arm / base, so what slows a whole round cancels. Its
interval is the 95 % bootstrap interval of that median. Every base has a twin, an arm that does
the same: as far as the twin's interval reaches from 1, nothing can be said.
"""

import os
import platform
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

Arm = Callable[[int], object]
"""One run of an arm; the argument is the number of the round, from 0."""

Clock = Callable[[], float]

RESAMPLES = 2000


class Measured(NamedTuple):
    """A median and its 95 % interval."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]"


class Goal(NamedTuple):
    """What a ratio (or a size) should not exceed."""

    name: str
    most: float


def measure(
    arms: Mapping[str, Arm], rounds: int, *, clock: Clock = time.perf_counter, seed: int = 0
) -> dict[str, list[float]]:
    """Return the seconds of each arm in each round; one round beforehand is not counted."""
    dice = random.Random(seed)
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(-1, rounds):
        order = list(arms)
        dice.shuffle(order)
        for name in order:
            began = clock()
            arms[name](max(number, 0))
            if number >= 0:
                seconds[name].append(clock() - began)
    return seconds


def ratio(seconds: Mapping[str, Sequence[float]], arm: str, base: str) -> Measured:
    """Return the median of the paired ratios arm / base."""
    pairs = zip(seconds[arm], seconds[base], strict=True)
    return of_median([ours / theirs for ours, theirs in pairs])


def of_median(values: Sequence[float]) -> Measured:
    """Return the median of values and its bootstrap interval."""
    dice = random.Random(0)
    medians = sorted(median(dice.choices(values, k=len(values))) for _ in range(RESAMPLES))
    low, high = medians[RESAMPLES // 40], medians[-1 - RESAMPLES // 40]
    return Measured(median(values), low, high)


def spread(twin: Measured) -> float:
    """Return how far an A/A ratio may lie from 1."""
    return max(abs(twin.low - 1), abs(twin.high - 1))


def verdict(goal: Goal, found: float, noise: float | None, source: str = "A/A spread") -> str:
    """Return whether `found` meets the goal; inconclusive where noise exceeds the margin.

    `noise` is relative, and `source` names it; None: it was measured once. The margin is the
    distance from the goal in parts of the goal.
    """
    margin = abs(found / goal.most - 1)
    answer = "met" if found <= goal.most else "missed"
    if noise is None:
        answer += f" (margin {margin:.3f}, measured once)"
    elif noise > margin:
        answer = f"inconclusive ({source} {noise:.3f} is wider than the margin {margin:.3f})"
    else:
        answer += f" (margin {margin:.3f}, {source} {noise:.3f})"
    return f"goal: {goal.name} <= {goal.most:g}: {found:.4g}, {answer}"


def show_arms(seconds: Mapping[str, Sequence[float]], base: str) -> None:
    """Write one line for each arm: its median, and its paired ratio to the base."""
    say(f"{'arm':<24} {'median':>12}   ratio to {base}, 95 % interval")
    for name, values in seconds.items():
        found = "1" if name == base else str(ratio(seconds, name, base))
        say(f"{name:<24} {median(values) * 1e3:>9.2f} ms   {found}")


def show_machine(*notes: str) -> None:
    """Write what the figures depend on: processor, load of others, versions."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    say(f"machine: {_processor()}, {os.cpu_count()} cores, load average {load}")
    say(", ".join([f"python {platform.python_version()}", *notes]))


def say(line: str) -> None:
    """Write a line."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line for line in lines if line.startswith("model name")]
    return names[0].partition(":")[2].strip() if names else platform.machine()
