"""A run that ends early, by whatever hand, goes on as if nothing had happened."""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ldkit.errors import DataError
from ldkit.jobs import train_teacher
from ldkit.jobs.progress import Message, Note, Progress
from ldkit.jobs.train import Material, Task
from ldkit.jobs.train import train as train_with
from ldkit.models.checkpoint_file import read_model
from ldkit.models.gfl import Detector
from ldkit.recipe.load import dump_recipe
from ldkit.recipe.schema import Recipe
from ldkit.structures import Batch, LossTerms, Predictions
from ldkit.training.events import Contributions, Evaluated, Finished, Saved, Started, Step
from ldkit.training.journal import read_journal
from tests.jobs.conftest import World
from tests.jobs.tiny import (
    ROOT,
    at_step,
    environment,
    finish,
    last_checkpoint,
    python,
    steps,
    teacher_recipe,
    told,
    until,
    weights,
)

CHILD = """
import sys
import time
from pathlib import Path
from ldkit.jobs import train_teacher
from ldkit.recipe.load import load_recipe
recipe = load_recipe(sys.argv[1]).recipe
print("begin", flush=True)
for message in train_teacher.run(recipe, Path(sys.argv[2]), device="cpu", resume=True):
    time.sleep(0.02)  # else it might be done before its parent is ready
"""
LONG = ("schedule.epochs=12", "train.checkpoint_every_steps=3", "eval.every_epochs=5")


def train(recipe: Recipe, folder: Path, out: Path | None = None) -> Generator[Message, None, None]:
    return train_teacher.run(recipe, folder, device="cpu", resume=True, out=out)


