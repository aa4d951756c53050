import os

import pytest

from ldkit.cache.folder import (
    CacheFolder,
    incomplete,
    missing_shards,
    open_file,
    read_file,
    read_receipts,
)
from ldkit.cache.writer import begin, write_shard
from ldkit.errors import StorageError
from tests.cache.synthetic import build, make_keys, make_plan, make_rows

KEYS = make_keys(6)
PLAN = make_plan(KEYS)


@pytest.fixture
def folder(tmp_path):
    build(tmp_path / "cache", PLAN, KEYS)
    return CacheFolder(tmp_path / "cache")


@pytest.mark.contract
def test_missing_is_planned_minus_receipts(tmp_path) -> None:
    files = CacheFolder(tmp_path / "cache")
    begin(files.path, PLAN)
    assert missing_shards(files, PLAN) == [0, 1, 2]
    content = [make_rows(key, PLAN) for key in PLAN.keys_of(1, KEYS)]
    write_shard(files.path, 1, content, PLAN)
    assert missing_shards(files, PLAN) == [0, 2]


@pytest.mark.contract
def test_a_receipt_without_its_shard_counts_as_missing(folder) -> None:
    folder.shard(1).unlink()
    assert missing_shards(folder, PLAN) == [1]


@pytest.mark.contract
def test_a_receipt_of_a_shard_of_another_size_counts_as_missing(folder) -> None:
    content = folder.shard(2).read_bytes()
    folder.shard(2).write_bytes(content[:-1])
    assert missing_shards(folder, PLAN) == [2]


@pytest.mark.contract
def test_a_damaged_receipt_counts_as_missing(folder) -> None:
    content = bytearray(folder.receipt(0).read_bytes())
    content[100] ^= 1
    folder.receipt(0).write_bytes(content)
    assert missing_shards(folder, PLAN) == [0]


@pytest.mark.contract
def test_a_receipt_of_another_plan_or_shard_counts_as_missing(folder) -> None:
    other = make_plan(make_keys(7))
    assert missing_shards(folder, other) == [0, 1, 2, 3]
    for place in (folder.receipt, folder.shard):  # of the very size that the receipt states
        place(1).write_bytes(place(0).read_bytes())
    assert list(read_receipts(folder, PLAN)) == [0, 2]


@pytest.mark.contract
def test_an_unsealed_cache_is_told_with_counts_and_what_to_run(folder) -> None:
    folder.shard(1).unlink()
    assert str(incomplete(folder)) == (
        f"{folder.path}: is not sealed: 2 of 3 shards are complete.\n"
        "Run `ldkit cache-logits` with the same recipe and teacher: it builds the missing 1 and "
        "seals the cache."
    )


@pytest.mark.contract
def test_a_folder_without_a_plan_is_told_to_be_no_cache(tmp_path) -> None:
    assert "holds no plan.json: no cache was begun here" in str(incomplete(CacheFolder(tmp_path)))


@pytest.mark.contract
def test_a_pipe_in_place_of_a_document_or_shard_is_told_and_not_waited_for(folder) -> None:
    for path in (folder.plan, folder.shard(0)):
        path.unlink()
        os.mkfifo(path)
    with pytest.raises(StorageError, match="it is no regular file"):
        read_file(folder.plan)
    with pytest.raises(OSError, match="it is no regular file"):
        open_file(folder.shard(0))
