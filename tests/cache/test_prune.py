from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldkit.cache.folder import CacheFolder
from ldkit.cache.format import Plan, Source
from ldkit.cache.info import info
from ldkit.cache.prune import Copier, Kept, rewrite
from ldkit.cache.reader import CacheReader
from ldkit.cache.writer import begin, seal, write_shard
from ldkit.errors import CacheCorrupt, CacheCoverage, CacheMismatch, UsageError
from ldkit.structures import ViewKey
from tests.cache.synthetic import EVERY, SOURCES, build, make_batch, make_keys, make_plan, make_rows
from tests.cache.test_generations import build_all, digests, without_classes
from tests.cache.test_reader import assert_equal

KEYS = make_keys(6)
SOME, MORE = KEYS[:7], KEYS[7:]


EVERYTHING = make_plan(KEYS, held=EVERY)


def write(folder: Path, plan: Plan, keys: Sequence[ViewKey]) -> None:
    """Build a cache whose rows do not depend on which groups it stores."""
    begin(folder, plan)
    for number in range(plan.shards):
        rows = [make_rows(key, EVERYTHING) for key in plan.keys_of(number, keys)]
        write_shard(folder, number, rows, plan)
    seal(folder, plan, keys)


def in_shards(plan: Plan, views_per_shard: int) -> Plan:
    build = plan.build.model_copy(update={"views_per_shard": views_per_shard})
    return plan.model_copy(update={"build": build})


def pruned(path: Path, names: Sequence[str], out: Path, views_per_shard: int = 4) -> list[int]:
    kept = Kept.of(path, names)
    rows = dict.fromkeys(("main", "vlr", "imitation", "score", "score_class", "cross"), 1.0)
    return list(rewrite(Copier(kept), in_shards(kept.plan(1e6, rows), views_per_shard), out))


@pytest.mark.law
@settings(max_examples=15, deadline=None)
@given(
    held=st.sets(st.sampled_from(EVERY)),
    kept=st.sets(st.sampled_from(EVERY)),
    codec=st.sampled_from(["fp32", "fp16", "u8"]),
    size=st.integers(1, 7),
)
def test_a_pruned_cache_has_the_bytes_of_one_built_without_the_other_groups(
    held, kept, codec, size, tmp_path_factory
) -> None:
    path, chosen = tmp_path_factory.mktemp("caches"), sorted(kept & held)
    write(path / "all", make_plan(KEYS, 3, codec, held=held), KEYS)
    assert pruned(path / "all", ["main", *chosen], path / "few", size)[-1] == len(KEYS)
    write(path / "without", make_plan(KEYS, size, codec, held=chosen), KEYS)
    assert digests(path / "few") == digests(path / "without")


@pytest.mark.law
def test_class_logits_alone_can_be_left_out(tmp_path) -> None:
    write(tmp_path / "all", make_plan(KEYS, held=["vlr"]), KEYS)
    pruned(tmp_path / "all", ["main.bbox_logits", "vlr.bbox_logits"], tmp_path / "few")
    write(tmp_path / "without", make_plan(KEYS, cls_logits=None, held=["vlr"]), KEYS)
    assert digests(tmp_path / "few") == digests(tmp_path / "without")


@pytest.mark.law
def test_generations_become_one_cache(tmp_path) -> None:
    root = CacheFolder(tmp_path / "parts")
    write(root.path, make_plan(SOME, held=["imitation"]), SOME)
    write(root.generation(1).path, make_plan(MORE, held=["imitation"]), MORE)
    write(root.generation(2).path, without_classes(make_plan(KEYS, held=["vlr"])), KEYS)
    before = digests(tmp_path / "parts")
    pruned(tmp_path / "parts", ["vlr", "imitation"], tmp_path / "one")
    write(tmp_path / "whole", make_plan(KEYS, held=["imitation", "vlr"]), KEYS)
    one, whole = (CacheReader.open_(tmp_path / name) for name in ("one", "whole"))
    assert len(one.generations) == 1
    assert one.plan.keys == whole.plan.keys
    assert_equal(one.lookup(make_batch(KEYS)), whole.lookup(make_batch(KEYS)))
    assert digests(tmp_path / "one") == digests(tmp_path / "whole")
    assert digests(tmp_path / "parts") == before


