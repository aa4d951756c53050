from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from ldkit.objectives.gfl import GflSettings, GflValues, gfl_terms, gfl_values
from ldkit.objectives.normalizers import totals, weight_sum
from ldkit.ops.anchors import anchors, unflatten, valid_locations
from ldkit.ops.regions import assign_atss, main_rows
from ldkit.structures import GroundTruth, Predictions
from tests.objectives.scenes import CANVAS, SETTINGS, part, rows_of, scene, student_of, terms_of
from tests.objectives.scenes import GRID as SCENE_GRID
from tests.ops.published import (
    CPU,
    GRID,
    WAVE_HW,
    case_names,
    golden,
    ground_truth,
    wave_ground_truth,
    wave_predictions,
)
from tests.ops.strategies import LAW

PUBLISHED = GflSettings(
    cls_weight=1.0, beta=2.0, box_weight=2.0, dfl_weight=0.25, weight_sum="clamp_1"
)
counts = st.lists(st.integers(0, 4), min_size=1, max_size=3).map(tuple).filter(any)


def gradients(term: Tensor, one: Predictions) -> tuple[Tensor, Tensor]:
    first, second = torch.autograd.grad(
        term, list(one[:2]), allow_unused=True, materialize_grads=True, retain_graph=True
    )
    return first, second


@pytest.mark.law
@pytest.mark.parametrize("kind", ["clamp_1", "plus_epsilon"])
def test_a_batch_without_boxes_is_finite_and_leaves_the_boxes_alone(kind: str) -> None:
    one = scene((1, 1))
    empty = one._replace(truth=GroundTruth(one.truth.boxes, torch.full((2, 1), -1)))
    terms = terms_of(empty, replace(SETTINGS, weight_sum=kind))
    assert terms.cls > 0
    assert terms.box == 0
    assert terms.dfl == 0
    cls_gradient, bbox_gradient = gradients(terms.total, one.student)
    assert cls_gradient.isfinite().all()
    assert cls_gradient.any()
    assert not bbox_gradient.any()
    assert terms.box.requires_grad


@pytest.mark.law
def test_a_batch_with_room_for_no_box_is_finite() -> None:
    one = scene((1,))
    none = GroundTruth(torch.zeros(1, 0, 4), torch.zeros(1, 0, dtype=torch.long))
    assert terms_of(one._replace(truth=none)).total.isfinite()


@pytest.mark.law
@LAW
@given(box_counts=counts, seed=st.integers(0, 99))
def test_a_batch_twice_over_weighs_as_once(box_counts: tuple[int, ...], seed: int) -> None:
    one = scene(box_counts, seed)
    order = list(range(len(box_counts)))
    once, twice = terms_of(one), terms_of(part(one, order + order))
    assert_close(torch.stack(once[:3]), torch.stack(twice[:3]), atol=1e-5, rtol=1e-5)


@pytest.mark.law
@LAW
@given(seed=st.integers(0, 99))
def test_an_image_without_boxes_adds_background_and_counts_as_one(seed: int) -> None:
    whole = scene((2, 0), seed)
    full, empty = part(whole, [0]), part(whole, [1])
    together, alone = terms_of(whole), terms_of(full)
    positives = len(rows_of(full.truth).image)
    summed = alone.cls * positives + terms_of(empty).cls
    assert_close(together.cls, summed / (positives + 1))
    assert_close(together.box, alone.box)
    assert_close(together.dfl, alone.dfl)


@pytest.mark.law
@LAW
@given(seed=st.integers(0, 99))
def test_each_term_teaches_only_its_own_logits(seed: int) -> None:
    one = scene((3, 1), seed)
    terms = terms_of(one)
    rows = rows_of(one.truth)
    assert not gradients(terms.cls, one.student)[1].any()
    for term in (terms.box, terms.dfl):
        cls_gradient, bbox_gradient = gradients(term, one.student)
        assert not cls_gradient.any()
        bbox_gradient[rows.image, rows.location] = 0
        assert not bbox_gradient.any()


@pytest.mark.law
def test_padding_of_the_batch_adds_nothing() -> None:
    one = scene((2,))
    valid = valid_locations(CANVAS, torch.tensor([[32, 64]]), SCENE_GRID)
    places, rows = anchors(CANVAS, SCENE_GRID, CPU), rows_of(one.truth)
    values = gfl_values(one.student, places, valid, one.truth, rows, beta=2.0)
    assert not values.cls[~valid].any()
    assert (values.cls[valid] > 0).all()
    gradient, _ = gradients(values.cls.sum(), one.student)
    assert not gradient[~valid].any()


@pytest.mark.law
@LAW
@given(seed=st.integers(0, 99))
def test_row_weights_are_scores_without_a_gradient(seed: int) -> None:
    one = scene((3,), seed)
    rows = rows_of(one.truth)
    values = student_of(one, rows).values
    best = one.student.cls_logits.sigmoid()[rows.image, rows.location].amax(dim=-1)
    assert_close(values.weight, best.detach())
    assert not values.weight.requires_grad


@pytest.mark.law
def test_a_weight_of_zero_switches_a_term_off() -> None:
    off = replace(SETTINGS, dfl_weight=0.0)
    one = scene((2,))
    terms = terms_of(one, off)
    assert terms.dfl == 0
    assert_close(terms.total, terms.cls + terms.box)


