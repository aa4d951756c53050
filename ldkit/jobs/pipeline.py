"""`ldkit run`: every stage of a recipe in order; finished ones are taken as they are.

    teacher → its scores → cache → student → its scores (→ baseline → its scores) → one table

Each stage is judged by what it left on disk, just before it would run. So the same command goes on
after a stop, and after a change of the recipe it does again exactly what the change touches.
"""

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ldkit.errors import UsageError
from ldkit.jobs import assemble, build_cache
from ldkit.jobs.pipeline_table import Outcome, Row, outcome
from ldkit.jobs.progress import Message, Note
from ldkit.jobs.runs import RunFolder
from ldkit.jobs.stage_inputs import Upstream
from ldkit.jobs.stage_places import State, Status
from ldkit.jobs.stages import Caching, Evaluation, Training, with_cache
from ldkit.jobs.teacher_stage import Teaching
from ldkit.jobs.terms import alone, check_cacheable, is_distilled
from ldkit.models.checkpoint_file import read_model
from ldkit.recipe.schema import Recipe

CHANGES_SHOWN = 12

Told = tuple[str, Message]
Stage = Teaching | Caching | Training | Evaluation


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line decides beside the recipe."""

    with_baseline: bool = False
    device: str = "auto"
    runs: Path = Path("runs")


@dataclass(frozen=True, slots=True)
class Done:
    """A stage, and how it stood when its turn came."""

    stage: str
    status: Status


Do = Callable[[Stage], Generator[Told, None, Status]]
"""Bring a stage to its end, or only look; return how it stands then."""


def run(recipe: Recipe, options: Options) -> Generator[Told, None, Outcome]:
    """Yield (stage, message); return the table. Nothing that is finished is done twice.

    Raises:
        UsageError: There is no teacher and no way to one, or there is nothing to compare.
        LdkitError: What the stages raise.
    """
    found: list[Done] = []

    def do(stage: Stage) -> Generator[Told, None, Status]:
        status = stage.look()
        found.append(Done(stage.name, status))
        yield stage.name, Note(f"{stage.name}: {in_words(status)}")
        if status.state is not State.FINISHED:
            with closing(stage.work(status)) as work:
                for message in work:
                    yield stage.name, message
        return replace(status, state=State.FINISHED)

    _check(recipe, options)
    rows = yield from _stages(recipe, options, do)
    return outcome(recipe.name, rows, [as_dict(done) for done in found])


def outline(recipe: Recipe, options: Options) -> list[Done]:
    """Return how every stage stands, without doing anything."""
    found: list[Done] = []

    def do(stage: Stage) -> Generator[Told, None, Status]:
        status = stage.look()
        found.append(Done(stage.name, status))
        yield from ()
        return status

    _check(recipe, options)
    for _ in _stages(recipe, options, do):
        pass
    return found


def as_dict(done: Done) -> dict[str, Any]:
    """Return how a stage stood, as plain JSON values."""
    status = done.status
    return {
        "stage": done.stage,
        "state": status.state.value,
        "output": str(status.output),
        "note": status.note,
        "differs_from": None if status.nearest is None else str(status.nearest),
        "changes": [change._asdict() for change in status.changes],
    }


def in_words(status: Status) -> str:
    """Return how a stage stands: where, how far, and what is different from what is there."""
    notes = f" ({status.note})" if status.note else ""
    text = f"{status.state.value}, {status.output}{notes}"
    if status.nearest is None:
        return text
    shown = status.changes[:CHANGES_SHOWN]
    width = max(len(change.key) for change in shown)
    lines = [f"  {key:<{width}}  {was} → {now}" for key, was, now in shown]
    if len(status.changes) > len(shown):
        lines.append(f"  ... and {len(status.changes) - len(shown)} more")
    return "\n".join([f"{text}, since {status.nearest} differs:", *lines])


def _stages(recipe: Recipe, options: Options, do: Do) -> Generator[Told, None, list[Row]]:
    """Yield what `do` tells of each stage in order; return the models of the table."""
    images = _validation_images(recipe)
    index = assemble.index(recipe.data, recipe.data.train)
    alone = Upstream(index.fingerprint)
    runs, device = options.runs, options.device
    rows: list[Row] = []

    def scored(role: str, status: Status, model: Path, base: Path) -> Generator[Told, None, None]:
        made = model if status.state is State.FINISHED else None
        stage = Evaluation(f"scores of the {role}", recipe, made, base, images, device)
        scores = yield from do(stage)
        rows.append(Row(role, model, scores.output))

    def trained(role: str, own: Recipe, upstream: Upstream | None) -> Generator[Told, None, None]:
        status = yield from do(Training(role, own, runs / own.name, upstream, device))
        run = RunFolder(status.output)
        yield from scored(role, status, run.model, run.evaluations)

    if not is_distilled(recipe):
        yield from trained("model" if recipe.student is None else "student", recipe, alone)
        return rows
    teacher = yield from do(Teaching(recipe, index, runs, device))
    shelf = runs / f"{recipe.name}_teacher" / "eval"
    yield from scored("teacher", teacher, teacher.output, shelf)
    cache = yield from do(Caching(recipe, index, device))
    student = with_cache(recipe, cache.output)
    yield from trained("student", student, _with_teacher(alone, teacher))
    if options.with_baseline:
        yield from trained("baseline", _baseline(recipe), alone)
    return rows


def _with_teacher(upstream: Upstream, teacher: Status) -> Upstream | None:
    """Return what a student depends on; None where its teacher is still to be made."""
    if teacher.state is not State.FINISHED:
        return None
    return replace(upstream, teacher=read_model(teacher.output).fingerprint)


def _baseline(recipe: Recipe) -> Recipe:
    """Return the same student without a teacher: the seed is the same, so the two are a pair."""
    return alone(recipe).model_copy(update={"name": f"{recipe.name}_baseline"})


def _check(recipe: Recipe, options: Options) -> None:
    """Refuse what cannot come to an end, before hours of work."""
    assemble.device(options.device)
    if recipe.data.val is None:
        raise UsageError(
            "has no `data.val`, so there are no images to compare the models on.",
            where=recipe.name,
            hint="Name some (`ldkit recipe schema data.val`), or take the commands one by one.",
        )
    if is_distilled(recipe):
        check_cacheable(recipe)
        build_cache.cache_folder(recipe)
    elif options.with_baseline:
        raise UsageError(
            "trains without a teacher, so it is a baseline itself.",
            where=f"{recipe.name}, --with-baseline",
            hint="Leave the flag out, or name a recipe with a teacher (`ldkit recipe list`).",
        )


def _validation_images(recipe: Recipe) -> str:
    assert recipe.data.val is not None
    return assemble.index(recipe.data, recipe.data.val).fingerprint
