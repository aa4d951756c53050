import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor
from torch.testing import assert_close

from ldkit.ops.pixels import MEAN, STD, normalise
from tests.ops.strategies import LAW

images = arrays(np.uint8, (2, 3, 5, 7)).map(torch.from_numpy)
sizes = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 7)), min_size=2, max_size=2)


@pytest.mark.law
@LAW
@given(pixels=images, resized=sizes)
def test_padding_is_zero_whatever_it_held(pixels: Tensor, resized: list[tuple[int, int]]) -> None:
    values = normalise(pixels, torch.tensor(resized))
    for image, (height, width) in zip(values, resized, strict=True):
        assert not image[:, height:].any()
        assert not image[:, :, width:].any()


@pytest.mark.law
@LAW
@given(pixels=images)
def test_pixels_can_be_read_back(pixels: Tensor) -> None:
    values = normalise(pixels, torch.tensor([[5, 7], [5, 7]]))
    back = values * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
    assert back.round().to(torch.uint8).equal(pixels)


@pytest.mark.law
def test_the_mean_colour_is_zero_and_channels_are_red_green_blue() -> None:
    white = normalise(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8), torch.tensor([[1, 1]]))
    assert_close(white.flatten(), torch.tensor([2.24891, 2.42857, 2.64]), atol=1e-5, rtol=0)
