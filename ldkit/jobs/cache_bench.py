"""`ldkit bench cache`: how fast a cache is read on this machine, warm and cold."""

from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from pathlib import Path
from random import Random
from statistics import fmean, median
from typing import NamedTuple

import torch

from ldkit.cache.answer import Target, decoded
from ldkit.cache.columns import Group
from ldkit.cache.format import Coverage, Wanted
from ldkit.cache.gather import Gathered, Gatherer, Place, wanted_groups
from ldkit.cache.generations import Generation
from ldkit.cache.pagecache import evict, refill, resident_share
from ldkit.cache.reader import CacheReader
from ldkit.cache.shard import Shard
from ldkit.cache.store import local
from ldkit.jobs.cost import Cost, machine, measured, resident_bytes
from ldkit.jobs.facts import Fact, Facts, plural, size
from ldkit.jobs.progress import Message, Progress
from ldkit.structures import Batch, GroundTruth, ViewKey

OPENINGS = 5
ON_CPU = Target(None, torch.device("cpu"))
SHARDS = 4
"""Fewest shards of a sample, where the cache has them."""


class Sample(NamedTuple):
    """Views of some shards, in batches, and where they lie."""

    shards: list[Shard]
    batches: list[list[ViewKey]]
    """Shuffled."""
    ordered: list[list[ViewKey]]
    """The same views as they lie in the shards."""
    places: dict[ViewKey, Place]

    def located(self, batches: Sequence[Sequence[ViewKey]]) -> list[list[Place]]:
        """Return where the views of batches lie."""
        return [[self.places[key] for key in keys] for keys in batches]


def bench(
    place: Path | str, *, batch_size: int = 16, views: int = 4096, rounds: int = 7
) -> Generator[Message, None, Facts]:
    """Yield progress; return what it costs to open a cache and to read random batches of it.

    Shards are drawn until they hold so many views. `rows` fetches the stored bytes of known
    places, `decoded` also makes float32 numbers of them, `lookup` is all that a training step
    calls: it finds, checks, reads, decodes and places.

    Raises:
        CacheError: It is not sealed, or damaged.
    """
    path, before = local(str(place)), resident_bytes()
    opened = [measured(lambda: CacheReader.open_(path)) for _ in range(OPENINGS)]
    root = CacheReader.open_(path).generations[0]
    drawn: list[Sample] = []
    proof = measured(lambda: drawn.append(_sample(root, views, batch_size)))
    sample = drawn[0]
    parts = _parts(root)
    facts: dict[str, str | Fact] = {
        "cache": str(place),
        "machine": machine(),
        "sample": _sample_fact(sample, root),
        "opening": _opening(opened, root),
        "first use": _first_use(proof, sample, root),
    }
    for number, (name, wanted) in enumerate(parts.items()):
        yield Progress(number, len(parts), "parts of the cache")
        facts |= dict(_part_facts(name, wanted, path, root, sample, rounds))
    yield Progress(len(parts), len(parts), "parts of the cache")
    used = resident_bytes()
    if before is not None and used is not None:
        grown = max(0, used - before)
        facts["memory"] = Fact(f"{size(grown)} more than before the first opening", grown)
    return facts


def _parts(root: Generation) -> dict[str, Wanted | None]:
    """Return what is read: main alone, and all there is where there is more."""
    main = Wanted(Coverage(main=root.plan.coverage.main), frozenset())
    parts: dict[str, Wanted | None] = {"main": main}
    if root.plan.groups != wanted_groups(root.plan.groups, main):
        parts["all"] = None
    return parts


def _sample(root: Generation, views: int, batch_size: int) -> Sample:
    dice = Random(0)
    receipts = dice.sample(root.manifest.receipts, len(root.manifest.receipts))
    shards: list[Shard] = []
    places: dict[ViewKey, Place] = {}
    for receipt in receipts:
        if len(places) >= views and len(shards) >= SHARDS:
            break
        shard = Shard(root.folder, receipt, root.plan)
        shards.append(shard)
        places |= {key: Place(shard, position) for position, key in enumerate(shard.keys)}
    chosen = dice.sample(list(places), min(views, len(places)))
    ordered = [*places][: len(chosen)]
    return Sample(shards, _cut(chosen, batch_size), _cut(ordered, batch_size), places)


def _cut(keys: Sequence[ViewKey], batch_size: int) -> list[list[ViewKey]]:
    return [list(keys[first : first + batch_size]) for first in range(0, len(keys), batch_size)]


def _part_facts(
    name: str, wanted: Wanted | None, path: Path, root: Generation, sample: Sample, rounds: int
) -> Iterator[tuple[str, Fact]]:
    groups, gatherer = wanted_groups(root.plan.groups, wanted), Gatherer()
    views = sum(len(keys) for keys in sample.batches)
    shuffled, ordered = sample.located(sample.batches), sample.located(sample.ordered)
    read = partial(_read, gatherer, groups, shuffled)
    for shard in sample.shards:
        refill(shard.path)
    warm = _warm(read, rounds)
    yield f"{name} rows", _speed(warm, views)
    both = _warm(partial(_read, gatherer, groups, shuffled, _decode), rounds)
    yield f"{name} decoded", _decoding(warm, both, views)
    reader = CacheReader.open_(path, wanted)
    batches = [_batch(reader, keys, groups, sample, gatherer) for keys in sample.batches]

    def lookups() -> None:
        answer = None
        for batch in batches:
            answer = reader.lookup(batch)
        del answer

    found = _warm(lookups, rounds)
    yield f"{name} lookup", _speed(found, views)
    faults = found[-1].faults / len(batches)
    yield f"{name} page faults", Fact(f"{faults:.2g} a batch of {name}, once warm", faults)
    yield f"{name} cold shuffled", _cold(read, sample, views)
    in_order = partial(_read, gatherer, groups, ordered)
    yield f"{name} cold in order", _cold(in_order, sample, views)
    reader.close()
    gatherer.close()


