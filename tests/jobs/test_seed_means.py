"""Means, standard errors and paired differences, by hand and by law."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldkit.jobs.seed_means import Mean, cells, differences, mean, means

figures = st.floats(0, 1) | st.none()


@pytest.mark.contract
def test_a_mean_has_the_standard_error_of_a_mean() -> None:
    assert mean([0.1, 0.3]) == Mean(0.2, pytest.approx(0.1))
    found = mean([0.1, None, 0.2, 0.3])
    assert found == Mean(pytest.approx(0.2), pytest.approx(0.1 / 3**0.5))
    assert mean([None, 0.25]) == Mean(0.25, None)
    assert mean([None]) is None


@pytest.mark.contract
def test_cells_are_percentages_with_the_error_below() -> None:
    found = {"ap": Mean(0.123, 0.0149), "ap50": Mean(-0.5, None), "ap75": None}
    assert cells(found, "{:.1f}") == ["12.3\n±1.5", "-50.0", "-"]
    assert cells(found, "{:+.1f}")[0] == "+12.3\n±1.5"


@pytest.mark.contract
def test_a_difference_that_rounds_to_nothing_has_no_sign() -> None:
    found = {"ap": Mean(-0.0001, None), "ap50": Mean(0.0001, 0.0), "ap75": Mean(-0.0006, None)}
    assert cells(found, "{:+.1f}") == ["0.0", "0.0\n±0.0", "-0.1"]


@pytest.mark.contract
def test_a_figure_that_is_missing_on_either_side_has_no_difference() -> None:
    base = [{"a": 0.5, "b": None, "c": 0.0}]
    assert differences(base, [{"a": 0.25, "b": 0.5, "c": None, "d": 1.0}]) == [
        {"a": -0.25, "b": None, "c": None, "d": None}
    ]
    with pytest.raises(ValueError, match="zip"):
        differences(base, [])


@pytest.mark.law
@given(st.lists(st.tuples(figures, st.floats(0, 1)), min_size=1, max_size=5), st.floats(-1, 1))
def test_a_constant_gain_has_no_error(pairs: list[tuple[float | None, float]], gain: float) -> None:
    base = [{"ap": value} for value, _ in pairs]
    more = [{"ap": None if value is None else value + gain} for value, _ in pairs]
    found = means(differences(base, more), ["ap"])["ap"]
    if all(value is None for value, _ in pairs):
        assert found is None
        return
    assert found is not None
    assert found.mean == pytest.approx(gain, abs=1e-9)
    assert (found.error or 0.0) == pytest.approx(0.0, abs=1e-9)
