"""The table of `ldkit eval`: the paper's columns, and what the figures are compared with.

Figures are fractions here and percentages in text. Differences are taken before rounding.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ldkit.jobs.evaluate import COLUMNS, FIGURES, Scores, Submitted, columns, percent
from ldkit.jobs.facts import Fact, Facts, number, size
from ldkit.jobs.targets import Target, labels
from ldkit.metrics.coco_eval import CocoMetrics
from ldkit.metrics.voc_eval import VocMetrics

Figures = Mapping[str, float | None]


class ScoreTable(NamedTuple):
    """A title, and rows of text below columns; the first column is the name of the row."""

    title: str
    columns: list[str]
    rows: list[list[str]]


def score_table(goals: Sequence[Target], scores: Sequence[Scores], split: str) -> ScoreTable:
    """Return one row for each model, then the differences to the first, then to expectations."""
    metrics = scores[0].metrics
    shown = {c: name for c, name in zip(COLUMNS, FIGURES, strict=True) if name in metrics.figures()}
    names = labels(goals)
    rows = [[label, *columns(each.metrics)] for label, each in zip(names, scores, strict=True)]
    for label, each in zip(names[1:], scores[1:], strict=True):
        gaps = difference(each.metrics.figures(), metrics.figures())
        rows.append([f"{label} − {names[0]}", *(signed(gaps[name]) for name in shown.values())])
    for label, goal, each in zip(names, goals, scores, strict=True):
        distances = from_expected(goal, each.metrics, split)
        if distances is not None:
            known = (signed(distances.get(name)) for name in shown.values())
            rows.append([f"{label} − expected", *known])
    title = f"AP in percent on {split}, {metrics.images:,} images, by {metrics.evaluator}"
    return ScoreTable(title, ["", *shown], rows)


def class_table(goals: Sequence[Target], scores: Sequence[Scores]) -> ScoreTable:
    """Return AP of each class in the order of the data set, one column for each model."""
    by_model = [each.metrics.class_ap for each in scores]
    rows = [
        [row[0].name, *(percent(found.ap) for found in row)] for row in zip(*by_model, strict=True)
    ]
    return ScoreTable("AP of each class", ["", *labels(goals)], rows)


def as_dicts(goals: Sequence[Target], scores: Sequence[Scores], split: str) -> list[dict[str, Any]]:
    """Return the same for machines, one entry for each model; all figures are fractions.

    `difference` is that to the first model, `from_expected` the distance to the recipe's figures.
    """
    first = scores[0].metrics.figures()
    return [
        {
            "model": str(goal.model),
            "name": goal.name,
            "split": split,
            **found.metrics.as_dict(),
            "difference": difference(found.metrics.figures(), first) if number else None,
            "from_expected": from_expected(goal, found.metrics, split),
        }
        for number, (goal, found) in enumerate(zip(goals, scores, strict=True))
    ]


def difference(figures: Figures, first: Figures) -> dict[str, float | None]:
    """Return how much larger each figure is than in `first`; None where one of them is missing."""
    return {
        name: None if value is None or first.get(name) is None else value - (first[name] or 0.0)
        for name, value in figures.items()
    }


def from_expected(
    goal: Target, metrics: CocoMetrics | VocMetrics, split: str
) -> dict[str, float | None] | None:
    """Return the distance to what the recipe expects on val; None where it expects nothing.

    A figure that was measured on another number of images is no expectation of these.
    """
    expect = goal.recipe.expect
    if expect is None or split != "val" or expect.images not in (None, metrics.images):
        return None
    figures = metrics.figures()
    percent = expect.model_dump(exclude={"images"}, exclude_none=True)
    expected = {name: value / 100 for name, value in percent.items()}
    return difference({name: figures.get(name) for name in expected}, expected)


def signed(gap: float | None) -> str:
    """Return a difference in percentage points with its sign; a dash where there is none."""
    if gap is None:
        return "-"
    tenths = round(1000 * gap)
    return f"{tenths / 10:+.1f}" if tenths else "0.0"


def submission_facts(goal: Target, found: Submitted) -> Facts:
    """Return what was written for the test server, and how long it took."""
    written = found.submission
    rate = found.images / max(found.seconds, 1e-3)
    return {
        "model": str(goal.model),
        "file": str(written.path),
        "images": number(found.images),
        "detections": number(written.count),
        "size": Fact(size(written.bytes), {"bytes": written.bytes}),
        "time": Fact(
            f"{found.seconds:.0f} s, {rate:.1f} images a second",
            {"seconds": round(found.seconds, 1)},
        ),
    }
