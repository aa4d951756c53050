import pytest

from ldkit.training.events import Evaluated, Step


@pytest.mark.law
def test_the_loss_of_a_step_is_the_sum_of_its_terms() -> None:
    step = Step(1, 0, 0.1, {"cls": 0.5, "box": 0.25, "ld_main": 0.125}, None, 1.0, 0.1, 2)
    assert step.loss == 0.875


@pytest.mark.contract
def test_an_evaluation_tells_its_ap() -> None:
    assert Evaluated(1, {"ap": 0.25, "ap50": 0.5}, 1.0).ap == 0.25
    assert Evaluated(1, {"ap": None}, 1.0).ap is None
