"""Stages that run, drawn as they tell of themselves.

On a terminal a stage is a bar with rate and time left; elsewhere it is a plain line every few
seconds. Both go to stderr.
"""

import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, TypeVar

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from ldkit.cli.console import err, say

if TYPE_CHECKING:  # the jobs import torch, and help must not
    from ldkit.jobs.progress import Message

Result = TypeVar("Result")

PLAIN_EVERY_SECONDS = 5.0


class Rate(ProgressColumn):
    """How much of a stage is done in a second."""

    def render(self, task: Task) -> Text:
        """Return the rate of a stage, in its own unit."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} {task.fields['unit']}/s", style="dim")


class Follower:
    """Draws the messages of one or several stages as they come: bars, or plain lines."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}
        self._totals: dict[str, int] = {}
        self._began: dict[str, tuple[float, int]] = {}
        self._spoke: dict[str, float] = {}

    def __call__(self, stage: str, message: "Message") -> None:
        """Show one message of a stage."""
        from ldkit.jobs import progress as told
        from ldkit.training import events

        match message:
            case events.Started(total_steps=total, step=step):
                self._totals[stage] = total
                self._advance(stage, step, total, "steps", "")
            case events.Step(step=step, loss=loss):
                self._advance(stage, step, self._totals[stage], "steps", f"loss {loss:.3f}")
            case events.Contributions(step=step, shares=shares, grad_norms=norms):
                parts = (f"{n} {shares[n]:.0%} |g| {_two_digits(norms[n])}" for n in shares)
                say(f"{stage}: step {step:,}  " + " · ".join(parts).replace("%", " %"))
            case events.Evaluated(step=step, ap=ap):
                say(f"{stage}: AP {'-' if ap is None else f'{100 * ap:.1f}'} after step {step:,}")
            case told.Progress(done=done, total=total, unit=unit):
                self._advance(f"{stage}, {unit}", done, total, unit, "")
            case told.Note(text=text):
                say(text)
            case events.Saved() | events.Finished():
                pass

    def _advance(self, name: str, done: int, total: int, unit: str, detail: str) -> None:
        if self._progress is None:
            self._speak(name, done, total, unit, detail)
            return
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(
                name, total=total, completed=done, unit=unit, detail=""
            )
        self._progress.update(self._tasks[name], completed=done, total=total, detail=detail)

    def _speak(self, name: str, done: int, total: int, unit: str, detail: str) -> None:
        now = time.monotonic()
        began, first = self._began.setdefault(name, (now, done))
        if done < total and now - self._spoke.get(name, 0.0) < PLAIN_EVERY_SECONDS:
            return
        self._spoke[name] = now
        seconds = now - began
        rate = f"{(done - first) / seconds:.1f} {unit}/s" if seconds > 1 else ""
        parts = [f"{name}: {done:,}/{total:,} {unit}", detail, rate]
        say("  ".join(part for part in parts if part))


def _two_digits(value: float) -> str:
    """Return a number with two significant digits, in full where that is short."""
    if value == 0:
        return "0"
    if not 1e-3 <= value < 1e6:
        return f"{value:.1e}"
    return f"{value:.{max(0, 1 - math.floor(math.log10(value)))}f}"


@contextmanager
def following() -> Iterator[Callable[[str, "Message"], None]]:
    """Yield a function that shows messages: `follow(stage, message)`."""
    if not err.is_terminal:
        yield Follower(None)
        return
    columns = (
        # A long name takes a second line rather than the place of the figures.
        TextColumn("{task.description}", markup=False, table_column=Column(overflow="fold")),
        BarColumn(bar_width=24),
        MofNCompleteColumn(table_column=Column(justify="right", no_wrap=True)),
        Rate(table_column=Column(justify="right", no_wrap=True)),
        TimeRemainingColumn(
            compact=True,
            elapsed_when_finished=True,
            table_column=Column(justify="right", no_wrap=True),
        ),
        TextColumn(
            "{task.fields[detail]}",
            style="dim",
            markup=False,
            table_column=Column(no_wrap=True),
        ),
    )
    with Progress(*columns, console=err, transient=False) as progress:
        yield Follower(progress)


def show(stage: str, job: Generator["Message", None, Result]) -> Result:
    """Show every message of a job and return its result."""
    return show_stages(_staged(stage, job))


def show_stages(job: Generator[tuple[str, "Message"], None, Result]) -> Result:
    """Show the messages of several stages; an interrupted job is closed at once, to save."""
    with following() as follow, closing(job):
        while True:
            try:
                stage, message = next(job)
            except StopIteration as end:
                result: Result = end.value
                return result
            follow(stage, message)


def _staged(
    stage: str, job: Generator["Message", None, Result]
) -> Generator[tuple[str, "Message"], None, Result]:
    with closing(job):
        while True:
            try:
                message = next(job)
            except StopIteration as end:
                result: Result = end.value
                return result
            yield stage, message
