"""What the terminal shows: results, notes and errors. Stages that run are drawn by `progress`.

Results go to stdout, everything else to stderr, so that `--json` can be piped. On a terminal text
is wrapped at words; elsewhere a line is a line, however long.
"""

import json
import sys
from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING

from rich.console import Console
from rich.measure import Measurement
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:  # `ldkit --help` needs neither
    from ldkit.errors import LdkitError
    from ldkit.jobs.facts import Facts

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)
LEAST_WRAPPED = 40
"""A terminal narrower than this many characters is left to wrap by itself."""


def say(text: str) -> None:
    """Tell the user one thing, beside the result."""
    err.print(Text(text), soft_wrap=not err.is_terminal)


def print_text(text: str = "", style: str = "") -> None:
    """Print a paragraph of a result."""
    out.print(Text(text, style=style), soft_wrap=not out.is_terminal)


def print_json(value: object) -> None:
    """Print a result for machines."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a result for people: text to the left, numbers to the right; no number is cut off."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for number, column in enumerate(columns):
        if number == 0:
            table.add_column(column, overflow="fold")
        else:
            table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    if title:
        print_text(title, style="bold")
    _as_wide_as(table).print(table)


def _as_wide_as(table: Table) -> Console:
    """Return the terminal, or where there is none, a place wide enough for the table."""
    if out.is_terminal:
        return out
    needed = Measurement.get(out, out.options.update(max_width=10_000), table).maximum
    return Console(file=out.file, width=needed, highlight=False)


def print_columns(rows: Sequence[Sequence[str]], style: str = "") -> None:
    """Print rows of text, aligned; the last column is wrapped, the first one has the style."""
    widths = [max(map(len, column)) + 2 for column in zip(*rows, strict=True)][:-1]
    for row in rows:
        head = "".join(f"{cell:<{width}}" for cell, width in zip(row[:-1], widths, strict=True))
        first, *more = _wrapped(row[-1], sum(widths))
        line = Text((head + first).rstrip())
        line.stylize(style, 0, widths[0])
        out.print(line, soft_wrap=True)
        for part in more:
            out.print(Text(" " * sum(widths) + part), soft_wrap=True)


def show_facts(facts: "Facts", *, as_json: bool) -> None:
    """Print names and values, aligned and wrapped; or for machines."""
    from ldkit.jobs.facts import Fact
    from ldkit.jobs.facts import as_json as json_of

    if as_json:
        print_json(json_of(facts))
        return
    texts = {name: fact.text if isinstance(fact, Fact) else fact for name, fact in facts.items()}
    print_columns(list(texts.items()), style="dim")


def _wrapped(text: str, indent: int) -> list[str]:
    """Return the lines of a text, broken where they would leave the terminal."""
    room = out.width - indent
    lines = text.splitlines() or [""]
    if not out.is_terminal or room < LEAST_WRAPPED:
        return lines
    return [
        part
        for line in lines
        for part in wrap(line, room, break_long_words=False, break_on_hyphens=False) or [""]
    ]


def print_error(error: "LdkitError") -> None:
    """Show a user's mistake: where, what, and what to do; no traceback."""
    if not err.is_terminal:
        err.print(Text(str(error)), soft_wrap=True)
        return
    body = Text(error.message.rstrip())
    if error.hint:
        body.append(f"\n\n{error.hint}", style="dim")
    title = Text(error.where) if error.where else None
    if title is not None and len(title) > err.width - 8:  # a panel would cut it off
        body = Text(f"{error.where}\n\n", style="bold") + body
        title = None
    err.print(Panel(body, title=title, title_align="left", border_style="red", padding=(1, 2)))
