"""Whole numbers at a glance: percentiles, and bars of text."""

from collections.abc import Sequence
from math import ceil, log10
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

PERCENTILES = (0, 10, 50, 90, 99, 100)
BARS = 8
BAR_WIDTH = 30
"""Characters of the longest bar."""


class Bin(NamedTuple):
    """How many numbers lie between `first` and `last`, both included."""

    first: int
    last: int
    amount: int


def percentiles(numbers: NDArray[np.int64]) -> dict[str, int]:
    """Return the percentiles of some numbers, each one of them: p0, p10 … p99, max."""
    found = np.percentile(numbers, PERCENTILES, method="inverted_cdf").tolist()
    names = [f"p{each}" for each in PERCENTILES[:-1]] + ["max"]
    return {name: int(each) for name, each in zip(names, found, strict=True)}


def bins(numbers: NDArray[np.int64]) -> tuple[Bin, ...]:
    """Return at most `BARS` bins of a round width that hold all numbers; none is below zero."""
    width = _round_up((int(numbers.max()) + 1) / BARS)
    counts = np.bincount(numbers // width).tolist()
    return tuple(Bin(n * width, (n + 1) * width - 1, count) for n, count in enumerate(counts))


def drawn(found: Sequence[Bin]) -> str:
    """Return a line with a bar for each bin."""
    labels = [_label(each) for each in found]
    counts = [f"{each.amount:,}" for each in found]
    most = max(each.amount for each in found)
    return "\n".join(
        f"{label:>{max(map(len, labels))}}  {count:>{max(map(len, counts))}}  "
        f"{'#' * ceil(BAR_WIDTH * each.amount / most)}".rstrip()
        for label, count, each in zip(labels, counts, found, strict=True)
    )


def _label(found: Bin) -> str:
    return f"{found.first:,}" if found.first == found.last else f"{found.first:,}-{found.last:,}"


def _round_up(width: float) -> int:
    """Return the next round width: 1, 2, 5, 10, 20, 50 and so on."""
    power: int = 10 ** int(log10(max(1.0, width)))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= width)
