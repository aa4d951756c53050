"""Does a cache of all of COCO open at once, hold its reading speed, and leave memory alone?

    OMP_NUM_THREADS=1 .venv/bin/python tests/benchmarks/cache_scale.py FOLDER [--shard-mb 64]

Builds a made-up cache in FOLDER/scale, in a process of its own, and deletes it again (`--keep`:
uses it if it is there, and leaves it): 118,287 images with two views each, box logits in fp16, as
many rows a view as COCO at 1333x800 has (76 on average, ragged; 2.5 GB). The logits repeat after a
few hundred views, which no reader notices. Then it is opened, read in shuffled epochs as a student
reads it, and sampled cold as by `ldkit bench cache`. Memory is what this process holds beyond what
it held before opening. Small shards (`--shard-mb 1`) make as many files as a far larger cache has.
"""

import argparse
import random
import shutil
import time
from collections.abc import Sequence
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import torch

from ldkit.cache.content import ViewRows
from ldkit.cache.format import (
    Build,
    Columns,
    Coverage,
    MainRegion,
    Plan,
    RowColumns,
    Source,
    Sources,
    views_per_shard,
)
from ldkit.cache.reader import CacheReader
from ldkit.cache.writer import begin, seal, write_shard
from ldkit.jobs.cache_bench import bench
from ldkit.jobs.cost import measured, resident_bytes
from ldkit.jobs.facts import Fact
from ldkit.structures import Batch, GroundTruth, ViewKey
from tests.benchmarks.cache_read import AXES, BOXES, CANVAS, VIEW, rows_of
from tests.benchmarks.paired import Goal, say, show_machine, verdict

ROWS = 76
DIFFERENT = 600
"""Views with rows of their own; then they repeat."""
OPENINGS = 20
OPEN_GOAL = Goal("slowest opening, ms", 50)
MEMORY_GOAL = Goal("memory after the last epoch over that before opening, MB", 200)
MAIN = RowColumns(bbox_logits="fp16", cls_logits=None)


def main() -> None:
    """Build, open, read, say which goals are met, delete."""
    options = _options()
    folder = options.folder / "scale"
    keys = [ViewKey(image, view) for image in range(options.images) for view in (0, 1)]
    needed = 1.1 * len(keys) * 10_700
    free = shutil.disk_usage(options.folder).free
    if free < needed:
        raise SystemExit(f"{options.folder} has {free / 1e9:.1f} GB free, of {needed / 1e9:.1f}.")
    show_machine(f"torch {torch.__version__}", f"{torch.get_num_threads()} threads")
    try:
        if not (folder / "manifest.json").is_file():
            began = time.perf_counter()
            builder = get_context("spawn").Process(
                target=_build, args=(folder, keys, options.shard_mb)
            )
            builder.start()
            builder.join()
            say(f"built in {time.perf_counter() - began:.0f} s")
        _measure(folder, keys, options)
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--images", type=int, default=118_287)
    parser.add_argument("--shard-mb", type=float, default=64.0)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--keep", action="store_true", help="leave the cache for another run")
    return parser.parse_args()


def _build(folder: Path, keys: Sequence[ViewKey], shard_mb: float) -> None:
    source = Source.of({"made up by": "cache_scale.py"})
    columns = Columns(main=MAIN)
    plan = Plan.of(
        sources=Sources(weights=source, model=source, data=source, views=source, render=source),
        axes=AXES,
        coverage=Coverage(main=MainRegion(topk=9)),
        columns=columns,
        build=Build(
            batch_size=4,
            pad_multiple_px=32,
            views_per_shard=views_per_shard(shard_mb * 1e6, {"main": ROWS}, AXES, columns),
        ),
        keys=keys,
    )
    begin(folder, plan)
    generator = torch.Generator().manual_seed(0)
    pool = [rows_of("main", ROWS, generator) for _ in range(DIFFERENT)]
    for number in range(plan.shards):
        content = [
            ViewRows(key, VIEW, 0, pool[(number + position) % DIFFERENT])
            for position, key in enumerate(plan.keys_of(number, keys))
        ]
        write_shard(folder, number, content, plan)
    seal(folder, plan, keys)


def _measure(folder: Path, keys: Sequence[ViewKey], options: argparse.Namespace) -> None:
    # What a first look-up loads, such as kernels of torch, is no part of a cache's memory.
    torch.zeros(4, dtype=torch.float16).float().sum().item()
    before = resident_bytes() or 0
    opened = [measured(lambda: CacheReader.open_(folder)).wall_s for _ in range(OPENINGS)]
    reader = CacheReader.open_(folder)
    manifest = reader.generations[0].manifest
    documents = sum(path.stat().st_size for path in folder.rglob("*.json"))
    say(
        f"{manifest.views:,} views, {manifest.rows.main / manifest.views:.1f} rows a view, "
        f"{manifest.bytes / 1e9:.2f} GB, {len(manifest.receipts):,} shards, "
        f"manifest {(folder / 'manifest.json').stat().st_size:,} B, all documents {documents:,} B"
    )
    opening = Fact(
        f"opening: {median(opened) * 1e3:.1f} ms (median of {OPENINGS}, documents warm)", 0
    )
    say(opening.text)
    grown = 0.0
    for epoch in range(options.epochs):
        order = random.Random(epoch).sample(range(len(keys)), len(keys))
        cost = measured(partial(_read, reader, keys, order, options.batch))
        batches = -(-len(keys) // options.batch)
        grown = ((resident_bytes() or 0) - before) / 1e6
        first = " (proves every shard once)" if epoch == 0 else ""
        say(
            f"epoch {epoch + 1}: {len(keys) / cost.wall_s:,.0f} views/s, "
            f"{len(keys) / cost.cpu_s:,.0f} by processor time, {cost.faults / batches:.3f} "
            f"page faults a batch, memory +{grown:.0f} MB{first}"
        )
    reader.close()
    say("")
    say(verdict(OPEN_GOAL, max(opened) * 1e3, None))
    say(verdict(MEMORY_GOAL, grown, None))
    say("")
    for name, fact in _facts(folder, options.batch).items():
        say(f"{name:<20} {fact.text if isinstance(fact, Fact) else fact}")


def _facts(folder: Path, batch_size: int) -> dict[str, str | Fact]:
    job = bench(folder, batch_size=batch_size)
    while True:
        try:
            next(job)
        except StopIteration as end:
            return dict(end.value)


def _read(reader: CacheReader, keys: Sequence[ViewKey], order: Sequence[int], size: int) -> None:
    boxes, labels = torch.zeros(size, BOXES, 4), torch.zeros(size, BOXES, dtype=torch.int64)
    blank = torch.zeros(1, 1, 1, 1, dtype=torch.uint8)
    answer = None
    for first in range(0, len(order), size):
        chosen = tuple(keys[position] for position in order[first : first + size])
        count = len(chosen)
        truth = GroundTruth(boxes[:count], labels[:count])
        batch = Batch(chosen, (VIEW,) * count, blank.expand(count, 3, *CANVAS), truth)
        answer = reader.lookup(batch)
    del answer


if __name__ == "__main__":
    main()
