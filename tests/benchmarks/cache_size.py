"""How many bytes does a cache hold for a view, and how many would every location take?

    .venv/bin/python tests/benchmarks/cache_size.py [COCO_ROOT ...]

Takes the views that coco/full_r18_r101 plans (1333x800, plain and mirrored) of all images with
boxes in the folders, finds their main region and VLR and counts with the cache's own columns. No
image is decoded, so downsized copies do: a view is scaled from whatever size the annotations state.
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

from ldkit.cache.columns import VIEW_COLUMNS, BoxCodec, Codec, Group, region_group
from ldkit.cache.info import FP16_BYTES
from ldkit.data.coco import CocoIndex, training_records
from ldkit.data.shapes import write_shapes
from ldkit.jobs import assemble, coverage, sources
from ldkit.jobs.size_estimate import estimate
from ldkit.recipe.load import load_recipe
from ldkit.recipe.schema import Recipe
from tests.benchmarks.coco_folder import splits
from tests.benchmarks.paired import RESAMPLES, Goal, say, verdict

CLASSES = 80
TRAIN2017_BOXES = 849_949 / 117_266
"""Boxes of an image of train2017 that has any; crowds are not counted."""


Kind = tuple[Group, ...]
"""What a cache may hold of a view."""


@dataclass(frozen=True, slots=True)
class Image:
    """One image: its boxes, and means over its views; `rows` of each group, by name."""

    boxes: int
    rows: dict[str, float]
    locations: float


def main() -> None:
    """Count, and say which goals are met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("roots", nargs="*", type=Path, metavar="COCO_ROOT")
    parser.add_argument("--boxes", type=float, default=TRAIN2017_BOXES, help="an image, in COCO")
    options = parser.parse_args()
    roots: list[Path] = options.roots
    recipe = load_recipe("coco/full_r18_r101").recipe
    if roots:
        images = [image for root in roots for image in _images(root, recipe)]
    else:
        with TemporaryDirectory() as folder:
            write_shapes(Path(folder), seed=0, train_images=100, val_images=1)
            images = _images(Path(folder), recipe)
    goals = _goals(recipe)
    sides = f"{recipe.views.long_side_max_px}x{recipe.views.short_side_px}"
    say(f"{len(images)} images with boxes, views of at most {sides} pixels")
    _show_counts(images)
    _show_bytes(images, {goal.name: kind for goal, kind in goals})
    for goal, kind in goals:
        _judge(goal, images, kind, options.boxes)


def _goals(recipe: Recipe) -> list[tuple[Goal, Kind]]:
    """Return KB a view, and what they hold."""
    bins = recipe.detector.head.reg_max + 1

    def group(name: str, bbox_logits: BoxCodec, cls_logits: Codec | None = None) -> Group:
        return region_group(name, bins, CLASSES, bbox_logits, cls_logits)

    return [
        (Goal("main fp16", 11.0), (group("main", "fp16"),)),
        (Goal("main u8", 6.0), (group("main", "u8"),)),
        (Goal("main fp16 + classes", 23.0), (group("main", "fp16", "fp16"),)),
        (Goal("main fp16 + VLR u8", 90.0), (group("main", "fp16"), group("vlr", "u8"))),
    ]


def _images(root: Path, recipe: Recipe) -> list[Image]:
    policy = assemble.view_policy(recipe.views, recipe.seed)
    grid, held = assemble.grid(recipe.detector), coverage.wanted(recipe).coverage
    found = []
    for split in splits(root):
        index = CocoIndex.read(root / split.images, root / split.annotations)
        records = training_records(index)
        for record in records.values():
            keys = sources.planned_keys(recipe, [record.image_id])
            size = estimate(records, policy.draw, keys, grid, held)
            image = Image(len(record.boxes), size.rows, size.locations)
            found.append(image)
    return found


def _show_counts(images: Sequence[Image]) -> None:
    say(f"{'per view':<24} {'mean':>9} {'p50':>9} {'p90':>9} {'p99':>9} {'max':>9}")
    counts = {
        "boxes": [float(image.boxes) for image in images],
        "main rows": [image.rows["main"] for image in images],
        "VLR rows": [image.rows["vlr"] for image in images],
        "locations": [image.locations for image in images],
    }
    for name, values in counts.items():
        ranked = sorted(values)
        parts = [ranked[round(share * (len(ranked) - 1))] for share in (0.5, 0.9, 0.99, 1.0)]
        say(f"{name:<24}" + "".join(f" {value:>9,.1f}" for value in (fmean(values), *parts)))
    slope, intercept = linear_regression(counts["boxes"], counts["main rows"])
    say(f"main rows of an image: about {intercept:.1f} + {slope:.2f} for each box")


def _show_bytes(images: Sequence[Image], kinds: dict[str, Kind]) -> None:
    say(f"\n{'stored':<24} {'KB/view':>9} {'dense KB':>9} {'dense/rows':>10}")
    locations = fmean(image.locations for image in images)
    for name, kind in kinds.items():
        kept = fmean(_bytes(image.rows, kind) for image in images) / 1e3
        numbers = sum(prod(column.shape) for column in kind[0].values if column.shape)
        dense = locations * numbers * FP16_BYTES / 1e3
        say(f"{name:<24} {kept:>9.2f} {dense:>9,.0f} {dense / kept:>10.0f}")
    table = sum(column.entry_bytes for column in VIEW_COLUMNS)
    say(f"Each view takes {table} bytes more in the table of views, and 8 for each group.")


def _judge(goal: Goal, images: Sequence[Image], kind: Kind, boxes: float) -> None:
    """Judge the mean of these images, and what the line says for `boxes` an image."""
    dice = random.Random(0)
    samples = [images, *(dice.choices(images, k=len(images)) for _ in range(RESAMPLES))]
    figures = {
        "these images": [
            fmean(_bytes(image.rows, kind) for image in chosen) / 1e3 for chosen in samples
        ],
        f"at {boxes:.2f} boxes an image": [_bytes_at(boxes, chosen, kind) for chosen in samples],
    }
    say(f"\nKB per view, {goal.name}")
    for name, (found, *resampled) in figures.items():
        ranked = sorted(resampled)
        low, high = ranked[RESAMPLES // 40], ranked[-1 - RESAMPLES // 40]
        say(f"{name}: {found:.2f}, 95 % interval [{low:.2f}, {high:.2f}]")
        noise = (high - low) / 2 / found
        say(f"  {verdict(goal, found, noise, 'interval of the sample')}")


def _bytes_at(boxes: float, images: Sequence[Image], kind: Kind) -> float:
    slope, intercept = linear_regression(
        [image.boxes for image in images], [_bytes(image.rows, kind) for image in images]
    )
    return (intercept + slope * boxes) / 1e3


def _bytes(rows: dict[str, float], kind: Kind) -> float:
    return sum(rows[group.name] * group.row_bytes for group in kind)


if __name__ == "__main__":
    main()
