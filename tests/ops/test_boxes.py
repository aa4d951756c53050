import pytest
import torch
from hypothesis import given
from torch import Tensor
from torch.testing import assert_close

from ldkit.ops.boxes import (
    area,
    clip,
    mirror,
    paired_diou,
    paired_diou_over_first,
    paired_giou,
    paired_iou,
    pairwise_iou,
    xywh_to_xyxy,
    xyxy_to_xywh,
)
from tests.ops.strategies import LAW, boxes, tensors


@pytest.mark.law
@LAW
@given(first=boxes(5))
def test_a_box_overlaps_itself_wholly(first: Tensor) -> None:
    assert_close(paired_iou(first, first), torch.ones(5))
    assert_close(paired_giou(first, first), torch.ones(5))


@pytest.mark.law
@LAW
@given(first=boxes(5), second=boxes(5))
def test_overlaps_are_symmetric_and_bounded(first: Tensor, second: Tensor) -> None:
    iou, giou = paired_iou(first, second), paired_giou(first, second)
    assert iou.equal(paired_iou(second, first))
    assert giou.equal(paired_giou(second, first))
    assert ((iou >= 0) & (iou <= 1)).all()
    assert ((giou > -1) & (giou <= iou + 1e-6)).all()


@pytest.mark.law
@LAW
@given(first=boxes(5), second=boxes(5))
def test_distance_iou_is_the_iou_less_a_penalty_for_distance(first: Tensor, second: Tensor) -> None:
    iou, diou = paired_iou(first, second), paired_diou(first, second)
    assert_close(paired_diou(first, first), torch.ones(5))
    assert diou.equal(paired_diou(second, first))
    assert ((diou > -1) & (diou <= iou)).all()
    around = torch.stack([first[:, :2] - 3, first[:, 2:] + 3], dim=1).flatten(1)
    assert_close(paired_diou(first, around), paired_iou(first, around), atol=1e-5, rtol=1e-5)


@pytest.mark.law
@LAW
@given(first=boxes(5), second=boxes(5))
def test_the_published_overlap_counts_only_the_first_area(first: Tensor, second: Tensor) -> None:
    ours = paired_diou_over_first(first, second) - paired_diou(first, second)
    iou = paired_iou(first, second)
    # I / A - I / U with I = iou · (A + B) / (1 + iou).
    inter = iou * (area(first) + area(second)) / (1 + iou)
    assert_close(ours, inter / area(first) - iou, atol=1e-4, rtol=1e-3)
    inside = torch.stack([second[:, :2] - 1, second[:, 2:] + 1], dim=1).flatten(1)
    assert_close(paired_diou_over_first(second, inside), torch.ones(5), atol=1e-4, rtol=1e-4)


@pytest.mark.law
@LAW
@given(first=boxes(4), second=boxes(3))
def test_pairwise_overlaps_hold_every_pair(first: Tensor, second: Tensor) -> None:
    every = pairwise_iou(first, second)
    for column, box in enumerate(second):
        assert every[:, column].equal(paired_iou(first, box.expand(4, 4)))


@pytest.mark.law
@LAW
@given(first=boxes(5), second=boxes(5), shift=tensors(2, low=-50, high=50))
def test_overlaps_do_not_depend_on_place_or_unit(
    first: Tensor, second: Tensor, shift: Tensor
) -> None:
    moved = shift.repeat(2)
    expected = paired_iou(first, second)
    assert_close(paired_iou(first + moved, second + moved), expected, atol=1e-3, rtol=1e-3)
    assert_close(paired_iou(first / 8, second / 8), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.law
def test_boxes_without_area_overlap_nothing_and_stay_finite() -> None:
    empty = torch.tensor([[3.0, 3.0, 3.0, 3.0]])
    assert paired_iou(empty, empty).item() == 0
    assert paired_giou(empty, empty).isfinite().all()
    assert paired_diou(empty, empty).item() == 0
    assert paired_diou_over_first(empty, empty).item() == 0


@pytest.mark.law
def test_generalized_iou_falls_as_boxes_part() -> None:
    first = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).expand(4, 4)
    gaps = torch.tensor([0.0, 10.0, 20.0, 80.0])[:, None]
    values = paired_giou(first, first + torch.tensor([1.0, 0.0, 1.0, 0.0]) * (10 + gaps))
    assert (values.diff() < 0).all()


@pytest.mark.law
@LAW
@given(table=tensors(5, 4, low=-50, high=150))
def test_clipped_boxes_lie_in_the_image_and_stay(table: Tensor) -> None:
    inside = clip(table, (60, 90))
    assert (inside >= 0).all()
    assert (inside[:, [0, 2]] <= 90).all()
    assert (inside[:, [1, 3]] <= 60).all()
    assert clip(inside, (60, 90)).equal(inside)


@pytest.mark.law
@LAW
@given(table=boxes(5))
def test_corners_and_sizes_are_two_ways_to_say_the_same(table: Tensor) -> None:
    assert_close(xywh_to_xyxy(xyxy_to_xywh(table)), table)
    assert_close(area(table), xyxy_to_xywh(table)[:, 2:].prod(dim=1), atol=1e-3, rtol=1e-4)


@pytest.mark.law
@LAW
@given(table=boxes(5))
def test_mirroring_twice_changes_nothing_and_keeps_the_area(table: Tensor) -> None:
    turned = mirror(table, 128)
    assert_close(mirror(turned, 128), table)
    assert_close(area(turned), area(table), atol=1e-3, rtol=1e-3)


@pytest.mark.golden
def test_overlaps_equal_the_published_ones() -> None:
    predicted = torch.tensor([[0.0, 0, 10, 10], [5, 5, 6, 20]])
    target = torch.tensor([[2.0, 1, 8, 14], [20, 20, 30, 25]])
    iou, giou = torch.tensor([0.435484, 0.0]), torch.tensor([0.321198, -0.87])
    assert_close(paired_iou(predicted, target), iou, atol=1e-6, rtol=0)
    assert_close(paired_giou(predicted, target), giou, atol=1e-6, rtol=0)
    published = paired_diou_over_first(predicted, target)
    assert_close(published, torch.tensor([0.518885, -0.468537]), atol=1e-6, rtol=0)
    diou = paired_diou(predicted, target)[0]
    assert_close(diou, torch.tensor(0.414369), atol=1e-6, rtol=0)
