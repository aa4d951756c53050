"""What a cache will weigh, before anything runs.

Regions follow from boxes and anchors, so their rows are counted on a sample without loading an
image. Which locations a teacher scores it knows alone; a share is assumed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ldkit.cache.format import Coverage
from ldkit.data.augment import render_boxes
from ldkit.data.coco import Record
from ldkit.data.dataset import DrawView
from ldkit.jobs.teacher_rows import imitated
from ldkit.ops.anchors import anchors, level_sizes, valid_locations
from ldkit.ops.regions import atss, main_rows
from ldkit.ops.vlr import vlr_rows_below
from ldkit.structures import Grid, GroundTruth, Size, View, ViewKey, padded_sizes

SAMPLE = 256
"""Views that are assigned for the estimate, evenly spread over the keys."""

SCORED_SHARE = 0.05
"""Share of the locations taken to be scored where no teacher was asked: it only cuts shards."""

CLASSES_PER_ROW = 1.5
"""Classes taken to be scored at such a location."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Means over the sampled views: rows of each group, by name, and locations."""

    rows: dict[str, float]
    locations: float


def estimate(
    records: Mapping[int, Record],
    draw: DrawView,
    keys: Sequence[ViewKey],
    grid: Grid,
    coverage: Coverage,
) -> Estimate:
    """Return mean rows and mean locations of a view. Deterministic in its arguments."""
    counts: dict[str, list[int]] = {}
    locations = []
    for key in sample(keys, SAMPLE):
        record = records[key.image_id]
        view = draw(key, record.hw)
        boxes = torch.from_numpy(render_boxes(record.boxes, view))[None]
        truth = GroundTruth(boxes, torch.from_numpy(record.labels)[None])
        for name, count in _counted(view, truth, grid, coverage).items():
            counts.setdefault(name, []).append(count)
        locations.append(locations_of(view.padded_hw, grid))
    mean = sum(locations) / len(locations)
    rows = {name: sum(found) / len(found) for name, found in counts.items()}
    if coverage.score is not None:
        rows |= scored_rows(mean)
    if coverage.cross is not None:
        rows["cross"] = float(len(grid.strides))
    return Estimate(rows, mean)


def scored_rows(locations: float) -> dict[str, float]:
    """Return the rows of scored locations and of their classes that are assumed of a view."""
    return {
        "score": SCORED_SHARE * locations,
        "score_class": CLASSES_PER_ROW * SCORED_SHARE * locations,
    }


def sample(keys: Sequence[ViewKey], most: int) -> Sequence[ViewKey]:
    """Return at most about so many keys, evenly spread."""
    return keys[:: max(1, len(keys) // most)]


def _counted(view: View, truth: GroundTruth, grid: Grid, coverage: Coverage) -> dict[str, int]:
    """Return the rows of each region of boxes, by the name of its group."""
    device = truth.boxes.device
    places = anchors(view.padded_hw, grid, device)
    valid_BA = valid_locations(view.padded_hw, padded_sizes((view,), device), grid)
    assignment = atss(places, valid_BA, truth, coverage.main.topk)
    main = main_rows(assignment.gt_index)
    found = {"main": len(main.location)}
    if coverage.vlr is not None:
        overlap, floor = coverage.vlr.overlap, coverage.vlr.floor
        rows = vlr_rows_below(
            assignment.threshold, places, valid_BA, truth, overlap=overlap, floor=floor
        )
        found["vlr"] = len(rows.location)
    if coverage.imitation is not None:
        chosen = imitated(coverage.imitation, main, places, valid_BA, truth)
        found["imitation"] = len(chosen.location)
    return found


def locations_of(canvas_hw: Size, grid: Grid) -> int:
    """Return the number of locations of a canvas."""
    return sum(rows * cols for rows, cols in level_sizes(canvas_hw, grid.strides))
