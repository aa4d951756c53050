"""`ldkit distill --ablate`: the same student with other terms, on one cache, by the same seeds.

    runs/NAME_ablation/
      ARM_seedN/        a run for each arm and seed; plain is the student without a teacher
      ablation.json     the table

Runs of one seed share first weights, views and order of batches, so differences are taken pair by
pair. A finished run is taken as it is and an unfinished one goes on: the command can be repeated,
with more arms and more seeds.
"""

import os
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldkit.errors import UsageError
from ldkit.files import canonical_json, write_text
from ldkit.jobs import assemble, distill
from ldkit.jobs.ablate_table import Outcome, Runs, outcome
from ldkit.jobs.arms import Arm
from ldkit.jobs.facts import Fact, plural
from ldkit.jobs.progress import Note
from ldkit.jobs.runs import RunFolder, claim
from ldkit.jobs.scored_runs import Job, Told, in_processes
from ldkit.recipe.schema import Recipe
from ldkit.training.checkpoint import latest


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line decides beside the arms.

    `at_once` is how many students train side by side; None takes one for each CPU core, or one on
    a GPU.
    """

    seeds: int = 1
    source: distill.Source = distill.Source.CACHE
    device: str = "auto"
    at_once: int | None = None
    runs: Path = Path("runs")


@dataclass(frozen=True, slots=True)
class Planned:
    """One run of an ablation before it starts: how far it is, and how many steps it takes."""

    arm: str
    seed: int
    run: Path
    steps: int
    state: str

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {
            "arm": self.arm,
            "seed": self.seed,
            "run": str(self.run),
            "steps": self.steps,
            "state": self.state,
        }


def folder(recipe: Recipe, options: Options) -> Path:
    """Return where the runs and the table of an ablation stand."""
    return options.runs / f"{recipe.name}_ablation"


def run(recipe: Recipe, arms: Sequence[Arm], options: Options) -> Generator[Told, None, Outcome]:
    """Yield (stage, message); return the table. `arms` begin with the plain student.

    Raises:
        UsageError: The seeds would need a cache each, there is nothing to evaluate on, or a run's
            folder holds another recipe.
        LdkitError: What a distillation raises.
    """
    place = folder(recipe, options)
    by_arm = _jobs(recipe, arms, options)
    _check(recipe, arms, options)
    jobs = [job for each in by_arm.values() for job in each]
    for job in jobs:
        claim(job.folder, job.recipe, resume=True)
    left = [job for job in jobs if not job.is_done]
    if len(left) < len(jobs):
        done = plural(len(jobs) - len(left), "run")
        yield "ablation", Note(f"Taking {done} of {len(jobs)} as they are: finished before.")
    for each in by_arm.values():  # seeds differ in nothing that is checked
        for job in [job for job in each if job in left][:1]:
            _outline(job)
    yield from in_processes(left, options.at_once or _at_once(options.device))
    runs = [
        Runs(arm, [job.folder for job in each], [job.scores for job in each])
        for arm, each in by_arm.items()
    ]
    result = outcome(recipe.name, runs, _seeds(recipe, options))
    write_text(place / "ablation.json", canonical_json(result.document) + "\n")
    return result


def outline(recipe: Recipe, arms: Sequence[Arm], options: Options) -> list[Planned]:
    """Return every run with its steps and how far it is, after all checks; nothing is written.

    Raises:
        LdkitError: What `run` would raise before its first step.
    """
    by_arm = _jobs(recipe, arms, options)
    _check(recipe, arms, options)
    planned = []
    for arm, jobs in by_arm.items():
        steps = _outline(jobs[0])
        for job in jobs:
            claim(job.folder, job.recipe, resume=True)
            planned.append(Planned(arm, job.recipe.seed, job.folder, steps, _state(job)))
    return planned


def _outline(job: Job) -> int:
    """Return the steps of a run after everything that can be checked about it."""
    options = distill.Options(source=job.source, device=job.device, resume=True)
    steps = distill.outline(job.recipe, job.folder, options)["steps"]
    assert isinstance(steps, Fact)
    assert isinstance(steps.value, dict)
    count: int = steps.value["count"]
    return count


def _state(job: Job) -> str:
    run = RunFolder(job.folder)
    if job.is_done:
        return "finished"
    if run.is_finished:
        return "trained, not evaluated"
    newest = latest(run.checkpoints)
    return "to do" if newest is None else f"goes on from {newest.name}"


def _jobs(recipe: Recipe, arms: Sequence[Arm], options: Options) -> dict[str, list[Job]]:
    """Return the runs of each arm, one a seed."""
    place = folder(recipe, options)
    return {
        arm.name: [
            Job(
                stage=f"{arm.name}, seed {seed}",
                recipe=_seeded(arm.recipe, f"{recipe.name}_{arm.folder}_seed{seed}", seed),
                folder=place / f"{arm.folder}_seed{seed}",
                device=options.device,
                source=options.source,
            )
            for seed in _seeds(recipe, options)
        ]
        for arm in arms
    }


def _seeds(recipe: Recipe, options: Options) -> list[int]:
    return list(range(recipe.seed, recipe.seed + options.seeds))


def _seeded(recipe: Recipe, name: str, seed: int) -> Recipe:
    """Return the recipe of one run; what is expected of the whole recipe is not expected here."""
    return recipe.model_copy(update={"name": name, "seed": seed, "expect": None})


def _check(recipe: Recipe, arms: Sequence[Arm], options: Options) -> None:
    """Refuse what cannot end in a table, before anything is trained."""
    distill.check_is_distillation(recipe)
    if recipe.data.val is None:
        raise UsageError(
            "has no `data.val`, so there are no images to compare the arms on.",
            where=recipe.name,
            hint="Name some (`ldkit recipe schema data.val`).",
        )
    if options.seeds == 1 or options.source is distill.Source.ONLINE:
        return
    for arm in arms:
        if isinstance(arm.recipe.views.short_side_px, tuple):
            low, high = arm.recipe.views.short_side_px
            raise UsageError(
                f"draws the sizes of its views by the seed (short_side_px = [{low}, {high}]), so "
                f"one cache serves one seed, not {options.seeds}.",
                where=f"{recipe.name}, --seeds {options.seeds}",
                hint="Take one seed, views of one size (`--set views.short_side_px=800`, with a "
                "cache of their own), or a live teacher (`--online`).",
            )


def _at_once(device: str) -> int:
    """Return how many students train side by side: one a core, one on a GPU."""
    if assemble.device(device).type != "cpu":
        return 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