@pytest.mark.law
def test_a_pruned_cache_is_of_the_newest_data_set(tmp_path) -> None:
    newer = SOURCES.model_copy(update={"data": Source(fingerprint="db" * 32, facts={})})
    extended = make_plan(MORE).model_copy(update={"sources": newer})
    build_all(tmp_path / "parts", (SOME, make_plan(SOME)), (MORE, extended))
    pruned(tmp_path / "parts", ["main"], tmp_path / "one")
    assert CacheReader.open_(tmp_path / "one").plan.sources.data == newer.data


@pytest.mark.law
def test_a_rewriting_that_was_stopped_goes_on(tmp_path) -> None:
    build(tmp_path / "all", make_plan(KEYS, held=EVERY), KEYS)
    pruned(tmp_path / "all", ["main"], tmp_path / "whole")
    kept = Kept.of(tmp_path / "all", ["main"])
    plan = in_shards(kept.plan(1e6, {"main": 1.0}), 4)
    job = rewrite(Copier(kept), plan, tmp_path / "few")
    assert next(job) == 4
    job.close()
    assert list(rewrite(Copier(kept), plan, tmp_path / "few")) == [8, 12]
    assert digests(tmp_path / "few") == digests(tmp_path / "whole")


@pytest.mark.law
def test_rows_are_counted_as_they_are_stored(tmp_path) -> None:
    build(tmp_path, make_plan(KEYS, held=EVERY), KEYS)
    copier = Copier(Kept.of(tmp_path, ["main", *EVERY]))
    counts = copier.counts(KEYS)
    assert {name: sum(found) for name, found in counts.items()} == {
        group.name: group.rows for group in info(tmp_path).groups
    }
    views = CacheReader.open_(tmp_path)
    assert list(copier.canvases(KEYS)) == [views.view(key).padded_hw for key in KEYS]


@pytest.mark.contract
def test_what_is_not_there_cannot_be_kept(tmp_path) -> None:
    build(tmp_path, make_plan(KEYS, held=["score"]), KEYS)
    with pytest.raises(UsageError) as caught:
        Kept.of(tmp_path, ["main", "vlr", "sorce"])
    assert str(caught.value) == (
        f"{tmp_path}: does not hold sorce, vlr.\n"
        "It holds main, score: keep some of these; `main.bbox_logits` is the main region without "
        "its class logits."
    )


@pytest.mark.contract
def test_a_region_that_some_views_lack_cannot_be_kept(tmp_path) -> None:
    build_all(tmp_path, (KEYS, make_plan(KEYS)), (SOME, make_plan(SOME, held=["vlr"])))
    with pytest.raises(CacheCoverage, match="holds no rows of vlr for 5 of 12 views"):
        Kept.of(tmp_path, ["vlr"])
    assert Kept.of(tmp_path, ["main"]).keys == KEYS


@pytest.mark.contract
def test_a_damaged_shard_stops_it(tmp_path) -> None:
    build(tmp_path / "all", make_plan(KEYS), KEYS)
    shard = tmp_path / "all" / "shards" / "000001.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(CacheCorrupt, match=r"000001\.safetensors: is not what was written"):
        pruned(tmp_path / "all", ["main"], tmp_path / "few")


@pytest.mark.contract
def test_another_cache_is_not_overwritten(tmp_path) -> None:
    build(tmp_path / "all", make_plan(KEYS, held=["vlr"]), KEYS)
    build(tmp_path / "other", make_plan(SOME), SOME)
    before = digests(tmp_path / "other")
    with pytest.raises(CacheMismatch):
        pruned(tmp_path / "all", ["main"], tmp_path / "other")
    assert digests(tmp_path / "other") == before
