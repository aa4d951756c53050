import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from ldkit.ops.anchors import anchors, unflatten, valid_locations
from ldkit.ops.features import (
    VARIANCE_FLOOR,
    cross_statistics,
    feature_rows,
    location_levels,
)
from ldkit.structures import Grid
from tests.ops.published import CPU
from tests.ops.strategies import LAW

GRID = Grid(strides=(8, 16, 32), anchor_scale=4.0)
CANVAS = (48, 72)
PLACES = anchors(CANVAS, GRID, CPU)
COUNT = len(PLACES.unit)
OWN = torch.tensor([[48, 72], [32, 64]])
VALID = valid_locations(CANVAS, OWN, GRID)


def maps(seed: int, channels: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(2, channels, *size, generator=generator, dtype=torch.float64).requires_grad_()
        for size in PLACES.level_sizes
    ]


def flat(levels: list[Tensor]) -> Tensor:
    return torch.cat([one.flatten(2).transpose(1, 2) for one in levels], dim=1)


places = st.lists(st.tuples(st.integers(0, 1), st.integers(0, COUNT - 1)), max_size=12)


@pytest.mark.law
@LAW
@given(seed=st.integers(0, 99), chosen=places)
def test_rows_and_their_gradient_are_those_of_the_flat_maps(
    seed: int, chosen: list[tuple[int, int]]
) -> None:
    table = torch.tensor(chosen, dtype=torch.long).reshape(-1, 2)
    image, location = table.unbind(1)
    levels = maps(seed)
    ours = feature_rows(levels, image, location, PLACES)
    theirs = flat(levels)[image, location]
    assert ours.equal(theirs)
    weight = torch.linspace(1, 2, ours.numel(), dtype=torch.float64).view_as(ours)
    gradients = [torch.autograd.grad((rows * weight).sum(), levels) for rows in (ours, theirs)]
    for one, other in zip(*gradients, strict=True):
        assert_close(one, other)


@pytest.mark.law
def test_maps_of_another_canvas_are_refused() -> None:
    image = location = torch.zeros(1, dtype=torch.long)
    with pytest.raises(ValueError, match=r"sizes \(\(6, 9\), \(3, 5\)\), the levels .*\(2, 3\)\)"):
        feature_rows(maps(0)[:2], image, location, PLACES)
    with pytest.raises(ValueError, match=r"sizes \(\)"):
        feature_rows([], image, location, PLACES)


@pytest.mark.law
def test_levels_are_those_of_the_cells() -> None:
    location = torch.arange(COUNT)
    expected = unflatten(location, CANVAS, GRID.strides).level
    assert location_levels(location, PLACES).equal(expected)


@pytest.mark.law
def test_statistics_are_those_of_the_valid_part_of_each_level() -> None:
    cls, box = maps(1), maps(2)
    found = cross_statistics(list(zip(cls, box, strict=True)), VALID)
    assert found.mean.shape == found.std.shape == (2, 3, 2, 5)
    for tower, levels in enumerate((cls, box)):
        for level, one in enumerate(levels):
            rows, cols = -(-32 // GRID.strides[level]), -(-64 // GRID.strides[level])
            own = one[1, :, :rows, :cols].flatten(1)
            assert_close(found.mean[1, level, tower], own.mean(dim=1))
            std = (own.var(dim=1, correction=0) + VARIANCE_FLOOR).sqrt()
            assert_close(found.std[1, level, tower], std)


@pytest.mark.law
@LAW
@given(seed=st.integers(0, 99))
def test_padding_that_is_not_there_changes_nothing(seed: int) -> None:
    crossing = list(zip(maps(seed), maps(seed + 1), strict=True))
    whole = cross_statistics(crossing)
    masked = cross_statistics(crossing, torch.ones(2, COUNT, dtype=torch.bool))
    assert_close(whole, masked)


@pytest.mark.law
def test_what_lies_in_the_padding_plays_no_part() -> None:
    levels = maps(3)
    noisy = [one.detach().clone() for one in levels]
    noisy[0][1, :, 4:] = 1e3
    noisy[0][1, :, :, 8:] = -1e3
    plain, other = (cross_statistics([(m, m) for m in one], VALID) for one in (levels, noisy))
    assert_close(plain, other)


@pytest.mark.law
@pytest.mark.parametrize("valid", [None, VALID], ids=["whole", "padded"])
def test_a_constant_channel_has_a_finite_gradient(valid: Tensor | None) -> None:
    levels = [torch.full_like(one, 2.0).requires_grad_() for one in maps(0)]
    found = cross_statistics([(one, one) for one in levels], valid)
    assert_close(found.std, torch.full_like(found.std, VARIANCE_FLOOR**0.5))
    for gradient in torch.autograd.grad((1 / found.std).sum(), levels):
        assert gradient.isfinite().all()
        assert gradient.abs().max() < 1e-6
