"""The objectives on a head that weighs its scores, as published for GFLv2."""

from math import isclose

import pytest
import torch
from torch.testing import assert_close

from ldkit.models.quality import weighed_logits
from ldkit.objectives.classification import KdSettings, kd_term
from ldkit.objectives.gfl import gfl_values
from ldkit.objectives.localization import LdSettings, VlrSettings, ld_main, ld_vlr, row_weights
from ldkit.objectives.normalizers import PAPER_IMAGES, totals
from ldkit.objectives.student import Student
from ldkit.ops.anchors import anchors, unflatten, valid_locations
from ldkit.ops.regions import assign_atss, main_rows
from ldkit.ops.vlr import vlr_rows
from ldkit.structures import Predictions, RegionRows, Rows
from tests.ops.published import CPU, GRID, WAVE_HW, wave_ground_truth, wave_maps

pytestmark = pytest.mark.golden

LOSSES = {
    "loss_cls": [0.189297, 0.062009, 0.032273, 0.012400, 0.003885],
    "loss_bbox": [1.047684, 0.245588, 0.311477, 0.0, 0.0],
    "loss_dfl": [0.615427, 0.164064, 0.182646, 0.0, 0.0],
}
LOSS_LD, LOSS_LD_VLR, LOSS_KD = 0.013880, 0.264053, 2.215520
TO_PAPER = 2 / PAPER_IMAGES  # the published sums are those of two images
LD = LdSettings(weight=0.25, temperature=10.0, normalizer="paper")


def waves(phase: float) -> Predictions:
    """Return a head's predictions by formula; its six classes are the published five and one."""
    levels = range(5)
    cls = wave_maps(6, 1.5, 0.013, [0.1 * n + phase for n in levels], -3.0, torch.sin)
    bbox = wave_maps(68, 2.0, 0.017, [0.2 * n + phase for n in levels], 0.0, torch.cos)
    quality = 0.1 + 0.8 * wave_maps(1, 0.5, 0.03, [0.2 * n for n in levels], 0.5, torch.sin)
    weighed = weighed_logits(cls, quality.logit())
    return Predictions(weighed, bbox.unflatten(-1, (4, 17)), bare_cls_logits=cls)


@pytest.fixture(scope="module")
def student() -> Student:
    truth, places = wave_ground_truth(), anchors(WAVE_HW, GRID, CPU)
    valid = valid_locations(WAVE_HW, torch.tensor([WAVE_HW, WAVE_HW]), GRID)
    rows = main_rows(assign_atss(places, valid, truth, topk=9))
    values = gfl_values(waves(0.0), places, valid, truth, rows, beta=2.0)
    return Student(waves(0.0), places, valid, truth, values, totals(rows, values.weight, 2))


def taught(rows: Rows) -> RegionRows:
    teacher = waves(0.9)
    bbox_P4K = teacher.bbox_logits[rows.image, rows.location]
    return RegionRows(rows, bbox_P4K, teacher.class_logits[rows.image, rows.location])


def test_the_losses_of_the_waves_equal_the_published_ones(student: Student) -> None:
    values, sums = student.values, student.totals
    level_P = unflatten(values.rows.location, WAVE_HW, GRID.strides).level
    by_level = torch.zeros(5)
    found = {
        "loss_cls": torch.stack(
            [level.sum() for level in values.cls.split(student.anchors.level_counts, dim=1)]
        )
        / sums.positives,
        "loss_bbox": 2 * by_level.index_add(0, level_P, values.weight * values.box) / sums.weights,
        "loss_dfl": by_level.index_add(0, level_P, values.weight * values.dfl) / 4 / sums.weights,
    }
    for name, expected in LOSSES.items():
        assert_close(found[name], torch.tensor(expected), rtol=1e-5, atol=1e-6)


def test_main_ld_weighs_rows_by_the_weighed_scores(student: Student) -> None:
    found = ld_main(student, taught(student.values.rows), LD).item() * TO_PAPER
    assert isclose(found, LOSS_LD, abs_tol=1e-6)


def test_ld_on_the_vlr_is_that_of_gfl(student: Student) -> None:
    rows = vlr_rows(
        student.anchors,
        student.valid,
        student.ground_truth,
        topk=9,
        overlap="published",
        floor=0.25,
    )
    weight = row_weights(student, rows, VlrSettings("iou", exclude_main=False))
    found = ld_vlr(student, taught(rows), weight, LD).item() * TO_PAPER
    assert isclose(found, LOSS_LD_VLR, abs_tol=2e-6)


def test_class_distillation_compares_the_classes_alone(student: Student) -> None:
    settings = KdSettings("softmax", 10.0, 2.0, "mean", "paper")
    counted = torch.ones_like(student.values.weight)
    found = kd_term(student, taught(student.values.rows), counted, settings).item()
    assert isclose(found, LOSS_KD, abs_tol=1e-5)
