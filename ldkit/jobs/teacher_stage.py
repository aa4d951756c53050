"""The first stage: the teacher's file, taken as it is, or imported, or trained."""

from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path

from ldkit.data.coco import CocoIndex
from ldkit.errors import CheckpointError, UsageError
from ldkit.files import canonical_json
from ldkit.jobs import import_teacher
from ldkit.jobs.fit_check import misfits, teacher_path
from ldkit.jobs.progress import Message
from ldkit.jobs.runs import RunFolder
from ldkit.jobs.stage_inputs import Upstream, changes, of_training
from ldkit.jobs.stage_places import State, Status
from ldkit.jobs.stages import Training
from ldkit.models.checkpoint_file import ModelFile, read_model, write_model
from ldkit.recipe.load import load_recipe
from ldkit.recipe.schema import Recipe

CHANGES_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Teaching:
    """The teacher of `recipe`. A file that is there is finished, whoever made it."""

    recipe: Recipe
    index: CocoIndex
    runs: Path
    device: str
    name: str = "teacher"

    @property
    def path(self) -> Path:
        """Return the teacher's file."""
        return teacher_path(self.recipe)

    def look(self) -> Status:
        """Return how the teacher stands.

        Raises:
            UsageError: The file is not there, and nothing says where to get it.
            CheckpointError: The teacher to be trained would not fit the student.
        """
        if self.path.is_file():
            return Status(State.FINISHED, self.path, f"taken as it is{self._doubt()}")
        published = self._published()
        if published is not None:
            return Status(State.TO_DO, self.path, f"imported from {published}")
        run = self._run()
        how = f"trained in {run.output}"
        if run.state is State.FINISHED:
            return Status(State.UNFINISHED, self.path, f"{how}, not yet written here")
        return replace(run, output=self.path, note=", ".join(filter(None, (how, run.note))))

    def work(self, status: Status) -> Generator[Message, None, None]:
        """Yield progress; leave the teacher's file."""
        published = self._published()
        if published is not None:
            yield from import_teacher.run(published, status.output)
            return
        run = self._run()
        if run.state is State.FINISHED:
            write_model(status.output, read_model(RunFolder(run.output).model))
        else:
            yield from self._training().work(run)

    def _published(self) -> Path | None:
        assert self.recipe.teacher is not None
        name = self.recipe.teacher.published
        path = None if name is None else Path(name)
        if path is not None and not path.is_file():
            raise UsageError(
                "is not there, so no teacher can be imported from it.",
                where=f"teacher.published = {name}",
                hint="Download it, or name another file (`--set teacher.published=FILE.pth`).",
            )
        return path

    def _doubt(self) -> str:
        """Return in what the recipe that would train the file differs from the one that did."""
        assert self.recipe.teacher is not None
        name = self.recipe.teacher.recipe
        was = None if name is None else _trained_by(read_model(self.path))
        if name is None or was is None:
            return ""
        alone = Upstream(self.index.fingerprint)
        now = load_recipe(name).recipe
        found = changes(of_training(was, alone), of_training(now, alone))
        if not found:
            return ""
        told = [f"{key} {before} → {after}" for key, before, after in found[:CHANGES_SHOWN]]
        told += ["..."] if len(found) > len(told) else []
        return f", though {name} would train another one now: {', '.join(told)}"

    def _training(self) -> Training:
        """Return the run that trains the teacher, on the data set of the student."""
        assert self.recipe.teacher is not None
        name = self.recipe.teacher.recipe
        if name is None:
            raise _nowhere(self.path)
        recipe = load_recipe(name).recipe.model_copy(update={"data": self.recipe.data})
        if recipe.model is None:
            raise UsageError(
                "trains a student, so it makes no teacher.",
                where=f"teacher.recipe = {name}",
                hint="Name a recipe with a `model` section (`ldkit recipe list`).",
            )
        lines = misfits(self.recipe, recipe.model, self.index)
        if lines:
            raise CheckpointError(
                "would train a teacher that does not fit the student:\n" + "\n".join(lines),
                where=f"teacher.recipe = {name}",
                hint="Give the student the teacher's values, or take another teacher.",
            )
        base = self.runs / recipe.name
        out = None if self._is_model_of(base) else self.path
        upstream = Upstream(self.index.fingerprint)
        return Training(self.name, recipe, base, upstream, self.device, out)

    def _run(self) -> Status:
        """Return how that run stands; a model never goes into the folder of another run."""
        training = self._training()
        status = training.look()
        if self._is_model_of(training.base) and status.output != training.base:
            lines = [f"  {key}: {was} there, {now} here" for key, was, now in status.changes]
            raise UsageError(
                "holds an unfinished run of another recipe:\n" + "\n".join(lines),
                where=str(training.base),
                hint="Finish or remove it, or put the teacher elsewhere "
                "(`--set teacher.checkpoint=FILE.pt`).",
            )
        return status

    def _is_model_of(self, run: Path) -> bool:
        return self.path.resolve() == RunFolder(run).model.resolve()


def _trained_by(file: ModelFile) -> Recipe | None:
    """Return the recipe that trained a model; None: none did, or it cannot be read any more."""
    if "imported" in file.origin:
        return None
    try:
        return Recipe.model_validate_json(canonical_json(file.origin["recipe"]))
    except (KeyError, ValueError):
        return None


def _nowhere(path: Path) -> UsageError:
    return UsageError(
        "is not there, and the recipe does not say how to get it.",
        where=str(path),
        hint="There are three ways to a teacher:\n"
        "  have one     put its file there, or name it: --set teacher.checkpoint=FILE.pt\n"
        "  import one   a published GFL checkpoint: --set teacher.published=FILE.pth\n"
        "  train one    by any recipe with a `model`: --set teacher.recipe=coco/gfl_r101",
    )
