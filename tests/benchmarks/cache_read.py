"""How many views a second does one core read from a sealed cache whose files are warm?

    OMP_NUM_THREADS=1 .venv/bin/python tests/benchmarks/cache_read.py

A made-up cache with the rows of COCO at 1333x800 (17 bins, box logits in fp16, about 76 rows a
view, ragged) is built in a temporary folder. All arms read the same random batches: `rows` gets
the three columns of each view (one from the file, two that a reader keeps in memory) and does
nothing else, from known places or by key; `lookup` is what a training step calls, so it also
finds, compares and checks views and gives float32 tensors on the batch's canvas; with `lookup,
padded` the canvas is larger than the views, so every location is moved.

With `--vlr ROWS` the cache holds so many VLR rows of a view too, as `--codec` says. Those arms
leave them alone; arms that read them begin with `both`: the bytes of all columns, the same with box
logits decoded to float32 in reused memory, decoding alone (of as many rows, read before), and
look-ups. `both, least` is what no reader that reads files and hands out float32 can do without: one
bare `preadv` of the box logits of each view and region, and the float32 numbers written once,
without any arithmetic.

On a busy machine `--clock cpu` counts this process's processor time. Cold reads, page faults and
memory are shown by `ldkit bench cache` and by cache_scale.py.
"""

import argparse
import os
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from torch import Tensor

from ldkit.cache.codecs import decode
from ldkit.cache.columns import SCALE, BoxCodec, Group
from ldkit.cache.content import ViewRows
from ldkit.cache.format import (
    Axes,
    Build,
    Columns,
    Coverage,
    MainRegion,
    Plan,
    RowColumns,
    Source,
    Sources,
    VlrRegion,
    Wanted,
)
from ldkit.cache.gather import Gathered, Gatherer, Place, runs_of
from ldkit.cache.handles import Handles
from ldkit.cache.pagecache import refill
from ldkit.cache.reader import CacheReader
from ldkit.cache.shard import Shard
from ldkit.cache.writer import begin, seal, write_shard
from ldkit.structures import Batch, GroundTruth, Size, View, ViewKey
from tests.benchmarks.paired import (
    Arm,
    Goal,
    measure,
    ratio,
    say,
    show_arms,
    show_machine,
    spread,
    verdict,
)

ROWS_GOAL = 300_000
"""Views a second."""
DECODED_GOAL = 75_000
"""Views a second, main and VLR."""
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
AXES = Axes(
    num_bins=17, num_classes=80, strides=(8, 16, 32, 64, 128), anchor_scale=8.0, bin_width=1.0
)
CANVAS: Size = (800, 1088)
LOCATIONS = 18_097
BOXES = 8
FP16_BYTES = 2
VIEW = View(source_hw=(480, 640), resized_hw=(800, 1067), padded_hw=CANVAS, flip=False)


class Boxes(NamedTuple):
    """Where the box logits of a batch lie: file, first byte and bytes of each view and region."""

    pieces: list[tuple[str, int, int]]
    rows: int


