"""The denominators: what every term of a step is divided by.

| term             | sum over                              | divided by                           |
|------------------|---------------------------------------|--------------------------------------|
| cls              | locations, classes                    | positives, an image without any as 1 |
| box              | rows · row weight                     | sum of row weights, see `weight_sum` |
| dfl              | rows · row weight, mean of edges      | the same                             |
| ld_main, paper   | rows · row weight, mean of edges      | bins · images / 3                    |
| ld_main, weights | rows · row weight, mean of edges      | sum of row weights                   |
| ld_vlr, paper    | rows · overlap, mean of edges         | 4 · bins · images / 3                |
| ld_vlr, weights  | rows · overlap, mean of edges         | sum of overlaps                      |
| kd, paper        | rows of a level of 3 images           | their number; levels add up, and     |
|                  |                                       | the batch's runs of 3 are averaged   |
| kd, rows         | rows                                  | their number                         |
| imitation, paper | the same, mean of channels            | the same, 0 without main rows        |
| imitation, rows  | rows, mean of channels                | their number                         |
| score_cls        | locations, classes                    | positives                            |
| score_box        | rows · gap of the scores              | positives                            |
| cross_cls        | locations, classes                    | positives                            |
| cross_box        | rows · teacher's score, mean of edges | sum of those scores                  |

Positives, weights, overlaps and numbers of rows are means over the ranks. Gradients are averaged
over the ranks as well, so that a run on many gives the gradient of one rank that holds all images.
"""

from typing import Literal, NamedTuple, assert_never

import torch
from jaxtyping import Float, Int
from torch import Tensor, distributed

from ldkit.structures import Rows

WeightSum = Literal["clamp_1", "plus_epsilon"]

PAPER_IMAGES = 3
"""Images per GPU of the published runs, whose LD sums grow with it. Source: the LD repository's
`ld_r18_gflv1_r101_fpn_coco_1x`."""

EPSILON = 1e-6
"""Keeps a batch without rows from 0 / 0. Source: mmdet's `LDHead`."""


PAPER_VLR_SHARE = 1 / 4
"""What a row of the VLR counts beside one of the main region, before the weight of the term.

The published sum over VLR rows is divided by 16, that over main rows by 4. Source: `loss_ld_vlr`
of the LD repository, commit 4287990c.
"""


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
    sums = mean_over_ranks(torch.stack([positives, weight.detach().sum()]))
    return Totals(sums[0], sums[1])


def mean_over_ranks(sums: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """Return the mean over the ranks of the run, and the sums themselves where there is one."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return sums
    sums = sums.detach().clone()
    distributed.all_reduce(sums)
    return sums / distributed.get_world_size()


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


class PaperLevels(NamedTuple):
    """Which group of rows, a level of a published GPU, each row is in, and how many there are.

    `gpus` is the number of runs of `PAPER_IMAGES` images in the batch; the last may be shorter.
    """

    group: Int[Tensor, "P"]
    groups: int
    gpus: int


def paper_levels(
    image: Int[Tensor, "P"], level: Int[Tensor, "P"], *, images: int, levels: int
) -> PaperLevels:
    """Return which level of which three images each row belongs to."""
    gpus = -(-images // PAPER_IMAGES)
    return PaperLevels(image // PAPER_IMAGES * levels + level, gpus * levels, gpus)


def mean_of_levels(
    value: Float[Tensor, "P"], counted: Float[Tensor, "P"], places: PaperLevels
) -> Float[Tensor, ""]:
    """Return the published mean of class distillation and imitation.

    There every level of every GPU has a mean of its own over its rows, 0 without any, and levels
    add up: a level with one row weighs as much as one with a hundred. GPUs are averaged.
    `counted` is 0 for rows that are left out; their values are 0.
    """
    zeros = value.new_zeros(places.groups)
    summed = zeros.index_add(0, places.group, value)
    number = zeros.index_add(0, places.group, counted)
    return (summed / number.clamp(min=1.0)).sum() / places.gpus


def number_of_rows(counted: Float[Tensor, "P"]) -> Float[Tensor, ""]:
    """Return the denominator that makes a sum the mean of the rows that count."""
    return mean_over_ranks(counted.sum()).clamp(min=EPSILON)
