"""Views are grouped by canvas, and none is padded beyond its own."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldkit.data.coco import Record
from ldkit.jobs.canvases import groups_of_equal_canvas, pixels_of
from ldkit.structures import View, ViewKey

SIZES = st.sampled_from([(32, 32), (32, 64), (64, 32), (96, 64)])


def view(padded_hw: tuple[int, int]) -> View:
    return View(padded_hw, padded_hw, padded_hw, flip=False)


@pytest.mark.law
@given(sizes=st.lists(SIZES, max_size=20), limit=st.integers(1, 6))
def test_every_view_is_in_one_group_of_its_canvas(sizes: list[tuple[int, int]], limit: int) -> None:
    groups = list(groups_of_equal_canvas([view(size) for size in sizes], limit))
    members = [member for group in groups for member in group]
    assert sorted(members) == list(range(len(sizes)))
    for group in groups:
        assert 1 <= len(group) <= limit
        assert group == sorted(group)
        assert len({sizes[member] for member in group}) == 1


@pytest.mark.law
@given(sizes=st.lists(SIZES, min_size=1, max_size=20), limit=st.integers(1, 6))
def test_there_are_no_more_groups_than_needed(sizes: list[tuple[int, int]], limit: int) -> None:
    groups = list(groups_of_equal_canvas([view(size) for size in sizes], limit))
    assert len(groups) == sum(-(-sizes.count(size) // limit) for size in set(sizes))


@pytest.mark.contract
def test_a_batch_weighs_what_all_of_its_canvases_do() -> None:
    def draw(_: ViewKey, hw: tuple[int, int]) -> View:
        return view(hw)

    record = Record(5, Path("5.png"), (96, 64), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    assert pixels_of({5: record}, draw, [ViewKey(5, 0)] * 3) == 3 * 96 * 64
