"""What a cache costs, told before anything is built."""

from pathlib import Path

import pytest

from ldkit.cache.info import info
from ldkit.jobs import build_cache, cache_estimate
from ldkit.jobs.facts import Fact
from tests.jobs.conftest import World
from tests.jobs.tiny import finish


def value_of(fact: str | Fact) -> dict:
    assert isinstance(fact, Fact)
    assert isinstance(fact.value, dict)
    return fact.value


@pytest.mark.contract
def test_bytes_are_those_of_a_build_and_seconds_are_measured(
    world: World, tmp_path: Path, monkeypatch
) -> None:
    recipe = world.student("cache.vlr={}", "schedule.epochs=12", cache=tmp_path / "c")
    monkeypatch.setattr(cache_estimate, "_timed", lambda work, _: (work() and 2.0) or 6.0)
    facts = cache_estimate.estimate(recipe, "cpu")
    assert not (tmp_path / "c").exists()
    sizes = value_of(facts["size by codec"])
    assert list(sizes) == ["fp32", "fp16", "u8", "as in the recipe"]
    finish(build_cache.run(recipe, device="cpu"))
    stored = info(tmp_path / "c")
    for group in stored.groups:
        rows = group.bytes - stored.column_bytes[f"{group.name}.offsets"]
        assert sizes["as in the recipe"][group.name] == pytest.approx(rows, rel=0.01)
        assert sizes["u8"][group.name] < sizes["fp16"][group.name] < sizes["fp32"][group.name]
    assert value_of(facts["teacher"]) == {"seconds_per_view": 0.5, "seconds": 10.0}
    student = value_of(facts["student"])
    assert student["seconds_per_epoch"] == 4 * student["seconds_per_step"]
    assert student["online_seconds"] == student["seconds_per_step"] + 3 * 0.5
    assert value_of(facts["break even"]) == {
        "epochs": 2.0,
        "of": 12,
        "saved_seconds": 50.0,
        "saved_seconds_of_further_runs": 60.0,
    }


@pytest.mark.contract
def test_a_run_that_is_too_short_to_pay_is_told(world: World, tmp_path: Path) -> None:
    recipe = world.student("schedule.epochs=1", "cache.score={}", cache=tmp_path / "c")
    facts = cache_estimate.estimate(recipe, "cpu")
    worth = facts["break even"]
    assert isinstance(worth, Fact)
    assert worth.text.startswith("after 2 epochs; a run of 1 costs ")
    assert value_of(facts["teacher"])["seconds_per_view"] > 0
    assert value_of(facts["student"])["seconds_per_step"] > 0
