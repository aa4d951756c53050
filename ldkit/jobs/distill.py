"""`ldkit distill`: a student learns from a sealed cache, or from a teacher that runs beside it.

The rows the teacher speaks about are the positives of the student's own terms too: they follow
from boxes, view and anchors alone, so a student on a cache runs no assignment.
"""

from collections.abc import Generator
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import assert_never

from ldkit.cache.compare import require_fit
from ldkit.cache.folder import CacheFolder
from ldkit.cache.reader import CacheReader
from ldkit.errors import UsageError
from ldkit.jobs import assemble, sources
from ldkit.jobs.build_cache import load_teacher
from ldkit.jobs.facts import Fact, Facts
from ldkit.jobs.fit_check import check_student
from ldkit.jobs.outlook import outlook
from ldkit.jobs.progress import Message
from ldkit.jobs.teacher_rows import LiveTeacher
from ldkit.jobs.train import Material, Objective, Task, check_start, train
from ldkit.jobs.train_teacher import objective as plain_objective
from ldkit.models.checkpoint_file import read_model
from ldkit.objectives.distill import ld_main
from ldkit.objectives.gfl import gfl_terms, gfl_values
from ldkit.objectives.normalizers import totals
from ldkit.ops.anchors import anchors, valid_locations
from ldkit.recipe.detector import SmallBackbone, TimmBackbone
from ldkit.recipe.schema import Recipe
from ldkit.structures import (
    Batch,
    LossTerms,
    Predictions,
    Size,
    TeacherRows,
    TeacherSource,
    View,
    ViewKey,
    padded_sizes,
)

CHECKED_PICTURES = 64
"""Pictures at the start of a run whose pixels are compared with the teacher's."""


class Source(Enum):
    """Where teacher rows come from."""

    CACHE = "cache"
    ONLINE = "online"


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line decides beside the recipe."""

    source: Source = Source.CACHE
    device: str = "auto"
    resume: bool = False
    out: Path | None = None


def run(recipe: Recipe, folder: Path, options: Options) -> Generator[Message, None, None]:
    """Yield the messages of a distillation; the student's file stands in `folder` at the end.

    Raises:
        UsageError: The recipe has no student, or the folder is taken.
        CacheMismatch: The cache was made for another teacher, data set or view policy.
        CheckpointError: The teacher does not fit the student.
    """
    task = _task(recipe, folder, options)
    material = Material.of(recipe)
    if recipe.objective.localization.main is None:
        yield from train(task, material, plain_objective(recipe))
        return
    teacher: TeacherSource
    lineage: dict[str, str]
    match options.source:
        case Source.CACHE:
            reader = open_cache(recipe, material)
            material = material.drawn_by(partial(_stored_view, reader))
            teacher = CheckedCache(reader)
            lineage = {
                "cache": reader.fingerprint,
                "teacher": reader.plan.sources.weights.fingerprint,
            }
        case Source.ONLINE:
            path = teacher_path(recipe)
            file = sources.read_teacher(path)
            check_student(recipe, file, path, material.index)
            model = load_teacher(path, task.device, channels_last=recipe.train.channels_last)
            limit = recipe.cache.batch_size if recipe.cache else recipe.train.batch_size
            teacher = LiveTeacher(model, topk=recipe.objective.assign.topk, batch_size=limit)
            lineage = {"teacher": file.fingerprint}
        case _:
            assert_never(options.source)
    yield from train(
        task, material, objective(recipe, teacher), watched=("ld_main",), lineage=lineage
    )


def outline(recipe: Recipe, folder: Path, options: Options) -> Facts:
    """Return what a distillation would do, after all of its checks; nothing is written.

    Raises:
        LdkitError: What `run` would raise before its first step.
    """
    task = _task(recipe, folder, options)
    material = Material.of(recipe)
    facts = outlook(task, material)
    if recipe.objective.localization.main is None:
        return facts
    path = teacher_path(recipe)
    match options.source:
        case Source.CACHE:
            reader = open_cache(recipe, material)
            known = reader.fingerprint
            value = {"folder": str(reader.path), "fingerprint": known}
            facts["cache"] = Fact(f"{reader.path} ({known[:12]})", value)
        case Source.ONLINE:
            check_student(recipe, sources.read_teacher(path), path, material.index)
            facts["teacher"] = str(path)
        case _:
            assert_never(options.source)
    return facts


def _task(recipe: Recipe, folder: Path, options: Options) -> Task:
    check_is_distillation(recipe)
    task = Task(recipe, folder, assemble.device(options.device), options.resume, options.out)
    check_start(task)
    return task


class CheckedCache:
    """A cache that compares the first pictures of a run with those the teacher saw."""

    def __init__(self, reader: CacheReader) -> None:
        self._reader = reader
        self._left = CHECKED_PICTURES

    def lookup(self, batch: Batch) -> TeacherRows:
        """Return the teacher's rows for these views.

        Raises:
            CacheMismatch: A view or its pixels are not what the teacher saw.
        """
        for position, key in enumerate(batch.keys[: self._left]):
            self._reader.check_pixels(key, batch.pixels[position])
        self._left = max(0, self._left - len(batch.keys))
        return self._reader.lookup(batch)


def _stored_view(reader: CacheReader, key: ViewKey, _source_hw: Size) -> View:
    return reader.view(key)


def objective(recipe: Recipe, teacher: TeacherSource) -> Objective:
    """Return the GFL objective on the teacher's rows, with localization distillation."""
    settings = assemble.gfl_settings(recipe.objective)
    assert recipe.objective.localization.main is not None
    main = assemble.main_ld_settings(recipe.objective.localization.main)
    grid = assemble.grid(recipe.detector)

    def terms(predictions: Predictions, batch: Batch) -> LossTerms:
        device = batch.pixels.device
        answer = teacher.lookup(batch).main
        anchors_A = anchors(batch.canvas_hw, grid, device)
        valid_BA = valid_locations(batch.canvas_hw, padded_sizes(batch.views, device), grid)
        values = gfl_values(
            predictions, anchors_A, valid_BA, batch.ground_truth, answer.rows, settings.beta
        )
        sums = totals(answer.rows, values.weight, len(batch.keys))
        plain = gfl_terms(values, sums, settings)
        return plain._replace(ld_main=ld_main(values, answer, sums, main))

    return terms


