"""The VOC metric against a slow, literal one: one loop for each sentence of its definition."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldkit.errors import DataError
from ldkit.metrics.results import CocoResult
from ldkit.metrics.voc_eval import RECALLS, THRESHOLDS, VocTruth, evaluate_voc

CATEGORIES = {1: "aeroplane", 2: "bicycle", 3: "bird"}
CORNERS = st.integers(0, 5).map(lambda number: 8.0 * number)
SIDES = st.sampled_from([8.0, 24.0, 40.0])
OBJECTS = st.tuples(
    st.integers(1, 3),
    st.integers(1, 2),
    st.tuples(CORNERS, CORNERS, SIDES, SIDES),
    st.sampled_from([False, False, True]),
)
Object = tuple[int, int, tuple[float, float, float, float], bool]


def truth_of(objects: list[Object]) -> VocTruth:
    corners = [(x, y, x + width, y + height) for _, _, (x, y, width, height), _ in objects]
    return VocTruth(
        np.array([image for image, *_ in objects], np.int64),
        np.array([category for _, category, *_ in objects], np.int64),
        np.array(corners, np.float64).reshape(-1, 4),
        np.array([difficult for *_, difficult in objects], bool),
    )


def result(image_id: int, category_id: int, box: list[float], score: float) -> CocoResult:
    return CocoResult(image_id=image_id, category_id=category_id, bbox=box, score=score)


@st.composite
def scenes(draw: st.DrawFn) -> tuple[list[Object], list[CocoResult]]:
    """Draw objects of classes 1 and 2 in three images, and detections, most of them near one."""
    objects = draw(st.lists(OBJECTS, max_size=14))
    near = st.sampled_from(objects) if objects else OBJECTS
    found = []
    for number, row in enumerate(draw(st.lists(near | OBJECTS, max_size=25))):
        image, category, (x, y, width, height), _ = row
        shrunk = width * draw(st.sampled_from([1.0, 0.9375, 0.78125, 0.75, 0.609375]))
        # No two scores are equal: the order of equal ones is not defined.
        score = draw(st.integers(1, 50)) / 100 + number / 10_000
        found.append(result(image, category, [x, y, shrunk, height], score))
    return objects, found


def slow_iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    inter = max(width, 0.0) * max(height, 0.0)
    return inter / (a[2] * a[3] + b[2] * b[3] - inter)


def nearest_of(row: CocoResult, own: list[Object]) -> tuple[float, int]:
    """Return the largest IoU with an object of the image, and the first object that has it."""
    best, nearest = 0.0, -1
    for number, (image, _, box, _) in enumerate(own):
        iou = slow_iou(tuple(row["bbox"]), box) if image == row["image_id"] else 0.0
        if iou > best:
            best, nearest = iou, number
    return best, nearest


def slow_ap(
    objects: list[Object], found: list[CocoResult], category: int, threshold: float
) -> float | None:
    """Return AP of a class as one would do it by hand."""
    own = [row for row in objects if row[1] == category]
    own = [row for row in own if not row[3]] + [row for row in own if row[3]]
    to_find = sum(not row[3] for row in own)
    if not to_find:
        return None
    taken: set[int] = set()
    right, wrong, curve = 0, 0, []
    for row in sorted(found, key=lambda each: -each["score"]):
        if row["category_id"] != category:
            continue
        best, nearest = nearest_of(row, own)
        if best < threshold:
            wrong += 1
        elif not own[nearest][3]:
            right += nearest not in taken
            wrong += nearest in taken
            taken.add(nearest)
        if right + wrong:
            curve.append((right / to_find, right / (right + wrong)))
    points = [
        max((precision for recall, precision in curve if recall >= tenth * 0.1), default=0.0)
        for tenth in range(11)
    ]
    return sum(points) / 11


def mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


@pytest.mark.law
@given(scene=scenes())
@settings(max_examples=150, deadline=None)
def test_the_figures_are_those_of_the_definition(
    scene: tuple[list[Object], list[CocoResult]],
) -> None:
    objects, found = scene
    metrics = evaluate_voc(truth_of(objects), found, CATEGORIES, images=3)
    thresholds = [0.5]
    while len(thresholds) < 10:
        thresholds.append(thresholds[-1] + 0.05)
    aps = [[slow_ap(objects, found, number, each) for each in thresholds] for number in CATEGORIES]
    by_iou = [mean(list(column)) for column in zip(*aps, strict=True)]
    assert metrics.ap_by_iou == pytest.approx(by_iou, abs=1e-12)
    assert metrics.figures() == pytest.approx(
        {"ap": mean(by_iou), "ap50": by_iou[0], "ap75": by_iou[5]}, abs=1e-12
    )
    by_class = [each.ap for each in metrics.class_ap]
    assert by_class == pytest.approx([mean(row) for row in aps], abs=1e-12)


@pytest.mark.golden
def test_thresholds_and_recalls_are_sums_in_floating_point() -> None:
    assert THRESHOLDS[:6] == (0.5, 0.55, 0.6000000000000001, 0.6500000000000001,
                              0.7000000000000002, 0.7500000000000002)  # fmt: skip
    assert len(THRESHOLDS) == 10
    assert tuple(np.arange(0, 1 + 1e-3, 0.1).tolist()) == RECALLS


@pytest.mark.law
def test_perfect_detections_score_one_and_none_score_zero() -> None:
    objects = [(1, 1, (0.0, 0.0, 9.0, 9.0), False), (2, 2, (5.0, 5.0, 20.0, 8.0), False)]
    found = [result(image, number, list(box), 0.5) for image, number, box, _ in objects]
    truth = truth_of(objects)
    assert set(evaluate_voc(truth, found, CATEGORIES, 2).figures().values()) == {1.0}
    assert set(evaluate_voc(truth, [], CATEGORIES, 2).figures().values()) == {0.0}
    names = [(each.category_id, each.name, each.ap) for each in
             evaluate_voc(truth, found, CATEGORIES, 2).class_ap]  # fmt: skip
    assert names == [(1, "aeroplane", 1.0), (2, "bicycle", 1.0), (3, "bird", None)]


@pytest.mark.law
def test_a_difficult_object_neither_helps_nor_harms() -> None:
    objects = [(1, 1, (0.0, 0.0, 9.0, 9.0), False), (1, 1, (50.0, 0.0, 9.0, 9.0), True)]
    found = [result(1, 1, [0.0, 0.0, 9.0, 9.0], 0.5)]
    beside = result(1, 1, [50.0, 0.0, 9.0, 9.0], 0.9)
    both = [*found, beside, {**beside, "score": 0.8}]
    truth = truth_of(objects)
    assert (
        evaluate_voc(truth, found, CATEGORIES, 1).figures()
        == evaluate_voc(truth, both, CATEGORIES, 1).figures()
        == {"ap": 1.0, "ap50": 1.0, "ap75": 1.0}
    )


@pytest.mark.law
def test_the_second_detection_of_an_object_is_wrong_even_beside_a_free_one() -> None:
    objects = [(1, 1, (0.0, 0.0, 10.0, 10.0), False), (1, 1, (0.0, 2.0, 10.0, 10.0), False)]
    once = result(1, 1, [0.0, 0.0, 10.0, 10.0], 0.9)
    again = result(1, 1, [0.0, 0.5, 10.0, 10.0], 0.8)  # nearer to the first object
    metrics = evaluate_voc(truth_of(objects), [once, again], CATEGORIES, 1)
    assert metrics.ap50 == pytest.approx(6 / 11)  # recall stops at one half


@pytest.mark.contract
def test_without_objects_there_are_no_figures() -> None:
    metrics = evaluate_voc(truth_of([]), [], CATEGORIES, 3)
    assert set(metrics.figures().values()) == {None}
    assert json.loads(json.dumps(metrics.as_dict(), allow_nan=False))["images"] == 3


@pytest.mark.contract
def test_an_unknown_category_is_refused() -> None:
    with pytest.raises(DataError) as caught:
        evaluate_voc(truth_of([]), [result(1, 21, [0.0, 0.0, 1.0, 1.0], 0.5)], CATEGORIES, 1)
    assert str(caught.value) == (
        "results: name categories that the data set does not have: [21].\n"
        "Evaluate a split of the data set that the model was made for."
    )
