"""The table at the end of a pipeline: the models of one recipe in the paper's columns."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ldkit.jobs.evaluate import COLUMNS, FIGURES
from ldkit.jobs.stages import figures

PAIRS = (("student", "baseline"), ("student", "teacher"))
"""Differences that are shown where both models are there."""

ONE_PAIR = (
    "One pair is one seed: train others (`--set seed=1`) before you believe a difference to the "
    "baseline."
)

Figures = Mapping[str, float | None]


class Row(NamedTuple):
    """A model of the table: its role, its file, and the folder of its scores."""

    role: str
    model: Path
    scores: Path


@dataclass(frozen=True, slots=True)
class Outcome:
    """A title, rows of text under the paper's columns, a caveat, and the same as values.

    `figures` are fractions; `models` are files; `stages` say how each stage stood.
    """

    title: str
    columns: tuple[str, ...]
    rows: list[list[str]]
    caveat: str
    figures: dict[str, dict[str, float | None]]
    models: dict[str, str]
    stages: list[dict[str, Any]]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        return asdict(self)


def outcome(name: str, models: Sequence[Row], stages: list[dict[str, Any]]) -> Outcome:
    """Return the table of these models, with the differences that matter below them."""
    found = {row.role: figures(row.scores) for row in models}
    rows = [[role, *_cells(values, "{:.1f}")] for role, values in found.items()]
    for one, other in PAIRS:
        if one in found and other in found:
            gap = _difference(found[one], found[other])
            rows.append([f"{one} - {other}", *_cells(gap, "{:+.1f}")])
    return Outcome(
        title=f"{name} on val, AP in percent",
        columns=COLUMNS,
        rows=rows,
        caveat=ONE_PAIR if "baseline" in found else "",
        figures=found,
        models={row.role: str(row.model) for row in models},
        stages=stages,
    )


def _difference(one: Figures, other: Figures) -> dict[str, float | None]:
    gaps: dict[str, float | None] = {}
    for name in FIGURES:
        mine, theirs = one.get(name), other.get(name)
        gaps[name] = None if mine is None or theirs is None else mine - theirs
    return gaps


def _cells(values: Figures, form: str) -> list[str]:
    known = [values.get(name) for name in FIGURES]
    return ["-" if value is None else form.format(100 * value) for value in known]
