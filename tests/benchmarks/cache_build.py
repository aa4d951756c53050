"""Does building a cache take longer than the teacher alone, and what do boxes alone save?

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE .venv/bin/python tests/benchmarks/cache_build.py

All arms go over the same views in the same batches, through the same loader, with one teacher of
random weights. `bare` is its forward and nothing else; `build` is ldkit's own build into a new
folder, with durable shards and a seal; `boxes` is a build that stores no class logits, so that
the class tower does not run. The last shard has no forward to hide behind: a long build pays for
that once, these short ones in every round. On a busy machine two other clocks say more, both of
the processor: `--clock cpu` adds up all threads, so it shows what a build adds where nothing is
hidden; `--clock thread` is the teacher's thread alone (with OMP_NUM_THREADS=1), so it shows what
remains where the writing has a core of its own.
"""

import argparse
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch

from ldkit.cache import writer
from ldkit.cache.folder import CacheFolder
from ldkit.cache.format import Plan
from ldkit.data.dataset import ViewDataset, load_batches
from ldkit.data.shapes import write_shapes
from ldkit.jobs import assemble, build_cache
from ldkit.jobs.cache_build_order import Coming
from ldkit.jobs.train import Material
from ldkit.models.checkpoint_file import ModelFile, write_model
from ldkit.models.gfl import Detector
from ldkit.ops.pixels import normalise
from ldkit.recipe.load import load_recipe
from ldkit.recipe.schema import Recipe
from ldkit.structures import Batch, resized_sizes
from tests.benchmarks.coco_folder import train_split
from tests.benchmarks.paired import (
    Goal,
    measure,
    ratio,
    say,
    show_arms,
    show_machine,
    spread,
    verdict,
)

CLOCKS = {
    "wall": time.perf_counter,
    "cpu": time.process_time,
    "thread": time.thread_time,
}
MOST_OF_BARE = 1 / 0.98
MOST_OF_BUILD = 1 / 1.10
SMALL = (
    "student.backbone={name: small, width: 16, depth: 1}",
    "student.fpn={channels: 64, levels: [3, 4, 5, 6, 7]}",
    "student.head={convs: 2, norm_groups: 8, reg_max: 16, bin_width: 1, anchor_scale: 8}",
)
"""A teacher that is fast, so that what a build adds weighs more."""


class Setting(NamedTuple):
    """One teacher, and the same views in two caches: with classes, with boxes alone."""

    teacher: Detector
    build: build_cache.Order
    boxes: build_cache.Order
    device: torch.device
    workers: int


def main() -> None:
    """Time the arms and say how far the goals are."""
    options = _options()
    with TemporaryDirectory() as folder, torch.no_grad():
        setting = _setting(Path(folder), options)
        arms = {
            "bare": lambda _: _bare(setting),
            "bare (A/A)": lambda _: _bare(setting),
            "build": lambda _: _build(setting, setting.build),
            "boxes": lambda _: _build(setting, setting.boxes),
        }
        plan = setting.build.plan
        show_machine(f"torch {torch.__version__}", f"{torch.get_num_threads()} threads")
        say(
            f"{options.teacher}, {plan.keys.count} views of {options.short} x {options.long} in "
            f"{plan.shards} shards, batch {options.batch}, {options.workers} workers, "
            f"{options.rounds} rounds, {options.clock} clock"
        )
        seconds = measure(arms, options.rounds, clock=CLOCKS[options.clock])
    show_arms(seconds, "bare")
    say(f"{'boxes / build':<24} {'':>12}   {ratio(seconds, 'boxes', 'build')}")
    noise = spread(ratio(seconds, "bare (A/A)", "bare"))
    found = ratio(seconds, "build", "bare").median
    say(verdict(Goal("time of a build / bare teacher", MOST_OF_BARE), found, noise))
    saved = ratio(seconds, "boxes", "build").median
    say(verdict(Goal("time of boxes / build", MOST_OF_BUILD), saved, noise))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", nargs="?", type=Path, help="a COCO folder; without it, shapes")
    parser.add_argument("--teacher", default="resnet18", help="small, or a backbone of timm")
    parser.add_argument("--views", type=int, default=32)
    parser.add_argument("--short", type=int, default=256)
    parser.add_argument("--long", type=int, default=320)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--shard-views", type=int, default=8, help="views of a shard")
    parser.add_argument("--vlr", action="store_true", help="store the VLR too, in fp16")
    parser.add_argument("--workers", type=int, default=1, help="processes that load images")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    return parser.parse_args()


