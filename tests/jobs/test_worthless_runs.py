"""Runs that would be worthless to continue stop, and say why."""

import re
from pathlib import Path

import pytest

from ldkit.errors import TrainingError
from ldkit.jobs import distill, train_teacher
from tests.jobs.conftest import World
from tests.jobs.tiny import finish, last_checkpoint, steps, teacher_recipe


@pytest.mark.contract
def test_a_distillation_that_says_nothing_for_fifty_steps_is_stopped(
    world: World, tmp_path: Path
) -> None:
    silent = world.student("objective.localization.main.weight=0", "schedule.epochs=20")
    with pytest.raises(TrainingError) as caught:
        finish(distill.run(silent, tmp_path, distill.Options(device="cpu")))
    text = str(caught.value)
    assert text.startswith("ld_main: zero in all of the first 50 steps: the student learns nothing")
    assert "the weight of the term is 0; the cache holds no rows" in text
    assert len(steps(tmp_path)) == 50
    assert not (tmp_path / "model.pt").exists()


@pytest.mark.contract
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_images(
    world: World, tmp_path: Path
) -> None:
    wild = teacher_recipe(
        world.data,
        "optim={kind: sgd, lr: 1e30}",
        "schedule.warmup_start=1",
        "train.checkpoint_every_steps=1",
    )
    with pytest.raises(TrainingError) as caught:
        finish(train_teacher.run(wild, tmp_path, device="cpu", resume=True))
    text = str(caught.value)
    done = len(steps(tmp_path))
    assert done >= 1
    found = re.match(
        rf"loss: is not finite at step {done + 1}: .*\. Images of this batch: ([\d, ]+)\.\n", text
    )
    assert found, text
    assert 1 <= len(found[1].split(", ")) <= 3
    assert "lower optim.lr" in text
    assert last_checkpoint(tmp_path) == f"step_{done:07d}"
    assert not (tmp_path / "model.pt").exists()
    with pytest.raises(TrainingError, match=f"step {done + 1}: .*: {found[1]}"):
        finish(train_teacher.run(wild, tmp_path, device="cpu", resume=True))
