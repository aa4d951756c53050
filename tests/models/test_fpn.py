"""The pyramid: sizes, any consecutive levels, and no ReLU between the extra levels."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ldkit.models.fpn import Fpn
from ldkit.ops.anchors import level_sizes


@pytest.mark.law
@settings(deadline=None, max_examples=25)
@given(
    first=st.integers(2, 5),
    count=st.integers(1, 5),
    height=st.integers(32, 200),
    width=st.integers(32, 200),
)
def test_outputs_have_the_sizes_of_their_levels(
    first: int, count: int, height: int, width: int
) -> None:
    levels = tuple(range(first, first + count))
    from_backbone = [level for level in levels if level <= 5]
    in_channels = [4 + level for level in from_backbone]
    strides = tuple(2**level for level in levels)
    sizes = level_sizes((height, width), strides)
    maps = [torch.randn(1, c, *size) for c, size in zip(in_channels, sizes, strict=False)]
    fpn = Fpn(in_channels, 6, levels)
    assert fpn.strides == strides
    assert [tuple(x.shape) for x in fpn(maps)] == [(1, 6, *size) for size in sizes]


@pytest.mark.law
def test_extra_levels_are_linear_in_the_last_output() -> None:
    fpn = Fpn((4, 4, 4), 6, (3, 4, 5, 6, 7))
    sizes = ((8, 8), (4, 4), (2, 2))
    maps = [torch.randn(1, 4, *size) for size in sizes]
    *_, p5, p6, p7 = fpn(maps)
    *_, n5, n6, n7 = fpn([-x for x in maps])
    torch.testing.assert_close(p5, -n5)  # biases are zero at the start
    torch.testing.assert_close(p6, -n6)
    torch.testing.assert_close(p7, -n7)
    assert (p6 < 0).any()


@pytest.mark.law
def test_coarse_context_reaches_fine_maps_and_not_the_other_way() -> None:
    fpn = Fpn((4, 4), 6, (3, 4))
    fine, coarse = torch.randn(1, 4, 5, 7), torch.randn(1, 4, 3, 4)
    base = fpn((fine, coarse))
    assert not torch.allclose(fpn((fine, coarse + 1))[0], base[0])
    assert torch.equal(fpn((fine + 1, coarse))[1], base[1])


@pytest.mark.contract
def test_levels_and_maps_must_fit() -> None:
    with pytest.raises(ValueError, match="not consecutive"):
        Fpn((4, 4), 6, (3, 5))
    with pytest.raises(ValueError, match="3 backbone maps do not fit 2 levels"):
        Fpn((4, 4, 4), 6, (3, 4))
