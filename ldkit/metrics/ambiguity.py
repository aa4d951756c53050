"""Do distributions widen where the picture is ambiguous? Edge entropy against recorded softness.

An edge is soft where it was drawn faded, blurred or under something else; `softness` says how
much, from 0 (sharp) to 1. AUC asks whether entropy tells the edges of one kind from the sharp
ones, Spearman's correlation whether it rises with softness. Entropy also grows with the size of
an object, so AUC is taken a second time between edges of objects of about the same size.

Axes: N edges · P, Q the edges of two groups.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64, Shaped

SHARP = "sharp"
SOFT_KINDS = ("faded", "blurred", "occluded")
SIZE_CLASSES = 10


class KindFigures(NamedTuple):
    """What the entropy of the edges of one kind says; None where there are none.

    `entropy` is their mean in nats. `auc` is the probability that one of them has more entropy
    than a sharp edge (0.5 is chance), `auc_same_size` than one of an object of about the same
    size. `spearman` correlates their entropy with their softness.
    """

    edges: int
    entropy: float | None
    auc: float | None
    auc_same_size: float | None
    spearman: float | None


class AmbiguityFigures(NamedTuple):
    """The figures of each kind, of the sharp edges, and of all soft edges as one kind.

    `spearman` correlates entropy with softness over all edges, sharp ones included.
    """

    sharp_edges: int
    sharp_entropy: float | None
    faded: KindFigures
    blurred: KindFigures
    occluded: KindFigures
    soft: KindFigures
    spearman: float | None


def ambiguity_figures(
    entropy: Float64[np.ndarray, "N"],
    softness: Float64[np.ndarray, "N"],
    kind: Shaped[np.ndarray, "N"],
    side: Float64[np.ndarray, "N"],
) -> AmbiguityFigures:
    """Return how the entropy of edges goes with their softness.

    `kind` holds names of kinds, `side` the length of the object across the edge: its width for
    left and right edges, its height for top and bottom ones.

    Raises:
        ValueError: A kind is none of sharp, faded, blurred and occluded.
    """
    unknown = sorted(set(kind.tolist()) - {SHARP, *SOFT_KINDS})
    if unknown:
        raise ValueError(f"there is no kind {unknown[0]!r} of edge.")
    is_sharp = kind == SHARP
    sharp, size = entropy[is_sharp], size_classes(side)

    def of(chosen: Bool[np.ndarray, "N"]) -> KindFigures:
        values = entropy[chosen]
        return KindFigures(
            edges=len(values),
            entropy=mean(values),
            auc=auc(values, sharp),
            auc_same_size=auc_within(entropy, chosen, is_sharp, size),
            spearman=spearman(values, softness[chosen]),
        )

    return AmbiguityFigures(
        sharp_edges=len(sharp),
        sharp_entropy=mean(sharp),
        faded=of(kind == "faded"),
        blurred=of(kind == "blurred"),
        occluded=of(kind == "occluded"),
        soft=of(~is_sharp),
        spearman=spearman(entropy, softness),
    )


def mean(values: Float64[np.ndarray, "N"]) -> float | None:
    """Return the mean; None where there is nothing."""
    return float(values.mean()) if len(values) else None


def mean_ranks(values: Float64[np.ndarray, "N"]) -> Float64[np.ndarray, "N"]:
    """Return the rank of each value from 1 on; equal values share the mean of their ranks."""
    _, position, count = np.unique(values, return_inverse=True, return_counts=True)
    shared = np.cumsum(count) - (count - 1) / 2
    return np.take(shared, position)


def auc(positive: Float64[np.ndarray, "P"], negative: Float64[np.ndarray, "Q"]) -> float | None:
    """Return the probability that a positive exceeds a negative; a tie counts one half.

    This is the area under the ROC curve. None where one of the groups is empty.

    Source: Mann and Whitney's U statistic over the number of pairs.
    """
    count, pairs = len(positive), len(positive) * len(negative)
    if not pairs:
        return None
    rank = mean_ranks(np.concatenate([positive, negative]))
    return float((rank[:count].sum() - count * (count + 1) / 2) / pairs)


def auc_within(
    values: Float64[np.ndarray, "N"],
    is_positive: Bool[np.ndarray, "N"],
    is_negative: Bool[np.ndarray, "N"],
    group: Int64[np.ndarray, "N"],
) -> float | None:
    """Return the mean AUC over groups, weighed by their positives; pairs lie within a group.

    A group without positives or without negatives does not count; None where none is left.
    """
    total, weight = 0.0, 0
    for number in np.unique(group):
        positive = values[is_positive & (group == number)]
        own = auc(positive, values[is_negative & (group == number)])
        if own is not None:
            total += own * len(positive)
            weight += len(positive)
    return total / weight if weight else None


def size_classes(side: Float64[np.ndarray, "N"]) -> Int64[np.ndarray, "N"]:
    """Return 0 … `SIZE_CLASSES` - 1 from small to large, equally many of each but for ties."""
    if not len(side):
        return np.zeros(0, np.int64)
    limits = np.quantile(side, np.arange(1, SIZE_CLASSES) / SIZE_CLASSES)
    return np.searchsorted(limits, side)


def spearman(x: Float64[np.ndarray, "N"], y: Float64[np.ndarray, "N"]) -> float | None:
    """Return the correlation of the ranks, from -1 to 1; None where one of them is constant."""
    x_rank, y_rank = (mean_ranks(values) - (len(values) + 1) / 2 for values in (x, y))
    scale = float(np.sqrt((x_rank @ x_rank) * (y_rank @ y_rank)))
    return float(x_rank @ y_rank) / scale if scale else None
