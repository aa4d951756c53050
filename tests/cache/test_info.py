import pytest

from ldkit.cache.content import locations_of
from ldkit.cache.folder import CacheFolder
from ldkit.cache.info import GroupInfo, info, logits_per_row
from ldkit.cache.reader import CacheReader
from ldkit.cache.writer import begin, write_shard
from ldkit.errors import CacheCorrupt, CacheIncomplete
from tests.cache.synthetic import EVERY, build, make_keys, make_plan, make_rows, make_view

KEYS = make_keys(6)
PLAN = make_plan(KEYS)


@pytest.mark.contract
def test_the_figures_of_a_sealed_cache_are_those_of_its_rows(tmp_path) -> None:
    build(tmp_path, PLAN, KEYS)
    facts = info(tmp_path)
    rows = sum(len(make_rows(key, PLAN).columns["main.location"]) for key in KEYS)
    locations = sum(locations_of(make_view(key).padded_hw, (8, 16), "here") for key in KEYS)
    assert facts.is_sealed
    assert facts.fingerprint == CacheReader.open_(tmp_path).fingerprint
    assert (facts.shards, facts.views, facts.rows) == (3, 12, rows)
    assert facts.rows_per_view == rows / 12
    assert facts.dense_bytes == locations * (4 * 5 + 3) * 2
    assert facts.column_bytes["main.bbox_logits"] == rows * 4 * 5 * 2
    assert facts.bytes == sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
    assert facts.plan.sources.weights.facts == {"file": "r101.pt"}


@pytest.mark.contract
def test_every_group_has_its_rows_and_bytes(tmp_path) -> None:
    plan = make_plan(KEYS, held=EVERY)
    build(tmp_path, plan, KEYS)
    facts = info(tmp_path)
    assert [found.name for found in facts.groups] == [group.name for group in plan.groups]
    rows = sum(len(make_rows(key, plan).columns["vlr.location"]) for key in KEYS)
    assert facts.groups[1] == GroupInfo("vlr", rows, rows * (2 + 2 + 40 + 6) + (12 + 3) * 8)
    view_bytes = sum(n for name, n in facts.column_bytes.items() if name.startswith("view."))
    assert sum(found.bytes for found in facts.groups) + view_bytes == sum(
        facts.column_bytes.values()
    )


@pytest.mark.contract
@pytest.mark.parametrize(
    ("held", "cls_logits", "numbers"),
    [
        ((), None, 20),
        ((), "fp16", 20 + 3),
        (("vlr",), None, 20),
        (("score",), None, 20 + 3),
        (("imitation",), None, 20 + 4),
        (("cross",), None, 20),
        (EVERY, "fp16", 20 + 3 + 4),
    ],
)
def test_a_dense_cache_would_hold_the_same_logits_and_features(held, cls_logits, numbers) -> None:
    assert logits_per_row(make_plan(KEYS, cls_logits=cls_logits, held=held)) == numbers


@pytest.mark.contract
@pytest.mark.parametrize("held", [(), EVERY])
def test_the_bytes_of_columns_leave_only_headers(held, tmp_path) -> None:
    build(tmp_path, make_plan(KEYS, held=held), KEYS)
    facts = info(tmp_path)
    headers = 0
    for path in tmp_path.rglob("*.safetensors"):
        headers += 8 + int.from_bytes(path.read_bytes()[:8], "little")
    assert facts.bytes == sum(facts.column_bytes.values()) + headers


@pytest.mark.contract
def test_columns_that_are_not_stored_are_not_counted_in_the_dense_size_either(tmp_path) -> None:
    plan = make_plan(KEYS, cls_logits=None)
    build(tmp_path, plan, KEYS)
    assert "main.cls_logits" not in info(tmp_path).column_bytes
    build(tmp_path / "both", PLAN, KEYS)
    assert info(tmp_path).dense_bytes * 23 == info(tmp_path / "both").dense_bytes * 20


@pytest.mark.contract
def test_an_unsealed_cache_has_figures_of_what_is_there(tmp_path) -> None:
    begin(tmp_path, PLAN)
    assert info(tmp_path).rows_per_view == 0
    write_shard(tmp_path, 1, [make_rows(key, PLAN) for key in PLAN.keys_of(1, KEYS)], PLAN)
    facts = info(tmp_path)
    assert not facts.is_sealed
    assert (facts.shards, facts.plan.shards, facts.views) == (1, 3, 4)


@pytest.mark.contract
def test_no_cache_and_a_damaged_one_are_told(tmp_path) -> None:
    with pytest.raises(CacheIncomplete, match="no cache was begun here"):
        info(tmp_path)
    build(tmp_path, PLAN, KEYS)
    manifest = CacheFolder(tmp_path).manifest
    manifest.write_bytes(manifest.read_bytes()[:-5])
    with pytest.raises(CacheCorrupt, match=r"manifest\.json: is not what was written"):
        info(tmp_path)
