"""`ldkit distill`: a student learns from a sealed cache, or from a teacher that runs beside it."""

from collections.abc import Generator
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import NamedTuple, assert_never

from torch import Tensor, nn

from ldkit.cache.prefetch import fetched_ahead
from ldkit.cache.reader import CacheReader
from ldkit.errors import UsageError
from ldkit.files import short
from ldkit.jobs import assemble, coverage, sources
from ldkit.jobs.build_cache import load_teacher
from ldkit.jobs.distill_objective import objective
from ldkit.jobs.facts import Fact, Facts
from ldkit.jobs.fit_check import check_student, teacher_path
from ldkit.jobs.live_teacher import LiveTeacher
from ldkit.jobs.open_cache import open_cache
from ldkit.jobs.outlook import outlook
from ldkit.jobs.progress import Message, Note
from ldkit.jobs.terms import (
    check_cacheable,
    check_classes,
    is_distilled,
    needs_live_teacher,
    notes_on_classes,
)
from ldkit.jobs.train import Material, Task, check_start, plain_forward, seeded, train
from ldkit.jobs.train_teacher import objective as plain_objective
from ldkit.models.gfl import Detector, GflHead
from ldkit.recipe.schema import Recipe
from ldkit.structures import (
    Batch,
    Predictions,
    Size,
    TeacherRows,
    TeacherSource,
    View,
    ViewKey,
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


class _Teaching(NamedTuple):
    """A teacher made ready: who answers, with which images, and what crosses over.

    `channels` is the width of its pyramid, where the terms ask for it.
    """

    source: TeacherSource
    material: Material
    lineage: dict[str, str]
    channels: int | None
    head: GflHead | None


def run(recipe: Recipe, folder: Path, options: Options) -> Generator[Message, None, None]:
    """Yield the messages of a distillation; the student's file stands in `folder` at the end.

    Raises:
        UsageError: The recipe has no student, a term cannot work here, or the folder is taken.
        CacheMismatch: The cache was made for another teacher, data set or view policy.
        CacheCoverage: It lacks rows that a term reads.
        CheckpointError: The teacher does not fit the student.
    """
    task = _task(recipe, folder, options)
    material = Material.of(recipe)
    if not is_distilled(recipe):
        yield from train(task, material, plain_objective(recipe))
        return
    classes = len(material.index.categories)
    check_classes(recipe, classes)
    for note in notes_on_classes(recipe, classes):
        yield Note(note)
    teaching = _teaching(task, material, options)
    projection = _projection(recipe, teaching.channels)
    yield from train(
        task,
        teaching.material,
        objective(recipe, teaching.source, project=projection, head=teaching.head),
        forward=partial(_crossing, recipe.objective.cross.after)
        if teaching.head
        else plain_forward,
        companion=projection,
        watched=tuple(name for _, name, _ in recipe.objective.distillation_terms()),
        lineage=teaching.lineage,
    )


def outline(recipe: Recipe, folder: Path, options: Options) -> Facts:
    """Return what a distillation would do, after all of its checks; nothing is written.

    Raises:
        LdkitError: What `run` would raise before its first step.
    """
    task = _task(recipe, folder, options)
    material = Material.of(recipe)
    facts = outlook(task, material)
    if not is_distilled(recipe):
        return facts
    check_classes(recipe, len(material.index.categories))
    path = teacher_path(recipe)
    match options.source:
        case Source.CACHE:
            check_cacheable(recipe)
            reader = open_cache(recipe, material)
            known = reader.fingerprint
            assert recipe.cache is not None
            value = {"folder": recipe.cache.path, "fingerprint": known}
            facts["cache"] = Fact(f"{recipe.cache.path} ({short(known)})", value)
        case Source.ONLINE:
            check_student(recipe, sources.read_teacher(path), path, material.index)
            facts["teacher"] = str(path)
        case _:
            assert_never(options.source)
    names = [name for _, name, _ in recipe.objective.distillation_terms()]
    facts["terms of the teacher"] = Fact(", ".join(names), names)
    return facts


def _task(recipe: Recipe, folder: Path, options: Options) -> Task:
    check_is_distillation(recipe)
    task = Task(recipe, folder, assemble.device(options.device), options.resume, options.out)
    check_start(task)
    return task


def _teaching(task: Task, material: Material, options: Options) -> _Teaching:
    recipe = task.recipe
    crosses = coverage.wanted(recipe).coverage.cross is not None
    match options.source:
        case Source.CACHE:
            check_cacheable(recipe)
            reader = open_cache(recipe, material)
            return _Teaching(
                source=CheckedCache(reader),
                material=material.drawn_by(
                    partial(_stored_view, reader), partial(fetched_ahead, reader.files_of)
                ),
                lineage={
                    "cache": reader.fingerprint,
                    "teacher": reader.plan.sources.weights.fingerprint,
                },
                channels=reader.channels,
                head=_loaded(task, material).detector.head if crosses else None,
            )
        case Source.ONLINE:
            teacher, known = _loaded(task, material)
            limit = recipe.cache.batch_size if recipe.cache else recipe.train.batch_size
            live = LiveTeacher(
                teacher,
                coverage.wanted(recipe),
                batch_size=limit,
                dense=needs_live_teacher(recipe),
            )
            channels, head = teacher.fpn.channels, teacher.head if crosses else None
            return _Teaching(live, material, {"teacher": known}, channels, head)
        case _:
            assert_never(options.source)


class _Loaded(NamedTuple):
    """A teacher on its device, and the fingerprint of its weights."""

    detector: Detector
    fingerprint: str


def _loaded(task: Task, material: Material) -> _Loaded:
    """Return the teacher, which must fit the student."""
    path = teacher_path(task.recipe)
    file = sources.read_teacher(path)
    check_student(task.recipe, file, path, material.index)
    detector = load_teacher(path, task.device, channels_last=task.recipe.train.channels_last)
    return _Loaded(detector, file.fingerprint)


def _projection(recipe: Recipe, channels: int | None) -> nn.Module | None:
    """Return the map from the student's features to the teacher's, where their widths differ."""
    width = recipe.detector.fpn.channels
    if recipe.objective.imitation is None or channels is None or channels == width:
        return None
    return seeded(recipe, partial(nn.Linear, width, channels))


def _crossing(after: int, model: Detector, images: Tensor) -> Predictions:
    predictions: Predictions = model(images, cross_after=after)
    return predictions


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


def check_is_distillation(recipe: Recipe) -> None:
    """Refuse a recipe that trains a detector alone.

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
