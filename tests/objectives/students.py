"""Students for the terms of distillation that read features or sparse scores."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ldkit.objectives.gfl import gfl_values
from ldkit.objectives.normalizers import Totals
from ldkit.objectives.student import Student
from ldkit.ops.anchors import anchors, valid_locations
from ldkit.structures import (
    Anchors,
    FeatureRows,
    Grid,
    GroundTruth,
    Predictions,
    RegionRows,
    Rows,
    Size,
    TeacherRows,
)
from tests.ops.published import CPU

GRID = Grid(strides=(8, 16), anchor_scale=4.0, bin_width=0.5)
CANVAS = (40, 56)
"""35 locations on the fine level, 12 on the coarse one."""
FINE, LOCATIONS, CLASSES, BINS = 35, 47, 3, 9
POSITIVES = 4.0

Layout = tuple[Grid, Size]


def random_predictions(images: int, seed: int, spread: float = 1.0) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    cls = spread * torch.randn(images, LOCATIONS, CLASSES, generator=generator) - 1.0
    bbox = torch.randn(images, LOCATIONS, 4, BINS, generator=generator)
    return Predictions(cls.requires_grad_(), bbox.requires_grad_())


def random_maps(images: int, channels: int, seed: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(images, channels, *size, generator=generator).requires_grad_()
        for size in anchors(CANVAS, GRID, CPU).level_sizes
    )


def student_of(
    predictions: Predictions,
    own_hw: Sequence[Size] | None = None,
    layout: Layout = (GRID, CANVAS),
) -> Student:
    """Return a student without boxes; its positives are `POSITIVES` all the same."""
    grid, canvas = layout
    images = len(predictions.cls_logits)
    places = anchors(canvas, grid, CPU)
    own = torch.tensor([canvas] * images if own_hw is None else list(own_hw))
    valid = valid_locations(canvas, own, grid)
    truth = GroundTruth(torch.zeros(images, 0, 4), torch.zeros(images, 0, dtype=torch.long))
    values = gfl_values(predictions, places, valid, truth, main_at(images), beta=2.0)
    sums = Totals(torch.tensor(POSITIVES), torch.tensor(1.0))
    return Student(predictions, places, valid, truth, values, sums)


def main_at(images: int, places: Sequence[tuple[int, int]] = ()) -> Rows:
    """Return a main region: (image, location) of its rows."""
    table = torch.tensor(list(places), dtype=torch.long).reshape(-1, 2)
    assert not len(table) or int(table[:, 0].max()) < images
    return Rows(table[:, 0], table[:, 1], torch.zeros(len(table), dtype=torch.long))


def teacher_of(rows: Rows, imitation: FeatureRows | None = None) -> TeacherRows:
    return TeacherRows(
        RegionRows(rows, torch.zeros(len(rows.image), 4, BINS), None), imitation=imitation
    )


def flat(maps: Sequence[Tensor]) -> Tensor:
    """Return the maps of all levels as (B, A, channels)."""
    return torch.cat([one.flatten(2).transpose(1, 2) for one in maps], dim=1)


def every_location(places: Anchors, images: int) -> tuple[Tensor, Tensor]:
    count = len(places.unit)
    image = torch.arange(images).repeat_interleave(count)
    return image, torch.arange(count).repeat(images)
