"""Small caches made up from a seed: no images, no model, the same rows at every call."""

import random
from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ldkit.cache.columns import BoxCodec, Codec, Group
from ldkit.cache.content import ViewRows, locations_of
from ldkit.cache.folder import CacheFolder, missing_shards
from ldkit.cache.format import (
    Axes,
    Build,
    Columns,
    Coverage,
    CrossColumns,
    CrossRegion,
    FeatureColumns,
    ImitationRegion,
    MainRegion,
    Plan,
    RowColumns,
    ScoreColumns,
    ScoreRegion,
    Source,
    Sources,
    VlrRegion,
)
from ldkit.cache.receipts import Manifest
from ldkit.cache.writer import begin, seal, write_shard
from ldkit.structures import Batch, GroundTruth, View, ViewKey

BOXES = 5
CHANNELS = 4
EVERY = ("vlr", "imitation", "score", "cross")
"""What a cache can hold beside main."""
REGIONS = {
    "vlr": VlrRegion(topk=9, overlap="diou", floor=0.25),
    "imitation": ImitationRegion(region="fine_grained"),
    "score": ScoreRegion(floor=0.05),
    "cross": CrossRegion(after=3),
}
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


def make_coverage(held: Collection[str] = ()) -> Coverage:
    return Coverage(main=MainRegion(topk=9), **{name: REGIONS[name] for name in held})


def make_plan(
    keys: Sequence[ViewKey],
    views_per_shard: int = 4,
    bbox_logits: BoxCodec = "fp16",
    cls_logits: Codec | None = "fp16",
    held: Collection[str] = (),
) -> Plan:
    """Return a plan for main rows and those that are `held` beside them."""
    region = RowColumns(bbox_logits=bbox_logits, cls_logits=cls_logits)
    features = "fp16" if bbox_logits == "u8" else bbox_logits
    columns = {
        "vlr": region,
        "imitation": FeatureColumns(features=features),
        "score": ScoreColumns(bbox_logits=bbox_logits, cls_logits=cls_logits or "fp16"),
        "cross": CrossColumns(statistics=features),
    }
    wide = bool({"imitation", "cross"} & set(held))
    return Plan.of(
        sources=SOURCES,
        axes=AXES.model_copy(update={"channels": CHANNELS}) if wide else AXES,
        coverage=make_coverage(held),
        columns=Columns(main=region, **{name: columns[name] for name in held}),
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
    columns: dict[str, Tensor] = {}
    crc32 = 0
    for group in plan.groups:
        count = dice.randint(0, min(most, locations))
        chosen = torch.randperm(locations, generator=generator)[:count].sort().values
        if group.name == "main":
            crc32 = dice.randrange(2**32)
        if group.name == "cross":
            count = len(plan.axes.strides)
        columns |= _columns(group, chosen, count, generator)
        if group.name == "score_class":
            columns |= _classes(plan, len(columns["score.location"]), generator)
    return ViewRows(key, view, crc32, columns)


def _columns(
    group: Group, location: Tensor, count: int, generator: torch.Generator
) -> dict[str, Tensor]:
    found = {}
    for column in group.values:
        match column.name.partition(".")[2]:
            case "location":
                values = location
            case "gt_index" | "row" | "label":
                values = torch.randint(BOXES, (count,), generator=generator)
            case _:
                values = 5 * torch.randn(count, *column.shape, generator=generator)
        found[column.name] = values
    return found


def _classes(plan: Plan, scored: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Return sparse classes of scored rows: some have several, some none."""
    said = torch.rand(scored, plan.axes.num_classes, generator=generator) < 0.4
    row, label = said.nonzero(as_tuple=True)
    logit = 5 * torch.randn(len(row), generator=generator)
    return {"score_class.row": row, "score_class.label": label, "score_class.logit": logit}


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
