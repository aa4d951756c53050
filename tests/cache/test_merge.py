import os
from pathlib import Path

import pytest

from ldkit.cache.folder import CacheFolder
from ldkit.cache.format import Source
from ldkit.cache.merge import merge, read_parts
from ldkit.cache.reader import CacheReader
from ldkit.errors import CacheCorrupt, CacheIncomplete, CacheMismatch, UsageError
from tests.cache.synthetic import EVERY, SOURCES, build, make_batch, make_keys, make_plan
from tests.cache.test_generations import digests as snapshot
from tests.cache.test_reader import assert_equal
from tests.system_calls import HOST, system_calls

KEYS = make_keys(6)
PARTS = (KEYS[:3], KEYS[8:], KEYS[3:8])


def build_parts(folder: Path) -> list[Path]:
    paths = [folder / name for name in "abc"]
    for path, keys in zip(paths, PARTS, strict=True):
        build(path, make_plan(keys, 2, held=EVERY), keys)
    return paths


def merged(paths: list[Path], out: Path) -> list[int]:
    return list(merge(read_parts(paths), out))


@pytest.mark.law
def test_a_merged_cache_is_read_as_if_built_at_once(tmp_path) -> None:
    paths = build_parts(tmp_path)
    before = [snapshot(path) for path in paths]
    done = merged(paths, tmp_path / "out")
    build(tmp_path / "whole", make_plan(KEYS, held=EVERY), KEYS)
    readers = [CacheReader.open_(tmp_path / name) for name in ("out", "whole")]
    assert_equal(*(reader.lookup(make_batch(KEYS[::-1])) for reader in readers))
    readers[0].require_keys(KEYS)
    assert done[-1] == sum(part.manifest.bytes for part in readers[0].generations)
    assert [snapshot(path) for path in paths] == before
    assert snapshot(CacheFolder(tmp_path / "out").generation(2).path) == before[2]


@pytest.mark.law
def test_a_merged_cache_takes_its_generations_along(tmp_path) -> None:
    paths = build_parts(tmp_path)
    merged(paths[:2], tmp_path / "two")
    merged([tmp_path / "two", paths[2]], tmp_path / "three")
    merged(paths, tmp_path / "at_once")
    assert snapshot(tmp_path / "three") == snapshot(tmp_path / "at_once")


@pytest.mark.contract
def test_shards_are_links_where_the_disk_can_and_copies_elsewhere(tmp_path, monkeypatch) -> None:
    paths = build_parts(tmp_path)
    merged(paths, tmp_path / "links")
    assert CacheFolder(tmp_path / "links").shard(0).stat().st_nlink == 2

    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    merged(paths, tmp_path / "copies")
    assert CacheFolder(tmp_path / "copies").shard(0).stat().st_nlink == 1
    assert snapshot(tmp_path / "copies") == snapshot(tmp_path / "links")


@pytest.mark.law
def test_a_merge_that_was_stopped_is_not_sealed_and_goes_on(tmp_path) -> None:
    paths, out = build_parts(tmp_path), tmp_path / "out"
    merged(paths, tmp_path / "whole")
    for stop in range(1, 7):
        job = merge(read_parts(paths), out)
        for _ in range(stop):
            next(job)
        job.close()
        with pytest.raises(CacheIncomplete):
            CacheReader.open_(out)
    merged(paths, out)
    assert snapshot(out) == snapshot(tmp_path / "whole")
    merged(paths, out)
    assert snapshot(out) == snapshot(tmp_path / "whole")


@pytest.mark.law
def test_a_proof_is_written_after_what_it_proves_and_the_root_last(tmp_path) -> None:
    paths, out = build_parts(tmp_path)[:2], tmp_path / "out"
    with system_calls(out) as calls:
        merged(paths, out)
    shards = [f"shards/00000{n}.{kind}" for n in range(2) for kind in ("safetensors", "json")]
    files = ["plan.json", *shards, "manifest.json"]
    named = [call.split()[2] for call in calls if call.startswith("rename")]
    assert named == [*(f"generations/001/{file}" for file in files), *files]


