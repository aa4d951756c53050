from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from ldkit.ops.anchors import anchors, valid_locations
from ldkit.ops.boxes import mirror, pairwise_iou
from ldkit.ops.decode import DecodeSettings, decode, suppress
from ldkit.ops.distribution import boxes_to_distances, two_bin_target
from ldkit.structures import Detections, Grid, Predictions, Size, View
from tests.ops.published import CPU, GRID, WAVE_HW, case_names, golden, wave_predictions
from tests.ops.strategies import LAW, tensors

SMALL = Grid(strides=(8, 16), anchor_scale=4.0, bin_width=0.5)
CANVAS = (64, 64)
COUNT = 80
SETTINGS = DecodeSettings(
    score_floor=0.05, candidates_per_level=1000, topk="pairs", nms_iou=0.6, max_detections=100
)


def view(resized_hw: Size, source_hw: Size | None = None, *, flip: bool = False) -> View:
    padded_hw = (-(-resized_hw[0] // 32) * 32, -(-resized_hw[1] // 32) * 32)
    return View(source_hw or resized_hw, resized_hw, padded_hw, flip)


def noise(seed: int, images: int = 2, classes: int = 3) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    return Predictions(
        2 * torch.randn(images, COUNT, classes, generator=generator),
        2 * torch.randn(images, COUNT, 4, 17, generator=generator),
    )


@pytest.mark.law
@LAW
@given(
    location=st.integers(0, COUNT - 1),
    reach=tensors(4, low=0.5, high=15.5),
    flip=st.booleans(),
    source=st.tuples(st.integers(20, 200), st.integers(20, 200)),
)
def test_decoding_gives_back_the_box_that_was_encoded(
    location: int, reach: Tensor, flip: bool, source: Size
) -> None:
    resized = (60, 50)
    places = anchors(CANVAS, SMALL, CPU)
    centre, unit = places.centre[location], places.unit[location]
    box = torch.cat([centre - reach[:2] * unit, centre + reach[2:] * unit])
    distances = boxes_to_distances(centre / unit, box / unit)
    logits = torch.full((1, COUNT, 3), -20.0)
    logits[0, location, 1] = 3.0
    bbox_logits = two_bin_target(distances, 17).clamp(min=1e-12).log().expand(1, COUNT, 4, 17)
    shown = box.minimum(torch.tensor([50, 60, 50, 60])).clamp(min=0)
    if flip:
        shown = mirror(shown, resized[1])
    scale = torch.tensor([source[1] / 50, source[0] / 60]).repeat(2)
    whole = replace(SETTINGS, topk="locations")
    [found] = decode(
        Predictions(logits, bbox_logits), SMALL, CANVAS, (view(resized, source, flip=flip),), whole
    )
    assert found.labels.tolist() == [1]
    assert_close(found.scores, torch.tensor([3.0]).sigmoid())
    assert_close(found.boxes[0], shown * scale, atol=2e-3, rtol=1e-4)


@pytest.mark.law
@LAW
@given(seed=st.integers(0, 999), topk=st.sampled_from(["pairs", "locations"]))
def test_detections_are_ranked_bounded_and_do_not_repeat_themselves(seed: int, topk: str) -> None:
    settings = replace(SETTINGS, topk=topk, score_floor=0.5, max_detections=20)
    shown = (view((60, 50), (30, 100)), view((64, 64)))
    for found, one in zip(decode(noise(seed), SMALL, CANVAS, shown, settings), shown, strict=True):
        height, width = one.source_hw
        assert len(found.scores) <= 20
        assert (found.scores.diff() <= 0).all()
        assert (found.scores > 0.5).all()
        assert (found.boxes >= 0).all()
        assert (found.boxes <= torch.tensor([width, height, width, height]) + 1e-3).all()
        same = (found.labels[:, None] == found.labels).triu(1)
        assert (pairwise_iou(found.boxes, found.boxes)[same] <= 0.6 + 1e-4).all()


@pytest.mark.law
@LAW
@given(seed=st.integers(0, 999))
def test_both_orders_agree_where_nothing_is_cut(seed: int) -> None:
    shown = (view((64, 64)), view((64, 64)))
    first, second = (
        decode(noise(seed), SMALL, CANVAS, shown, replace(SETTINGS, topk=topk))
        for topk in ("pairs", "locations")
    )
    for pairs, locations in zip(first, second, strict=True):
        assert all(a.equal(b) for a, b in zip(pairs, locations, strict=True))


@pytest.mark.law
@LAW
@given(seed=st.integers(0, 999), topk=st.sampled_from(["pairs", "locations"]))
def test_images_of_a_batch_do_not_see_each_other(seed: int, topk: str) -> None:
    settings = replace(SETTINGS, topk=topk, candidates_per_level=7)
    both = noise(seed)
    shown = (view((60, 50)), view((64, 64)))
    together = decode(both, SMALL, CANVAS, shown, settings)
    for image, found in enumerate(together):
        part = Predictions(*(column[image : image + 1] for column in both[:2]))
        [alone] = decode(part, SMALL, CANVAS, shown[image : image + 1], settings)
        assert found.labels.equal(alone.labels)
        assert_close(found.boxes, alone.boxes)
        assert_close(found.scores, alone.scores)


@pytest.mark.law
def test_the_padding_of_a_batch_never_detects() -> None:
    small = view((32, 30))
    valid = valid_locations(CANVAS, torch.tensor([small.padded_hw]), SMALL)
    cls_logits = torch.where(valid[:, :, None], -20.0, 20.0).expand(1, COUNT, 3).contiguous()
    [found] = decode(
        Predictions(cls_logits, torch.zeros(1, COUNT, 4, 17)), SMALL, CANVAS, (small,), SETTINGS
    )
    assert len(found.scores) == 0


@pytest.mark.law
def test_pairs_drop_boxes_without_extent_and_locations_keep_them() -> None:
    cls_logits = torch.full((1, COUNT, 1), -20.0)
    cls_logits[0, 0] = 5.0
    bbox_logits = torch.zeros(1, COUNT, 4, 17)
    bbox_logits[..., 0] = 1000.0
    predictions = Predictions(cls_logits, bbox_logits)
    counts = {
        topk: len(decode(predictions, SMALL, CANVAS, (view((64, 64)),), settings)[0].scores)
        for topk in ("pairs", "locations")
        for settings in [replace(SETTINGS, topk=topk)]
    }
    assert counts == {"pairs": 0, "locations": 1}


@pytest.mark.golden
@pytest.mark.parametrize("case", case_names("ops_decode"))
def test_detections_equal_the_published_ones(case: str) -> None:
    tensors_, facts = golden("ops_decode")
    facts = facts["cases"][case]
    settings = DecodeSettings(
        score_floor=facts["score_thr"],
        candidates_per_level=facts["nms_pre"],
        topk="pairs",
        nms_iou=facts["iou_threshold"],
        max_detections=facts["max_per_img"],
    )
    predictions = Predictions(
        tensors_[f"{case}.cls"], tensors_[f"{case}.reg"].unflatten(-1, (4, 17))
    )
    shown = tuple(view(tuple(meta["img_shape"])) for meta in facts["metas"])
    everything = decode(predictions, GRID, (facts["H"], facts["W"]), shown, settings)
    for image, (found, meta) in enumerate(zip(everything, facts["metas"], strict=True)):
        final = {
            column: tensors_[f"{case}.img{image}.final.{column}"]
            for column in ("boxes", "scores", "labels")
        }
        # Overlaps do not depend on the scale, so that it can be applied at the end here.
        boxes = found.boxes / torch.tensor(meta["scale_factor"] * 2)
        assert_close(boxes, final["boxes"], atol=1e-4, rtol=1e-5)
        assert_close(found.scores, final["scores"])
        assert found.labels.equal(final["labels"].long())


@pytest.mark.golden
@pytest.mark.parametrize("case", case_names("ops_nms"))
def test_suppression_equals_the_published_one(case: str) -> None:
    tensors_, facts = golden("ops_nms")
    facts = facts["cases"][case]
    boxes, scores, labels, keep = (
        tensors_[f"{case}.{column}"] for column in ("boxes", "scores", "labels", "keep")
    )
    labels = torch.zeros_like(labels) if facts["class_agnostic"] else labels
    kept = suppress(Detections(boxes, scores, labels.long()), facts["iou_threshold"])
    assert kept.boxes.equal(boxes[keep.long()])
    assert kept.scores.equal(scores[keep.long()])


@pytest.mark.golden
@pytest.mark.parametrize(
    ("topk", "candidates", "counts", "sums"),
    [
        ("pairs", 1000, (100, 100), (62.04741, 62.04077)),
        ("locations", 1000, (100, 100), (62.04741, 62.04077)),
        ("pairs", 60, (31, 29), (19.24319, 18.00129)),
        ("locations", 60, (100, 100), (37.74779, 36.52428)),
    ],
)
def test_both_orders_find_what_the_published_ones_find(
    topk: str, candidates: int, counts: tuple[int, int], sums: tuple[float, float]
) -> None:
    settings = replace(SETTINGS, topk=topk, candidates_per_level=candidates)
    one = View(source_hw=(500, 632), resized_hw=(250, 316), padded_hw=WAVE_HW, flip=False)
    found = decode(wave_predictions(0.0, 2.0), GRID, WAVE_HW, (one, one), settings)
    assert tuple(len(image.scores) for image in found) == counts
    ours = torch.stack([image.scores.sum() for image in found])
    assert_close(ours, torch.tensor(sums), rtol=1e-6, atol=0)
    if candidates == 1000:
        first = torch.tensor([421.9734, 298.6914, 632, 500])
        last = torch.tensor([219.1523, 68.8798, 482.0261, 336.8393])
        assert_close(found[0].boxes[0], first, atol=1e-3, rtol=0)
        assert_close(found[1].boxes[-1], last, atol=1e-3, rtol=0)
        assert found[0].labels[:3].tolist() == [3, 2, 4]
