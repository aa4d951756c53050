"""Rows of feature maps: what a pyramid or a head says at chosen locations."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ldkit.structures import Anchors, CrossStatistics

VARIANCE_FLOOR = 1e-6
"""Added to the variance of a channel, so that a constant one has a gradient and no 1 / 0.

Statistics of student and teacher both have it: equal features are then mapped to themselves.
"""


def location_levels(location: Int[Tensor, "P"], anchors: Anchors) -> Int[Tensor, "P"]:
    """Return the level of each location, the finest is 0."""
    level_P = torch.zeros_like(location)
    start = 0
    for count in anchors.level_counts[:-1]:
        start += count
        level_P = level_P + (location >= start)
    return level_P


def feature_rows(
    maps: Sequence[Float[Tensor, "B D _ _"]],
    image: Int[Tensor, "P"],
    location: Int[Tensor, "P"],
    anchors: Anchors,
) -> Float[Tensor, "P D"]:
    """Return the features of the maps, one for each level, at some locations of the canvas.

    Only the rows asked for are read; their gradient flows back into the maps.

    Raises:
        ValueError: The maps are not those of the canvas.
    """
    sizes = tuple((map_BDHW.shape[2], map_BDHW.shape[3]) for map_BDHW in maps)
    if sizes != anchors.level_sizes:
        raise ValueError(
            f"the maps have sizes {sizes}, the levels of the canvas {anchors.level_sizes}."
        )
    rows_PD, start = maps[0].new_zeros(len(image), maps[0].shape[1]), 0
    for map_BDHW, (rows, cols) in zip(maps, sizes, strict=True):
        within_P = location - start
        here_P = (within_P >= 0) & (within_P < rows * cols)
        # Rows of other levels read cell 0 and are left out: cheaper than waiting for a count.
        cell_P = within_P.where(here_P, 0)
        features_PD = map_BDHW.permute(0, 2, 3, 1)[image, cell_P // cols, cell_P % cols]
        rows_PD = features_PD.where(here_P[:, None], rows_PD)
        start += rows * cols
    return rows_PD


def cross_statistics(
    crossing: Sequence[tuple[Float[Tensor, "B D _ _"], Float[Tensor, "B D _ _"]]],
    valid: Bool[Tensor, "B A"] | None = None,
) -> CrossStatistics:
    """Return mean and standard deviation of each channel over each level of each image.

    `crossing` are (class tower, box tower) for each level; `valid` leaves out the padding of a
    batch, and None is for images that fill their canvas. The deviation is the root of the mean
    squared distance from the mean (divided by n) plus `VARIANCE_FLOOR`. Differentiable.
    """
    means, stds, start = [], [], 0
    for towers in crossing:
        rows, cols = towers[0].shape[2:]
        inside = None if valid is None else valid[:, start : start + rows * cols]
        moments = [_moments(map_BDHW.flatten(2), inside) for map_BDHW in towers]
        means.append(torch.stack([mean_BD for mean_BD, _ in moments], dim=1))
        stds.append(torch.stack([std_BD for _, std_BD in moments], dim=1))
        start += rows * cols
    return CrossStatistics(torch.stack(means, dim=1), torch.stack(stds, dim=1))


def _moments(
    features_BDN: Float[Tensor, "B D N"], inside_BN: Bool[Tensor, "B N"] | None
) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B D"]]:
    if inside_BN is None:
        variance_BD, mean_BD = torch.var_mean(features_BDN, dim=-1, correction=0)
    else:
        inside_B1N = inside_BN[:, None].to(features_BDN.dtype)
        count_B1 = inside_B1N.sum(dim=-1)
        mean_BD = (features_BDN * inside_B1N).sum(dim=-1) / count_B1
        spread_BDN = (features_BDN - mean_BD[..., None]) * inside_B1N
        variance_BD = spread_BDN.square().sum(dim=-1) / count_B1
    return mean_BD, (variance_BD + VARIANCE_FLOOR).sqrt()
