"""Small batches for the laws of the objectives: boxes, predictions, rows."""

from typing import NamedTuple

import torch

from ldkit.objectives.gfl import GflSettings, gfl_terms, gfl_values
from ldkit.objectives.normalizers import totals
from ldkit.objectives.student import Student
from ldkit.ops.anchors import anchors, valid_locations
from ldkit.ops.regions import assign_atss, main_rows
from ldkit.ops.vlr import Overlap, vlr_rows
from ldkit.structures import (
    Grid,
    GroundTruth,
    LossTerms,
    Predictions,
    RegionRows,
    Rows,
    TeacherRows,
)
from tests.ops.published import CPU

GRID = Grid(strides=(8, 16), anchor_scale=4.0, bin_width=0.5)
CANVAS = (64, 64)
LOCATIONS, CLASSES, BINS = 80, 3, 9
SETTINGS = GflSettings(
    cls_weight=1.0, beta=2.0, box_weight=2.0, dfl_weight=0.25, weight_sum="plus_epsilon"
)


class Scene(NamedTuple):
    """A batch of images with boxes and what a student and a teacher say of it."""

    truth: GroundTruth
    student: Predictions
    teacher: Predictions


def scene(box_counts: tuple[int, ...], seed: int = 0) -> Scene:
    """Return a batch whose images have that many boxes; the same seed gives the same batch."""
    generator = torch.Generator().manual_seed(seed)
    images, most = len(box_counts), max(box_counts)
    corner_BG2 = 40 * torch.rand(images, most, 2, generator=generator)
    size_BG2 = 12 + 12 * torch.rand(images, most, 2, generator=generator)
    labels_BG = torch.randint(CLASSES, (images, most), generator=generator)
    for image, count in enumerate(box_counts):
        labels_BG[image, count:] = -1
    truth = GroundTruth(torch.cat([corner_BG2, corner_BG2 + size_BG2], dim=-1), labels_BG)
    return Scene(truth, predictions(images, generator), predictions(images, generator))


def predictions(images: int, generator: torch.Generator) -> Predictions:
    cls = torch.randn(images, LOCATIONS, CLASSES, generator=generator)
    bbox = torch.randn(images, LOCATIONS, 4, BINS, generator=generator)
    return Predictions(cls.requires_grad_(), bbox.requires_grad_())


def part(whole: Scene, images: list[int]) -> Scene:
    """Return some images of a scene, which share its tensors."""
    boxes, labels = whole.truth
    student, teacher = (
        Predictions(column.cls_logits[images], column.bbox_logits[images]) for column in whole[1:]
    )
    return Scene(GroundTruth(boxes[images], labels[images]), student, teacher)


def rows_of(truth: GroundTruth) -> Rows:
    valid = valid_locations(CANVAS, torch.tensor([CANVAS] * len(truth.labels)), GRID)
    return main_rows(assign_atss(anchors(CANVAS, GRID, CPU), valid, truth, topk=9))


def student_of(one: Scene, rows: Rows) -> Student:
    images = len(one.truth.labels)
    valid = valid_locations(CANVAS, torch.tensor([CANVAS] * images), GRID)
    places = anchors(CANVAS, GRID, CPU)
    values = gfl_values(one.student, places, valid, one.truth, rows, SETTINGS.beta)
    sums = totals(rows, values.weight, images)
    return Student(one.student, places, valid, one.truth, values, sums)


def terms_of(one: Scene, settings: GflSettings = SETTINGS) -> LossTerms:
    student = student_of(one, rows_of(one.truth))
    return gfl_terms(student.values, student.totals, settings)


def vlr_of(truth: GroundTruth, overlap: Overlap = "diou", floor: float = 0.25) -> Rows:
    valid = valid_locations(CANVAS, torch.tensor([CANVAS] * len(truth.labels)), GRID)
    places = anchors(CANVAS, GRID, CPU)
    return vlr_rows(places, valid, truth, topk=9, overlap=overlap, floor=floor)


def region_rows(teacher: Predictions, rows: Rows) -> RegionRows:
    bbox_P4K = teacher.bbox_logits[rows.image, rows.location].detach()
    return RegionRows(rows, bbox_P4K, teacher.cls_logits[rows.image, rows.location].detach())


def teacher_rows(one: Scene, rows: Rows) -> TeacherRows:
    """Return what the teacher says at these main rows, and at the VLR."""
    return TeacherRows(region_rows(one.teacher, rows), region_rows(one.teacher, vlr_of(one.truth)))
