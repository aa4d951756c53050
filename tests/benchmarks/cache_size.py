"""How many bytes does a cache hold for a view, and how many would every location take?

    .venv/bin/python tests/benchmarks/cache_size.py [COCO_ROOT ...]

Takes the views that coco/ld_r18_r101 plans (1333x800, plain and mirrored) of all images with
boxes in the folders, assigns their main region and counts with the cache's own columns. No image
is decoded, so downsized copies do: a view is scaled from whatever size the annotations state.
Nothing is timed. The images are a sample, so each mean has a 95 % bootstrap interval over images.
A folder may hold more boxes an image than COCO does; rows grow with boxes, so a second figure
reads the straight line of rows over boxes at `--boxes`. Without COCO_ROOT drawn shapes are
counted, which says nothing about COCO.
"""

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from statistics import fmean, linear_regression
from tempfile import TemporaryDirectory

from ldkit.cache.columns import MAIN_OFFSETS, VIEW_COLUMNS, Column, main_columns
from ldkit.cache.info import FP16_BYTES
from ldkit.data.coco import CocoIndex, training_records
from ldkit.data.shapes import write_shapes
from ldkit.jobs import assemble, sources
from ldkit.jobs.size_estimate import estimate
from ldkit.recipe.load import load_recipe
from ldkit.recipe.schema import Recipe
from tests.benchmarks.coco_folder import splits
from tests.benchmarks.paired import RESAMPLES, Goal, say, verdict

BOXES_ONLY = Goal("KB per view, box logits", 11.0)
WITH_CLASSES = Goal("KB per view, box and 80 class logits", 23.0)
CLASSES = 80
TRAIN2017_BOXES = 849_949 / 117_266
"""Boxes of an image of train2017 that has any; crowds are not counted."""


@dataclass(frozen=True, slots=True)
class Image:
    """One image: its boxes, and means over its views."""

    boxes: int
    rows: float
    locations: float


def main() -> None:
    """Count, and say which goals are met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("roots", nargs="*", type=Path, metavar="COCO_ROOT")
    parser.add_argument("--boxes", type=float, default=TRAIN2017_BOXES, help="an image, in COCO")
    options = parser.parse_args()
    roots: list[Path] = options.roots
    recipe = load_recipe("coco/ld_r18_r101").recipe
    if roots:
        images = [image for root in roots for image in _images(root, recipe)]
    else:
        with TemporaryDirectory() as folder:
            write_shapes(Path(folder), seed=0, train_images=100, val_images=1)
            images = _images(Path(folder), recipe)
    boxes_only = main_columns(_bins(recipe), CLASSES, "fp16", None)
    with_classes = main_columns(_bins(recipe), CLASSES, "fp16", "fp16")
    sides = f"{recipe.views.long_side_max_px}x{recipe.views.short_side_px}"
    say(f"{len(images)} images with boxes, views of at most {sides} pixels")
    _show_counts(images)
    _show_bytes(images, {"box logits": boxes_only, "box + 80 class logits": with_classes})
    for goal, columns in ((BOXES_ONLY, boxes_only), (WITH_CLASSES, with_classes)):
        _judge(goal, images, columns, options.boxes)


def _images(root: Path, recipe: Recipe) -> list[Image]:
    policy = assemble.view_policy(recipe.views, recipe.seed)
    grid, topk = assemble.grid(recipe.detector), recipe.objective.assign.topk
    found = []
    for split in splits(root):
        index = CocoIndex.read(root / split.images, root / split.annotations)
        records = training_records(index)
        for record in records.values():
            keys = sources.planned_keys(recipe, [record.image_id])
            size = estimate(records, policy.draw, keys, grid, topk)
            image = Image(len(record.boxes), size.rows_per_view, size.locations_per_view)
            found.append(image)
    return found


def _bins(recipe: Recipe) -> int:
    return recipe.detector.head.reg_max + 1


def _show_counts(images: Sequence[Image]) -> None:
    say(f"{'per view':<24} {'mean':>9} {'p50':>9} {'p90':>9} {'p99':>9} {'max':>9}")
    counts = {
        "boxes": [float(image.boxes) for image in images],
        "main rows": [image.rows for image in images],
        "locations": [image.locations for image in images],
    }
    for name, values in counts.items():
        ranked = sorted(values)
        parts = [ranked[round(share * (len(ranked) - 1))] for share in (0.5, 0.9, 0.99, 1.0)]
        say(f"{name:<24}" + "".join(f" {value:>9,.1f}" for value in (fmean(values), *parts)))
    slope, intercept = linear_regression(counts["boxes"], counts["main rows"])
    say(f"main rows of an image: about {intercept:.1f} + {slope:.2f} for each box")


def _show_bytes(images: Sequence[Image], kinds: dict[str, tuple[Column, ...]]) -> None:
    say(
        f"\n{'stored, fp16':<24} {'bytes/row':>9} {'KB/view':>9} {'dense KB':>9} {'dense/rows':>10}"
    )
    locations = fmean(image.locations for image in images)
    for name, columns in kinds.items():
        row, kept = _row_bytes(columns), _kilobytes(images, columns)
        logits = sum(prod(column.shape) for column in columns if column.shape)
        dense = locations * logits * FP16_BYTES / 1e3
        say(f"{name:<24} {row:>9} {kept:>9.2f} {dense:>9,.0f} {dense / kept:>10.0f}")
    table = sum(column.entry_bytes for column in (*VIEW_COLUMNS, MAIN_OFFSETS))
    say(f"Each view takes {table} bytes more in the table of views.")


def _judge(goal: Goal, images: Sequence[Image], columns: tuple[Column, ...], boxes: float) -> None:
    """Judge the mean of these images, and what the line says for `boxes` an image."""
    row = _row_bytes(columns) / 1e3
    dice = random.Random(0)
    samples = [images, *(dice.choices(images, k=len(images)) for _ in range(RESAMPLES))]
    figures = {
        "these images": [row * fmean(image.rows for image in chosen) for chosen in samples],
        f"at {boxes:.2f} boxes an image": [row * _rows_at(boxes, chosen) for chosen in samples],
    }
    say(f"\n{goal.name}")
    for name, (found, *resampled) in figures.items():
        ranked = sorted(resampled)
        low, high = ranked[RESAMPLES // 40], ranked[-1 - RESAMPLES // 40]
        say(f"{name}: {found:.2f}, 95 % interval [{low:.2f}, {high:.2f}]")
        noise = (high - low) / 2 / found
        say(f"  {verdict(goal, found, noise, 'interval of the sample')}")


def _rows_at(boxes: float, images: Sequence[Image]) -> float:
    slope, intercept = linear_regression(
        [image.boxes for image in images], [image.rows for image in images]
    )
    return intercept + slope * boxes


def _row_bytes(columns: Sequence[Column]) -> int:
    return sum(column.entry_bytes for column in columns)


def _kilobytes(images: Sequence[Image], columns: Sequence[Column]) -> float:
    return fmean(image.rows for image in images) * _row_bytes(columns) / 1e3


if __name__ == "__main__":
    main()
