"""The objective of a student: the terms of GFL at the teacher's main rows, and its teacher's.

A student on a cache runs no assignment: the rows carry their location and the index of their box.
"""

from collections.abc import Mapping
from functools import partial

from torch import nn

from ldkit.jobs import assemble
from ldkit.jobs.assemble_terms import distill_settings, gfl_settings
from ldkit.jobs.train import Objective
from ldkit.models.gfl import GflHead
from ldkit.objectives.distill import Bridges, distill_terms
from ldkit.objectives.gfl import gfl_terms, gfl_values
from ldkit.objectives.normalizers import totals
from ldkit.objectives.student import Student
from ldkit.ops.anchors import anchors, valid_locations
from ldkit.recipe.schema import Recipe
from ldkit.structures import Batch, LossTerms, Predictions, TeacherSource, padded_sizes
from ldkit.training.terms import term_factor


def objective(
    recipe: Recipe,
    teacher: TeacherSource,
    *,
    project: nn.Module | None = None,
    head: GflHead | None = None,
) -> Objective:
    """Return the objective of a student that hears this teacher.

    `project` maps the student's features to the teacher's width; `head` is the teacher's, for
    CrossKD.
    """
    plain_settings = gfl_settings(recipe.objective)
    settings = distill_settings(recipe.objective)
    bridges = Bridges(
        project=project,
        head_rest=None
        if head is None
        else partial(head.from_crossing, after=recipe.objective.cross.after),
    )
    grid = assemble.grid(recipe.detector)

    def terms(predictions: Predictions, batch: Batch, step: int) -> LossTerms:
        device = batch.pixels.device
        answer = teacher.lookup(batch)
        anchors_A = anchors(batch.canvas_hw, grid, device)
        valid_BA = valid_locations(batch.canvas_hw, padded_sizes(batch.views, device), grid)
        rows, truth = answer.main.rows, batch.ground_truth
        values = gfl_values(predictions, anchors_A, valid_BA, truth, rows, plain_settings.beta)
        sums = totals(rows, values.weight, len(batch.keys))
        student = Student(predictions, anchors_A, valid_BA, truth, values, sums)
        plain = gfl_terms(values, sums, plain_settings)
        return distill_terms(plain, student, answer, settings, factors(recipe, step), bridges)

    return terms


def factors(recipe: Recipe, step: int) -> Mapping[str, float]:
    """Return the share of its weight that each distillation term has at a step."""
    return {
        name: term_factor(step, section.warmup_steps, section.stop_step)
        for _, name, section in recipe.objective.distillation_terms()
    }
