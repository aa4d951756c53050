"""What a cache depends on, from a recipe and a teacher: one place for the builder and the reader.

The two sides are compared field by field before anything starts.
"""

from collections.abc import Iterable
from itertools import zip_longest
from pathlib import Path

import cv2

from ldkit.cache.format import Axes, Coverage, Source, Sources
from ldkit.data.augment import ViewPolicy
from ldkit.data.coco import CocoIndex
from ldkit.errors import CacheMismatch, CheckpointError
from ldkit.jobs import assemble
from ldkit.models.checkpoint_file import ModelFile, read_model
from ldkit.recipe.detector import Detector
from ldkit.recipe.schema import Recipe
from ldkit.structures import ViewKey

RENDER_VERSION = 1
"""Raised whenever `render` makes other pixels from the same view."""


def view_policy(recipe: Recipe) -> ViewPolicy:
    """Return the policy that draws this recipe's training views."""
    return assemble.view_policy(recipe.views, recipe.seed)


def planned_keys(recipe: Recipe, image_ids: Iterable[int]) -> list[ViewKey]:
    """Return every view that the schedule can show, sorted."""
    views = view_policy(recipe).views_per_image(recipe.schedule.epochs)
    return [ViewKey(image_id, view) for image_id in sorted(image_ids) for view in range(views)]


def axes(section: Detector, num_classes: int) -> Axes:
    """Return what the rows of this detector mean."""
    grid = assemble.grid(section)
    return Axes(
        num_bins=section.head.reg_max + 1,
        num_classes=num_classes,
        strides=grid.strides,
        anchor_scale=grid.anchor_scale,
        bin_width=grid.bin_width,
    )


def cached_axes(section: Detector, num_classes: int, held: Coverage) -> Axes:
    """Return what the rows of a cache mean; the width of the pyramid where it keeps features."""
    plain = axes(section, num_classes)
    if held.imitation is None and held.cross is None:
        return plain
    return Axes(**plain.model_dump(exclude_unset=True), channels=section.fpn.channels)


def data_source(recipe: Recipe, index: CocoIndex) -> Source:
    """Return the identity of the training images and boxes."""
    return Source(
        fingerprint=index.fingerprint,
        facts={
            "annotations": assemble.place(recipe.data, recipe.data.train),
            "images": len(index.records),
            "classes": len(index.categories),
        },
    )


def views_source(recipe: Recipe) -> Source:
    """Return the identity of the views: the seed counts only where it draws them."""
    views = recipe.views
    facts = views.model_dump(mode="json")
    if isinstance(views.short_side_px, int):
        facts["flip"] = "plain and mirrored" if views.flip > 0 else "plain"
    else:
        facts["seed"] = recipe.seed
        facts["count"] = view_policy(recipe).views_per_image(recipe.schedule.epochs)
    return Source.of(facts)


def render_source() -> Source:
    """Return the identity of the renderer and its library."""
    return Source.of({"render": RENDER_VERSION, "opencv": cv2.__version__})


def read_teacher(path: Path) -> ModelFile:
    """Return the teacher's file.

    Raises:
        CheckpointError: There is none (the message says where teachers come from), or it is none.
    """
    if not path.exists():
        raise CheckpointError(
            "does not exist, but the teacher's model file is expected there.",
            where=str(path),
            hint="Name the file with `--teacher FILE`. `ldkit teacher train` makes one, and so "
            "does `ldkit teacher import` of a published checkpoint.",
        )
    return read_model(path)


def teacher_source(file: ModelFile, path: Path) -> tuple[Source, Source]:
    """Return the identity of the teacher's weights and of its architecture."""
    section = assemble.detector_section(file, path)
    facts = section.model_dump(mode="json")
    facts["classes"] = list(file.classes)
    weights = Source(
        fingerprint=file.fingerprint, facts={"file": path.name, "run": file.origin.get("name")}
    )
    return weights, Source.of(facts)


def cached_detector(model: Source, folder: Path) -> Detector:
    """Return the detector section of the teacher that a cache was made with.

    Raises:
        CacheMismatch: Another version of ldkit described it.
    """
    facts = {key: value for key, value in model.facts.items() if key != "classes"}
    try:
        return Detector.model_validate(facts, strict=False)
    except ValueError as error:
        raise CacheMismatch(
            "was made with a detector that this version of ldkit does not know.",
            where=str(folder),
            hint="Name the recipe it was made for, or build a new cache.",
        ) from error


def sources(recipe: Recipe, index: CocoIndex, file: ModelFile, path: Path) -> Sources:
    """Return everything that a cache of this teacher for this recipe depends on."""
    weights, model = teacher_source(file, path)
    return Sources(
        weights=weights,
        model=model,
        data=data_source(recipe, index),
        views=views_source(recipe),
        render=render_source(),
    )


def check_teacher(file: ModelFile, path: Path, index: CocoIndex) -> None:
    """Refuse a teacher whose classes are not those of the data set.

    Raises:
        CheckpointError: Names or order differ; the message shows where.
    """
    if file.classes == index.class_names:
        return
    pairs = zip_longest(file.classes, index.class_names, fillvalue="(none)")
    differing = [(n, a, b) for n, (a, b) in enumerate(pairs) if a != b]
    lines = [f"  class {n}: {a} in the teacher, {b} in the data" for n, a, b in differing[:5]]
    more = [f"  ... and {len(differing) - 5} more"] if len(differing) > 5 else []
    raise CheckpointError(
        f"was trained on other classes ({len(file.classes)}) than the data set has "
        f"({len(index.categories)}):\n" + "\n".join([*lines, *more]),
        where=str(path),
        hint="Distillation compares classes one by one: train the teacher on this data set.",
    )
