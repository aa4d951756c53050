import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from ldkit.training.schedule import CosineSchedule, MilestoneSchedule, Schedule, learning_rate

GOLDEN = Path(__file__).parents[1] / "golden"
RUNS = json.loads((GOLDEN / "g_lr.json").read_text())["runs"]


def published(
    base_lr: float, epochs: int, milestones: tuple[int, ...], warmup_steps: int
) -> MilestoneSchedule:
    return MilestoneSchedule(base_lr, epochs, milestones, 0.1, warmup_steps, 0.001)


EPOCHS = st.integers(1, 30)
SHARES = st.floats(0.0, 1.0)
MILESTONES = st.sets(EPOCHS, max_size=3).map(lambda epochs: tuple(sorted(epochs)))


@pytest.mark.golden
@pytest.mark.parametrize("name", sorted(RUNS))
def test_rates_of_mmdet_3_are_met_when_warmup_ends_at_step_499(name: str) -> None:
    run = RUNS[name]
    schedule = published(run["base_lr"], run["epochs"], tuple(run["milestones"]), 499)
    tensors = load_file(GOLDEN / "g_lr.safetensors")
    steps, rates = tensors[f"{name}.step"], tensors[f"{name}.lr"]
    assert len(steps) > 80
    for step, rate in zip(steps.tolist(), rates.tolist(), strict=True):
        found = learning_rate(schedule, step, run["steps_per_epoch"])
        assert found == pytest.approx(rate, rel=1e-12)


@pytest.mark.golden
def test_rates_of_mmdet_2_are_met_when_warmup_ends_at_step_500() -> None:
    # as mmdetection 2.x warms up
    schedule = published(0.01, 12, (8, 11), 500)
    expected = {0: 0.001, 250: 0.5005, 500: 1.0, 7999: 1.0, 8000: 0.1, 10999: 0.1, 11000: 0.01}
    for step, factor in expected.items():
        assert learning_rate(schedule, step, 1000) == pytest.approx(0.01 * factor, rel=1e-12)


@pytest.mark.golden
def test_warmup_rises_as_mmdet_2_writes_it() -> None:
    schedule = published(0.00375, 12, (8, 11), 500)
    for step in range(500):
        factor = 1 - (1 - step / 500) * (1 - 0.001)
        assert learning_rate(schedule, step, 1000) == pytest.approx(0.00375 * factor, rel=1e-12)


def falls_after_warmup(schedule: Schedule, steps_per_epoch: int) -> bool:
    total = schedule.epochs * steps_per_epoch
    rates = [learning_rate(schedule, step, steps_per_epoch) for step in range(total + 1)]
    assert all(0 <= rate <= schedule.base_lr * (1 + 1e-12) for rate in rates)
    after = rates[schedule.warmup_steps :]
    return all(late <= early for early, late in pairwise(after))


@pytest.mark.law
@settings(deadline=None, max_examples=50)
@given(EPOCHS, MILESTONES, SHARES, st.integers(0, 40), SHARES, st.integers(1, 50))
def test_a_rate_with_milestones_stays_below_its_base_and_falls_after_warmup(
    epochs: int,
    milestones: tuple[int, ...],
    factor: float,
    warmup_steps: int,
    warmup_start: float,
    steps_per_epoch: int,
) -> None:
    schedule = MilestoneSchedule(0.1, epochs, milestones, factor, warmup_steps, warmup_start)
    assert falls_after_warmup(schedule, steps_per_epoch)


@pytest.mark.law
@settings(deadline=None, max_examples=50)
@given(EPOCHS, SHARES, st.integers(0, 40), SHARES, st.integers(1, 50))
def test_a_cosine_rate_stays_below_its_base_and_falls_after_warmup(
    epochs: int, final: float, warmup_steps: int, warmup_start: float, steps_per_epoch: int
) -> None:
    schedule = CosineSchedule(0.1, epochs, final, warmup_steps, warmup_start)
    assert falls_after_warmup(schedule, steps_per_epoch)


@pytest.mark.law
@settings(deadline=None, max_examples=50)
@given(final=st.floats(0.0, 1.0), epochs=st.integers(1, 50), half=st.integers(1, 50))
def test_a_cosine_begins_at_its_base_halves_midway_and_ends_at_its_final_share(
    final: float, epochs: int, half: int
) -> None:
    schedule = CosineSchedule(2.0, epochs, final, 0, 0.5)
    rates = [learning_rate(schedule, epochs * step, 2 * half) for step in (0, half, 2 * half)]
    assert rates == pytest.approx([2.0, 1.0 + final, 2.0 * final], abs=1e-12)
