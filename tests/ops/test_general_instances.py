import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import nms

from ldkit.ops.anchors import anchors, valid_locations
from ldkit.ops.distribution import distances_to_boxes, project
from ldkit.ops.general_instances import GI_BOXES, GI_IOU, general_instances
from ldkit.structures import DenseTeacher, Grid, Predictions
from tests.ops.published import CPU
from tests.ops.strategies import LAW

GRID = Grid(strides=(8, 16), anchor_scale=4.0, bin_width=0.5)
CANVAS = (64, 96)
PLACES = anchors(CANVAS, GRID, CPU)
COUNT = len(PLACES.unit)


def heads(images: int, seed: int) -> tuple[Predictions, Predictions]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (
        Predictions(
            torch.randn(images, COUNT, 3, generator=generator),
            2 * torch.randn(images, COUNT, 4, 9, generator=generator),
        )
        for _ in range(2)
    )
    return student, teacher


def dense(teacher: Predictions, valid: Tensor) -> DenseTeacher:
    features = torch.zeros(*valid.shape, 1)
    return DenseTeacher(valid, teacher.cls_logits, teacher.bbox_logits, features)


def everywhere(images: int) -> Tensor:
    return torch.ones(images, COUNT, dtype=torch.bool)


def by_the_book(student: Predictions, teacher: DenseTeacher, group: int) -> set[tuple[int, int]]:
    """Return the instances with torchvision's suppression, group by group and level by level."""
    gap = teacher.cls_logits.sigmoid() - student.cls_logits.sigmoid()
    chosen: set[tuple[int, int]] = set()
    levels = torch.arange(COUNT).split(list(PLACES.level_counts))
    for images in torch.arange(len(gap)).split(group):
        for level in levels:
            image, location = (
                axis.flatten() for axis in torch.meshgrid(images, level, indexing="ij")
            )
            kept = teacher.valid[image, location]
            image, location = image[kept], location[kept]
            score, label = gap[image, location].abs().max(dim=1)
            wins = gap[image, location, label] >= 0
            logits = torch.where(
                wins[:, None, None],
                teacher.bbox_logits[image, location],
                student.bbox_logits[image, location],
            )
            distances = project(logits) * PLACES.unit[location, None]
            boxes = distances_to_boxes(PLACES.centre[location], distances)
            best = nms(boxes, score, GI_IOU)[:GI_BOXES]
            chosen |= set(zip(image[best].tolist(), location[best].tolist(), strict=True))
    return chosen


@pytest.mark.law
@LAW
@given(seed=st.integers(0, 999), images=st.integers(1, 7), group=st.integers(1, 3))
def test_instances_are_those_that_suppression_keeps(seed: int, images: int, group: int) -> None:
    student, teacher = heads(images, seed)
    own = torch.tensor([[64, 96], [32, 64], [64, 64]]).repeat(3, 1)[:images]
    one = dense(teacher, valid_locations(CANVAS, own, GRID))
    image, location = general_instances(student, one, PLACES, group)
    pairs = list(zip(image.tolist(), location.tolist(), strict=True))
    assert pairs == sorted(pairs)
    assert set(pairs) == by_the_book(student, one, group)


@pytest.mark.law
def test_images_of_one_group_suppress_each_other_and_of_two_do_not() -> None:
    student, teacher = heads(1, 0)
    twice = [
        Predictions(one.cls_logits.tile(2, 1, 1), one.bbox_logits.tile(2, 1, 1, 1))
        for one in (student, teacher)
    ]
    alone = general_instances(student, dense(teacher, everywhere(1)), PLACES, 1)
    both = dense(twice[1], everywhere(2))
    apart = general_instances(twice[0], both, PLACES, 1)
    assert apart[1].tolist() == alone[1].tolist() * 2
    together = general_instances(twice[0], both, PLACES, 2)
    assert len(together[1]) == len(alone[1])


@pytest.mark.law
def test_the_padding_is_never_chosen_and_an_empty_canvas_gives_nothing() -> None:
    student, teacher = heads(2, 1)
    none = torch.zeros(2, COUNT, dtype=torch.bool)
    image, location = general_instances(student, dense(teacher, none), PLACES, 3)
    assert len(image) == len(location) == 0


@pytest.mark.law
def test_there_are_ten_of_each_level_even_of_empty_boxes() -> None:
    student, teacher = heads(3, 2)
    tight = teacher._replace(bbox_logits=1e3 * torch.eye(9)[0].expand(3, COUNT, 4, 9))
    same = student._replace(bbox_logits=tight.bbox_logits)
    _, location = general_instances(same, dense(tight, everywhere(3)), PLACES, 3)
    fine = PLACES.level_counts[0]
    assert [(location < fine).sum().item(), (location >= fine).sum().item()] == [10, 10]
