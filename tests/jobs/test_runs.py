"""Who may write into the folder of a run."""

import json
from pathlib import Path

import pytest

from ldkit.errors import UsageError
from ldkit.jobs import train_teacher
from ldkit.jobs.runs import RunFolder, begin, claim
from ldkit.recipe.load import load_recipe
from tests.jobs.conftest import World
from tests.jobs.tiny import finish, snapshot, teacher_recipe

LINEAGE = {"data": "d" * 64, "teacher": "a" * 64}


@pytest.mark.contract
def test_a_new_run_keeps_its_resolved_recipe_and_what_it_ran_on(
    world: World, tmp_path: Path
) -> None:
    recipe = teacher_recipe(world.data, "optim.lr=0.003")
    run = claim(tmp_path / "run", recipe, resume=False)
    assert not run.path.exists()
    begin(run, recipe, LINEAGE)
    assert load_recipe(str(run.recipe)).recipe == recipe
    environment = json.loads((run.path / "environment.json").read_text())
    assert {"ldkit", "python", "torch", "numpy"} <= environment.keys()
    assert not run.is_finished


@pytest.mark.contract
def test_beginning_a_run_again_leaves_its_recipe_alone(world: World, tmp_path: Path) -> None:
    recipe = teacher_recipe(world.data)
    run = RunFolder(tmp_path)
    begin(run, recipe, LINEAGE)
    run.recipe.write_text(run.recipe.read_text() + "# a note of the user\n")
    before = snapshot(tmp_path)
    begin(claim(tmp_path, recipe, resume=True), recipe, LINEAGE)
    assert snapshot(tmp_path) == before


@pytest.mark.contract
@pytest.mark.parametrize("finished", [True, False])
def test_a_folder_that_holds_a_run_is_not_taken_by_another(
    world: World, tmp_path: Path, finished: bool
) -> None:
    recipe = teacher_recipe(world.data)
    begin(RunFolder(tmp_path), recipe, LINEAGE)
    if finished:
        RunFolder(tmp_path).model.write_bytes(b"done")
    before = snapshot(tmp_path)
    with pytest.raises(UsageError) as caught:
        finish(train_teacher.run(recipe, tmp_path, device="cpu"))
    state = "a finished run" if finished else "an unfinished run"
    assert str(caught.value) == (
        f"{tmp_path}: holds {state} already.\n"
        "Go on with it by `--resume`, or begin another with `--set name=...`."
    )
    assert snapshot(tmp_path) == before


@pytest.mark.contract
def test_a_run_is_not_resumed_with_another_recipe(world: World, tmp_path: Path) -> None:
    begin(RunFolder(tmp_path), teacher_recipe(world.data), LINEAGE)
    before = snapshot(tmp_path)
    other = teacher_recipe(world.data, "optim.lr=0.003")
    with pytest.raises(UsageError) as caught:
        finish(train_teacher.run(other, tmp_path, device="cpu", resume=True))
    assert "was begun with another recipe, so it cannot be resumed with this one." in str(
        caught.value
    )
    assert f"`ldkit recipe diff RECIPE {tmp_path / 'recipe.yaml'}`" in caught.value.hint
    assert snapshot(tmp_path) == before


@pytest.mark.contract
def test_a_file_in_the_place_of_the_folder_is_left_alone(world: World, tmp_path: Path) -> None:
    (tmp_path / "run").write_bytes(b"notes")
    with pytest.raises(UsageError, match="is a file, but the folder of the run is to be made"):
        finish(train_teacher.run(teacher_recipe(world.data), tmp_path / "run", device="cpu"))
    assert (tmp_path / "run").read_bytes() == b"notes"


@pytest.mark.contract
def test_resuming_what_was_never_begun_begins_it(world: World, tmp_path: Path) -> None:
    recipe = teacher_recipe(world.data, "schedule.max_steps=1")
    finish(train_teacher.run(recipe, tmp_path / "run", device="cpu", resume=True))
    assert RunFolder(tmp_path / "run").is_finished


@pytest.mark.contract
def test_a_run_is_not_resumed_with_another_teacher_under_the_same_name(
    world: World, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path)
    begin(run, teacher_recipe(world.data), LINEAGE)
    before = snapshot(tmp_path)
    with pytest.raises(UsageError) as caught:
        begin(run, teacher_recipe(world.data), {**LINEAGE, "teacher": "b" * 64})
    assert str(caught.value) == (
        f"{tmp_path}: learnt from something else so far, so it cannot be resumed:\n"
        "  teacher: aaaaaaaaaaaa when it was begun, bbbbbbbbbbbb now\n"
        "Put back what it was begun with, or begin another run with `--set name=...`."
    )
    assert snapshot(tmp_path) == before


@pytest.mark.contract
def test_a_run_is_not_resumed_on_other_annotations(world: World, tmp_path: Path) -> None:
    recipe = teacher_recipe(world.data)
    begin(RunFolder(tmp_path), recipe, LINEAGE)
    before = snapshot(tmp_path)
    with pytest.raises(UsageError, match="data: dddddddddddd when it was begun"):
        finish(train_teacher.run(recipe, tmp_path, device="cpu", resume=True))
    assert snapshot(tmp_path) == before