def per_level(values: GflValues, canvas: tuple[int, int]) -> dict[str, Tensor]:
    """Return the sums of a batch for each level, box values times their row weights."""
    sizes = anchors(canvas, GRID, CPU).level_counts
    level_P = unflatten(values.rows.location, canvas, GRID.strides).level
    zero = torch.zeros(len(sizes))
    return {
        "loss_cls": torch.stack([level.sum() for level in values.cls.split(sizes, dim=1)]),
        "loss_bbox": zero.index_add(0, level_P, values.weight * values.box),
        "loss_dfl": zero.index_add(0, level_P, values.weight * values.dfl),
    }


@pytest.mark.golden
@pytest.mark.parametrize("case", case_names("ops_losses"))
def test_losses_and_gradients_equal_the_published_ones(case: str) -> None:
    tensors, whole = golden("ops_losses")
    facts, canvas = whole["cases"][case], tuple(whole["canvas_hw"])
    images = len(facts["padded_hw"])
    places = anchors(canvas, GRID, CPU)
    valid = valid_locations(canvas, torch.tensor(facts["padded_hw"]), GRID)
    truth = ground_truth(tensors, case, images)
    rows = main_rows(assign_atss(places, valid, truth, topk=9))
    assert torch.stack([rows.image, rows.location], dim=1).equal(tensors[f"{case}.rows"].long())

    bbox_logits = torch.zeros(images, len(places.unit), 4, 17)
    bbox_logits[rows.image, rows.location] = tensors[f"{case}.reg"].unflatten(-1, (4, 17))
    student = Predictions(
        tensors[f"{case}.cls"].clone().requires_grad_(), bbox_logits.requires_grad_()
    )
    values = gfl_values(student, places, valid, truth, rows, PUBLISHED.beta)
    sums = totals(rows, values.weight, images)
    terms = gfl_terms(values, sums, PUBLISHED)

    weights = weight_sum(sums.weights, "clamp_1")
    factors = {
        "loss_cls": 1 / sums.positives,
        "loss_bbox": 2.0 / weights,
        "loss_dfl": 0.25 / weights,
    }
    for name, summed in per_level(values, canvas).items():
        expected = torch.tensor(facts["losses"][name])
        assert_close(summed * factors[name], expected, rtol=1e-5, atol=1e-7)
    assert_close(terms.total, torch.tensor(facts["total"]), rtol=1e-5, atol=0)

    gradient, _ = gradients(terms.cls, student)
    assert_close(gradient, tensors[f"{case}.grad.loss_cls"], rtol=1e-4, atol=1e-6)
    for term, name in ((terms.box, "loss_bbox"), (terms.dfl, "loss_dfl")):
        _, gradient = gradients(term, student)
        ours = gradient[rows.image, rows.location].flatten(1)
        assert_close(ours, tensors[f"{case}.grad.{name}"], rtol=1e-4, atol=1e-6)
        assert_close(gradient.abs().sum(), ours.abs().sum())


WAVE_LOSSES = {
    "loss_cls": [0.603060, 0.152901, 0.048303, 0.021366, 0.004546],
    "loss_bbox": [0.647507, 0.435766, 0.448325, 0.0, 0.0],
    "loss_dfl": [0.378786, 0.286202, 0.274843, 0.0, 0.0],
}
WAVE_LOSSES_WITHOUT_THE_SECOND_IMAGES_BOXES = {
    "loss_cls": [0.890233, 0.225711, 0.064072, 0.031540, 0.006711],
    "loss_bbox": [0.855738, 0.688656, 0.0, 0.0, 0.0],
    "loss_dfl": [0.511096, 0.452296, 0.0, 0.0, 0.0],
}
WAVE_LOSSES_WITHOUT_BOXES = {
    "loss_cls": [9.110803, 2.361174, 0.672753, 0.331173, 0.070461],
    "loss_bbox": [0.0] * 5,
    "loss_dfl": [0.0] * 5,
}


@pytest.mark.golden
@pytest.mark.parametrize(
    ("images_with_boxes", "expected"),
    [
        (2, WAVE_LOSSES),
        (1, WAVE_LOSSES_WITHOUT_THE_SECOND_IMAGES_BOXES),
        (0, WAVE_LOSSES_WITHOUT_BOXES),
    ],
)
def test_losses_of_the_waves_equal_the_published_ones(
    images_with_boxes: int, expected: dict[str, list[float]]
) -> None:
    boxes, labels = wave_ground_truth()
    labels[images_with_boxes:] = -1
    truth = GroundTruth(boxes, labels)
    places = anchors(WAVE_HW, GRID, CPU)
    valid = valid_locations(WAVE_HW, torch.tensor([WAVE_HW, WAVE_HW]), GRID)
    rows = main_rows(assign_atss(places, valid, truth, topk=9))
    values = gfl_values(wave_predictions(0.0), places, valid, truth, rows, beta=2.0)
    sums = totals(rows, values.weight, 2)
    weights = weight_sum(sums.weights, "clamp_1")
    factors = {
        "loss_cls": 1 / sums.positives,
        "loss_bbox": 2.0 / weights,
        "loss_dfl": 0.25 / weights,
    }
    for name, summed in per_level(values, WAVE_HW).items():
        ours = summed * factors[name]
        assert_close(ours, torch.tensor(expected[name]), rtol=1e-5, atol=1e-6)
