"""Several training runs side by side, each with its scores on val; finished ones stay as they are.

A run that was stopped goes on from its last checkpoint, so what starts these runs can be repeated.
"""

import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ldkit.jobs import distill, evaluate, train_teacher
from ldkit.jobs.evaluate import FIGURES
from ldkit.jobs.processes import side_by_side
from ldkit.jobs.progress import Message
from ldkit.jobs.runs import RunFolder
from ldkit.recipe.schema import Recipe

Told = tuple[str, Message]
Figures = dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Job:
    """One detector to train in a process of its own, and to evaluate."""

    stage: str
    recipe: Recipe
    folder: Path
    device: str = "cpu"
    source: distill.Source = distill.Source.CACHE

    @property
    def scores(self) -> Path:
        """Return the file of the scores."""
        return RunFolder(self.folder).evaluations / "val.json"

    @property
    def is_done(self) -> bool:
        """Say whether the model and its scores are there."""
        return RunFolder(self.folder).is_finished and self.scores.is_file()


def in_processes(jobs: Sequence[Job], at_once: int) -> Generator[Told, None, None]:
    """Yield (stage, message) while each job is trained and scored in a process of one thread."""
    yield from side_by_side({job.stage: partial(trained_and_scored, job) for job in jobs}, at_once)


def trained_and_scored(job: Job) -> Generator[Message, None, None]:
    """Yield the messages of a training that begins or goes on, and of its evaluation on val.

    Raises:
        UsageError: The folder holds the run of another recipe.
    """
    resume = RunFolder(job.folder).recipe.is_file()
    if job.recipe.model is not None:
        yield from train_teacher.run(job.recipe, job.folder, device=job.device, resume=resume)
    else:
        options = distill.Options(source=job.source, device=job.device, resume=resume)
        yield from distill.run(job.recipe, job.folder, options)
    if not job.scores.is_file():
        yield from evaluate.run(evaluate.target(job.folder, []), "val", device=job.device)


def figures_of(scores: Path) -> Figures:
    """Return those of the paper's figures that a file of scores holds, as fractions."""
    content = json.loads(scores.read_text(encoding="utf-8"))
    return {name: content[name] for name in FIGURES if name in content}