@pytest.fixture(scope="module")
def whole(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run of two epochs, four steps each, evaluated after each."""
    run = tmp_path_factory.mktemp("whole") / "run"
    finish(train(short(world), run))
    return run


def short(world: World) -> Recipe:
    return teacher_recipe(world.data, "eval.every_epochs=1", "eval.batch_size=1")


def evaluations(run: Path) -> list[tuple[int, dict[str, float | None]]]:
    events = read_journal(run / "metrics.jsonl")
    return [(event.step, event.figures) for event in events if isinstance(event, Evaluated)]


def assert_equal_runs(one: Path, other: Path) -> None:
    assert steps(one) == steps(other)
    assert evaluations(one) == evaluations(other)
    assert weights(one) == weights(other)


def child(recipe: Recipe, folder: Path) -> subprocess.Popen[bytes]:
    """Start a run in a process of its own, and wait until it begins."""
    path = folder.with_suffix(".yaml")
    path.write_text(dump_recipe(recipe))
    process = subprocess.Popen(
        python(CHILD, path, folder),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"begin\n"
    return process


def lines(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def wait_for_lines(run: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while lines(run) < count and time.monotonic() < deadline:
        time.sleep(0.001)


@pytest.mark.law
def test_a_run_killed_at_random_times_ends_like_an_undisturbed_one(
    world: World, tmp_path: Path
) -> None:
    recipe, dice = teacher_recipe(world.data, *LONG), random.Random(time.time_ns())
    finish(train(recipe, tmp_path / "whole"))
    run = tmp_path / "killed"
    for _ in range(2):
        with child(recipe, run) as process:
            wait_for_lines(run, lines(run) + dice.randint(1, 20))
            time.sleep(dice.uniform(0, 0.05))
            process.kill()
    finish(train(recipe, run))
    assert len(steps(run)) == 48
    assert_equal_runs(run, tmp_path / "whole")


@pytest.mark.law
def test_ctrl_c_saves_and_the_run_goes_on_from_exactly_there(world: World, tmp_path: Path) -> None:
    recipe = teacher_recipe(world.data, "schedule.epochs=12", "optim.clip_norm=null")
    finish(train(recipe, tmp_path / "whole"))
    run = tmp_path / "stopped"
    with child(recipe, run) as process:
        wait_for_lines(run, 12)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert b"KeyboardInterrupt" in errors.splitlines()[-1]
    done = steps(run)[-1][0]
    assert 11 <= done < 48
    assert last_checkpoint(run) == f"step_{done:07d}"
    messages = told(train(recipe, run))
    assert any(isinstance(one, Note) and f"step {done} " in one.text for one in messages)
    assert next(one.step for one in messages if isinstance(one, Step)) == done + 1
    assert_equal_runs(run, tmp_path / "whole")


@pytest.mark.law
@pytest.mark.parametrize("step", [1, 4, 7, 8])
def test_a_closed_run_saves_and_goes_on_from_there(
    world: World, tmp_path: Path, whole: Path, step: int
) -> None:
    job = train(short(world), tmp_path)
    until(job, at_step(step))
    job.close()
    assert last_checkpoint(tmp_path) == f"step_{step:07d}"
    assert not (tmp_path / "model.pt").exists()
    finish(train(short(world), tmp_path))
    assert_equal_runs(tmp_path, whole)


@pytest.mark.contract
def test_a_run_closed_before_its_first_step_saves_nothing(
    world: World, tmp_path: Path, whole: Path
) -> None:
    job = train(short(world), tmp_path)
    until(job, lambda message: isinstance(message, Started))
    job.close()
    assert last_checkpoint(tmp_path) == "none"
    finish(train(short(world), tmp_path))
    assert_equal_runs(tmp_path, whole)


@pytest.mark.law
@pytest.mark.parametrize("count", [1, 3, 5])
def test_an_interrupted_evaluation_is_made_up_for(
    world: World, tmp_path: Path, whole: Path, count: int
) -> None:
    job = train(short(world), tmp_path)
    for _ in range(count):
        until(job, lambda message: isinstance(message, Progress))
    job.close()
    assert not list(tmp_path.rglob("*.tmp"))
    finish(train(short(world), tmp_path))
    assert [step for step, _ in evaluations(tmp_path)] == [4, 8]
    assert_equal_runs(tmp_path, whole)


@pytest.mark.law
@pytest.mark.parametrize(
    "place", ["train_teacher.assign_atss", "detect.decode", "train.write_state"]
)
def test_ctrl_c_may_come_at_any_place(
    world: World, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    module, name = place.split(".")
    original = getattr(__import__(f"ldkit.jobs.{module}", fromlist=[name]), name)
    calls = iter(range(100))

    def interrupted(*arguments: Any, **named: Any) -> Any:
        if next(calls) == 1:
            signal.raise_signal(signal.SIGINT)
        return original(*arguments, **named)

    recipe = short(world).model_copy(
        update={"train": short(world).train.model_copy(update={"checkpoint_every_steps": 2})}
    )
    with monkeypatch.context() as patch:
        patch.setattr(f"ldkit.jobs.{place}", interrupted)
        with pytest.raises(KeyboardInterrupt):
            finish(train(recipe, tmp_path))
    assert last_checkpoint(tmp_path) == f"step_{steps(tmp_path)[-1][0]:07d}"
    finish(train(recipe, tmp_path))
    assert_equal_runs(tmp_path, whole)


@pytest.mark.contract
def test_a_checkpoint_comes_after_the_evaluation_of_its_step(world: World, tmp_path: Path) -> None:
    recipe = teacher_recipe(world.data, "eval.every_epochs=1", "train.checkpoint_every_steps=4")
    messages = told(train(recipe, tmp_path))
    order = [(type(one), one.step) for one in messages if isinstance(one, Evaluated | Saved)]
    assert order == [(Evaluated, 4), (Saved, 4), (Evaluated, 8), (Saved, 8)]
    events = list(read_journal(tmp_path / "metrics.jsonl"))
    assert events == [one for one in messages if not isinstance(one, Progress | Note)]
    assert isinstance(events[-1], Finished)


@pytest.mark.contract
def test_an_image_that_cannot_be_read_costs_no_step_that_was_taken(
    world: World, tmp_path: Path, whole: Path
) -> None:
    data = shutil.copytree(world.data, tmp_path / "data")
    run, recipe = tmp_path / "run", short(world)
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"root": str(data)})})
    for picture in (data / "train" / "10.png", data / "val" / "2.png"):
        content = picture.read_bytes()
        picture.write_bytes(content[: len(content) // 2])
        with pytest.raises(DataError, match=f"^{picture}: the image cannot be read"):
            finish(train(recipe, run))
        done = steps(run)[-1][0] if lines(run) > 1 else 0
        assert last_checkpoint(run) == (f"step_{done:07d}" if done else "none")
        picture.write_bytes(content)
    finish(train(recipe, run))
    assert steps(run) == steps(whole)
    assert weights(run) == weights(whole)


@pytest.mark.contract
def test_a_finished_run_is_left_alone_but_may_be_written_elsewhere(
    world: World, tmp_path: Path, whole: Path
) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    (note,) = told(train(short(world), run, out=tmp_path / "teacher.safetensors"))
    assert note == Note(f"{run} is finished already; nothing was trained.")
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    assert read_model(tmp_path / "teacher.safetensors").fingerprint == weights(run)


@pytest.mark.contract
def test_a_run_leaves_its_recipe_journal_scores_last_state_and_model(
    world: World, tmp_path: Path, whole: Path
) -> None:
    names = {path.name for path in whole.iterdir()}
    assert names == {
        *("recipe.yaml", "environment.json", "lineage.json", "metrics.jsonl"),
        *("checkpoints", "eval", "model.pt"),
    }
    assert last_checkpoint(whole) == "step_0000008"
    finish(train(short(world), tmp_path / "run", out=tmp_path / "out.pt"))
    assert (tmp_path / "out.pt").read_bytes() == (tmp_path / "run" / "model.pt").read_bytes()
    origin = read_model(tmp_path / "out.pt").origin
    assert origin["name"] == "teacher"
    assert origin["steps"] == 8
    assert Recipe.model_validate(origin["recipe"], strict=False) == short(world)


@pytest.mark.law
def test_the_same_recipe_trains_the_same_weights_whatever_was_random_before(
    world: World, tmp_path: Path, whole: Path
) -> None:
    torch.manual_seed(os.getpid())
    torch.rand(7)
    finish(train(short(world), tmp_path))
    assert_equal_runs(tmp_path, whole)


@pytest.mark.contract
def test_the_model_is_asked_as_the_caller_says(world: World, tmp_path: Path) -> None:
    recipe = teacher_recipe(world.data, "schedule.max_steps=2")
    plain = train_teacher.objective(recipe)
    asked: list[Tensor] = []

    def forward(model: Detector, images: Tensor) -> Predictions:
        predictions: Predictions = model(images)
        return predictions._replace(bare_cls_logits=predictions.cls_logits * 2)

    def objective(predictions: Predictions, batch: Batch, step: int) -> LossTerms:
        assert predictions.bare_cls_logits is not None
        asked.append(predictions.bare_cls_logits)
        return plain(predictions, batch, step)

    task = Task(recipe, tmp_path / "run", torch.device("cpu"))
    finish(train_with(task, Material.of(recipe), objective, forward=forward))
    assert len(asked) == 2


def is_measured(message: Message) -> bool:
    return isinstance(message, Contributions)


@pytest.mark.law
@pytest.mark.parametrize("is_last", [is_measured, at_step(3), at_step(4)])
def test_contributions_are_told_once_wherever_a_run_is_closed(
    world: World, tmp_path: Path, is_last: Callable[[Message], bool]
) -> None:
    plain = teacher_recipe(world.data, "train.log_terms_every_steps=null")
    recipe = teacher_recipe(world.data, "train.log_terms_every_steps=3")

    assert not any(map(is_measured, told(train(plain, tmp_path / "plain"))))
    finish(train(recipe, tmp_path / "whole"))
    stopped = train(recipe, tmp_path / "stopped")
    until(stopped, is_last)
    stopped.close()
    done = [step for step, _ in steps(tmp_path / "stopped")]
    assert last_checkpoint(tmp_path / "stopped") == f"step_{done[-1]:07d}"
    finish(train(recipe, tmp_path / "stopped"))
    for run in (tmp_path / "whole", tmp_path / "stopped"):
        assert weights(run) == weights(tmp_path / "plain")
        assert steps(run) == steps(tmp_path / "plain")
        assert order(run) == [*range(1, 3), -3, *range(3, 6), -6, *range(6, 9)]


def order(run: Path) -> list[int]:
    """The steps as the journal tells them; contributions are negative."""
    events = list(read_journal(run / "metrics.jsonl"))
    told = [event for event in events if isinstance(event, Contributions | Step)]
    return [event.step if isinstance(event, Step) else -event.step for event in told]
