from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from ldkit.objectives.imitation import ImitationSettings, imitation_term
from ldkit.objectives.student import Student
from ldkit.ops.anchors import anchors
from ldkit.ops.general_instances import general_instances
from ldkit.ops.regions import assign_atss, main_rows
from ldkit.structures import (
    DenseTeacher,
    FeatureRows,
    GroundTruth,
    Predictions,
    RegionRows,
    Rows,
    TeacherRows,
)
from tests.objectives.students import (
    FINE,
    LOCATIONS,
    flat,
    main_at,
    random_maps,
    random_predictions,
    student_of,
    teacher_of,
)
from tests.ops import published
from tests.ops.published import CPU, WAVE_HW, golden, wave_ground_truth, wave_maps, wave_predictions
from tests.ops.strategies import LAW

DEPTH = 6
PAPER = ImitationSettings(region="main", weight=2.0, normalizer="paper")
MEAN = ImitationSettings(region="main", weight=1.0, normalizer="rows")
both = pytest.mark.parametrize("settings", [PAPER, MEAN], ids=["paper", "rows"])

PLACES = ((0, 3), (0, 30), (0, FINE + 2), (1, 5), (1, FINE), (2, LOCATIONS - 1))


def student_with(images: int, seed: int, channels: int = DEPTH) -> Student:
    maps = random_maps(images, channels, seed)
    return student_of(random_predictions(images, seed)._replace(maps=maps))


def rows_at(images: int, places: tuple[tuple[int, int], ...], seed: int) -> FeatureRows:
    where = main_at(images, places)
    dense = flat(random_maps(images, DEPTH, seed)).detach()
    return FeatureRows(where.image, where.location, dense[where.image, where.location])


def values_of(student: Student, rows: FeatureRows) -> Tensor:
    own = flat(student.predictions.maps)[rows.image, rows.location]
    return (own - rows.features).square().mean(dim=1)


@pytest.mark.law
@both
def test_a_student_like_its_teacher_learns_nothing(settings: ImitationSettings) -> None:
    student = student_with(3, seed=0)
    teacher = teacher_of(main_at(3, PLACES), rows_at(3, PLACES, seed=0))
    term = imitation_term(student, teacher, settings, None)
    assert term == 0
    for gradient in torch.autograd.grad(term, student.predictions.maps):
        assert not gradient.any()


@pytest.mark.law
@both
def test_a_batch_without_rows_is_zero_with_a_zero_gradient(settings: ImitationSettings) -> None:
    student = student_with(2, seed=0)
    term = imitation_term(student, teacher_of(main_at(2), rows_at(2, (), seed=1)), settings, None)
    assert term == 0
    for gradient in torch.autograd.grad(term, student.predictions.maps):
        assert not gradient.any()


@pytest.mark.law
@LAW
@given(seed=st.integers(0, 99))
def test_divided_by_rows_it_is_the_mean_of_all_rows(seed: int) -> None:
    student, rows = student_with(3, seed), rows_at(3, PLACES, seed + 1)
    term = imitation_term(student, teacher_of(main_at(3), rows), MEAN, None)
    assert_close(term, values_of(student, rows).mean())


@pytest.mark.law
@LAW
@given(seed=st.integers(0, 99))
def test_as_in_the_paper_it_is_a_mean_for_each_level_of_three_images(seed: int) -> None:
    places = (*PLACES, (3, 0), (3, 1), (4, FINE + 1))
    student, rows = student_with(5, seed), rows_at(5, places, seed + 1)
    term = imitation_term(student, teacher_of(main_at(5, places), rows), PAPER, None)
    value = values_of(student, rows)
    first = value[[0, 1, 3]].mean() + value[[2, 4, 5]].mean()
    second = value[[6, 7]].mean() + value[8]
    assert_close(term, 2.0 * (first + second) / 2)


@pytest.mark.law
def test_a_level_of_three_images_without_a_main_row_counts_nothing() -> None:
    places = ((0, 3), (0, FINE + 2), (3, 4), (3, FINE + 3))
    main = main_at(4, ((2, 9), (3, FINE + 5)))
    student, rows = student_with(4, seed=0), rows_at(4, places, seed=1)
    value = values_of(student, rows)
    term = imitation_term(student, teacher_of(main, rows), PAPER, None)
    assert_close(term, 2.0 * (value[0] + value[3]) / 2)
    mean = imitation_term(student, teacher_of(main, rows), MEAN, None)
    assert_close(mean, value.mean())


