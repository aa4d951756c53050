from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ldkit.cache.canvas import moved, moves
from ldkit.ops.anchors import level_sizes, relocate

SIZES = st.tuples(st.integers(1, 70), st.integers(1, 70))


@pytest.mark.law
@settings(deadline=None, max_examples=100)
@given(
    own=st.lists(SIZES, max_size=5),
    further=SIZES,
    strides=st.sampled_from([(8,), (4, 8, 16), (8, 16, 32, 64, 128)]),
    order=st.randoms(use_true_random=False),
)
def test_all_rows_move_as_each_view_alone_would(own, further, strides, order) -> None:
    canvas = tuple(max([*(hw[side] for hw in own), 1]) + further[side] - 1 for side in (0, 1))
    chosen = []
    for hw in own:
        count = sum(rows * cols for rows, cols in level_sizes(hw, strides))
        chosen.append(sorted(order.sample(range(count), order.randint(0, count))))
    expected = [
        relocate(torch.tensor(rows, dtype=torch.long), hw, canvas, strides).tolist()
        for rows, hw in zip(chosen, own, strict=True)
    ]
    counts = np.array([len(rows) for rows in chosen], np.int64)
    found = moved(
        np.array([*chain.from_iterable(chosen)], np.int64), counts, moves(own, canvas, strides)
    )
    assert found.tolist() == [*chain.from_iterable(expected)]


@pytest.mark.law
def test_nothing_moves_where_all_canvases_are_equal() -> None:
    assert moves([(64, 96)] * 3, (64, 96), (8, 16)) is None
    location = np.arange(4)
    assert moved(location, np.array([4]), None) is location


@pytest.mark.contract
@pytest.mark.parametrize("canvas", [(64, 95), (63, 128)])
def test_a_canvas_smaller_than_a_view_is_a_programming_error(canvas) -> None:
    with pytest.raises(ValueError, match=r"\(64, 96\) pixels does not fit into one of"):
        moves([(32, 32), (64, 96)], canvas, (8, 16))
