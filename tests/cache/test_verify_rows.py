"""How far what a teacher says may be from what is stored: measured against numbers, not names."""

from math import log

import pytest
import torch
from torch import Tensor

from ldkit.cache.verify_rows import Comparison, Gap
from ldkit.structures import RegionRows, Rows, ScoreRows, TeacherRows

NONE = torch.zeros(0, dtype=torch.int64)
MAIN = RegionRows(Rows(NONE, NONE, NONE), torch.zeros(0, 4, 5), None)


def excess(told: Tensor, stored: Tensor, *, compact: bool = False) -> float:
    gap = Gap()
    gap.add(told, stored, compact=compact)
    return gap.excess


@pytest.mark.contract
@pytest.mark.parametrize(
    ("stored", "allowed"), [(0.5, 1 / 1024), (1.0, 1 / 1024), (-8.0, 8 / 1024)]
)
def test_a_value_may_be_off_by_a_thousandth_of_itself_or_of_one(
    stored: float, allowed: float
) -> None:
    for share in (0.5, 2.0):
        told = torch.tensor([stored + share * allowed])
        assert excess(told, torch.tensor([stored])) == pytest.approx(share, rel=0.01)


@pytest.mark.contract
def test_a_compact_edge_may_be_off_by_half_a_step_beside() -> None:
    """Of a spread of 100 a step is 100 · 2^(1/8) / 255 at most: 0.43."""
    stored = torch.tensor([[0.0, -100.0]])
    for off, is_close in ((0.30, True), (0.33, False)):
        told = torch.tensor([[5.0, -95.0 + off]])
        assert (excess(told, stored, compact=True) <= 1) is is_close


@pytest.mark.contract
@pytest.mark.parametrize(("logit", "strays"), [(log(0.05 / 0.95), 0), (0.0, 1)])
def test_a_class_on_one_side_alone_is_no_stray_only_at_the_floor(logit: float, strays: int) -> None:
    one = torch.zeros(1, dtype=torch.int64)
    bins = torch.zeros(1, 4, 5)
    told = ScoreRows(one, one, bins, one, one, torch.tensor([logit]))
    stored = ScoreRows(one, one, bins, NONE, NONE, torch.zeros(0))
    found = Comparison()
    found.add(*(TeacherRows(main=MAIN, score=side) for side in (told, stored)), score_floor=0.05)
    assert found.strays["score"] == strays