@pytest.mark.law
@both
def test_three_images_twice_over_weigh_as_once(settings: ImitationSettings) -> None:
    once, rows = student_with(3, seed=0), rows_at(3, PLACES, seed=1)
    maps = tuple(one.tile(2, 1, 1, 1) for one in once.predictions.maps)
    twice = student_of(random_predictions(6, 0)._replace(maps=maps))
    again = FeatureRows(
        torch.cat([rows.image, rows.image + 3]),
        rows.location.tile(2),
        rows.features.tile(2, 1),
    )
    places = (*PLACES, *((image + 3, location) for image, location in PLACES))
    assert_close(
        imitation_term(once, teacher_of(main_at(3, PLACES), rows), settings, None),
        imitation_term(twice, teacher_of(main_at(6, places), again), settings, None),
    )


@pytest.mark.law
def test_a_projection_joins_other_widths_and_learns() -> None:
    student, rows = student_with(3, seed=0, channels=4), rows_at(3, PLACES, seed=1)
    teacher = teacher_of(main_at(3, PLACES), rows)
    project = torch.nn.Linear(4, DEPTH)
    term = imitation_term(student, teacher, MEAN, project)
    own = flat(student.predictions.maps)[rows.image, rows.location]
    assert_close(term, (project(own) - rows.features).square().mean())
    for gradient in torch.autograd.grad(term, [project.weight, *student.predictions.maps]):
        assert gradient.any()
    with pytest.raises(ValueError, match="have 4 channels, the teacher's 6; a projection"):
        imitation_term(student, teacher, MEAN, None)


@pytest.mark.law
def test_the_teacher_gets_no_gradient_and_half_precision_changes_little() -> None:
    student, rows = student_with(3, seed=0), rows_at(3, PLACES, seed=1)
    whole = rows._replace(features=rows.features.requires_grad_())
    term = imitation_term(student, teacher_of(main_at(3), whole), MEAN, None)
    (gradient,) = torch.autograd.grad(term, whole.features, allow_unused=True)
    assert gradient is None
    half = rows._replace(features=rows.features.detach().half())
    rounded = imitation_term(student, teacher_of(main_at(3), half), MEAN, None)
    assert rounded.dtype == torch.float32
    assert_close(rounded, term, rtol=2e-3, atol=0)


@pytest.mark.law
def test_what_the_teacher_does_not_give_is_named() -> None:
    student = student_with(1, seed=0)
    bare = teacher_of(main_at(1))
    with pytest.raises(ValueError, match="gives no features to imitate"):
        imitation_term(student, bare, MEAN, None)
    with pytest.raises(ValueError, match="gi needs a teacher that speaks at every location"):
        imitation_term(student, bare, replace(MEAN, region="gi"), None)


@pytest.mark.law
def test_general_instances_are_imitated_where_they_are() -> None:
    student, other = student_with(4, seed=0), random_predictions(4, seed=1)
    features = flat(random_maps(4, DEPTH, seed=1)).detach()
    dense = DenseTeacher(student.valid, other.cls_logits, other.bbox_logits, features)
    teacher = teacher_of(main_at(4))._replace(dense=dense)
    term = imitation_term(student, teacher, replace(MEAN, region="gi"), None)
    image, location = general_instances(student.predictions, dense, student.anchors, 3)
    rows = FeatureRows(image, location, features[image, location])
    assert_close(term, values_of(student, rows).mean())
    own = flat(student.predictions.maps)
    (gradient,) = torch.autograd.grad(term, own, allow_unused=True, retain_graph=True)
    assert gradient is None  # the choice of places is not differentiated
    assert any(one.any() for one in torch.autograd.grad(term, student.predictions.maps))


def maps_by_rule(seed: int, images: int, canvas: tuple[int, int]) -> tuple[Tensor, ...]:
    """Return the features of a published case: 256 channels from numpy's PCG64."""
    generator = np.random.Generator(np.random.PCG64(seed))
    return tuple(
        torch.from_numpy(generator.standard_normal((images, 256, *size)).astype(np.float32))
        for size in anchors(canvas, published.GRID, CPU).level_sizes
    )


def published_student(predictions: Predictions, canvas: tuple[int, int]) -> Student:
    return student_of(predictions, layout=(published.GRID, canvas))


