"""What each stage reads: the values that make its output what it is, and how two sets differ.

A stage is done again when one of its own values changes, and only then. Everything in a recipe
decides what a training ends in, except what is named here; evaluations read little, and a cache
has its plan.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ldkit.errors import RecipeError
from ldkit.files import canonical_json, short, write_text
from ldkit.jobs.runs import RunFolder
from ldkit.jobs.stage_places import Change
from ldkit.jobs.terms import is_distilled
from ldkit.models.checkpoint_file import read_model
from ldkit.recipe.load import leaves, load_recipe
from ldkit.recipe.schema import Recipe
from ldkit.recipe.yaml_writer import write_value

Inputs = dict[str, Any]
"""Dotted recipe key, or the name of a source, to its JSON value."""

RECORD = "pipeline.json"
"""Stands in the folder of a run or of an evaluation: what it was made from, beside its recipe."""

NOT_FOR_TRAINING = (
    *("name", "data", "teacher", "eval", "expect"),
    *("cache.path", "cache.shard_mb", "cache.batch_size"),
    *("train.checkpoint_every_steps", "train.log_terms_every_steps", "train.keep"),
)
NOT_FOR_SCORES = ("eval.every_epochs", "eval.batch_size", "views.flip", "views.count")
FINGERPRINT = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Upstream:
    """Fingerprints of what a training depends on beside its recipe; None: of nothing."""

    data: str
    teacher: str | None = None


def of_training(recipe: Recipe, upstream: Upstream) -> Inputs:
    """Return what decides the weights that a run ends in."""
    left_out = NOT_FOR_TRAINING if is_distilled(recipe) else (*NOT_FOR_TRAINING, "cache")
    chosen = _without(dict(leaves(recipe.model_dump(mode="json"))), left_out)
    return chosen | {"training images": upstream.data, "teacher": upstream.teacher}


def of_evaluation(recipe: Recipe, weights: str, images: str) -> Inputs:
    """Return what decides the figures of a model."""
    document = recipe.model_dump(mode="json")
    read = {name: document[name] for name in ("views", "eval")}
    chosen = _without(dict(leaves(read)), NOT_FOR_SCORES)
    return chosen | {"weights": weights, "validation images": images}


def of_run(run: RunFolder, wanted: Upstream) -> Inputs | None:
    """Return what a run was begun with; None where none was begun.

    A run that was begun by hand and is unfinished does not say what it depends on; it is taken
    to depend on what is `wanted`, as `--resume` takes it.
    """
    if not run.recipe.is_file():
        return None
    try:
        recipe = load_recipe(str(run.recipe)).recipe
    except RecipeError:
        return {"recipe.yaml": "cannot be read by this version of ldkit"}
    return of_training(recipe, _upstream(run) or wanted)


def record(run: RunFolder, upstream: Upstream) -> None:
    """Write down what a run depends on, before it begins."""
    write_text(run.path / RECORD, canonical_json(asdict(upstream)) + "\n")


def _upstream(run: RunFolder) -> Upstream | None:
    written = read_record(run.path)
    if written is None and run.is_finished:  # by `ldkit teacher train` or `ldkit distill`
        written = read_model(run.model).origin
    if written is None or not isinstance(written.get("data"), str):
        return None
    return Upstream(written["data"], written.get("teacher"))


def read_record(folder: Path) -> dict[str, Any] | None:
    """Return the record in a folder; None where there is none, or none that can be read."""
    try:
        content = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def changes(was: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[Change, ...]:
    """Return every value in which two sets of inputs differ; "-" where a side has none."""
    keys = [key for key in {**now, **was} if was.get(key) != now.get(key)]
    return tuple(Change(key, _text(was, key), _text(now, key)) for key in keys)


def _text(inputs: Mapping[str, Any], key: str) -> str:
    text = write_value(inputs[key]) if key in inputs else "-"
    return short(text) if FINGERPRINT.fullmatch(text) else text


def _without(values: Inputs, prefixes: tuple[str, ...]) -> Inputs:
    return {
        key: value
        for key, value in values.items()
        if not any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)
    }
