"""The only file that knows the terminal: progress, tables, notes and errors.

Results go to stdout, everything else to stderr, so that `--json` can be piped. On a terminal a
stage is a bar with rate and time left; elsewhere it is a plain line every few seconds.
"""

import json
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
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
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:  # the jobs import torch, and help must not
    from ldkit.errors import LdkitError
    from ldkit.jobs.progress import Message

Result = TypeVar("Result")

out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)
PLAIN_EVERY_SECONDS = 5.0


def say(text: str) -> None:
    """Tell the user one thing, beside the result."""
    err.print(escape(text), highlight=False)


def print_json(value: object) -> None:
    """Print a result for machines."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a result for people: text to the left, numbers to the right."""
    table = Table(title=title or None, title_justify="left", title_style="bold", box=None)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    out.print(table)


def show_facts(facts: Mapping[str, str], *, as_json: bool) -> None:
    """Print names and values, aligned, or as JSON."""
    if as_json:
        print_json(dict(facts))
        return
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        out.print(Text(f"{name:<{width}}  ", style="dim") + Text(value))


def print_error(error: "LdkitError") -> None:
    """Show a user's mistake: where, what, and what to do; no traceback."""
    body = Text(error.message.rstrip())
    if error.hint:
        body.append(f"\n\n{error.hint}", style="dim")
    if err.is_terminal:
        err.print(
            Panel(body, title=escape(error.where) or None, border_style="red", padding=(1, 2))
        )
    else:
        err.print(Text(str(error)), highlight=False)


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
            case events.Evaluated(step=step, ap=ap):
                say(f"{stage}: AP {'-' if ap is None else f'{100 * ap:.1f}'} after step {step}")
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
            self._tasks[name] = self._progress.add_task(name, total=total, unit=unit, detail="")
        self._progress.update(self._tasks[name], completed=done, total=total, detail=detail)

    def _speak(self, name: str, done: int, total: int, unit: str, detail: str) -> None:
        now = time.monotonic()
        began, first = self._began.setdefault(name, (now, done))
        if done < total and now - self._spoke.get(name, 0.0) < PLAIN_EVERY_SECONDS:
            return
        self._spoke[name] = now
        seconds = now - began
        rate = f"{(done - first) / seconds:.1f} {unit}/s" if seconds > 1 else ""
        parts = [f"{name}: {done}/{total} {unit}", detail, rate]
        say("  ".join(part for part in parts if part))


@contextmanager
def following() -> Iterator[Callable[[str, "Message"], None]]:
    """Yield a function that shows messages: `follow(stage, message)`."""
    if not err.is_terminal:
        yield Follower(None)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        TextColumn("{task.fields[detail]}", style="dim", markup=False),
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
