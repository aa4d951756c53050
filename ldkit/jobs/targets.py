"""What `ldkit eval` is asked to evaluate: run folders, model files, the newest finished run."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ldkit.errors import CheckpointError, UsageError
from ldkit.files import canonical_json
from ldkit.jobs.runs import RunFolder, newest_finished
from ldkit.models.checkpoint_file import ModelFile, read_model
from ldkit.recipe.load import override
from ldkit.recipe.schema import Recipe


@dataclass(frozen=True, slots=True)
class Target:
    """A model file, its classes, the recipe that says how to evaluate it, where results go."""

    name: str
    model: Path
    classes: tuple[str, ...]
    recipe: Recipe
    results: Path


def target(path: Path | None, overrides: Sequence[str], root: Path = Path("runs")) -> Target:
    """Return what `path` means: a run folder, a model file, or the newest finished run.

    Raises:
        UsageError: There is no such run, or it is not finished.
        CheckpointError: The file is not a model of ldkit.
    """
    run = newest_finished(root) if path is None else RunFolder(path) if path.is_dir() else None
    if run is not None and not run.is_finished:
        raise UsageError(
            "is not a finished run: it holds no model.pt.",
            where=str(run.path),
            hint="Finish it with `--resume`, or name a model file.",
        )
    model = run.model if run is not None else path
    assert model is not None
    file = read_model(model)
    recipe = override(_recipe_of(file, model), str(model), overrides)
    results = run.evaluations if run is not None else model.with_suffix("")
    return Target(recipe.name, model, file.classes, recipe, results)


def _recipe_of(file: ModelFile, path: Path) -> Recipe:
    """Return the recipe that a model file was trained by."""
    try:
        return Recipe.model_validate_json(canonical_json(file.origin["recipe"]))
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            "does not say which recipe it was trained by, so there is no data set to take.",
            where=str(path),
            hint="Take a model file that `ldkit teacher train` or `ldkit distill` wrote.",
        ) from error


def labels(goals: Sequence[Target]) -> list[str]:
    """Return what to call each model: its name, or its file where two have the same name."""
    names = Counter(goal.name for goal in goals)
    return [goal.name if names[goal.name] == 1 else str(goal.model) for goal in goals]
