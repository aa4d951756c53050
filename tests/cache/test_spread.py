import os

import numpy as np
import pytest
from safetensors.numpy import save

from ldkit.cache.folder import CacheFolder
from ldkit.cache.spread import row_counts
from tests.cache.synthetic import EVERY, build, make_keys, make_plan, make_rows

KEYS = make_keys(5)


@pytest.mark.law
def test_the_rows_of_each_view_are_counted(tmp_path) -> None:
    plan = make_plan(KEYS, held=EVERY)
    receipts = build(tmp_path, plan, KEYS).receipts
    found = row_counts(CacheFolder(tmp_path), plan, receipts)
    assert found is not None
    assert list(found.rows) == [group.name for group in plan.groups]
    assert found.keys.tolist() == [list(key) for key in KEYS]
    for group in plan.groups:
        first = group.columns[0].name
        rows = [len(make_rows(key, plan).columns[first]) for key in KEYS]
        assert found.rows[group.name].tolist() == rows


@pytest.mark.contract
def test_shards_that_are_not_here_or_damaged_are_not_guessed_at(tmp_path) -> None:
    plan = make_plan(KEYS)
    receipts = build(tmp_path, plan, KEYS).receipts
    folder = CacheFolder(tmp_path)
    folder.shard(1).write_bytes(b"no shard")
    assert row_counts(folder, plan, receipts) is None
    for offsets in ([0, 5, 3, 9, 9], [[0, 1, 2, 3, 4]], 0):
        key = np.zeros(4, np.int64)
        columns = {"view.image_id": key, "view.index": key, "main.offsets": np.array(offsets)}
        content = save(columns)
        folder.shard(1).write_bytes(content)
        assert row_counts(folder, plan, receipts) is None
    folder.shard(1).unlink()
    assert row_counts(folder, plan, receipts) is None
    os.mkfifo(folder.shard(1))  # is not waited for
    assert row_counts(folder, plan, receipts) is None
    found = row_counts(folder, plan, receipts[:1])
    assert found is not None
    assert len(found.rows["main"]) == 4
    nothing = row_counts(folder, plan, ())
    assert nothing is not None
    assert len(nothing.rows["main"]) == 0