def _read(
    gatherer: Gatherer,
    groups: Sequence[Group],
    located: Sequence[Sequence[Place]],
    then: Callable[[Group, Gathered], None] | None = None,
) -> None:
    for places in located:
        for group in groups:
            found = gatherer.read(group, places)
            if then is not None:
                then(group, found)


def _decode(group: Group, rows: Gathered) -> None:
    for column in group.values:
        if column.key:  # how it is stored is the recipe's choice: it is no index
            decoded(rows, column.name, ON_CPU)


def _warm(run: Callable[[], None], rounds: int) -> list[Cost]:
    for _ in range(2):  # the first fills the system's memory and ours
        run()
    return [measured(run) for _ in range(rounds)]


def _cold(run: Callable[[], None], sample: Sample, views: int) -> Fact:
    for shard in sample.shards:
        evict(shard.path)
    shares = [resident_share(shard.path) for shard in sample.shards]
    known = [share for share in shares if share is not None]
    cost = measured(run)
    rate = views / cost.wall_s
    value = {"views_per_s": round(rate), "read_bytes": cost.read_bytes}
    left = fmean(known) if known else None
    evicted = "not checked" if left is None else f"{left:.1%} of the pages were still in memory"
    text = f"{rate:,.0f} views/s ({evicted}; {size(cost.read_bytes or 0)} read from disk)"
    return Fact(text, value | {"resident_share": left})


def _speed(costs: Sequence[Cost], views: int) -> Fact:
    wall, cpu = (median(getattr(cost, name) for cost in costs) for name in ("wall_s", "cpu_s"))
    text = f"{views / wall:,.0f} views/s ({views / cpu:,.0f} by processor time)"
    value = {"views_per_s": round(views / wall), "views_per_cpu_s": round(views / cpu)}
    return Fact(text, value)


def _decoding(rows: Sequence[Cost], both: Sequence[Cost], views: int) -> Fact:
    """Return the speed of reading and decoding, and of decoding alone: what it adds."""
    found = _speed(both, views)
    added = median(cost.wall_s for cost in both) - median(cost.wall_s for cost in rows)
    noise = max(cost.wall_s for cost in rows) - min(cost.wall_s for cost in rows)
    assert isinstance(found.value, dict)
    if added <= noise:
        text = f"{found.text}; decoding alone is lost in the noise of reading"
        return Fact(text, found.value | {"decoding_views_per_s": None})
    value = found.value | {"decoding_views_per_s": round(views / added)}
    return Fact(f"{found.text}; decoding alone {views / added:,.0f} views/s", value)


def _opening(costs: Sequence[Cost], root: Generation) -> Fact:
    found = median(cost.wall_s for cost in costs)
    count = len(root.manifest.receipts)
    text = f"{found * 1e3:.1f} ms, {plural(count, 'receipt')} and {root.manifest.views:,} views"
    return Fact(text, {"seconds": found, "shards": count, "views": root.manifest.views})


def _first_use(cost: Cost, sample: Sample, root: Generation) -> Fact:
    proved = sum(shard.path.stat().st_size for shard in sample.shards)
    speed = proved / cost.wall_s
    whole = root.manifest.bytes / speed
    text = f"{speed / 1e9:.2f} GB/s to prove a shard, {whole:.1f} s for all, once in each process"
    return Fact(text, {"bytes_per_s": round(speed), "seconds_for_all": whole})


def _sample_fact(sample: Sample, root: Generation) -> Fact:
    views, batch = sum(len(keys) for keys in sample.batches), len(sample.batches[0])
    rows = root.manifest.rows.main / root.manifest.views
    text = (
        f"{plural(views, 'view')} of {plural(len(sample.shards), 'shard')} in batches of {batch}, "
        f"{rows:.1f} rows of main a view"
    )
    value = {"views": views, "shards": len(sample.shards), "batch_size": batch}
    return Fact(text, value | {"main_rows_per_view": rows})


def _batch(
    reader: CacheReader,
    keys: Sequence[ViewKey],
    groups: Sequence[Group],
    sample: Sample,
    gatherer: Gatherer,
) -> Batch:
    """Return a batch that shows the views of a cache, with as many boxes as its rows name."""
    places, boxes = [sample.places[key] for key in keys], 0
    for group in groups:
        if group.name in ("main", "vlr"):
            index = gatherer.read(group, places).columns[f"{group.name}.gt_index"]
            boxes = max(boxes, int(index.max(initial=0)) + 1)
    views = tuple(reader.view(key) for key in keys)
    height, width = (max(view.padded_hw[side] for view in views) for side in (0, 1))
    truth = GroundTruth(
        torch.zeros(len(keys), boxes, 4), torch.zeros(len(keys), boxes, dtype=torch.int64)
    )
    blank = torch.zeros(1, 1, 1, 1, dtype=torch.uint8)
    return Batch(tuple(keys), views, blank.expand(len(keys), 3, height, width), truth)
