import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from ldkit.ops.distribution import (
    boxes_to_distances,
    distances_to_boxes,
    entropy,
    project,
    two_bin_target,
)
from tests.ops.strategies import LAW, tensors

logits = tensors(3, 4, 9, low=-20, high=20)


@pytest.mark.law
@LAW
@given(distances=tensors(6, low=0, high=16))
def test_two_bin_target_has_the_distance_as_its_mean(distances: Tensor) -> None:
    target = two_bin_target(distances, num_bins=17)
    assert_close(target @ torch.arange(17.0), distances)
    assert_close(target.sum(dim=-1), torch.ones(6))
    assert (target >= 0).all()
    assert ((target > 0).sum(dim=-1) <= 2).all()


@pytest.mark.law
@LAW
@given(bbox_logits=logits, shift=st.floats(-30, 30))
def test_a_shift_of_the_logits_changes_nothing(bbox_logits: Tensor, shift: float) -> None:
    shifted = bbox_logits + shift
    assert_close(project(shifted), project(bbox_logits), atol=1e-3, rtol=1e-3)
    assert_close(entropy(shifted), entropy(bbox_logits), atol=1e-3, rtol=1e-3)


@pytest.mark.law
@LAW
@given(bbox_logits=logits)
def test_the_mean_distance_lies_between_the_first_and_the_last_bin(bbox_logits: Tensor) -> None:
    distances = project(bbox_logits)
    assert ((distances >= 0) & (distances <= 8 + 1e-4)).all()
    assert_close(project(bbox_logits.flip(-1)), 8 - distances, atol=1e-4, rtol=1e-4)


@pytest.mark.law
@LAW
@given(distances=tensors(5, 4, low=0, high=8))
def test_projecting_a_two_bin_target_gives_the_distance_back(distances: Tensor) -> None:
    sure = two_bin_target(distances, num_bins=9).clamp(min=1e-12).log()
    assert_close(project(sure), distances, atol=1e-4, rtol=1e-4)


@pytest.mark.law
@LAW
@given(centre=tensors(5, 2, low=-20, high=20), distances=tensors(5, 4, low=-3, high=16))
def test_boxes_and_distances_are_two_ways_to_say_the_same(
    centre: Tensor, distances: Tensor
) -> None:
    boxes = distances_to_boxes(centre, distances)
    assert_close(boxes_to_distances(centre, boxes), distances, atol=1e-4, rtol=1e-4)


@pytest.mark.law
@LAW
@given(bbox_logits=logits)
def test_entropy_lies_between_one_bin_and_all(bbox_logits: Tensor) -> None:
    values = entropy(bbox_logits)
    assert ((values >= -1e-5) & (values <= math.log(9) + 1e-5)).all()
    assert_close(entropy(torch.zeros(1, 4, 9)), torch.full((1, 4), math.log(9)))


@pytest.mark.golden
def test_distances_of_a_point_equal_the_published_ones() -> None:
    distances = boxes_to_distances(torch.tensor([[5.0, 5]]), torch.tensor([[-20, 2.5, 5, 6]]))
    assert distances.tolist() == [[25.0, 2.5, 0.0, 1.0]]
