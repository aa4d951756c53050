import math
import signal
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice, pairwise

import pytest
import torch

from ldkit.errors import TrainingError
from ldkit.structures import Batch, LossTerms
from ldkit.training.checkpoint import TrainState
from ldkit.training.contributions import shares
from ldkit.training.events import Contributions, Finished, Started, Step
from ldkit.training.loop import Course, StepFunction, fit
from ldkit.training.schedule import learning_rate
from tests.training.toy import (
    STEPS_PER_EPOCH,
    bits,
    counted,
    toy_batches,
    toy_course,
    toy_state,
    toy_step,
)


def steps_of(state: TrainState, course: Course, watched: tuple[str, ...] = ()) -> list[Step]:
    events = fit(toy_step(state), toy_batches, state, course, watched)
    return [event for event in events if isinstance(event, Step)]


def spoiled(step: StepFunction, at: int, value: float) -> StepFunction:
    """The same step, but its box term is `value` in call number `at`."""
    calls = iter(range(1000))

    def spoil(batch: Batch) -> LossTerms:
        terms = step(batch)
        return terms._replace(box=terms.box * value) if next(calls) == at else terms

    return spoil


@pytest.mark.contract
def test_a_run_tells_its_start_every_step_and_its_end() -> None:
    state = toy_state()
    events = list(fit(toy_step(state), toy_batches, state, toy_course(6)))
    assert events[0] == Started(step=0, total_steps=6, steps_per_epoch=STEPS_PER_EPOCH)
    assert [type(event) for event in events[1:-1]] == [Step] * 6
    assert isinstance(events[-1], Finished)
    assert [event.step for event in events] == [0, 1, 2, 3, 4, 5, 6, 6]
    assert state.step == 6


@pytest.mark.contract
def test_a_step_tells_its_epoch_rate_terms_and_images() -> None:
    state, course = toy_state(), toy_course(6)
    steps = steps_of(state, course)
    assert [step.epoch for step in steps] == [0, 0, 0, 0, 1, 1]
    rates = [learning_rate(course.schedule, position, STEPS_PER_EPOCH) for position in range(6)]
    assert [step.lr for step in steps] == rates
    assert {group["lr"] for group in state.optimizer.param_groups} == {rates[-1]}
    assert all(step.terms.keys() == {"cls", "box", "dfl"} for step in steps)
    assert all(step.loss == sum(step.terms.values()) for step in steps)
    assert all(step.images == 2 and step.grad_norm is None for step in steps)
    assert all(0 <= step.wait_seconds <= step.seconds for step in steps)


@pytest.mark.contract
def test_a_run_without_a_limit_takes_all_epochs() -> None:
    assert toy_course().total_steps == 200 * STEPS_PER_EPOCH
    assert toy_course(10_000).total_steps == 200 * STEPS_PER_EPOCH


@pytest.mark.contract
def test_a_resumed_run_asks_only_for_the_batches_it_has_not_seen() -> None:
    state, calls = toy_state(), list[tuple[int, int]]()
    state.step = 6
    events = list(fit(toy_step(state), counted(toy_batches, calls), state, toy_course(9)))
    assert calls == [(1, 2), (2, 0)]
    assert [event.step for event in events if isinstance(event, Step)] == [7, 8, 9]


@pytest.mark.contract
def test_a_finished_run_has_nothing_left_to_do() -> None:
    state, calls = toy_state(), list[tuple[int, int]]()
    state.step = 9
    events = list(fit(toy_step(state), counted(toy_batches, calls), state, toy_course(9)))
    assert [type(event) for event in events] == [Started, Finished]
    assert calls == []


@pytest.mark.contract
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_stops_the_run_with_the_weights_as_they_were(
    value: float,
) -> None:
    state = toy_state("adamw")
    events = fit(spoiled(toy_step(state), 2, value), toy_batches, state, toy_course(5))
    list(islice(events, 3))
    before = {name: value for name, value in bits(state).items() if "norm.running" not in name}
    with pytest.raises(TrainingError, match=r"at step 3: box = -?(nan|inf)\. .*: 102, 202\."):
        next(events)
    after = bits(state)
    assert all(after[name] == value for name, value in before.items() if "tracked" not in name)
    assert state.step == 2


@pytest.mark.contract
def test_a_watched_term_that_stays_zero_stops_the_run_after_fifty_steps() -> None:
    state = toy_state()
    told = []

    def silent(batch: Batch) -> LossTerms:
        terms = toy_step(state)(batch)
        return terms._replace(ld_main=terms.cls * 0.0)

    with pytest.raises(TrainingError, match="ld_main: zero in all of the first 50 steps"):
        told.extend(fit(silent, toy_batches, state, toy_course(), ("ld_main",)))
    assert told[-1].step == 50


@pytest.mark.contract
def test_a_watched_term_may_be_switched_off() -> None:
    state = toy_state()
    assert len(steps_of(state, toy_course(60), ("ld_main",))) == 60


@pytest.mark.law
@pytest.mark.parametrize("clip_norm", [1e-3, 1e6])
def test_clipping_tells_the_norm_and_bounds_the_step(clip_norm: float) -> None:
    plain, clipped = toy_state(), toy_state()
    before = [parameter.detach().clone() for parameter in clipped.model.parameters()]
    steps_of(plain, toy_course(1))
    (step,) = steps_of(clipped, toy_course(1, clip_norm))
    assert step.grad_norm is not None
    assert step.grad_norm > 0.05
    if clip_norm > step.grad_norm:
        assert bits(plain) == bits(clipped)
        return
    moves = [
        parameter.detach() - old
        for parameter, old in zip(clipped.model.parameters(), before, strict=True)
    ]
    decay = step.lr * 1e-4 * 10
    assert torch.cat([move.flatten() for move in moves]).norm() <= step.lr * clip_norm + decay


