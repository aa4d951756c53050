"""Tasks in processes: what they tell arrives, what goes wrong is told, and all of them end."""

import os
import signal
import time
from collections.abc import Generator
from functools import partial
from pathlib import Path

import pytest

from ldkit.errors import DataError, TrainingError
from ldkit.jobs.processes import side_by_side
from ldkit.jobs.progress import Message, Note

FOREVER_SECONDS = 60


def counting(count: int) -> Generator[Message, None, None]:
    for number in range(count):
        yield Note(str(number))


def saving(folder: Path) -> Generator[Message, None, None]:
    """Tell something again and again, and save when there is an end to it."""
    (folder / "begun").touch()
    try:
        for number in range(100 * FOREVER_SECONDS):
            yield Note(str(number))
            time.sleep(0.01)
    finally:
        (folder / "saved").touch()


def wrong(folder: Path) -> Generator[Message, None, None]:
    yield Note("soon")
    while not (folder / "begun").exists():
        time.sleep(0.01)
    raise DataError("is broken.", where="image 3", hint="Mend it.")


def killed() -> Generator[Message, None, None]:
    yield Note("soon")
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.contract
def test_all_that_is_told_arrives_in_order_and_only_so_many_run_at_once() -> None:
    tasks = {"many": partial(counting, 3000), "few": partial(counting, 3)}
    told = list(side_by_side(tasks, at_once=1))
    assert told == [
        (name, Note(str(number)))
        for name, count in (("many", 3000), ("few", 3))
        for number in range(count)
    ]


@pytest.mark.contract
def test_the_error_of_a_task_ends_the_others_which_save_first(tmp_path: Path) -> None:
    tasks = {"good": partial(saving, tmp_path), "bad": partial(wrong, tmp_path)}
    with pytest.raises(DataError) as caught:
        list(side_by_side(tasks, at_once=2))
    assert str(caught.value) == "image 3: is broken.\nMend it."
    assert (tmp_path / "saved").exists()


@pytest.mark.contract
def test_a_closed_caller_asks_its_tasks_to_stop(tmp_path: Path) -> None:
    job = side_by_side({"good": partial(saving, tmp_path)}, at_once=2)
    assert next(job) == ("good", Note("0"))
    began = time.monotonic()
    job.close()
    assert time.monotonic() - began < FOREVER_SECONDS / 2
    assert (tmp_path / "saved").exists()


@pytest.mark.contract
def test_a_killed_process_is_told_by_name() -> None:
    with pytest.raises(TrainingError) as caught:
        list(side_by_side({"student, seed 0": killed}, at_once=2))
    assert caught.value.message == "its process was killed (SIGKILL)."
    assert caught.value.where == "student, seed 0"
    assert "The same command goes on" in caught.value.hint