def open_cache(recipe: Recipe, material: Material) -> CacheReader:
    """Return the recipe's cache, sealed and made for this teacher, data set and view policy.

    A teacher's file that is not there is no obstacle: the cache stands for it.

    Raises:
        CacheError: The cache is incomplete, damaged, or of something else.
    """
    if recipe.cache is None:
        raise UsageError(
            "has no `cache` section, so there are no teacher rows to learn from.",
            where=recipe.name,
            hint="Name a cache with `--cache FOLDER`, or run the teacher beside the student with "
            "`--online`.",
        )
    folder = Path(recipe.cache.path)
    reader = CacheReader.open_(folder)
    cached = reader.plan.sources
    path = teacher_path(recipe)
    if path.is_file():
        file = read_model(path)
        check_student(recipe, file, path, material.index)
        wanted = sources.sources(recipe, material.index, file, path)
    else:
        wanted = cached.model_copy(
            update={
                "data": sources.data_source(recipe, material.index),
                "views": sources.views_source(recipe),
                "render": sources.render_source(),
            }
        )
    axes = sources.axes(recipe.detector, len(material.index.categories))
    require_fit(reader.plan, wanted, axes, sources.coverage(recipe), folder)
    return reader


def check_is_distillation(recipe: Recipe) -> None:
    """Refuse a recipe that trains a detector alone, or that names no cache.

    Raises:
        UsageError: It is a teacher's recipe.
    """
    if recipe.student is None:
        raise UsageError(
            "trains a detector alone; a distillation has a `student` and a `teacher` section.",
            where=recipe.name,
            hint="Train it with `ldkit teacher train`, or name another recipe "
            "(`ldkit recipe list`).",
        )


def teacher_path(recipe: Recipe) -> Path:
    """Return the file of the recipe's teacher."""
    assert recipe.teacher is not None
    return Path(recipe.teacher.checkpoint)


def backbone_of(cache: Path) -> TimmBackbone | SmallBackbone:
    """Return the backbone of the teacher that a sealed cache was made with.

    Raises:
        CacheError: The cache is not sealed, damaged, or of another version.
    """
    reader = CacheReader.open_(cache)
    return sources.cached_detector(reader.plan.sources.model, cache).backbone


def only_sealed_cache(root: Path) -> Path:
    """Return the one sealed cache below `root`.

    Raises:
        UsageError: There is none, or there are several; the message lists them.
    """
    found = sorted(path.parent for path in root.glob("*/plan.json"))
    sealed = [path for path in found if CacheFolder(path).manifest.is_file()]
    if len(sealed) == 1:
        return sealed[0]
    if sealed:
        listing = "\n".join(f"  {path}" for path in sealed)
        raise UsageError(
            f"holds {len(sealed)} sealed caches:\n{listing}",
            where=str(root),
            hint="Name one with `--cache FOLDER`.",
        )
    if found:
        raise UsageError(
            f"holds no sealed cache; unfinished: {', '.join(str(path) for path in found)}.",
            where=str(root),
            hint="Finish it by the command that began it, `ldkit cache-logits ...`.",
        )
    raise UsageError(
        "holds no sealed cache.",
        where=str(root),
        hint="Build one with `ldkit cache-logits --teacher FILE`, name one with "
        "`--cache FOLDER`, or run the teacher beside the student with `--online --teacher FILE`.",
    )
