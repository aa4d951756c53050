"""Shards are written beside the teacher: in a bounded queue, with errors that arrive."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from ldkit.cache import writer
from ldkit.cache.folder import CacheFolder, missing_shards
from ldkit.cache.format import Plan, Wanted
from ldkit.data.dataset import ViewDataset, load_batches
from ldkit.errors import CacheError, StorageError, UsageError
from ldkit.jobs import build_cache, cache_build_writer
from ldkit.jobs.cache_build_memory import Answer, Asking
from ldkit.jobs.cache_build_order import Coming
from ldkit.jobs.cache_build_writer import WAITING, ShardWriter
from ldkit.jobs.coverage import everything
from tests.jobs.conftest import World
from tests.jobs.tiny import finish

CPU = torch.device("cpu")
SMALL = ("cache.shard_mb=0.003", "cache.batch_size=2")
Told = list[tuple[int, Answer]]


@pytest.fixture
def order(world: World, tmp_path: Path) -> build_cache.Order:
    found = build_cache.order(world.student(*SMALL, cache=tmp_path / "cache"))
    writer.begin(found.folder, found.plan)
    return found


@pytest.fixture
def answers(world: World, order: build_cache.Order) -> Told:
    """All that the teacher says, with the shard that it belongs to."""
    plan, material = order.plan, order.material
    teacher = build_cache.load_teacher(world.teacher, CPU, channels_last=True)
    asking = Asking(teacher, asked(plan), plan.build.batch_size)
    shards = list(range(plan.shards))
    coming = Coming.of(CacheFolder(order.folder), plan, order.keys, shards, material)
    dataset = ViewDataset(material.records, material.draw)
    return [
        (coming.begun.popleft(), answer)
        for batch in load_batches(dataset, coming, workers=0, device=CPU)
        for answer in asking.answers(batch)
        if isinstance(answer, Answer)
    ]


def opened(order: build_cache.Order) -> ShardWriter:
    plan = order.plan
    return ShardWriter(order.folder, plan, order.keys, asked(plan), CPU)


def asked(plan: Plan) -> Wanted:
    return everything(plan.coverage, plan.columns)


def write(order: build_cache.Order, answers: Told) -> None:
    """Write answers from beginning to end."""
    with opened(order) as written:
        for shard, answer in answers:
            written.take(shard, answer)
        written.finish()


def fail_after(order: build_cache.Order, answers: Told) -> None:
    """Take answers, and fail."""
    with opened(order) as written:
        for shard, answer in answers:
            written.take(shard, answer)
        raise ZeroDivisionError


def threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name.startswith("ldkit-shards")]


@pytest.mark.law
def test_all_is_written_by_one_other_thread(
    order: build_cache.Order, answers: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    writers = []
    write_shard = writer.write_shard

    def noting(*given: Any) -> object:
        writers.append(threading.current_thread())
        return write_shard(*given)

    monkeypatch.setattr(writer, "write_shard", noting)
    write(order, answers)
    assert not missing_shards(CacheFolder(order.folder), order.plan)
    assert len(writers) == order.plan.shards
    assert len(set(writers)) == 1
    assert writers[0] is not threading.main_thread()
    assert not threads()


@pytest.mark.law
def test_no_more_wait_than_are_allowed(
    order: build_cache.Order, answers: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, split = threading.Event(), cache_build_writer.rows_by_view

    def slow(*given: Any) -> object:
        gate.wait(timeout=30)
        return split(*given)

    monkeypatch.setattr(cache_build_writer, "rows_by_view", slow)
    taken = []

    def teach() -> None:
        with opened(order) as written:
            for shard, answer in answers:
                written.take(shard, answer)
                taken.append(shard)
            written.finish()

    teaching = threading.Thread(target=teach)
    teaching.start()
    time.sleep(0.3)
    assert len(taken) == WAITING
    gate.set()
    teaching.join(timeout=30)
    assert len(taken) == len(answers)
    assert not missing_shards(CacheFolder(order.folder), order.plan)


@pytest.mark.contract
def test_an_error_of_the_thread_reaches_the_caller(
    order: build_cache.Order, answers: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StorageError("could not be written: No space left on device.", where="shard")

    monkeypatch.setattr(writer, "write_shard", full)
    with pytest.raises(StorageError, match="No space left on device"):
        fail_after(order, answers)  # from `take`: before the caller fails
    first = [answer for answer in answers if answer[0] == answers[0][0]]
    with pytest.raises(StorageError, match="No space left on device"):
        write(order, first)  # from `finish`
    assert not threads()


@pytest.mark.contract
def test_logits_that_are_not_finite_reach_the_caller(
    order: build_cache.Order, answers: Told
) -> None:
    for _, answer in answers:
        answer.said.bbox_logits.fill_(float("nan"))
    with pytest.raises(CacheError, match="are not finite"):
        write(order, answers)


@pytest.mark.law
def test_what_was_taken_is_written_when_the_caller_fails(
    order: build_cache.Order, answers: Told
) -> None:
    first = answers[0][0]
    with pytest.raises(ZeroDivisionError):
        fail_after(order, [answer for answer in answers if answer[0] == first])
    assert not threads()
    assert first not in missing_shards(CacheFolder(order.folder), order.plan)


@pytest.mark.law
def test_a_shard_that_another_process_has_written_is_left_alone(
    world: World, order: build_cache.Order, answers: Told
) -> None:
    finish(build_cache.run(world.student(*SMALL, cache=order.folder), device="cpu"))
    before = {path: path.stat().st_mtime_ns for path in order.folder.rglob("*")}
    write(order, answers)
    assert {path: path.stat().st_mtime_ns for path in order.folder.rglob("*")} == before


@pytest.mark.contract
@pytest.mark.parametrize("times", [1, 2])
def test_memory_that_ran_out_beside_the_teacher_is_tried_again_while_it_rests(
    order: build_cache.Order, answers: Told, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    find, left = cache_build_writer.rows_said, iter(range(times))

    def failing(*given: Any) -> object:
        if next(left, None) is not None:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return find(*given)

    monkeypatch.setattr(cache_build_writer, "rows_said", failing)
    if times == 1:
        write(order, answers)
        assert not missing_shards(CacheFolder(order.folder), order.plan)
        return
    key = answers[0][1].batch.keys[0]
    with pytest.raises(UsageError, match="memory does not suffice for 2 views of ") as ended:
        write(order, answers[:1])
    assert ended.value.where == f"image {key.image_id}, view {key.view}"


@pytest.mark.contract
def test_what_fails_at_the_second_attempt_reaches_the_caller(
    order: build_cache.Order, answers: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = [answer for answer in answers if answer[0] == answers[0][0]]
    find, runs_out = cache_build_writer.rows_said, iter([*[False] * (len(first) - 1), True])

    def failing(*given: Any) -> object:
        if next(runs_out, False):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return find(*given)

    def full(*_: object) -> None:
        raise StorageError("could not be written: No space left on device.", where="shard")

    monkeypatch.setattr(cache_build_writer, "rows_said", failing)
    monkeypatch.setattr(writer, "write_shard", full)
    with pytest.raises(StorageError, match="No space left on device"):
        write(order, first)


@pytest.mark.law
def test_a_shard_that_memory_ran_out_for_is_written_when_it_is_tried_again(
    order: build_cache.Order, answers: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shard, left = writer.write_shard, iter(range(1))

    def failing(*given: Any) -> object:
        if next(left, None) is not None:
            raise MemoryError
        return write_shard(*given)

    monkeypatch.setattr(writer, "write_shard", failing)
    write(order, answers)
    assert not missing_shards(CacheFolder(order.folder), order.plan)