def as_published(student: Student, teacher: TeacherRows, region: Any) -> Tensor:
    settings = ImitationSettings(region=region, weight=2.0, normalizer="paper")
    return imitation_term(student, teacher, settings, None)


def golden_regions() -> list[tuple[str, str]]:
    cases = golden("imitation").facts["cases"]
    return [(name, region) for name in sorted(cases) for region in cases[name]["losses"]]


@pytest.mark.golden
@pytest.mark.parametrize(("case", "region"), golden_regions())
def test_the_term_equals_the_published_one(case: str, region: str) -> None:
    tensors, whole = golden("imitation")
    facts, canvas = whole["cases"][case], tuple(whole["canvas_hw"])
    main_BA = tensors[f"{case}.main"]
    images, locations = main_BA.shape
    image, location = main_BA.nonzero(as_tuple=True)
    main = Rows(image, location, torch.zeros_like(image))
    features = maps_by_rule(8000 + facts["seed"], images, canvas)
    teacher = teacher_of(main)
    heads = [
        Predictions(torch.zeros(images, locations, 8), torch.zeros(images, locations, 4, 17))
        if region != "gi"
        else Predictions(
            tensors[f"{case}.{who}cls"], tensors[f"{case}.{who}reg"].unflatten(-1, (4, 17))
        )
        for who in ("", "t_")
    ]
    maps = maps_by_rule(7000 + facts["seed"], images, canvas)
    student = published_student(heads[0]._replace(maps=maps), canvas)
    if region == "gi":
        dense = DenseTeacher(student.valid, *heads[1][:2], flat(features))
        teacher = teacher._replace(dense=dense)
    else:
        image, location = tensors[f"{case}.{region}"].nonzero(as_tuple=True)
        rows = FeatureRows(image, location, flat(features)[image, location])
        teacher = teacher._replace(imitation=rows)
    term = as_published(student, teacher, region)
    expected = torch.tensor(sum(facts["losses"][region]))
    assert expected > 1
    assert_close(term, expected, rtol=1e-5, atol=0)


def wave_features(phase: float) -> tuple[Tensor, ...]:
    """Return the pyramid of the loss case given by formula."""
    shifts = [0.3 * level + phase for level in range(5)]
    whole = wave_maps(256, 0.5, 0.011, shifts, 0.0, torch.sin)
    sizes = anchors(WAVE_HW, published.GRID, CPU).level_sizes
    levels = whole.split([rows * cols for rows, cols in sizes], dim=1)
    return tuple(
        level.transpose(1, 2).unflatten(2, size) for level, size in zip(levels, sizes, strict=True)
    )


def wave_main(truth: GroundTruth, student: Student) -> RegionRows:
    rows = main_rows(assign_atss(student.anchors, student.valid, truth, topk=9))
    return RegionRows(rows, torch.zeros(len(rows.image), 4, 17), None)


@pytest.mark.golden
def test_general_instances_of_the_waves_give_the_published_term() -> None:
    predictions = wave_predictions(0.0)._replace(maps=wave_features(0.0))
    student = published_student(predictions, WAVE_HW)
    other = wave_predictions(0.9)
    dense = DenseTeacher(
        student.valid, other.cls_logits, other.bbox_logits, flat(wave_features(0.9))
    )
    teacher = TeacherRows(wave_main(wave_ground_truth(), student), dense=dense)
    assert_close(as_published(student, teacher, "gi"), torch.tensor(0.566927), rtol=3e-6, atol=0)


@pytest.mark.golden
def test_locations_inside_the_boxes_of_the_waves_give_the_published_term() -> None:
    predictions = wave_predictions(0.0)._replace(maps=wave_features(0.0))
    student = published_student(predictions, WAVE_HW)
    truth = wave_ground_truth()
    centre_A12 = student.anchors.centre[:, None]
    inside_BA = torch.stack(
        [
            ((centre_A12 > boxes[:, :2]) & (centre_A12 < boxes[:, 2:])).all(-1).any(-1)
            for boxes in (boxes[labels >= 0] for boxes, labels in zip(*truth, strict=True))
        ]
    )
    image, location = inside_BA.nonzero(as_tuple=True)
    rows = FeatureRows(image, location, flat(wave_features(0.9))[image, location])
    teacher = TeacherRows(wave_main(truth, student), imitation=rows)
    term = as_published(student, teacher, "inside_gt")
    assert_close(term, torch.tensor(0.567085), rtol=3e-6, atol=0)
