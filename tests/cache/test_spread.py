import pytest

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
    assert list(found) == [group.name for group in plan.groups]
    for group in plan.groups:
        first = group.columns[0].name
        rows = [len(make_rows(key, plan).columns[first]) for key in KEYS]
        assert found[group.name].tolist() == rows


@pytest.mark.contract
def test_shards_that_are_not_here_or_damaged_are_not_guessed_at(tmp_path) -> None:
    plan = make_plan(KEYS)
    receipts = build(tmp_path, plan, KEYS).receipts
    folder = CacheFolder(tmp_path)
    folder.shard(1).write_bytes(b"no shard")
    assert row_counts(folder, plan, receipts) is None
    folder.shard(1).unlink()
    assert row_counts(folder, plan, receipts) is None
    found = row_counts(folder, plan, receipts[:1])
    assert found is not None
    assert len(found["main"]) == 4
    nothing = row_counts(folder, plan, ())
    assert nothing is not None
    assert len(nothing["main"]) == 0
