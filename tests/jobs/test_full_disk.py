"""A disk that is full now and then: every command says so, and goes on to the same bytes."""

import errno
import os
import random
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ldkit import files
from ldkit.errors import StorageError
from ldkit.jobs import build_cache, distill, evaluate, train_teacher
from ldkit.recipe.schema import Recipe
from ldkit.training.journal import Journal
from tests.jobs.conftest import World
from tests.jobs.tiny import finish, last_checkpoint, snapshot, steps, teacher_recipe, weights

Command = Callable[[], Generator[Any, None, Any]]
MOST_ATTEMPTS = 100


@contextmanager
def room_for(count: int) -> Iterator[None]:
    """Let every file write but the first so many fail, as on a full disk."""
    left, sync = iter(range(count)), files._sync

    def full(path: Path) -> None:
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_sync", full)
        yield


def failure(command: Command, room: int) -> StorageError | None:
    """Run a command on a disk with room for so many writes; return how it failed, if it did."""
    try:
        with room_for(room):
            finish(command())
    except StorageError as error:
        return error
    return None


def attempts(command: Command, folder: Path, seed: int, most: int = 13) -> int:
    """Run a command until it comes to its end; return how often the disk was full."""
    dice = random.Random(seed)
    for number in range(MOST_ATTEMPTS):
        error = failure(command, dice.randint(0, most))
        if error is None:
            return number
        assert error.message == "could not be written: No space left on device."
        assert "run the same command again: it goes on where it stopped" in error.hint
        assert not list(folder.rglob(".*.tmp"))
    pytest.fail("it never came to its end")


def trained(recipe: Recipe, folder: Path) -> Command:
    return lambda: train_teacher.run(recipe, folder, device="cpu", resume=True)


@pytest.mark.law
@pytest.mark.parametrize("seed", [1, 2])
def test_a_teacher_is_trained_to_the_same_weights(world: World, tmp_path: Path, seed: int) -> None:
    recipe = teacher_recipe(world.data, "train.checkpoint_every_steps=3", "eval.every_epochs=1")
    whole, run = tmp_path / "whole", tmp_path / "run"
    finish(trained(recipe, whole)())
    assert attempts(trained(recipe, run), tmp_path, seed) >= 2
    assert steps(run) == steps(whole)
    assert (run / "model.pt").read_bytes() == (whole / "model.pt").read_bytes()


@pytest.mark.law
@pytest.mark.parametrize("seed", [1, 2])
def test_a_cache_is_built_to_the_same_bytes(world: World, tmp_path: Path, seed: int) -> None:
    recipe = world.student("cache.shard_mb=0.003", cache=tmp_path / "cache")

    def build() -> Generator[Any, None, Any]:
        return build_cache.run(recipe, device="cpu")

    assert attempts(build, tmp_path, seed, most=5) >= 2
    left = snapshot(tmp_path / "cache")
    for path in sorted((tmp_path / "cache").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    finish(build())
    assert snapshot(tmp_path / "cache") == left


@pytest.mark.law
def test_a_student_is_distilled_to_the_same_weights(world: World, tmp_path: Path) -> None:
    recipe = world.student("train.checkpoint_every_steps=2")
    options = distill.Options(device="cpu", resume=True)
    finish(distill.run(recipe, tmp_path / "whole", options))
    run = tmp_path / "run"
    assert attempts(lambda: distill.run(recipe, run, options), tmp_path, 1) >= 2
    assert steps(run) == steps(tmp_path / "whole")
    assert weights(run) == weights(tmp_path / "whole")


@pytest.mark.contract
def test_scores_and_submissions_are_whole_or_as_they_were(world: World, tmp_path: Path) -> None:
    test = "data.test_dev={images: val, annotations: annotations/instances_val.json}"
    target = evaluate.target(world.teacher, [test, "eval.score_floor=0.01"])
    goal = replace(target, results=tmp_path / "eval")
    for split in ("val", "test-dev"):
        for room in (0, 1):
            before = snapshot(tmp_path)
            with room_for(room), pytest.raises(StorageError, match="No space left on device"):
                finish(evaluate.run(goal, split, device="cpu"))
            assert snapshot(tmp_path) == before or room == 1  # the file was in place already
        finish(evaluate.run(goal, split, device="cpu"))
        whole = snapshot(tmp_path)
        with room_for(0), pytest.raises(StorageError):
            finish(evaluate.run(goal, split, device="cpu"))
        assert snapshot(tmp_path) == whole


@pytest.mark.law
@pytest.mark.parametrize("line", [1, 4, 8])
def test_a_journal_that_cannot_be_written_stops_the_run_and_has_no_gap_later(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: int
) -> None:
    recipe = teacher_recipe(world.data)
    finish(trained(recipe, tmp_path / "whole")())
    run, append, left = tmp_path / "run", Journal._append, iter(range(line))

    def full(journal: Journal, text: bytes) -> None:
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(journal, text)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "_append", full)
        with pytest.raises(StorageError, match=r"metrics\.jsonl: could not be written"):
            finish(trained(recipe, run)())
    assert last_checkpoint(run) == "none"  # a state whose step has no line would leave a gap
    finish(trained(recipe, run)())
    assert weights(run) == weights(tmp_path / "whole")
    assert steps(run) == steps(tmp_path / "whole")
