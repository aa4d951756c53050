"""The stages of a pipeline: each says how it stands, and does what is left of it.

`look` changes nothing and costs seconds; `work` goes on where `look` said. What an earlier stage
makes is given to a stage when it is made; where it is not there yet, the stage waits.
"""

from collections.abc import Generator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ldkit.cache.compare import differences
from ldkit.cache.folder import CacheFolder, missing_shards, read_document
from ldkit.cache.format import Plan
from ldkit.data.coco import CocoIndex
from ldkit.files import canonical_json, fingerprint, write_text
from ldkit.jobs import build_cache, distill, evaluate, stage_inputs, train_teacher
from ldkit.jobs.fit_check import check_student, teacher_path
from ldkit.jobs.progress import Message
from ldkit.jobs.runs import RunFolder
from ldkit.jobs.stage_inputs import Upstream
from ldkit.jobs.stage_places import Change, Found, State, Status, place
from ldkit.jobs.targets import Target
from ldkit.models.checkpoint_file import ModelFile, read_model
from ldkit.recipe.load import dump_recipe
from ldkit.recipe.schema import Recipe
from ldkit.training.checkpoint import latest

CUT_DIFFERENTLY = ("render", "build")
"""Parts of a plan that may differ once a cache is sealed: its rows are the same."""


@dataclass(frozen=True, slots=True)
class Caching:
    """Every view of the schedule through the teacher, to disk."""

    recipe: Recipe
    index: CocoIndex
    device: str
    name: str = "cache"

    def look(self) -> Status:
        """Return how the cache stands; without the teacher's file it waits.

        Raises:
            CheckpointError: The teacher does not fit the student or the data set.
        """
        base, teacher = build_cache.cache_folder(self.recipe), teacher_path(self.recipe)
        if not teacher.is_file():
            return Status(State.WAITING, base, "for the teacher")
        check_student(self.recipe, read_model(teacher), teacher, self.index)
        wanted = build_cache.order(self.recipe).plan
        status = place(base, wanted.digest, partial(_found_cache, wanted))
        if status.state is not State.UNFINISHED:
            return status
        return replace(status, note=_progress_of(CacheFolder(status.output)))

    def work(self, status: Status) -> Generator[Message, None, None]:
        """Yield progress; build the missing shards and seal."""
        recipe = with_cache(self.recipe, status.output)
        yield from build_cache.run(recipe, device=self.device)


def with_cache(recipe: Recipe, folder: Path) -> Recipe:
    """Return the recipe with its cache in another folder."""
    assert recipe.cache is not None
    cache = recipe.cache.model_copy(update={"path": str(folder)})
    return recipe.model_copy(update={"cache": cache})


def _progress_of(folder: CacheFolder) -> str:
    plan = read_document(folder.plan, Plan)
    done = plan.shards - len(missing_shards(folder, plan))
    return f"{done} of {plan.shards} shards are complete"


def _found_cache(wanted: Plan, path: Path) -> Found | None:
    folder = CacheFolder(path)
    if not folder.plan.is_file():
        return None
    plan = read_document(folder.plan, Plan)
    is_finished = folder.manifest.is_file() and not missing_shards(folder, plan)
    return Found(
        is_finished,
        tuple(
            Change(found.name, found.cached, found.wanted)
            for found in differences(plan, wanted)
            if not (is_finished and found.part in CUT_DIFFERENTLY)
        ),
    )


@dataclass(frozen=True, slots=True)
class Training:
    """One training run: a student from the cache, or a detector alone.

    `upstream` is None where the teacher's file is not there yet.
    """

    name: str
    recipe: Recipe
    base: Path
    upstream: Upstream | None
    device: str
    out: Path | None = None

    def look(self) -> Status:
        """Return how the run stands."""
        if self.upstream is None:
            return Status(State.WAITING, self.base, "for the teacher")
        wanted = stage_inputs.of_training(self.recipe, self.upstream)
        status = place(self.base, fingerprint(wanted), self._found)
        newest = latest(RunFolder(status.output).checkpoints)
        if status.state is State.UNFINISHED and newest is not None:
            return replace(status, note=f"goes on from {newest.name}")
        return status

    def work(self, status: Status) -> Generator[Message, None, None]:
        """Yield progress; train from the last checkpoint to the end.

        Values that decide nothing (how many processes load images) are those of today.
        """
        assert self.upstream is not None
        run = RunFolder(status.output)
        recipe = self.recipe.model_copy(update={"name": run.path.name})
        stage_inputs.record(run, self.upstream)
        if run.recipe.is_file():
            write_text(run.recipe, dump_recipe(recipe))
        if recipe.student is not None:
            options = distill.Options(device=self.device, resume=True, out=self.out)
            yield from distill.run(recipe, run.path, options)
        else:
            yield from train_teacher.run(
                recipe, run.path, device=self.device, resume=True, out=self.out
            )

    def _found(self, path: Path) -> Found | None:
        assert self.upstream is not None
        run = RunFolder(path)
        was = stage_inputs.of_run(run, self.upstream)
        if was is None:
            return None
        now = stage_inputs.of_training(self.recipe, self.upstream)
        return Found(run.is_finished, stage_inputs.changes(was, now))


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The figures of one model on the validation images, by the views of `recipe`.

    `model` is None where it is still to be made.
    """

    name: str
    recipe: Recipe
    model: Path | None
    base: Path
    images: str
    device: str

    def look(self) -> Status:
        """Return whether these very weights were evaluated so; without them it waits."""
        if self.model is None:
            return Status(State.WAITING, self.base, "for the model")
        wanted = self._inputs(read_model(self.model))
        return place(self.base, fingerprint(wanted), partial(_found_scores, wanted))

    def work(self, status: Status) -> Generator[Message, None, None]:
        """Yield progress; evaluate, and write the figures beside what they depend on."""
        assert self.model is not None
        file, name = read_model(self.model), status.output.parent.name
        goal = Target(name, self.model, file.classes, self.recipe, status.output)
        scores = yield from evaluate.run(goal, "val", device=self.device)
        assert isinstance(scores, evaluate.Scores)
        content = {"inputs": self._inputs(file), "figures": scores.metrics.figures()}
        write_text(status.output / stage_inputs.RECORD, canonical_json(content) + "\n")

    def _inputs(self, file: ModelFile) -> stage_inputs.Inputs:
        return stage_inputs.of_evaluation(self.recipe, file.fingerprint, self.images)


def figures(folder: Path) -> dict[str, float | None]:
    """Return the figures of a finished evaluation, as fractions."""
    written = stage_inputs.read_record(folder)
    assert written is not None
    found: dict[str, float | None] = written["figures"]
    return found


def _found_scores(wanted: stage_inputs.Inputs, path: Path) -> Found | None:
    written = stage_inputs.read_record(path)
    if written is None or not isinstance(written.get("inputs"), dict):
        return None
    return Found(is_finished=True, changes=stage_inputs.changes(written["inputs"], wanted))
