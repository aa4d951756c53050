from unittest.mock import Mock

import numpy as np
import pytest

from ldkit.cache.folder import CacheFolder
from ldkit.cache.format import Wanted
from ldkit.cache.gather import Gatherer, Place, runs_of, wanted_groups
from ldkit.cache.shard import PAIR, Shard
from tests.cache.synthetic import EVERY, build, make_coverage, make_keys, make_plan, make_rows

KEYS = make_keys(4)
PLAN = make_plan(KEYS, views_per_shard=4, held=EVERY)


@pytest.mark.law
@pytest.mark.parametrize("limit", [0, 1 << 27])
def test_rows_follow_each_other_in_the_order_of_the_places(tmp_path, limit, monkeypatch) -> None:
    receipts = build(tmp_path, PLAN, KEYS).receipts
    first = Shard(CacheFolder(tmp_path), receipts[0], PLAN)
    monkeypatch.setattr("ldkit.cache.shard.PAIRS_LIMIT", limit)  # of one shard, or of both
    second = Shard(CacheFolder(tmp_path), receipts[1], PLAN)
    gatherer, order = Gatherer(), [5, 0, 3, 5, 2]
    places = [Place((first, second)[number // 4], number % 4) for number in order]
    for group in PLAN.groups:
        counts, columns, _ = gatherer.read(group, places)
        written = [make_rows(KEYS[number], PLAN).columns for number in order]
        assert counts.tolist() == [len(rows[group.columns[0].name]) for rows in written]
        assert set(columns) == {column.name for column in group.columns}
        for column in group.columns:
            expected = np.concatenate([rows[column.name].numpy() for rows in written])
            assert columns[column.name].dtype == column.numpy
            assert np.array_equal(columns[column.name], expected.astype(column.numpy))
    gatherer.close()


@pytest.mark.law
def test_rows_that_lie_side_by_side_are_read_at_once(tmp_path, monkeypatch) -> None:
    manifest = build(tmp_path, PLAN, KEYS, most=7)
    shard = Shard(CacheFolder(tmp_path), manifest.receipts[0], PLAN)
    reads = []
    read_rows = Shard.read_rows

    def listen(shard: Shard, handle: int, row: int, into: list[tuple[str, memoryview]]) -> None:
        reads.extend(name for name, _ in into)
        read_rows(shard, handle, row, into)

    monkeypatch.setattr(Shard, "read_rows", listen)
    main = PLAN.groups[0]
    Gatherer().read(main, [Place(shard, position) for position in range(4)])
    in_file = [column.name for column in main.columns if column.name not in PAIR]
    assert sorted(reads) == sorted(in_file)


@pytest.mark.law
def test_runs_of_views_cover_their_rows_in_order() -> None:
    ours = Mock(Shard, offsets={"main": [0, 3, 3, 5], "vlr": [0, 0, 0, 0]})
    theirs = Mock(Shard, offsets={"main": [0, 4, 5, 6, 8]})
    places = [Place(ours, 0), Place(ours, 1), Place(ours, 2), Place(theirs, 2), Place(theirs, 3)]
    places += [Place(theirs, 0), Place(ours, 1), Place(ours, 2), Place(theirs, 0)]
    counts, runs = runs_of("main", places)
    assert counts == [3, 0, 2, 1, 2, 4, 0, 2, 4]
    expected = [(ours, 0, 5), (theirs, 5, 8), (theirs, 0, 4), (ours, 3, 5), (theirs, 0, 4)]
    assert runs == expected
    assert runs_of("vlr", [Place(ours, 0), Place(ours, 2)]) == ([0, 0], [])
    assert runs_of("main", []) == ([], [])


@pytest.mark.contract
def test_no_places_give_no_rows() -> None:
    counts, columns, _ = Gatherer().read(PLAN.groups[0], [])
    assert counts.tolist() == []
    assert columns["main.bbox_logits"].shape == (0, 4, 5)


@pytest.mark.contract
def test_wanted_regions_bring_all_their_columns_and_class_logits_only_where_named() -> None:
    assert wanted_groups(PLAN.groups, None) == PLAN.groups
    wanted = Wanted(make_coverage(["vlr", "score"]), frozenset({"vlr.cls_logits"}))
    names = {g.name: [c.name for c in g.columns] for g in wanted_groups(PLAN.groups, wanted)}
    assert names == {
        "main": ["main.location", "main.gt_index", "main.bbox_logits"],
        "vlr": ["vlr.location", "vlr.gt_index", "vlr.bbox_logits", "vlr.cls_logits"],
        "score": ["score.location", "score.bbox_logits"],
        "score_class": ["score_class.row", "score_class.label", "score_class.logit"],
    }
