import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldkit.errors import TrainingError
from ldkit.structures import ViewKey
from ldkit.training.guards import SILENT_STEPS, SilenceWatch, raise_if_not_finite

KEYS = (ViewKey(139, 0), ViewKey(285, 1))


@pytest.mark.contract
def test_a_term_that_is_not_finite_is_named_with_its_value_and_the_images() -> None:
    with pytest.raises(TrainingError) as caught:
        raise_if_not_finite({"cls": 1.0, "box": math.nan, "dfl": math.inf}, None, KEYS, 41)
    text = str(caught.value)
    assert text.startswith(
        "loss: is not finite at step 42: box = nan, dfl = inf. Images of this batch: 139, 285."
    )
    assert "The weights are as they were before this step." in text
    assert "optim.clip_norm" in text
    assert caught.value.exit_code == 6


@pytest.mark.contract
def test_a_gradient_norm_that_is_not_finite_stops_the_run_as_well() -> None:
    with pytest.raises(
        TrainingError, match=r"gradient norm = inf\. Images of this batch: 139, 285"
    ):
        raise_if_not_finite({"cls": 1.0}, math.inf, KEYS, 0)


@pytest.mark.law
@settings(deadline=None, max_examples=30)
@given(
    terms=st.dictionaries(st.text(min_size=1), st.floats(allow_nan=False, allow_infinity=False)),
    norm=st.none() | st.floats(0, 1e30),
)
def test_finite_terms_pass(terms: dict[str, float], norm: float | None) -> None:
    raise_if_not_finite(terms, norm, KEYS, 0)


@pytest.mark.contract
def test_a_term_that_is_zero_in_all_of_the_first_steps_stops_the_run_with_the_reason() -> None:
    watch = SilenceWatch(("ld_main",))
    for _ in range(SILENT_STEPS - 1):
        watch.see({"cls": 1.0, "ld_main": 0.0})
    with pytest.raises(TrainingError) as caught:
        watch.see({"cls": 1.0, "ld_main": 1e-9})
    text = str(caught.value)
    assert text.startswith("ld_main: zero in all of the first 50 steps")
    for cause in ("weight of the term is 0", "ldkit cache info", "the student itself"):
        assert cause in text


@pytest.mark.contract
def test_a_watched_term_that_its_schedule_has_switched_off_says_nothing_by_intent() -> None:
    watch = SilenceWatch(("ld_main", "imitation"))
    for _ in range(SILENT_STEPS // 2):
        watch.see({"cls": 1.0, "ld_main": 1.0, "imitation": 0.0})
    for _ in range(3 * SILENT_STEPS):
        watch.see({"cls": 1.0})


@pytest.mark.contract
def test_a_watched_term_is_judged_by_the_steps_that_have_it() -> None:
    watch = SilenceWatch(("kd_main", "ld_main", "ld_vlr"))
    for _ in range(SILENT_STEPS):
        watch.see({"ld_main": 1.0})
    for _ in range(SILENT_STEPS - 1):
        watch.see({"ld_main": 0.0, "ld_vlr": 0.0, "kd_main": 0.0})
    with pytest.raises(TrainingError, match=r"^kd_main, ld_vlr: zero in all of the first 50 steps"):
        watch.see({"ld_main": 0.0, "ld_vlr": 0.0, "kd_main": 0.0})


@pytest.mark.law
@settings(deadline=None, max_examples=30)
@given(spoke=st.integers(0, SILENT_STEPS - 1), value=st.floats(1e-5, 10.0))
def test_one_value_within_the_first_steps_is_enough(spoke: int, value: float) -> None:
    watch = SilenceWatch(("ld_main",))
    for step in range(3 * SILENT_STEPS):
        watch.see({"ld_main": value if step == spoke else 0.0})


@pytest.mark.contract
def test_terms_that_are_not_watched_may_be_zero() -> None:
    watch = SilenceWatch(())
    for _ in range(2 * SILENT_STEPS):
        watch.see({"dfl": 0.0})
