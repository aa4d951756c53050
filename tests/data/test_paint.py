"""Painted boxes: where they belong, legible, and never outside the image."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldkit.data.paint import Painted, colour_of, paint

GREY = 128

sides = st.integers(40, 300)
places = st.floats(-50, 350, width=32)


def blank(height: int = 200, width: int = 300) -> np.ndarray:
    return np.full((height, width, 3), GREY, np.uint8)


@pytest.mark.law
@settings(deadline=None, max_examples=40)
@given(height=sides, width=sides, boxes=st.lists(st.tuples(places, places, places, places)))
def test_any_boxes_are_painted_onto_a_copy_of_the_same_size(
    height: int, width: int, boxes: list[tuple[float, float, float, float]]
) -> None:
    image = blank(height, width)
    painted = paint(image, [Painted(box, "a long name 0.99", n) for n, box in enumerate(boxes)])
    assert painted.shape == image.shape
    assert painted.dtype == np.uint8
    assert (image == GREY).all()


@pytest.mark.contract
def test_the_edges_of_a_box_have_the_colour_of_its_class() -> None:
    painted = paint(blank(), [Painted((60.0, 80.0, 200.0, 160.0), "cat 0.91", 3)])
    for row, column in ((120, 60), (120, 200), (160, 130)):
        assert tuple(painted[row, column]) == colour_of(3)
    assert (painted[120, 130] == GREY).all()
    assert (painted[20, 20] == GREY).all()


@pytest.mark.contract
@pytest.mark.parametrize("x", [0.0, 120.0, 290.0])
@pytest.mark.parametrize("y", [0.0, 90.0, 195.0])
def test_a_text_stands_within_the_image(x: float, y: float) -> None:
    box = (x, y, x + 8.0, y + 4.0)
    with_text = paint(blank(), [Painted(box, "potted plant 0.55", 7)])
    filled = (with_text == colour_of(7)).all(axis=2)
    bare = (paint(blank(), [Painted(box, "", 7)]) == colour_of(7)).all(axis=2)
    rows, columns = np.nonzero(filled & ~bare)
    assert len(rows) > 200
    assert columns.max() - columns.min() > 60
    ink = (with_text[rows.min() : rows.max(), columns.min() : columns.max()] < 60).all(axis=2)
    assert ink.sum() > 60


@pytest.mark.contract
def test_the_first_box_is_on_top() -> None:
    box = (60.0, 80.0, 200.0, 160.0)
    painted = paint(blank(), [Painted(box, "best 0.9", 1), Painted(box, "other 0.3", 2)])
    assert tuple(painted[120, 60]) == colour_of(1)


@pytest.mark.contract
def test_neighbouring_classes_have_unlike_colours() -> None:
    colours = np.array([colour_of(label) for label in range(80)], float)
    assert (np.abs(np.diff(colours, axis=0)).sum(axis=1) > 100).all()
    assert len({tuple(colour) for colour in colours}) == 80