@pytest.mark.law
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("clip_norm", [None, 0.5])
@pytest.mark.parametrize("companion", [False, True])
def test_measuring_changes_no_bit_of_a_run(
    kind: str, clip_norm: float | None, companion: bool
) -> None:
    plain = toy_state(kind, companion=companion)
    measured = toy_state(kind, companion=companion)
    expected = steps_of(plain, toy_course(7, clip_norm))
    found = steps_of(measured, toy_course(7, clip_norm, measure_every=2))
    assert bits(measured) == bits(plain)
    assert [step.terms for step in found] == [step.terms for step in expected]
    assert [step.grad_norm for step in found] == [step.grad_norm for step in expected]


@pytest.mark.contract
def test_every_nth_step_of_the_run_is_measured_and_told_before_its_end() -> None:
    state = toy_state(companion=True)
    course = toy_course(7, measure_every=3)
    state.step = 1
    events = list(fit(toy_step(state), toy_batches, state, course))
    told = [(type(event), event.step) for event in events[1:-1]]
    order = [(Step, 2), (Contributions, 3), (Step, 3), (Step, 4), (Step, 5)]
    assert told == [*order, (Contributions, 6), (Step, 6), (Step, 7)]
    for event, step in pairwise(events):
        if isinstance(event, Contributions):
            assert isinstance(step, Step)
            assert event.shares == shares(step.terms)
            assert event.grad_norms.keys() == {"cls", "box", "dfl", "imitation"}
            assert min(event.grad_norms.values()) > 0


@pytest.mark.law
def test_the_gradient_of_a_companion_is_measured_clipped_and_applied() -> None:
    state = toy_state(companion=True)
    assert state.companion is not None
    before = bits(state)

    def step(_: Batch) -> LossTerms:
        assert state.companion is not None
        zero = torch.zeros(())
        return LossTerms(zero, zero, zero, imitation=state.companion[0].weight.sum() * 2.0)

    course = toy_course(1, clip_norm=0.1, measure_every=1)
    _, measured, done, _ = fit(step, toy_batches, state, course)
    assert isinstance(measured, Contributions)
    assert isinstance(done, Step)
    norm = math.sqrt(15 * 4)
    assert measured.grad_norms == pytest.approx({"cls": 0, "box": 0, "dfl": 0, "imitation": norm})
    assert done.grad_norm == pytest.approx(norm)
    after = bits(state)
    assert {name for name in after.keys() & before.keys() if after[name] != before[name]} == {
        "companion.0.weight"
    }


@pytest.mark.contract
def test_a_measured_gradient_that_is_not_finite_names_its_term() -> None:
    state = toy_state()

    def step(batch: Batch) -> LossTerms:
        terms = toy_step(state)(batch)
        return terms._replace(ld_main=(terms.cls * 0.0).sqrt())

    before = {name: value for name, value in bits(state).items() if "norm." not in name}
    with pytest.raises(TrainingError, match=r"step 1: gradient norm of ld_main = nan\. Images"):
        list(fit(step, toy_batches, state, toy_course(2, measure_every=1)))
    assert bits(state).items() >= before.items()


@pytest.mark.contract
def test_an_evaluation_between_two_steps_does_not_change_how_training_goes_on() -> None:
    plain, disturbed = toy_state(), toy_state()
    steps_of(plain, toy_course(4))
    for _ in fit(toy_step(disturbed), toy_batches, disturbed, toy_course(4)):
        disturbed.model.eval()
    assert bits(plain) == bits(disturbed)


@pytest.mark.contract
def test_ctrl_c_within_a_step_takes_effect_after_the_step_is_told() -> None:
    plain, stopped = toy_state(), toy_state()
    steps_of(plain, toy_course(2))
    step = toy_step(stopped)

    def interrupted(batch: Batch) -> LossTerms:
        if stopped.step == 1:
            signal.raise_signal(signal.SIGINT)
        return step(batch)

    told = []
    with pytest.raises(KeyboardInterrupt):
        told.extend(fit(interrupted, toy_batches, stopped, toy_course(5)))
    assert [event.step for event in told] == [0, 1, 2]
    assert stopped.step == 2
    assert bits(stopped) == bits(plain)


@pytest.mark.contract
def test_ctrl_c_while_waiting_for_a_batch_leaves_the_state_of_the_last_step() -> None:
    plain, stopped = toy_state(), toy_state()
    steps_of(plain, toy_course(2))

    def slow(epoch: int, first: int) -> Iterator[Batch]:
        for position, batch in enumerate(toy_batches(epoch, first)):
            if position == 2:
                signal.raise_signal(signal.SIGINT)
            yield batch

    with pytest.raises(KeyboardInterrupt):
        list(fit(toy_step(stopped), slow, stopped, toy_course(5)))
    assert bits(stopped) == bits(plain)


@pytest.mark.contract
def test_an_epoch_with_too_few_or_too_many_batches_is_a_mistake_of_the_caller() -> None:
    state = toy_state()
    for wrong in (STEPS_PER_EPOCH - 1, STEPS_PER_EPOCH + 1):
        course = replace(toy_course(), steps_per_epoch=wrong)
        with pytest.raises(ValueError, match="zip"):
            list(fit(toy_step(state), toy_batches, state, course))
        state.step = 0


@pytest.mark.contract
def test_a_course_needs_steps() -> None:
    with pytest.raises(ValueError, match="at least one step"):
        Course(toy_course().schedule, 0)
