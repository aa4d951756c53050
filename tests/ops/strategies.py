"""Inputs that hypothesis draws for the laws of ops and objectives."""

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

LAW = settings(deadline=None, max_examples=30)
"""How often a law is tried."""


def tensors(*shape: int, low: float, high: float) -> st.SearchStrategy[Tensor]:
    """Return float32 tensors of a shape with values from low to high."""
    # Values near the smallest float are flushed to zero by some operations: not our business.
    values = st.floats(low, high, width=32, allow_subnormal=False)
    return arrays(np.float32, shape, elements=values).map(torch.from_numpy)


def whole_boxes(count: int, side: int) -> st.SearchStrategy[Tensor]:
    """Return boxes with whole coordinates inside a square image, each at least one pixel.

    Whole coordinates tie often and make every step of an assignment exact.
    """
    corner, extent = st.integers(0, side - 1), st.integers(1, side)
    one = st.tuples(corner, corner, extent, extent)
    return st.lists(one, min_size=count, max_size=count).map(lambda rows: _clipped(rows, side))


def boxes(count: int, side: float = 100.0) -> st.SearchStrategy[Tensor]:
    """Return boxes within a square, each at least a hundredth of it wide and high."""
    return st.tuples(
        tensors(count, 2, low=0.0, high=side * 0.9),
        tensors(count, 2, low=side * 0.01, high=side * 0.1),
    ).map(lambda pair: torch.cat([pair[0], pair[0] + pair[1]], dim=1))


def _clipped(rows: list[tuple[int, int, int, int]], side: int) -> Tensor:
    table = torch.tensor(rows, dtype=torch.float32).view(-1, 4)
    return torch.cat([table[:, :2], (table[:, :2] + table[:, 2:]).clamp(max=side)], dim=1)
