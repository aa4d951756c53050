"""The denominators: what every term of a step is divided by.

| term             | sum over                        | divided by                                  |
|------------------|---------------------------------|---------------------------------------------|
| cls              | locations and classes           | positives, an image without any counts as 1 |
| box              | rows · row weight               | sum of the row weights, see `weight_sum`    |
| dfl              | rows · row weight, mean of edges| the same                                    |
| ld_main, paper   | rows · row weight, mean of edges| bins · images / 3                           |
| ld_main, weights | rows · row weight, mean of edges| sum of the row weights                      |

Positives and weights are means over the ranks. Gradients are averaged over the ranks as well, so
that a run on many gives the gradient of one rank that holds all images.
"""

from typing import Literal, NamedTuple, assert_never

import torch
from jaxtyping import Float
from torch import Tensor, distributed

from ldkit.structures import Rows

WeightSum = Literal["clamp_1", "plus_epsilon"]

PAPER_IMAGES = 3
"""Images per GPU of the published runs, whose LD sums grow with it. Source: the LD repository's
`ld_r18_gflv1_r101_fpn_coco_1x`."""

EPSILON = 1e-6
"""Keeps a batch without rows from 0 / 0. Source: mmdet's `LDHead`."""


class Totals(NamedTuple):
    """What a batch adds up to, as the mean over the ranks of the run."""

    positives: Float[Tensor, ""]
    weights: Float[Tensor, ""]


def totals(rows: Rows, weight: Float[Tensor, "P"], images: int) -> Totals:
    """Return the count of positives and the sum of the row weights of a batch of `images`.

    An image without rows counts as one positive. Costs one message between ranks, and nothing
    where there is one.
    """
    has_rows_B = weight.new_zeros(images).index_fill_(0, rows.image, 1.0)
    positives = len(rows.image) + images - has_rows_B.sum()
    sums = torch.stack([positives, weight.detach().sum()])
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(sums)
        sums = sums / distributed.get_world_size()
    return Totals(sums[0], sums[1])


def weight_sum(weights: Float[Tensor, ""], kind: WeightSum) -> Float[Tensor, ""]:
    """Return the denominator of the box terms.

    `clamp_1` is at least 1, as GFL since mmdet 2.12; `plus_epsilon` adds 1e-6, as the published
    LD heads. They differ where a batch has few or unsure positives.
    """
    match kind:
        case "clamp_1":
            return weights.clamp(min=1.0)
        case "plus_epsilon":
            return weights + EPSILON
        case _:
            assert_never(kind)


def ld_paper(num_bins: int, images: int, reference_images: int = PAPER_IMAGES) -> float:
    """Return the denominator that makes a batch of `images` weigh as in the published runs.

    There the localization KL is averaged over bins and edges and then summed over the rows of
    `reference_images` images. Here the sum is scaled to that many.
    """
    return num_bins * images / reference_images


def ld_weights(weights: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Return the denominator that makes LD the weighted mean of its rows.

    It depends neither on the batch nor on the ranks nor on the number of objects.
    """
    return weights.clamp(min=EPSILON)