@pytest.mark.contract
def test_caches_with_views_in_common_are_refused(tmp_path) -> None:
    for name, keys in [("a", KEYS[:5]), ("b", KEYS[3:])]:
        build(tmp_path / name, make_plan(keys), keys)
    with pytest.raises(CacheMismatch) as caught:
        read_parts([tmp_path / "a", tmp_path / "b"])
    assert str(caught.value) == (
        f"{tmp_path}/b: has 2 of its 9 views in common with {tmp_path}/a, such as image 14, "
        "view 1.\n"
        "Caches can be merged where each holds other views. Add to one of them what it lacks "
        "(`ldkit cache-logits RECIPE --extend`), or build a new cache."
    )


@pytest.mark.contract
def test_caches_of_several_teachers_are_refused(tmp_path) -> None:
    weights = Source(fingerprint="a9" * 32, facts={"file": "r50.pt"})
    sources = SOURCES.model_copy(update={"weights": weights})
    build(tmp_path / "a", make_plan(KEYS[:5]), KEYS[:5])
    build(tmp_path / "b", make_plan(KEYS[5:]).model_copy(update={"sources": sources}), KEYS[5:])
    with pytest.raises(CacheMismatch, match=r"does not belong to this cache: .* another teacher"):
        read_parts([tmp_path / "a", tmp_path / "b"])


@pytest.mark.contract
def test_other_views_of_an_image_must_be_of_the_same_data_set(tmp_path) -> None:
    data = Source(fingerprint="db" * 32, facts={"annotations": "other.json"})
    sources = SOURCES.model_copy(update={"data": data})
    for name, keys in [("a", KEYS[:5]), ("b", KEYS[5:]), ("c", KEYS[6:])]:
        plan = make_plan(keys)
        if name != "a":
            plan = plan.model_copy(update={"sources": sources})
        build(tmp_path / name, plan, keys)
    with pytest.raises(CacheMismatch, match="b: shows image 19 as another cache does, but was"):
        read_parts([tmp_path / "a", tmp_path / "b"])
    assert len(read_parts([tmp_path / "a", tmp_path / "c"])) == 2


@pytest.mark.contract
def test_one_cache_alone_is_no_merge(tmp_path) -> None:
    (path, *_) = build_parts(tmp_path)
    for paths in ([path], [path, path]):
        with pytest.raises(UsageError, match="merging takes two caches or more"):
            read_parts(paths)


@pytest.mark.contract
def test_a_damaged_shard_is_told_and_not_taken(tmp_path) -> None:
    paths = build_parts(tmp_path)
    shard = CacheFolder(paths[1]).shard(1)
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(CacheCorrupt, match=r"b/shards/000001\.safetensors: is not what was writ"):
        merged(paths, tmp_path / "out")
    assert not CacheFolder(tmp_path / "out").generation(1).shard(1).exists()


@pytest.mark.contract
def test_a_folder_that_holds_another_cache_is_refused(tmp_path) -> None:
    paths = build_parts(tmp_path)
    merged(paths[:2], tmp_path / "out")
    before = snapshot(tmp_path / "out")
    for parts in (paths, paths[1:], [paths[0], paths[2]]):
        with pytest.raises(CacheMismatch, match="out: holds another cache"):
            merged(parts, tmp_path / "out")
    assert snapshot(tmp_path / "out") == before


@pytest.mark.contract
def test_shards_that_are_links_are_merged_and_stale_files_go(tmp_path) -> None:
    paths, out = build_parts(tmp_path)[:2], tmp_path / "out"
    shard = CacheFolder(paths[0]).shard(0)
    shard.rename(tmp_path / "elsewhere")
    shard.symlink_to("../../elsewhere")
    stale = CacheFolder(out).shards / f".000000.json.{HOST}.{2**22 + 1}.tmp"  # no such process
    stale.parent.mkdir(parents=True)
    stale.touch()
    merged(paths, out)
    assert not stale.exists()
    assert CacheReader.open_(out).lookup(make_batch(PARTS[0])).main.bbox_logits.isfinite().all()
