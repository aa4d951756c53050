"""The largest batch comes first, and no order changes what is in a shard."""

from collections import defaultdict
from pathlib import Path

import pytest

from ldkit.cache.folder import CacheFolder
from ldkit.cache.writer import begin
from ldkit.jobs import build_cache
from ldkit.jobs.cache_build_order import Coming
from ldkit.jobs.canvases import pixels_of
from tests.jobs.conftest import World
from tests.jobs.tiny import finish

SMALL = ("cache.shard_mb=0.003", "cache.batch_size=2")


def coming(order: build_cache.Order, shards: list[int]) -> Coming:
    folder = CacheFolder(order.folder)
    return Coming.of(folder, order.plan, order.keys, shards, order.material)


@pytest.mark.law
def test_every_key_comes_once_and_the_largest_batch_first(world: World, tmp_path: Path) -> None:
    order = build_cache.order(world.student(*SMALL, cache=tmp_path))
    shards = list(range(1, order.plan.shards))
    found = coming(order, shards)
    assert not found.begun
    batches = list(found)
    assert len(found.begun) == len(batches)
    by_shard, sizes = defaultdict(list), defaultdict(list)
    for shard, batch in zip(found.begun, batches, strict=True):
        by_shard[shard].extend(batch)
        records, draw = order.material.records, order.material.draw
        assert len({draw(key, records[key.image_id].hw).padded_hw for key in batch}) == 1
        sizes[shard].append(pixels_of(records, draw, batch))
    for shard, keys in by_shard.items():
        assert sorted(keys) == list(order.plan.keys_of(shard, order.keys))
        assert sizes[shard] == sorted(sizes[shard], reverse=True)
    first, *others = by_shard
    assert sizes[first][0] == max(size for each in sizes.values() for size in each)
    assert others == sorted(set(shards) - {first})
    assert found.total == sum(map(len, by_shard.values()))
    assert found.left_out == 0


@pytest.mark.law
def test_what_others_have_built_meanwhile_is_left_out(world: World, tmp_path: Path) -> None:
    recipe = world.student(*SMALL, cache=tmp_path)
    order = build_cache.order(recipe)
    begin(tmp_path, order.plan)
    batches = iter(found := coming(order, list(range(order.plan.shards))))
    next(batches)
    (begun,) = found.begun
    finish(build_cache.run(recipe, device="cpu"))
    rest = list(batches)
    assert set(found.begun) == {begun}
    assert 1 + len(rest) == len(found.begun)
    assert found.left_out == found.total - len(order.plan.views_of(begun))
