import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldkit.jobs.histogram import BAR_WIDTH, BARS, Bin, bins, drawn, percentiles

NUMBERS = st.lists(st.integers(0, 5000), min_size=1, max_size=200)


@pytest.mark.law
@given(NUMBERS)
def test_bins_hold_every_number_once_and_are_few(numbers) -> None:
    found = bins(np.array(numbers))
    assert len(found) <= BARS
    assert [each.amount for each in found] == [
        sum(each.first <= number <= each.last for number in numbers) for each in found
    ]
    assert sum(each.amount for each in found) == len(numbers)


@pytest.mark.law
@given(NUMBERS)
def test_percentiles_rise_and_are_numbers_that_are_there(numbers) -> None:
    found = list(percentiles(np.array(numbers)).values())
    assert found == sorted(found)
    assert set(found) <= set(numbers)
    assert (found[0], found[-1]) == (min(numbers), max(numbers))


@pytest.mark.contract
def test_percentiles_have_names() -> None:
    expected = {"p0": 1, "p10": 10, "p50": 50, "p90": 90, "p99": 99, "max": 100}
    assert percentiles(np.arange(1, 101)) == expected


@pytest.mark.contract
def test_bars_are_drawn_to_scale() -> None:
    text = drawn([Bin(0, 0, 1200), Bin(1, 1, 600), Bin(2, 2, 0), Bin(3, 3, 1)])
    assert text.splitlines() == [
        "0  1,200  " + "#" * BAR_WIDTH,
        "1    600  " + "#" * (BAR_WIDTH // 2),
        "2      0",
        "3      1  #",
    ]
    assert drawn(bins(np.array([0, 3, 999]))).splitlines()[0] == "  0-199  2  " + "#" * BAR_WIDTH
