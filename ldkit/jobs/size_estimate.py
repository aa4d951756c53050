"""What a cache will weigh, before anything runs: boxes and anchors decide, images need not load."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ldkit.data.augment import render_boxes
from ldkit.data.coco import Record
from ldkit.data.dataset import DrawView
from ldkit.ops.anchors import anchors, level_sizes, valid_locations
from ldkit.ops.regions import assign_atss
from ldkit.structures import Grid, GroundTruth, ViewKey, padded_sizes

SAMPLE = 256
"""Views that are assigned for the estimate, evenly spread over the keys."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Means over the sampled views."""

    rows_per_view: float
    locations_per_view: float


def estimate(
    records: Mapping[int, Record], draw: DrawView, keys: Sequence[ViewKey], grid: Grid, topk: int
) -> Estimate:
    """Return mean main rows and mean locations of a view. Deterministic in its arguments."""
    step = max(1, len(keys) // SAMPLE)
    rows, locations = [], []
    for key in keys[::step]:
        record = records[key.image_id]
        view = draw(key, record.hw)
        boxes = torch.from_numpy(render_boxes(record.boxes, view))[None]
        truth = GroundTruth(boxes, torch.from_numpy(record.labels)[None])
        device = boxes.device
        anchors_A = anchors(view.padded_hw, grid, device)
        valid_BA = valid_locations(view.padded_hw, padded_sizes((view,), device), grid)
        rows.append(int((assign_atss(anchors_A, valid_BA, truth, topk) >= 0).sum()))
        sizes = level_sizes(view.padded_hw, grid.strides)
        locations.append(sum(height * width for height, width in sizes))
    return Estimate(sum(rows) / len(rows), sum(locations) / len(locations))
