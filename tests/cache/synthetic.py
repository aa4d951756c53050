"""Small caches made up from a seed: no images, no model, the same rows at every call."""

import random
from collections.abc import Sequence
from pathlib import Path

import torch

from ldkit.cache.columns import Codec
from ldkit.cache.content import ViewRows, locations_of
from ldkit.cache.folder import CacheFolder, missing_shards
from ldkit.cache.format import (
    Axes,
    Build,
    Columns,
    Coverage,
    MainColumns,
    MainRegion,
    Manifest,
    Plan,
    Source,
    Sources,
)
from ldkit.cache.writer import begin, seal, write_shard
from ldkit.structures import Batch, GroundTruth, View, ViewKey

BOXES = 5
AXES = Axes(num_bins=5, num_classes=3, strides=(8, 16), anchor_scale=8.0, bin_width=1.0)
SOURCES = Sources(
    weights=Source(fingerprint="4f" * 32, facts={"file": "r101.pt"}),
    model=Source.of({"backbone": {"name": "resnet101"}, "head": {"reg_max": 4}}),
    data=Source(fingerprint="da" * 32, facts={"annotations": "train.json", "images": 12}),
    views=Source.of({"short_side_px": 800, "flip": 0.5, "count": None, "seed": 0}),
    render=Source.of({"render": 1, "opencv": "5.0.0"}),
)


def make_keys(images: int, views: int = 2) -> tuple[ViewKey, ...]:
    return tuple(ViewKey(9 + 5 * image, view) for image in range(images) for view in range(views))


def make_plan(
    keys: Sequence[ViewKey],
    views_per_shard: int = 4,
    bbox_logits: Codec = "fp16",
    cls_logits: Codec | None = "fp16",
) -> Plan:
    return Plan.of(
        sources=SOURCES,
        axes=AXES,
        coverage=Coverage(main=MainRegion(topk=9)),
        columns=Columns(main=MainColumns(bbox_logits=bbox_logits, cls_logits=cls_logits)),
        build=Build(batch_size=4, pad_multiple_px=32, views_per_shard=views_per_shard),
        keys=keys,
    )


def make_view(key: ViewKey) -> View:
    dice = random.Random(str(tuple(key)))
    height, width = 32 * dice.randint(1, 4), 32 * dice.randint(1, 4)
    resized = height - dice.randint(0, 31), width - dice.randint(0, 31)
    return View((2 * resized[0], 2 * resized[1]), resized, (height, width), bool(key.view % 2))


def make_rows(key: ViewKey, plan: Plan, most: int = 7) -> ViewRows:
    dice = random.Random(f"rows {tuple(key)}")
    generator = torch.Generator().manual_seed(dice.randrange(2**31))
    view = make_view(key)
    locations = locations_of(view.padded_hw, plan.axes.strides, "here")
    count = dice.randint(0, min(most, locations))
    chosen = torch.randperm(locations, generator=generator)[:count].sort().values
    return ViewRows(
        key=key,
        view=view,
        pixels_crc32=dice.randrange(2**32),
        location=chosen,
        gt_index=torch.randint(BOXES, (count,), generator=generator),
        bbox_logits=5 * torch.randn(count, 4, plan.axes.num_bins, generator=generator),
        cls_logits=5 * torch.randn(count, plan.axes.num_classes, generator=generator),
    )


def build(folder: Path, plan: Plan, keys: Sequence[ViewKey], most: int = 7) -> Manifest:
    """Build what is missing, the way a job does."""
    plan = begin(folder, plan)
    for number in missing_shards(CacheFolder(folder), plan):
        content = [make_rows(key, plan, most) for key in plan.keys_of(number, keys)]
        write_shard(folder, number, content, plan)
    return seal(folder, plan, keys)


def make_batch(keys: Sequence[ViewKey], boxes: int = BOXES) -> Batch:
    views = tuple(make_view(key) for key in keys)
    height = max((view.padded_hw[0] for view in views), default=32)
    width = max((view.padded_hw[1] for view in views), default=32)
    return Batch(
        keys=tuple(keys),
        views=views,
        pixels=torch.zeros(len(keys), 3, height, width, dtype=torch.uint8),
        ground_truth=GroundTruth(
            boxes=torch.zeros(len(keys), boxes, 4),
            labels=torch.zeros(len(keys), boxes, dtype=torch.int64),
        ),
    )
