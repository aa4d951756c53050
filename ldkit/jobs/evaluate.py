"""`ldkit eval`: AP on images with boxes, or the file for a test server on images without."""

import json
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ldkit.data.coco import CocoIndex
from ldkit.errors import CheckpointError, DataError, UsageError
from ldkit.files import canonical_json, write_text
from ldkit.jobs import assemble
from ldkit.jobs.detect import detect
from ldkit.jobs.progress import Message
from ldkit.jobs.runs import RunFolder, newest_finished
from ldkit.metrics.coco_eval import CocoMetrics, evaluate_coco
from ldkit.metrics.submission import Submission, write_submission
from ldkit.models.checkpoint_file import ModelFile, read_model
from ldkit.models.gfl import Detector
from ldkit.recipe.load import override
from ldkit.recipe.data import Split
from ldkit.recipe.schema import Recipe

COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
SPLITS = ("val", "test-dev", "train")


@dataclass(frozen=True, slots=True)
class Target:
    """A model file, the recipe that says how to evaluate it, and where results go."""

    name: str
    model: Path
    recipe: Recipe
    results: Path


@dataclass(frozen=True, slots=True)
class Scores:
    """What an evaluation found, and the JSON file that holds it."""

    metrics: CocoMetrics
    file: Path


@dataclass(frozen=True, slots=True)
class Submitted:
    """The file for the test server."""

    submission: Submission


def columns(metrics: CocoMetrics) -> list[str]:
    """Return the paper's columns as percentages; a dash where there is nothing to count."""
    figures = (
        metrics.ap,
        metrics.ap50,
        metrics.ap75,
        metrics.ap_small,
        metrics.ap_medium,
        metrics.ap_large,
        metrics.ar100,
    )
    return ["-" if figure is None else f"{100 * figure:.1f}" for figure in figures]


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
    return Target(recipe.name, model, recipe, results)


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


def run(
    goal: Target, split: str, *, device: str = "auto"
) -> Generator[Message, None, Scores | Submitted]:
    """Yield progress; return the scores on `split`, or the submission for `test-dev`.

    Raises:
        UsageError: There is no such split.
        DataError: Images, annotations or classes do not fit.
    """
    data = goal.recipe.data
    chosen = _split(goal.recipe, split)
    place = assemble.device(device)
    model, file = assemble.trained_detector(goal.model)
    model.to(place)
    if split == "test-dev":
        root = Path(data.root)
        index = CocoIndex.read_image_list(root / chosen.images, root / chosen.annotations)
        _check_classes(index, file.classes, goal.model)
        results = yield from detect(model, index, goal.recipe, place)
        sizes = {image_id: record.hw for image_id, record in index.records.items()}
        category_ids = [category.id for category in index.categories]
        written = write_submission(goal.results, goal.name, results, sizes, category_ids)
        return Submitted(written)
    index = assemble.index(data, chosen)
    _check_classes(index, file.classes, goal.model)
    return (yield from score(model, index, goal, split, place))


def score(
    model: Detector, index: CocoIndex, goal: Target, split: str, device: torch.device
) -> Generator[Message, None, Scores]:
    """Yield progress; return the scores of a model, written to `eval/SPLIT.json`."""
    began = time.monotonic()
    results = yield from detect(model, index, goal.recipe, device)
    chosen = _split(goal.recipe, split)
    metrics = evaluate_coco(Path(goal.recipe.data.root) / chosen.annotations, results)
    content = {
        "name": goal.name,
        "split": split,
        "images": len(index.records),
        "seconds": round(time.monotonic() - began, 1),
        **metrics.as_dict(),
    }
    path = goal.results / f"{split}.json"
    write_text(path, json.dumps(content, indent=2) + "\n")
    return Scores(metrics, path)


def _split(recipe: Recipe, name: str) -> Split:
    sections = dict(
        zip(SPLITS, (recipe.data.val, recipe.data.test_dev, recipe.data.train), strict=True)
    )
    if name not in sections:
        raise UsageError(
            f"there is no split {name!r}.", where="--split", hint=f"Take {', '.join(SPLITS)}."
        )
    section = sections[name]
    if section is None:
        key = f"data.{name.replace('-', '_')}"
        raise UsageError(
            f"the recipe has no {key} section, so there are no such images.",
            where=f"--split {name}",
            hint=f"Give both keys: `--set {key}.images=FOLDER --set {key}.annotations=FILE.json`.",
        )
    return section


def _check_classes(index: CocoIndex, classes: tuple[str, ...], model: Path) -> None:
    if index.class_names != classes:
        raise DataError(
            f"has {len(index.categories)} classes ({_listing(index.class_names)}), but the model "
            f"{model} was trained on {len(classes)} ({_listing(classes)}).",
            where="data",
            hint="Evaluate on a data set with the same classes in the same order.",
        )


def _listing(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
