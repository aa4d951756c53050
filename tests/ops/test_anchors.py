import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from ldkit.ops.anchors import anchors, level_sizes, relocate, unflatten, valid_locations
from ldkit.structures import Grid, Size
from tests.ops.published import CPU, GRID
from tests.ops.strategies import LAW

sizes = st.tuples(st.integers(1, 300), st.integers(1, 300))


@pytest.mark.law
@LAW
@given(canvas=sizes)
def test_every_level_covers_the_canvas_and_no_cell_is_idle(canvas: Size) -> None:
    for (rows, cols), stride in zip(level_sizes(canvas, GRID.strides), GRID.strides, strict=True):
        assert (rows - 1) * stride < canvas[0] <= rows * stride
        assert (cols - 1) * stride < canvas[1] <= cols * stride


@pytest.mark.law
@LAW
@given(canvas=sizes, bin_width=st.sampled_from([0.5, 1.0, 2.0]))
def test_an_anchor_is_a_square_around_its_cell(canvas: Size, bin_width: float) -> None:
    places = anchors(canvas, Grid((8, 32), 3.0, bin_width), CPU)
    level, row, col = unflatten(torch.arange(len(places.unit)), canvas, (8, 32))
    stride = torch.tensor([8.0, 32.0])[level]
    assert_close(places.centre, torch.stack([col * stride, row * stride], dim=1))
    assert_close(places.unit, stride * bin_width)
    assert_close((places.box[:, :2] + places.box[:, 2:]) / 2, places.centre)
    assert_close(places.box[:, 2:] - places.box[:, :2], (3 * stride)[:, None].expand(-1, 2))
    assert sum(places.level_counts) == len(places.unit)


@pytest.mark.law
@LAW
@given(first=sizes, second=sizes)
def test_a_location_keeps_its_cell_when_the_canvas_grows(first: Size, second: Size) -> None:
    larger = (max(first[0], second[0]), max(first[1], second[1]))
    count = len(anchors(first, GRID, CPU).unit)
    moved = relocate(torch.arange(count), first, larger, GRID.strides)
    before = unflatten(torch.arange(count), first, GRID.strides)
    after = unflatten(moved, larger, GRID.strides)
    assert all(a.equal(b) for a, b in zip(before, after, strict=True))


@pytest.mark.law
@LAW
@given(first=sizes, second=sizes)
def test_valid_locations_are_those_of_the_images_own_canvas(first: Size, second: Size) -> None:
    canvas = (max(first[0], second[0]), max(first[1], second[1]))
    valid = valid_locations(canvas, torch.tensor([first, second]), GRID)
    for own, mask in zip((first, second), valid, strict=True):
        count = len(anchors(own, GRID, CPU).unit)
        expected = relocate(torch.arange(count), own, canvas, GRID.strides)
        assert mask.nonzero()[:, 0].equal(expected)


@pytest.mark.law
def test_a_smaller_canvas_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        relocate(torch.arange(3), (64, 64), (32, 128), GRID.strides)


@pytest.mark.law
def test_anchors_first_made_in_inference_serve_training() -> None:
    with torch.inference_mode():
        places = anchors((24, 40), Grid((8,), 5.0), CPU)
    weight = torch.ones((), requires_grad=True)
    (places.centre * weight).sum().backward()
    assert weight.grad is not None
    assert anchors((24, 40), Grid((8,), 5.0), CPU) is places


@pytest.mark.golden
def test_the_first_anchors_equal_the_published_ones() -> None:
    box = anchors((256, 320), GRID, CPU).box
    assert box[0].tolist() == [-32, -32, 32, 32]
    assert box[41].tolist() == [-24, -24, 40, 40]
