"""Means over seeds, and what two kinds of runs differ by, seed by seed."""

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

SEVERAL = "Mean ± standard error over {} seeds; differences are paired (same seed, same batches)."

Figures = Mapping[str, float | None]


class Mean(NamedTuple):
    """A mean over seeds, and its standard error where there are two seeds or more."""

    mean: float
    error: float | None

    def in_percent(self, form: str) -> str:
        """Return both as text, without a sign before zero; the error stands on a second line."""
        mean = form.format(100 * self.mean)
        if float(mean) == 0:
            mean = mean.lstrip("+-")
        return mean if self.error is None else f"{mean}\n±{100 * self.error:.1f}"


def mean(values: Sequence[float | None]) -> Mean | None:
    """Return the mean of the values that are known; None where there is none."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    error = statistics.stdev(known) / len(known) ** 0.5 if len(known) > 1 else None
    return Mean(statistics.fmean(known), error)


def means(runs: Sequence[Figures], names: Sequence[str]) -> dict[str, Mean | None]:
    """Return the mean of each figure over runs, one run a seed."""
    return {name: mean([run.get(name) for run in runs]) for name in names}


def differences(
    base: Sequence[Figures], others: Sequence[Figures]
) -> list[dict[str, float | None]]:
    """Return what each run has more than the base of the same seed; None where one lacks it."""
    return [
        {
            name: None if value is None or (of_base := own.get(name)) is None else value - of_base
            for name, value in other.items()
        }
        for own, other in zip(base, others, strict=True)
    ]


def cells(found: Mapping[str, Mean | None], form: str) -> list[str]:
    """Return the means as the cells of a row; a dash where there was nothing to count."""
    return ["-" if each is None else each.in_percent(form) for each in found.values()]
