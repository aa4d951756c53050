"""The published cases as a student, its teacher and their regions."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ldkit.objectives.gfl import gfl_values
from ldkit.objectives.normalizers import totals
from ldkit.objectives.student import Student
from ldkit.ops.anchors import anchors, unflatten, valid_locations
from ldkit.ops.regions import assign_atss, main_rows
from ldkit.ops.vlr import Overlap, vlr_rows
from ldkit.structures import GroundTruth, Predictions, RegionRows, Rows, Size
from tests.ops.published import (
    CPU,
    GRID,
    WAVE_HW,
    golden,
    ground_truth,
    wave_ground_truth,
    wave_predictions,
)


class PublishedCase(NamedTuple):
    """A student of `ops_vlr` and what its teacher says; `rows` (image, location) are recorded."""

    student: Student
    main: RegionRows
    vlr: RegionRows
    rows: Tensor
    canvas: Size


def published_student(
    said: Predictions, canvas: Size, padded: Tensor, truth: GroundTruth, rows: Rows
) -> Student:
    places, valid = anchors(canvas, GRID, CPU), valid_locations(canvas, padded, GRID)
    values = gfl_values(said, places, valid, truth, rows, beta=2.0)
    return Student(said, places, valid, truth, values, totals(rows, values.weight, len(valid)))


def published_case(case: str, overlap: Overlap = "published") -> PublishedCase:
    tensors, whole = golden("ops_vlr")
    canvas, padded = tuple(whole["canvas_hw"]), torch.tensor(whole["cases"][case]["padded_hw"])
    truth = ground_truth(tensors, case, len(padded))
    recorded = tensors[f"{case}.rows"].long()
    shape = len(padded), len(anchors(canvas, GRID, CPU).unit)

    def spread(column: str) -> Tensor:
        values = tensors[f"{case}.{column}"]
        everywhere = torch.zeros(*shape, values.shape[1])
        everywhere[recorded[:, 0], recorded[:, 1]] = values
        return everywhere

    student, teacher = (
        Predictions(
            spread(f"{who}cls").requires_grad_(),
            spread(f"{who}reg").unflatten(-1, (4, 17)).requires_grad_(),
        )
        for who in ("", "t_")
    )
    main, vlr = regions(canvas, padded, truth, overlap)
    return PublishedCase(
        published_student(student, canvas, padded, truth, main),
        region_of(teacher, main),
        region_of(teacher, vlr),
        recorded,
        canvas,
    )


def regions(
    canvas: Size, padded: Tensor, truth: GroundTruth, overlap: Overlap = "published"
) -> tuple[Rows, Rows]:
    """Return the rows of the main region and those of the VLR."""
    places, valid = anchors(canvas, GRID, CPU), valid_locations(canvas, padded, GRID)
    main = main_rows(assign_atss(places, valid, truth, topk=9))
    return main, vlr_rows(places, valid, truth, topk=9, overlap=overlap, floor=0.25)


def region_of(teacher: Predictions, rows: Rows) -> RegionRows:
    bbox_P4K = teacher.bbox_logits[rows.image, rows.location].detach()
    return RegionRows(rows, bbox_P4K, teacher.cls_logits[rows.image, rows.location].detach())


def levels_of(rows: Rows, canvas: Size) -> Tensor:
    return unflatten(rows.location, canvas, GRID.strides).level


def part_of(region: RegionRows, chosen: Tensor) -> RegionRows:
    rows = Rows(*(column[chosen] for column in region.rows))
    assert region.cls_logits is not None
    return RegionRows(rows, region.bbox_logits[chosen], region.cls_logits[chosen])


def wave_terms(
    region: str, term: Callable[[Student, RegionRows], Tensor], times: int = 1
) -> Tensor:
    """Return a term of each level of the case given by formula, its two images `times` over."""
    boxes, labels = wave_ground_truth()
    truth = GroundTruth(boxes.repeat(times, 1, 1), labels.repeat(times, 1))
    student, teacher = (
        Predictions(said.cls_logits.repeat(times, 1, 1), said.bbox_logits.repeat(times, 1, 1, 1))
        for said in (wave_predictions(0.0), wave_predictions(0.9))
    )
    padded = torch.tensor([WAVE_HW] * (2 * times))
    main, vlr = regions(WAVE_HW, padded, truth)
    whole = region_of(teacher, {"main": main, "vlr": vlr}[region])
    level_P, found = levels_of(whole.rows, WAVE_HW), []
    for level in range(5):
        some = part_of(whole, level_P == level)
        said = published_student(student, WAVE_HW, padded, truth, some.rows)
        found.append(term(said, some))
    return torch.stack(found)
