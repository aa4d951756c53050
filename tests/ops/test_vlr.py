"""The VLR against the definition in words, its laws, and the published regions."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from ldkit.ops.anchors import anchors, relocate, unflatten, valid_locations
from ldkit.ops.boxes import paired_diou, paired_diou_over_first, pairwise_iou
from ldkit.ops.regions import assign_atss, atss
from ldkit.ops.vlr import Overlap, vlr_rows, vlr_rows_below, vlr_weight
from ldkit.structures import Grid, GroundTruth, Rows
from tests.ops.published import (
    CPU,
    GRID,
    WAVE_HW,
    case_names,
    golden,
    ground_truth,
    wave_ground_truth,
)
from tests.ops.strategies import LAW, whole_boxes
from tests.ops.test_regions import CANVAS, OWN, SMALL, labelled, two_images

overlaps = st.sampled_from(["published", "diou"])
floors = st.sampled_from([0.0, 0.25, 0.5, 0.9])


def rows_of(truth: GroundTruth, overlap: Overlap = "diou", floor: float = 0.25) -> Rows:
    valid = valid_locations(CANVAS, OWN[: len(truth.labels)], SMALL)
    places = anchors(CANVAS, SMALL, CPU)
    return vlr_rows(places, valid, truth, topk=9, overlap=overlap, floor=floor)


def mask_of(rows: Rows, images: int) -> Tensor:
    mask_BA = torch.zeros(images, len(anchors(CANVAS, SMALL, CPU).unit), dtype=torch.bool)
    mask_BA[rows.image, rows.location] = True
    return mask_BA


def by_the_book(truth: GroundTruth, overlap: Overlap, floor: float) -> Tensor:
    """Return the best member box of every location or -1, from all anchors and all boxes."""
    places = anchors(CANVAS, SMALL, CPU)
    valid_BA = valid_locations(CANVAS, OWN, SMALL)
    owners = []
    for valid_A, boxes, labels, threshold in zip(
        valid_BA, *truth, atss(places, valid_BA, truth, 9).threshold, strict=True
    ):
        shape = (len(places.unit), len(boxes), 4)
        anchor_AG4, box_AG4 = places.box[:, None].expand(shape), boxes.expand(shape)
        measure = {"published": paired_diou_over_first, "diou": paired_diou}[overlap]
        overlap_AG = measure(anchor_AG4, box_AG4)
        iou_AG = pairwise_iou(places.box, boxes)
        member_AG = (overlap_AG >= floor * threshold) & (overlap_AG < threshold)
        member_AG &= valid_A[:, None] & (labels >= 0) & (iou_AG > 0)
        best_A, owner_A = iou_AG.masked_fill(~member_AG, -1.0).max(dim=1)
        owners.append(owner_A.where(best_A >= 0, -1))
    return torch.stack(owners)


@pytest.mark.law
@LAW
@given(images=two_images, overlap=overlaps, floor=floors)
def test_the_region_is_that_of_the_definition(
    images: tuple[Tensor, ...], overlap: Overlap, floor: float
) -> None:
    truth = labelled(images)
    rows = rows_of(truth, overlap, floor)
    found_BA = torch.full((2, len(anchors(CANVAS, SMALL, CPU).unit)), -1)
    found_BA[rows.image, rows.location] = rows.gt_index
    assert found_BA.equal(by_the_book(truth, overlap, floor))
    flat = rows.image * found_BA.shape[1] + rows.location
    assert (flat.diff() > 0).all()


@pytest.mark.law
@LAW
@given(images=two_images, overlap=overlaps)
def test_a_higher_floor_gives_a_part_of_the_region(
    images: tuple[Tensor, ...], overlap: Overlap
) -> None:
    masks = [
        mask_of(rows_of(labelled(images), overlap, floor), 2) for floor in (0.0, 0.25, 0.5, 1.0)
    ]
    for wide, narrow in pairwise(masks):
        assert not (narrow & ~wide).any()
    assert not masks[-1].any()


@pytest.mark.law
@LAW
@given(images=two_images, order=st.permutations(range(4)), overlap=overlaps)
def test_the_region_does_not_depend_on_the_order_of_boxes(
    images: tuple[Tensor, ...], order: list[int], overlap: Overlap
) -> None:
    places = anchors(CANVAS, SMALL, CPU)
    first, second = labelled(images), labelled((images[0][order], images[1]))
    ours, others = rows_of(first, overlap), rows_of(second, overlap)
    assert ours.image.equal(others.image)
    assert ours.location.equal(others.location)
    weights = vlr_weight(places, first, ours, "iou"), vlr_weight(places, second, others, "iou")
    assert weights[0].equal(weights[1])


@pytest.mark.law
@LAW
@given(boxes=whole_boxes(3, 64))
def test_rows_do_not_depend_on_the_batch(boxes: Tensor) -> None:
    own = (32, 64)
    alone = vlr_rows(
        anchors(own, SMALL, CPU),
        valid_locations(own, OWN[1:], SMALL),
        labelled((boxes,)),
        topk=9,
        overlap="diou",
        floor=0.25,
    )
    together = rows_of(labelled((boxes, boxes)))
    second = together.image == 1
    assert together.location[second].equal(relocate(alone.location, own, CANVAS, SMALL.strides))
    assert together.gt_index[second].equal(alone.gt_index)


@pytest.mark.law
@LAW
@given(images=two_images)
def test_thresholds_at_hand_give_the_same_rows(images: tuple[Tensor, ...]) -> None:
    truth, places = labelled(images), anchors(CANVAS, SMALL, CPU)
    valid = valid_locations(CANVAS, OWN, SMALL)
    assignment = atss(places, valid, truth, 9)
    assert assignment.gt_index.equal(assign_atss(places, valid, truth, 9))
    rows = vlr_rows_below(assignment.threshold, places, valid, truth, overlap="diou", floor=0.25)
    for ours, expected in zip(rows, rows_of(truth), strict=True):
        assert ours.equal(expected)


@pytest.mark.law
def test_images_without_boxes_have_no_rows() -> None:
    nothing = rows_of(labelled((torch.zeros(0, 4), torch.zeros(0, 4))))
    assert [len(column) for column in nothing] == [0, 0, 0]
    box = torch.tensor([[8.0, 8, 40, 40]])
    some = rows_of(labelled((torch.zeros(0, 4), box)))
    assert len(some.image) > 0
    assert some.image.unique().tolist() == [1]


@pytest.mark.law
def test_a_box_with_one_candidate_has_no_threshold_and_no_region() -> None:
    truth = labelled((torch.tensor([[8.0, 8, 40, 40]]),))
    flat = Grid(strides=(8,), anchor_scale=8.0)
    valid = valid_locations(CANVAS, OWN[:1], flat)
    rows = vlr_rows(anchors(CANVAS, flat, CPU), valid, truth, topk=1, overlap="diou", floor=0.25)
    assert len(rows.image) == 0


@pytest.mark.law
@LAW
@given(images=two_images)
def test_a_mask_weighs_every_row_one_and_iou_below_the_best(images: tuple[Tensor, ...]) -> None:
    truth, places = labelled(images), anchors(CANVAS, SMALL, CPU)
    rows = rows_of(truth)
    assert vlr_weight(places, truth, rows, "mask").equal(torch.ones(len(rows.image)))
    weight_P = vlr_weight(places, truth, rows, "iou")
    assert ((weight_P > 0) & (weight_P <= 1)).all()


@pytest.mark.golden
@pytest.mark.parametrize("overlap", ["published", "diou"])
@pytest.mark.parametrize("case", case_names("ops_vlr"))
def test_the_region_and_its_weights_equal_the_published_ones(case: str, overlap: Overlap) -> None:
    tensors, whole = golden("ops_vlr")
    canvas, padded = tuple(whole["canvas_hw"]), torch.tensor(whole["cases"][case]["padded_hw"])
    places, valid = anchors(canvas, GRID, CPU), valid_locations(canvas, padded, GRID)
    truth = ground_truth(tensors, case, len(padded))
    rows = vlr_rows(places, valid, truth, topk=9, overlap=overlap, floor=0.25)
    region = {"published": "vlr", "diou": "vlr_true_diou"}[overlap]
    published_BA = tensors[f"{case}.region.{region}"]
    ours_BA = torch.zeros_like(published_BA)
    ours_BA[rows.image, rows.location] = vlr_weight(places, truth, rows, "iou")
    assert (ours_BA > 0).equal(published_BA > 0)
    assert_close(ours_BA, published_BA, rtol=1e-6, atol=0)


def counts_and_weights(truth: GroundTruth) -> tuple[list[list[int]], Tensor]:
    """Return how many rows each level of each image has in the published VLR, and their weight."""
    images = len(truth.labels)
    places = anchors(WAVE_HW, GRID, CPU)
    valid = valid_locations(WAVE_HW, torch.tensor([WAVE_HW] * images), GRID)
    rows = vlr_rows(places, valid, truth, topk=9, overlap="published", floor=0.25)
    level_P = unflatten(rows.location, WAVE_HW, GRID.strides).level
    group_P = rows.image * 5 + level_P
    counts = group_P.bincount(minlength=images * 5).view(images, 5)
    weight_P = vlr_weight(places, truth, rows, "iou")
    sums = torch.zeros(images * 5).index_add(0, group_P, weight_P).view(images, 5)
    return counts.tolist(), sums


@pytest.mark.golden
def test_the_region_of_one_box_equals_the_published_one() -> None:
    truth = labelled((torch.tensor([[96.0, 64, 224, 192]]),))
    valid = valid_locations(WAVE_HW, torch.tensor([WAVE_HW]), GRID)
    threshold = atss(anchors(WAVE_HW, GRID, CPU), valid, truth, 9).threshold
    assert_close(threshold, torch.tensor([[0.542631]]), rtol=0, atol=1e-6)
    counts, sums = counts_and_weights(truth)
    assert counts == [[152, 76, 25, 0, 0]]
    assert_close(sums, torch.tensor([[15.51454, 19.27048, 6.25, 0, 0]]), rtol=1e-6, atol=0)


@pytest.mark.golden
def test_the_region_of_five_boxes_equals_the_published_one() -> None:
    counts, sums = counts_and_weights(wave_ground_truth())
    assert counts == [[230, 105, 34, 0, 0], [286, 118, 44, 20, 0]]
    expected = [
        [28.370726, 22.849533, 7.917279, 0, 0],
        [8.245605, 11.853147, 11.467474, 5.312593, 0],
    ]
    assert_close(sums, torch.tensor(expected), rtol=1e-6, atol=0)
