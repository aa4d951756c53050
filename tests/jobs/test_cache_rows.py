import pytest

from ldkit.cache.folder import CacheFolder
from ldkit.cache.info import all_info
from ldkit.jobs.cache_info import facts
from ldkit.jobs.cache_rows import covered, groups, rows_per_view
from ldkit.jobs.facts import Fact, as_json
from tests.cache.synthetic import EVERY, build, make_coverage, make_keys, make_plan
from tests.cache.test_generations import build_all, without_classes

KEYS = make_keys(6)
MORE = make_keys(9)[12:]


@pytest.mark.contract
def test_regions_are_told_in_words() -> None:
    assert covered([make_coverage(), make_coverage(EVERY)]).text.splitlines() == [
        "main       locations with a box by ATSS, topk 9",
        "vlr        overlap diou from 0.25 of the threshold, topk 9",
        "imitation  features at fine_grained",
        "score      locations whose best class scores 0.05 or more",
        "cross      statistics of head features after convolution 3",
    ]


@pytest.mark.contract
def test_groups_of_all_generations_are_added_up(tmp_path) -> None:
    build_all(tmp_path, (KEYS, make_plan(KEYS)), (MORE, make_plan(MORE, held=["vlr"])))
    parts = all_info(tmp_path)
    value = groups(parts).value
    assert isinstance(value, dict)
    main = [part.groups[0] for part in parts]
    assert value["main"]["rows"] == sum(each.rows for each in main)
    assert value["main"]["rows_per_view"] == round(value["main"]["rows"] / 18, 3)
    assert value["vlr"]["bytes"] == parts[1].groups[1].bytes


@pytest.mark.contract
def test_views_that_are_stored_twice_count_once(tmp_path) -> None:
    build_all(tmp_path / "a", (KEYS, make_plan(KEYS)))
    again = without_classes(make_plan(KEYS, held=["cross"]))
    some, more = KEYS[:5], KEYS[5:]
    build_all(tmp_path / "b", (some, make_plan(some)), (more, make_plan(more)), (KEYS, again))
    alone, twice = (rows_per_view(all_info(tmp_path / name)) for name in "ab")
    assert isinstance(alone.value, dict)
    assert isinstance(twice.value, dict)
    assert alone.value["main_histogram"] == twice.value["main_histogram"]
    assert sum(each["views"] for each in twice.value["main_histogram"]) == 12
    assert twice.value["percentiles"]["cross"] == dict.fromkeys(
        ("p0", "p10", "p50", "p90", "p99", "max"), 2
    )
    assert "\nviews by rows of main:\n" in twice.text


@pytest.mark.contract
def test_what_is_not_here_has_no_spread(tmp_path) -> None:
    build(tmp_path, make_plan(KEYS), KEYS)
    CacheFolder(tmp_path).shard(0).unlink()
    assert rows_per_view(all_info(tmp_path)) == Fact(
        "not known: shards are not here yet, or damaged", None
    )


@pytest.mark.contract
def test_generations_are_listed_with_what_they_add(tmp_path) -> None:
    build_all(tmp_path, (KEYS, make_plan(KEYS)), (MORE, make_plan(MORE, held=["vlr"])))
    found = facts(tmp_path)
    assert "generations" not in facts(CacheFolder(tmp_path).generation(1).path)
    listed = found["generations"]
    assert isinstance(listed, Fact)
    assert listed.text.startswith("001  6 views, ")
    assert listed.text.endswith(" KB: main, vlr")
    manifest = CacheFolder(tmp_path).generation(1).manifest
    manifest.unlink()
    unsealed = facts(tmp_path)["generations"]
    assert isinstance(unsealed, Fact)
    assert unsealed.text.endswith("main, vlr, not sealed: 2 of 2 shards")
    json = as_json(found)
    assert json["size"]["bytes"] == sum(  # type: ignore[index]
        path.stat().st_size for path in tmp_path.rglob("*.safetensors")
    )


@pytest.mark.contract
def test_shards_and_views_of_all_parts_are_told_each_view_once(tmp_path) -> None:
    vlr = without_classes(make_plan(KEYS, held=["vlr"]))
    build_all(tmp_path, (KEYS, make_plan(KEYS)), (MORE, make_plan(MORE)), (KEYS, vlr))
    found, parts = as_json(facts(tmp_path)), all_info(tmp_path)
    shards = sum(part.shards for part in parts)
    assert found["views"] == {"count": 18, "of": 18}
    state = found["state"]
    assert isinstance(state, dict)
    assert state["shards"] == state["planned_shards"] == shards
    assert groups(parts).text.endswith("\nRows of views that two parts store count twice.")
    assert "twice" not in groups(parts[:2]).text