def main() -> None:
    """Build the cache, time the arms, say how far the goal is."""
    options = _options()
    with TemporaryDirectory() as folder:
        keys = [ViewKey(image, view) for image in range(options.views // 2) for view in (0, 1)]
        _build(Path(folder), keys, options.rows, options.vlr, options.codec)
        main_only = Wanted(Coverage(main=MainRegion(topk=9)), frozenset())
        reader = CacheReader.open_(Path(folder), main_only)
        for shard in Path(folder).rglob("*.safetensors"):
            refill(shard)
        dice = random.Random(1)
        chosen = [dice.sample(keys, options.batch) for _ in range(options.reads)]
        arms = _arms(reader, chosen)
        show_machine(f"torch {torch.__version__}", f"{torch.get_num_threads()} threads")
        manifest = reader.generations[0].manifest
        rows, size = manifest.rows.main / manifest.views, manifest.bytes / 1e6
        say(f"{len(keys)} views of {rows:.1f} rows, {size:.0f} MB; {options.rounds} rounds of")
        say(f"{options.reads} reads of {options.batch} views")
        seconds = measure(arms, options.rounds, clock=CLOCKS[options.clock])
        show_arms(seconds, "lookup")
        reader.close()
    views = options.batch * options.reads
    say("")
    for name, values in seconds.items():
        say(f"{name:<24} {views / median(values):>12,.0f} views/s")
    noise = spread(ratio(seconds, "lookup (A/A)", "lookup"))
    goals = {"rows, known places": ROWS_GOAL}
    if options.vlr:
        goals["both, decoding alone"] = DECODED_GOAL
    for name, rate in goals.items():
        per_view = median(seconds[name]) / views * 1e6
        say(verdict(Goal(f"{name}, microseconds a view", 1e6 / rate), per_view, noise))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--views", type=int, default=8000)
    parser.add_argument("--rows", type=int, default=76, help="mean rows of a view")
    parser.add_argument("--vlr", type=int, default=0, help="mean VLR rows of a view; 0: none")
    parser.add_argument("--codec", choices=("u8", "fp16"), default="u8", help="of VLR box logits")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--batch", type=int, default=16, help="views of one lookup")
    parser.add_argument("--reads", type=int, default=400, help="lookups in a round")
    parser.add_argument("--rounds", type=int, default=30)
    return parser.parse_args()


def _arms(reader: CacheReader, chosen: Sequence[Sequence[ViewKey]]) -> dict[str, Arm]:
    own = [_batch(keys, CANVAS) for keys in chosen]
    padded = [_batch(keys, (CANVAS[0] + 32, CANVAS[1] + 32)) for keys in chosen]
    arms = {
        "lookup": _lookups(reader, own),
        "lookup (A/A)": _lookups(reader, own),
        "lookup, padded": _lookups(reader, padded),
    }
    arms |= _by_offset(reader, chosen)
    if reader.plan.coverage.vlr is not None:
        both = CacheReader.open_(reader.path)
        arms |= _with_vlr(reader, chosen)
        arms["both, lookup"] = _lookups(both, own)
        arms["both, lookup, padded"] = _lookups(both, padded)
    return arms


def _lookups(reader: CacheReader, batches: Sequence[Batch]) -> Arm:
    def run(_: int) -> None:
        for batch in batches:
            reader.lookup(batch)

    return run


def _by_offset(reader: CacheReader, chosen: Sequence[Sequence[ViewKey]]) -> dict[str, Arm]:
    """Return arms that read main rows and do nothing else: with known places, and with keys."""
    place_of, main = _finder(reader), reader.plan.groups[0]
    known = [[place_of(key) for key in keys] for keys in chosen]
    gatherer = Gatherer()

    def places(_: int) -> None:
        for found in known:
            gatherer.read(main, found)

    def keys(_: int) -> None:
        for wanted in chosen:
            gatherer.read(main, [place_of(key) for key in wanted])

    return {"rows, known places": places, "rows, by key": keys}


def _with_vlr(reader: CacheReader, chosen: Sequence[Sequence[ViewKey]]) -> dict[str, Arm]:
    """Return arms that read all rows from known places: bytes, decoded, and the least there is."""
    place_of, groups = _finder(reader), reader.plan.groups
    known = [[place_of(key) for key in keys] for keys in chosen]
    gatherer = Gatherer()
    most = max(sum(sum(runs_of(group.name, found)[0]) for group in groups) for found in known)
    numbers = torch.zeros(most, 4, AXES.num_bins)

    def stored(_: int) -> None:
        for found in known:
            for group in groups:
                gatherer.read(group, found)

    def decoded(_: int) -> None:
        for found in known:
            for group in groups:
                _decode(gatherer.read(group, found), f"{group.name}.bbox_logits", numbers)

    boxes = [_boxes(found, groups) for found in known]
    return {
        "both, bytes": stored,
        "both, decoded": decoded,
        "both, decoding alone": _decoding([_mean_batch(group, known) for group in groups], known),
        "both, least": _least(boxes, numbers),
    }


def _decode(rows: Gathered, name: str, numbers: Tensor) -> None:
    scale = rows.columns.get(name + SCALE)
    steps = None if scale is None else torch.from_numpy(scale)
    stored = torch.from_numpy(rows.columns[name])
    decode(stored, steps, numbers[: len(stored)])


class Stored(NamedTuple):
    """Box logits as they are stored, and the width of the steps of each edge."""

    values: Tensor
    steps: Tensor | None


def _mean_batch(group: Group, known: Sequence[Sequence[Place]]) -> Stored:
    """Return as many stored rows of a group as a batch has on average."""
    counts = [sum(runs_of(group.name, found)[0]) for found in known]
    rows = Gatherer().read(group, [place for found in known[:8] for place in found]).columns
    mean = round(sum(counts) / len(counts))
    name = f"{group.name}.bbox_logits"
    steps = rows.get(name + SCALE)
    return Stored(
        torch.from_numpy(rows[name][:mean]),
        None if steps is None else torch.from_numpy(steps[:mean]),
    )


def _decoding(batches: Sequence[Stored], known: Sequence[object]) -> Arm:
    numbers = [torch.zeros(batch.values.shape) for batch in batches]

    def run(_: int) -> None:
        for _each in known:
            for batch, out in zip(batches, numbers, strict=True):
                decode(batch.values, batch.steps, out)

    return run


def _least(batches: Sequence[Boxes], numbers: Tensor) -> Arm:
    """Return the arm of bare system calls, and of numbers written once."""
    handles, memory = Handles(), memoryview(bytearray(numbers.numel() * FP16_BYTES))

    def run(_: int) -> None:
        for pieces, rows in batches:
            for file, first, count in pieces:
                os.preadv(handles.of(file, lambda _: None), (memory[:count],), first)
            numbers[:rows].fill_(0)

    return run


def _boxes(places: Sequence[Place], groups: Sequence[Group]) -> Boxes:
    pieces, rows = [], 0
    for group in groups:
        name = f"{group.name}.bbox_logits"
        for shard, position in places:
            first, last = shard.offsets[group.name][position : position + 2]
            start, width = shard.columns[name]
            pieces.append((shard.file, start + first * width, (last - first) * width))
            rows += last - first
    return Boxes(pieces, rows)


def _finder(reader: CacheReader) -> Callable[[ViewKey], Place]:
    root = reader.generations[0]
    shards = [Shard(root.folder, receipt, root.plan) for receipt in root.manifest.receipts]
    views = root.plan.build.views_per_shard

    def place_of(key: ViewKey) -> Place:
        shard = shards[(2 * key.image_id + key.view) // views]
        position = shard.find(key)
        assert position is not None
        return Place(shard, position)

    return place_of


def _batch(keys: Sequence[ViewKey], canvas: Size) -> Batch:
    count = len(keys)
    return Batch(
        keys=tuple(keys),
        views=(VIEW,) * count,
        pixels=torch.zeros(1, 1, 1, 1, dtype=torch.uint8).expand(count, 3, *canvas),
        ground_truth=GroundTruth(
            boxes=torch.zeros(count, BOXES, 4), labels=torch.zeros(count, BOXES, dtype=torch.int64)
        ),
    )


def _build(
    folder: Path, keys: Sequence[ViewKey], rows: int, vlr_rows: int, codec: BoxCodec
) -> None:
    source = Source.of({"made up by": "cache_read.py"})
    main, columns = MainRegion(topk=9), RowColumns(bbox_logits="fp16", cls_logits=None)
    vlr_columns = RowColumns(bbox_logits=codec, cls_logits=None) if vlr_rows else None
    vlr = VlrRegion(topk=9, overlap="diou", floor=0.25) if vlr_rows else None
    plan = Plan.of(
        sources=Sources(weights=source, model=source, data=source, views=source, render=source),
        axes=AXES,
        coverage=Coverage(main=main, vlr=vlr),
        columns=Columns(main=columns, vlr=vlr_columns),
        build=Build(batch_size=4, pad_multiple_px=32, views_per_shard=4000),
        keys=keys,
    )
    begin(folder, plan)
    generator = torch.Generator().manual_seed(0)
    for number in range(plan.shards):
        content = []
        for key in plan.keys_of(number, keys):
            columns_of_view = rows_of("main", rows, generator)
            if vlr_rows:
                columns_of_view |= rows_of("vlr", vlr_rows, generator)
            content.append(ViewRows(key, VIEW, 0, columns_of_view))
        write_shard(folder, number, content, plan)
    seal(folder, plan, keys)


def rows_of(group: str, mean: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Return the rows of a view, `mean` on average, with a long tail as in COCO."""
    drawn = torch.empty(1).exponential_(1 / mean, generator=generator)
    count = int(drawn.clamp(1, 5 * mean))
    return {
        f"{group}.location": torch.randperm(LOCATIONS, generator=generator)[:count].sort().values,
        f"{group}.gt_index": torch.randint(BOXES, (count,), generator=generator),
        f"{group}.bbox_logits": torch.randn(count, 4, AXES.num_bins, generator=generator),
    }


if __name__ == "__main__":
    main()