def _setting(work: Path, options: argparse.Namespace) -> Setting:
    recipe = _recipe(work, options)
    device = assemble.device(options.device)
    file = build_cache.sections(recipe)[1]
    classes = Material.of(recipe).index.class_names
    weights = assemble.detector(recipe.detector, len(classes)).state_dict()
    section = recipe.detector.model_dump(mode="json")
    write_model(file, ModelFile(weights, section, classes, {"name": "benchmark"}))
    assert recipe.cache is not None
    no_classes = {"cls_logits": None}
    main = recipe.cache.main.model_copy(update=no_classes)
    vlr = None if recipe.cache.vlr is None else recipe.cache.vlr.model_copy(update=no_classes)
    alone = recipe.cache.model_copy(update={"main": main, "vlr": vlr, "path": str(work / "boxes")})
    layout = recipe.train.channels_last
    return Setting(
        teacher=build_cache.load_teacher(file, device, channels_last=layout),
        build=_cut(build_cache.order(recipe), options),
        boxes=_cut(build_cache.order(recipe.model_copy(update={"cache": alone})), options),
        device=device,
        workers=options.workers,
    )


def _cut(order: build_cache.Order, options: argparse.Namespace) -> build_cache.Order:
    """Return the first views of an order, in shards of a few views each."""
    plan, keys = order.plan, order.keys[: options.views]
    build = plan.build.model_copy(update={"views_per_shard": options.shard_views})
    cut = Plan.of(plan.sources, plan.axes, plan.coverage, plan.columns, build, keys)
    return replace(order, plan=cut, keys=keys)


def _recipe(work: Path, options: argparse.Namespace) -> Recipe:
    root = options.root
    if root is None:
        root = work / "shapes"
        write_shapes(root, seed=0, train_images=options.views, val_images=1, size_px=options.long)
    split = train_split(root)
    detector = (
        SMALL
        if options.teacher == "small"
        else (f"student.backbone.name={options.teacher}", "student.backbone.pretrained=false")
    )
    overrides = [
        *detector,
        f"data.root={root.resolve()}",
        f"data.train.images={split.images}",
        f"data.train.annotations={split.annotations}",
        f"views.short_side_px={options.short}",
        f"views.long_side_max_px={options.long}",
        "views.flip=0",
        f"teacher.checkpoint={work / 'teacher.pt'}",
        f"cache.path={work / 'cache'}",
        f"cache.batch_size={options.batch}",
    ]
    if options.vlr:
        overrides.append("cache.vlr={bbox_logits: fp16, cls_logits: fp16}")
    return load_recipe("coco/ld_r18_r101", overrides).recipe


def _bare(setting: Setting) -> None:
    """Let the teacher see every view, and forget what it says."""
    for batch in _batches(setting):
        images = normalise(batch.pixels, resized_sizes(batch.views, setting.device))
        setting.teacher(images)
    if setting.device.type == "cuda":
        torch.cuda.synchronize()


def _batches(setting: Setting) -> Iterator[Batch]:
    order = setting.build
    plan, material, nothing = order.plan, order.material, CacheFolder(Path("none"))
    coming = Coming.of(nothing, plan, order.keys, range(plan.shards), material)
    dataset = ViewDataset(material.records, material.draw)
    return load_batches(dataset, coming, setting.workers, setting.device)


def _build(setting: Setting, order: build_cache.Order) -> None:
    """Build a cache into a new folder."""
    shutil.rmtree(order.folder, ignore_errors=True)
    plan = writer.begin(order.folder, order.plan)
    everything = range(plan.shards)
    for _ in build_cache.build_shards(order, plan, everything, setting.teacher, setting.workers):
        pass
    writer.seal(order.folder, plan, order.keys)


if __name__ == "__main__":
    main()
