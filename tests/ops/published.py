"""Numbers of the published code, and inputs that its documentation gives by formula."""

import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from ldkit.structures import Grid, GroundTruth, Predictions

GOLDEN = Path(__file__).parents[1] / "golden"
GRID = Grid(strides=(8, 16, 32, 64, 128), anchor_scale=8.0)
CPU = torch.device("cpu")

WAVE_HW = (256, 320)
"""Canvas of the cases that are given by formula ."""


class Golden(NamedTuple):
    """Tensors and facts of one golden file."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


@cache
def golden(name: str) -> Golden:
    facts = json.loads((GOLDEN / f"{name}.json").read_text())
    return Golden(load_file(GOLDEN / f"{name}.safetensors"), facts)


def case_names(name: str) -> list[str]:
    return sorted(golden(name).facts["cases"])


def ground_truth(tensors: dict[str, Tensor], case: str, images: int) -> GroundTruth:
    return stack(
        [
            (tensors[f"{case}.img{image}.gt_boxes"], tensors[f"{case}.img{image}.gt_labels"])
            for image in range(images)
        ]
    )


def stack(images: list[tuple[Tensor, Tensor]]) -> GroundTruth:
    """Return the boxes and labels of each image, padded to the largest count."""
    most = max(len(labels) for _, labels in images)
    boxes_BG4 = torch.zeros(len(images), most, 4)
    labels_BG = torch.full((len(images), most), -1)
    for image, (boxes, labels) in enumerate(images):
        boxes_BG4[image, : len(boxes)] = boxes
        labels_BG[image, : len(labels)] = labels
    return GroundTruth(boxes_BG4, labels_BG)


def wave_maps(
    channels: int,
    scale: float,
    step: float,
    shifts: list[float],
    base: float,
    f: Callable[..., Any],
) -> Tensor:
    """Return base + scale · f(step · k + shift) on the maps of two images, as (B, A, channels).

    k counts the elements of each level's (B, channels, rows, columns).
    """
    levels = []
    for (rows, cols), shift in zip(
        [(32, 40), (16, 20), (8, 10), (4, 5), (2, 3)], shifts, strict=True
    ):
        shape = (2, channels, rows, cols)
        k = torch.arange(math.prod(shape), dtype=torch.float64)
        level = (base + scale * f(step * k + shift)).float().view(shape)
        levels.append(level.flatten(2).transpose(1, 2))
    return torch.cat(levels, dim=1)


def wave_predictions(phase: float, cls_offset: float = 0.0) -> Predictions:
    """Return the student (phase 0) or the teacher (phase 0.9) of the loss case given by formula."""
    cls = wave_maps(5, 1.5, 0.013, [0.1 * n + phase for n in range(5)], -3.0, torch.sin)
    bbox = wave_maps(68, 2.0, 0.017, [0.2 * n + phase for n in range(5)], 0.0, torch.cos)
    return Predictions(cls + cls_offset, bbox.unflatten(-1, (4, 17)))


def wave_ground_truth() -> GroundTruth:
    """Return the boxes of the loss case given by formula."""
    first = [[20.5, 30.25, 120.75, 200.5], [150, 40, 230.25, 90.5], [10, 10, 26, 22]]
    second = [[5, 5, 300, 250], [200.5, 100.25, 215.75, 118]]
    return stack(
        [
            (torch.tensor(first), torch.tensor([0, 3, 2])),
            (torch.tensor(second), torch.tensor([1, 4])),
        ]
    )
