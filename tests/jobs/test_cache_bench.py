import pytest

from ldkit.cli.progress import show
from ldkit.errors import CacheIncomplete
from ldkit.jobs.cache_bench import _decoding, bench
from ldkit.jobs.cost import Cost
from ldkit.jobs.facts import Fact, as_json
from tests.cache.synthetic import EVERY, build, make_keys, make_plan
from tests.cache.test_handles import linux

KEYS = make_keys(20)
PART = {"rows", "decoded", "lookup", "page_faults", "cold_shuffled", "cold_in_order"}


@pytest.mark.contract
@pytest.mark.parametrize("held", [(), ("vlr",), EVERY])
def test_a_cache_is_read_in_all_its_parts(held, tmp_path) -> None:
    plan = make_plan(KEYS, 8, "u8", None, held=held)
    build(tmp_path, plan, KEYS)
    facts = show("bench", bench(tmp_path, batch_size=4, views=24, rounds=2))
    told = as_json(facts)
    parts = {f"{part}_{name}" for part in (("main", "all") if held else ("main",)) for name in PART}
    assert {name for name in told if name.startswith(("main_", "all_"))} == parts
    assert told["cache"] == str(tmp_path)
    sample = told["sample"]
    assert isinstance(sample, dict)
    # Of five shards of eight views four are drawn, and of their views so many.
    assert (sample["views"], sample["shards"], sample["batch_size"]) == (24, 4, 4)
    opening = told["opening"]
    assert isinstance(opening, dict)
    assert (opening["shards"], opening["views"]) == (5, 40)
    for name in parts - {"main_page_faults", "all_page_faults"}:
        speed = told[name]
        assert isinstance(speed, dict)
        assert speed["views_per_s"] > 0


@linux
@pytest.mark.contract
def test_speeds_are_told_in_words(tmp_path) -> None:
    build(tmp_path, make_plan(KEYS, 40), KEYS)
    facts = show("bench", bench(tmp_path, views=40, rounds=1))
    assert isinstance(facts["main lookup"], Fact)
    assert facts["main lookup"].text.endswith(" by processor time)")
    assert "views/s" in facts["main lookup"].text
    assert isinstance(facts["main decoded"], Fact)
    assert "; decoding alone " in facts["main decoded"].text
    assert isinstance(facts["main cold shuffled"], Fact)
    assert " of the pages were still in memory; " in facts["main cold shuffled"].text
    assert isinstance(facts["first use"], Fact)
    assert facts["first use"].text.endswith(" for all, once in each process")


@pytest.mark.contract
def test_decoding_that_is_lost_in_the_noise_of_reading_has_no_speed() -> None:
    reading = [Cost(wall_s=seconds, cpu_s=seconds, faults=0, read_bytes=0) for seconds in (1, 2, 3)]
    both = [cost._replace(wall_s=cost.wall_s + 1.5) for cost in reading]
    noisy, clear = _decoding(reading, both, 10), _decoding(reading[:1], both[:1], 10)
    assert noisy.text.endswith("decoding alone is lost in the noise of reading")
    assert noisy.value == {"views_per_s": 3, "views_per_cpu_s": 5, "decoding_views_per_s": None}
    assert clear.text.endswith("decoding alone 7 views/s")


@linux
@pytest.mark.law
def test_reading_touches_no_fresh_memory_once_it_is_warm(tmp_path) -> None:
    plan = make_plan(KEYS, 40, "u8", held=("vlr",))
    build(tmp_path, plan, KEYS, most=60)
    told = as_json(show("bench", bench(tmp_path, batch_size=8, views=40, rounds=5)))
    assert told["all_page_faults"] == pytest.approx(0, abs=1)


@pytest.mark.contract
def test_a_cache_that_is_not_sealed_is_refused(tmp_path) -> None:
    with pytest.raises(CacheIncomplete):
        show("bench", bench(tmp_path))
