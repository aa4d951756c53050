import pytest

from ldkit.cache.receipts import RowCounts


@pytest.mark.law
def test_counts_are_summed_group_by_group() -> None:
    one, two = RowCounts(main=3, vlr=0, cross=4), RowCounts(main=5, vlr=7, cross=4)
    assert RowCounts.sum([one, two]) == RowCounts(main=8, vlr=7, cross=8)
    assert RowCounts.sum([one, two]).by_group == {"main": 8, "vlr": 7, "cross": 8}
    assert RowCounts.sum([RowCounts(main=0)]).by_group == {"main": 0}


@pytest.mark.contract
def test_a_group_that_is_not_held_is_not_counted() -> None:
    assert RowCounts(main=2, vlr=None).by_group == {"main": 2}
