import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldkit.training.terms import term_factor

STEPS = st.integers(0, 10_000)


@pytest.mark.law
@given(step=STEPS, warmup_steps=st.integers(1, 10_000))
def test_a_factor_rises_by_equal_parts_and_stays_at_one(step: int, warmup_steps: int) -> None:
    factor = term_factor(step, warmup_steps, None)
    assert factor == pytest.approx(min(step + 1, warmup_steps) / warmup_steps, rel=1e-12)
    assert 0 < factor <= term_factor(step + 1, warmup_steps, None) <= 1


@pytest.mark.law
@given(step=STEPS, warmup_steps=STEPS, stop_step=st.integers(1, 10_000))
def test_a_term_is_off_from_its_stop_on_and_untouched_before(
    step: int, warmup_steps: int, stop_step: int
) -> None:
    factor = term_factor(step, warmup_steps, stop_step)
    if step >= stop_step:
        assert factor == 0.0
    else:
        assert factor == term_factor(step, warmup_steps, None) > 0


@pytest.mark.contract
@pytest.mark.parametrize(
    ("step", "warmup_steps", "stop_step", "factor"),
    [
        (0, 0, None, 1.0),
        (0, 1, None, 1.0),
        (0, 4, None, 0.25),
        (3, 4, None, 1.0),
        (4, 4, None, 1.0),
        (0, 4, 1, 0.25),
        (1, 4, 1, 0.0),
        (9, 0, 10, 1.0),
        (10, 0, 10, 0.0),
    ],
)
def test_the_first_step_counts_already_and_the_last_of_the_warmup_is_whole(
    step: int, warmup_steps: int, stop_step: int | None, factor: float
) -> None:
    assert term_factor(step, warmup_steps, stop_step) == factor
