"""What a job found: each fact as a line for people and as a value for machines.

A mapping from names to facts. People read the name and the text; `--json` prints the name with
underscores and the value. A fact whose text says it all is that text.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Fact(NamedTuple):
    """One fact. A text of several lines is shown as such, below its first line."""

    text: str
    value: object
    """The same, as JSON values: numbers without units, sizes in bytes."""


Facts = Mapping[str, str | Fact]


def as_json(facts: Facts) -> dict[str, object]:
    """Return the facts for machines."""
    return {
        name.replace(" ", "_"): fact.value if isinstance(fact, Fact) else fact
        for name, fact in facts.items()
    }


def number(count: int) -> Fact:
    """Return a count: 117,266 for people."""
    return Fact(f"{count:,}", count)


def share(part: int, whole: int) -> Fact:
    """Return how many of how many."""
    return Fact(f"{part:,} of {whole:,}", {"count": part, "of": whole})


def size(count: int | float) -> str:
    """Return a size in words, from bytes: 342 B, 23.3 KB, 5.36 GB."""
    scaled = float(count)
    for unit in ("B", "KB", "MB"):
        if scaled < 1000:
            return f"{scaled:.0f} {unit}" if unit == "B" else f"{scaled:.1f} {unit}"
        scaled /= 1000
    return f"{scaled:.2f} GB"


def plural(count: int, noun: str) -> str:
    """Return a count with its noun: 1 shard, 459 shards."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def seconds(count: int | float) -> str:
    """Return a time in words, from seconds: 42 ms, 1.4 s, 12.5 min, 3.2 h."""
    if count < 1:
        return f"{1000 * count:.0f} ms"
    scaled = float(count)
    for unit in ("s", "min"):
        if scaled < 60:
            return f"{scaled:.1f} {unit}"
        scaled /= 60
    return f"{scaled:.1f} h"


def table(lines: Sequence[Sequence[str]], texts: Sequence[int] = (0,)) -> str:
    """Return lines with aligned cells: numbers to the right, the columns `texts` to the left."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            f"{cell:<{width}}" if position in texts else f"{cell:>{width}}"
            for position, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def aligned(rows: Mapping[str, str]) -> str:
    """Return lines of names and values: names to the left, values to the right."""
    names = max(map(len, rows), default=0)
    values = max(map(len, rows.values()), default=0)
    return "\n".join(f"{name:<{names}}  {value:>{values}}" for name, value in rows.items())
