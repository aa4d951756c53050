"""How far would mean entropies and AUC move on other scenes? Bootstrap over scenes.

Edges of a scene belong together, so scenes are drawn, not edges. Every figure is a mean over the
seeds of a role; the models stay as they are. Means and AUC are ratios of sums over scenes, or over
pairs of scenes, so a resample costs a product of matrices and nothing is sorted again.

Axes: N edges · S scenes · R resamples · C cells (sharp, then the softness bins of each kind).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64, Shaped

from ldkit.metrics.ambiguity import SHARP, SOFT_KINDS

RESAMPLES = 2000
LIMITS = (0.2, 0.4, 0.6, 0.8)
"""Softness at which a bin ends; a value on a limit belongs to the bin below."""
BINS = len(LIMITS) + 1


class Edges(NamedTuple):
    """What is recorded of N edges: number of the scene, softness, kind, side in pixels."""

    scene: Int64[np.ndarray, "N"]
    softness: Float64[np.ndarray, "N"]
    kind: Shaped[np.ndarray, "N"]
    side: Float64[np.ndarray, "N"]


class Band(NamedTuple):
    """Figures, mean over seeds, and their 95 % intervals over scenes; NaN where there is none."""

    value: Float64[np.ndarray, "C"]
    low: Float64[np.ndarray, "C"]
    high: Float64[np.ndarray, "C"]

    def as_lists(self) -> dict[str, list[float | None]]:
        """Return the columns as JSON values."""
        return {
            name: [None if np.isnan(value) else float(value) for value in column]
            for name, column in self._asdict().items()
        }


class Spread(NamedTuple):
    """Mean entropy of each cell in nats; AUC of each soft kind, then of all soft edges."""

    entropy: Band
    auc: Band


def cells(edges: Edges) -> Int64[np.ndarray, "N"]:
    """Return the cell of each edge: 0 is sharp, then `BINS` of faded, of blurred, of occluded."""
    cell = np.searchsorted(LIMITS, edges.softness) + 1
    for number, kind in enumerate(SOFT_KINDS):
        cell[edges.kind == kind] += number * BINS
    cell[edges.kind == SHARP] = 0
    return cell


def spread(edges: Edges, entropies: Sequence[Float64[np.ndarray, "N"]]) -> Spread:
    """Return the figures of one role; `entropies` holds one column for each seed."""
    scenes = int(edges.scene.max()) + 1
    drawn_RS = np.random.default_rng(0).multinomial(scenes, np.full(scenes, 1 / scenes), RESAMPLES)
    drawn_RS = np.vstack([np.ones(scenes), drawn_RS])  # the first row: every scene once
    return Spread(
        entropy=_means(edges, np.mean(entropies, axis=0), drawn_RS),
        auc=_aucs(edges, entropies, drawn_RS),
    )


def _means(
    edges: Edges, entropy: Float64[np.ndarray, "N"], drawn_RS: Float64[np.ndarray, "R S"]
) -> Band:
    shape = (drawn_RS.shape[1], 1 + BINS * len(SOFT_KINDS))
    sum_SC, count_SC = np.zeros(shape), np.zeros(shape)
    place = (edges.scene, cells(edges))
    np.add.at(sum_SC, place, entropy)
    np.add.at(count_SC, place, 1)
    return _band(drawn_RS @ sum_SC, drawn_RS @ count_SC)


def _aucs(
    edges: Edges,
    entropies: Sequence[Float64[np.ndarray, "N"]],
    drawn_RS: Float64[np.ndarray, "R S"],
) -> Band:
    is_sharp = edges.kind == SHARP
    chosen = [edges.kind == kind for kind in SOFT_KINDS] + [~is_sharp]
    won, pairs = [], []
    for is_positive in chosen:
        wins_SS = np.mean([_wins(edges, one, is_positive, is_sharp) for one in entropies], axis=0)
        won.append(((drawn_RS @ wins_SS) * drawn_RS).sum(axis=1))
        pairs.append(
            np.prod(
                [drawn_RS[:, edges.scene[of]].sum(axis=1) for of in (is_positive, is_sharp)], axis=0
            )
        )
    return _band(np.stack(won, axis=1), np.stack(pairs, axis=1))


def _wins(
    edges: Edges,
    entropy: Float64[np.ndarray, "N"],
    is_positive: Bool[np.ndarray, "N"],
    is_sharp: Bool[np.ndarray, "N"],
) -> Float64[np.ndarray, "S S"]:
    """Return how often positives of a scene exceed sharp edges of a scene; a tie is half."""
    positive, sharp = entropy[is_positive], entropy[is_sharp]
    won = (positive[:, None] > sharp).astype(np.float32) + 0.5 * (positive[:, None] == sharp)
    one_hot = np.eye(int(edges.scene.max()) + 1)[edges.scene]
    return one_hot[is_positive].T @ (won @ one_hot[is_sharp])


def _band(top_RC: Float64[np.ndarray, "R C"], below_RC: Float64[np.ndarray, "R C"]) -> Band:
    """Return the ratios of the first row, and the interval of those of the others."""
    ratio_RC = np.full(top_RC.shape, np.nan)
    np.divide(top_RC, below_RC, out=ratio_RC, where=below_RC > 0)
    value, resampled = ratio_RC[0], np.ma.masked_invalid(ratio_RC[1:])
    low, high = np.full(len(value), np.nan), np.full(len(value), np.nan)
    for number in np.flatnonzero(np.isfinite(value)):
        low[number], high[number] = np.percentile(resampled[:, number].compressed(), (2.5, 97.5))
    return Band(value, low, high)
