"""`ldkit teacher train`: a detector alone, on the boxes of people."""

from collections.abc import Generator
from pathlib import Path

import torch

from ldkit.errors import UsageError
from ldkit.jobs import assemble
from ldkit.jobs.progress import Message
from ldkit.jobs.train import Material, Objective, Task, course, train
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
    if recipe.model is None:
        raise UsageError(
            "trains a student; a teacher's recipe has a `model` section instead.",
            where=recipe.name,
            hint="Distill it with `ldkit distill`, or name another recipe (`ldkit recipe list`).",
        )
    task = Task(recipe, folder, assemble.device(device), resume, out)
    yield from train(task, Material.of(recipe), objective(recipe))


def objective(recipe: Recipe) -> Objective:
    """Return the GFL objective: ATSS on every batch, then the terms."""
    settings = assemble.gfl_settings(recipe.objective)
    grid = assemble.grid(recipe.detector)
    topk = recipe.objective.assign.topk

    def terms(predictions: Predictions, batch: Batch) -> LossTerms:
        device = batch.pixels.device
        anchors_A = anchors(batch.canvas_hw, grid, device)
        valid_BA = valid_locations(batch.canvas_hw, padded_sizes(batch.views, device), grid)
        rows = main_rows(assign_atss(anchors_A, valid_BA, batch.ground_truth, topk))
        values = gfl_values(
            predictions, anchors_A, valid_BA, batch.ground_truth, rows, settings.beta
        )
        return gfl_terms(values, totals(rows, values.weight, len(batch.keys)), settings)

    return terms


def outline(recipe: Recipe, device: str) -> dict[str, str]:
    """Return what a run would do, without doing it: data, steps, parameters, device."""
    material = Material.of(recipe)
    planned = course(recipe, material.records)
    torch.manual_seed(recipe.seed)
    model = assemble.detector(recipe.detector, len(material.index.categories))
    parameters = [p for p in model.parameters() if p.requires_grad]
    count = sum(parameter.numel() for parameter in parameters)
    return {
        "run": f"runs/{recipe.name}",
        "images": f"{len(material.records):,} of {len(material.index.records):,}",
        "classes": str(len(material.index.categories)),
        "steps": f"{planned.total_steps:,} ({planned.steps_per_epoch:,} an epoch)",
        "trainable parameters": f"{count:,}",
        "device": str(assemble.device(device)),
    }
