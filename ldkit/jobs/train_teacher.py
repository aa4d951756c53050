"""`ldkit teacher train`: a detector alone, on the boxes of people."""

from collections.abc import Generator
from pathlib import Path

from ldkit.errors import UsageError
from ldkit.jobs import assemble
from ldkit.jobs.assemble_terms import gfl_settings
from ldkit.jobs.facts import Facts
from ldkit.jobs.outlook import outlook
from ldkit.jobs.progress import Message
from ldkit.jobs.train import Material, Objective, Task, check_start, train
from ldkit.objectives.gfl import gfl_terms, gfl_values
from ldkit.objectives.normalizers import totals
from ldkit.ops.anchors import anchors, valid_locations
from ldkit.ops.regions import assign_atss, main_rows
from ldkit.recipe.schema import Recipe
from ldkit.structures import Batch, LossTerms, Predictions, padded_sizes


def run(
    recipe: Recipe,
    folder: Path,
    *,
    device: str = "auto",
    resume: bool = False,
    out: Path | None = None,
) -> Generator[Message, None, None]:
    """Yield the messages of a training run; the model file stands in `folder` at the end.

    Raises:
        UsageError: The recipe trains a student, or the folder is taken.
        DataError: Something is wrong with the data set.
    """
    task = _task(recipe, folder, device=device, resume=resume, out=out)
    yield from train(task, Material.of(recipe), objective(recipe))


def outline(
    recipe: Recipe,
    folder: Path,
    *,
    device: str = "auto",
    resume: bool = False,
    out: Path | None = None,
) -> Facts:
    """Return what a run would do, after all of its checks; nothing is written.

    Raises:
        LdkitError: What `run` would raise before its first step.
    """
    task = _task(recipe, folder, device=device, resume=resume, out=out)
    return outlook(task, Material.of(recipe))


def _task(recipe: Recipe, folder: Path, *, device: str, resume: bool, out: Path | None) -> Task:
    if recipe.model is None:
        raise UsageError(
            "trains a student; a teacher's recipe has a `model` section instead.",
            where=recipe.name,
            hint="Distill it with `ldkit distill`, or name another recipe (`ldkit recipe list`).",
        )
    task = Task(recipe, folder, assemble.device(device), resume, out)
    check_start(task)
    return task


def objective(recipe: Recipe) -> Objective:
    """Return the GFL objective: ATSS on every batch, then the terms."""
    settings = gfl_settings(recipe.objective)
    grid = assemble.grid(recipe.detector)
    topk = recipe.objective.assign.topk

    def terms(predictions: Predictions, batch: Batch, _step: int) -> LossTerms:
        device = batch.pixels.device
        anchors_A = anchors(batch.canvas_hw, grid, device)
        valid_BA = valid_locations(batch.canvas_hw, padded_sizes(batch.views, device), grid)
        rows = main_rows(assign_atss(anchors_A, valid_BA, batch.ground_truth, topk))
        values = gfl_values(
            predictions, anchors_A, valid_BA, batch.ground_truth, rows, settings.beta
        )
        return gfl_terms(values, totals(rows, values.weight, len(batch.keys)), settings)

    return terms
