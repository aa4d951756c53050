from unittest.mock import Mock

import numpy as np
import pytest

from ldkit.cache.folder import CacheFolder
from ldkit.cache.format import Wanted
from ldkit.cache.gather import Gatherer, Place, runs, wanted_groups
from ldkit.cache.shard import Shard, Span
from tests.cache.synthetic import EVERY, build, make_coverage, make_keys, make_plan, make_rows

KEYS = make_keys(4)
PLAN = make_plan(KEYS, views_per_shard=8, held=EVERY)


@pytest.mark.law
def test_rows_of_views_follow_each_other_in_the_order_of_the_places(tmp_path) -> None:
    shard = Shard(CacheFolder(tmp_path), build(tmp_path, PLAN, KEYS).receipts[0], PLAN)
    gatherer, order = Gatherer(), [5, 0, 5, 2]
    for group in PLAN.groups:
        counts, columns, _ = gatherer.read(group, [Place(shard, position) for position in order])
        written = [make_rows(KEYS[position], PLAN).columns for position in order]
        for column in group.columns:
            expected = np.concatenate([rows[column.name].numpy() for rows in written])
            assert np.array_equal(columns[column.name], expected.astype(column.numpy))
        assert counts.tolist() == [len(rows[group.columns[0].name]) for rows in written]
    gatherer.close()


@pytest.mark.law
def test_rows_that_lie_side_by_side_are_read_at_once(tmp_path, monkeypatch) -> None:
    manifest = build(tmp_path, PLAN, KEYS, most=7)
    shard = Shard(CacheFolder(tmp_path), manifest.receipts[0], PLAN)
    reads = []
    read_rows = Shard.read_rows

    def listen(shard: Shard, handle: int, span: Span, into: list[tuple[str, memoryview]]) -> None:
        reads.extend(name for name, _ in into)
        read_rows(shard, handle, span, into)

    monkeypatch.setattr(Shard, "read_rows", listen)
    main = PLAN.groups[0]
    Gatherer().read(main, [Place(shard, position) for position in range(8)])
    assert sorted(reads) == sorted(column.name for column in main.columns)


@pytest.mark.law
def test_runs_of_views_cover_their_rows_in_order() -> None:
    ours, theirs = Mock(Shard), Mock(Shard)
    spans = [Span(0, 3), Span(3, 0), Span(3, 2), Span(5, 1), Span(6, 2), Span(0, 4), Span(4, 0)]
    shards = [ours, ours, ours, theirs, theirs, theirs, ours]
    places = [Place(shard, 0) for shard in shards]
    assert list(runs(places, spans)) == [
        (ours, Span(0, 5)),
        (theirs, Span(5, 3)),
        (theirs, Span(0, 4)),
    ]
    assert list(runs([], [])) == []


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
