"""A training with its scores: begun, gone on with, or taken as it is."""

import json
from pathlib import Path

import pytest

from ldkit.errors import UsageError
from ldkit.jobs.scored_runs import Job, figures_of, in_processes, trained_and_scored
from ldkit.training.events import Step
from tests.jobs.conftest import World
from tests.jobs.tiny import at_step, told, until

SHORT = ("schedule.max_steps=4", "train.batch_size=2", "eval.batch_size=1")


@pytest.fixture
def job(world: World, tmp_path: Path) -> Job:
    return Job("student", world.student(*SHORT), tmp_path / "run")


@pytest.mark.contract
def test_a_job_goes_on_and_does_nothing_twice(job: Job) -> None:
    assert not job.is_done
    work = trained_and_scored(job)
    until(work, at_step(2))
    work.close()
    assert not job.is_done
    taken = [one.step for one in told(trained_and_scored(job)) if isinstance(one, Step)]
    assert taken == [3, 4]
    assert job.is_done
    written = job.scores.stat().st_mtime_ns
    assert not [one for one in told(trained_and_scored(job)) if isinstance(one, Step)]
    assert job.scores.stat().st_mtime_ns == written
    job.scores.unlink()
    assert not job.is_done
    told(trained_and_scored(job))
    assert job.is_done


@pytest.mark.contract
def test_the_run_of_another_recipe_is_left_alone(job: Job) -> None:
    told(trained_and_scored(job))
    other = Job("other", job.recipe.model_copy(update={"seed": 9}), job.folder)
    with pytest.raises(UsageError, match="was begun with another recipe"):
        told(trained_and_scored(other))


@pytest.mark.story
def test_jobs_train_in_processes_of_their_own(world: World, tmp_path: Path) -> None:
    jobs = [
        Job(f"seed {seed}", world.student(*SHORT, f"seed={seed}"), tmp_path / f"run{seed}")
        for seed in (0, 1)
    ]
    heard = list(in_processes(jobs, at_once=2))
    for job in jobs:
        steps = [one.step for name, one in heard if name == job.stage and isinstance(one, Step)]
        assert steps == [1, 2, 3, 4]
        assert job.is_done


@pytest.mark.contract
def test_figures_are_those_of_the_table_that_a_file_has(tmp_path: Path) -> None:
    path = tmp_path / "val.json"
    path.write_text(json.dumps({"name": "x", "ap": 0.5, "ap50": None, "ar1": 0.25}))
    assert figures_of(path) == {"ap": 0.5, "ap50": None}
