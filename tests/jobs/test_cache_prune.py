from pathlib import Path
from typing import Any

import pytest

from ldkit.cache.shard import Shard
from ldkit.errors import UsageError
from ldkit.jobs import build_cache, cache_prune
from ldkit.jobs.facts import Fact
from tests.cache.synthetic import build, make_keys, make_plan
from tests.jobs.conftest import World
from tests.jobs.tiny import EVERY_TERM, finish, snapshot

STORED = tuple(each for each in EVERY_TERM if each.startswith("cache."))
LEFT_OUT = ("cache.imitation=null", "cache.cross=null", "objective.imitation=null")


@pytest.mark.law
def test_a_pruned_cache_is_the_one_that_a_build_without_the_other_groups_makes(
    world: World, tmp_path: Path
) -> None:
    every = world.student(*STORED, cache=tmp_path / "all")
    finish(build_cache.run(every, device="cpu"))
    for names, without in [
        ("main", ("cache.vlr=null", "cache.score=null")),
        ("vlr,score", ()),
    ]:
        few, built = tmp_path / f"few_{names}", tmp_path / f"built_{names}"
        facts = finish(cache_prune.run(tmp_path / "all", names.split(","), few))
        recipe = world.student(*STORED, *LEFT_OUT, *without, cache=built)
        finish(build_cache.run(recipe, device="cpu"))
        assert snapshot(few) == snapshot(built)
        size = facts["size"]
        assert isinstance(size, Fact)
        assert size.value == {
            "bytes": sum(each.stat().st_size for each in few.rglob("*.safetensors")),
            "bytes_before": sum(
                each.stat().st_size for each in (tmp_path / "all").rglob("*.safetensors")
            ),
        }


@pytest.mark.contract
def test_each_shard_is_proved_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = make_keys(6)
    build(tmp_path / "all", make_plan(keys, held=["vlr"]), keys)
    proved, prove = [], Shard._prove

    def noting(shard: Shard, *given: Any) -> None:
        proved.append(shard.path.name)
        prove(shard, *given)

    monkeypatch.setattr(Shard, "_prove", noting)
    finish(cache_prune.run(tmp_path / "all", ["main"], tmp_path / "few"))
    assert sorted(proved) == [f"00000{number}.safetensors" for number in range(3)]


@pytest.mark.contract
def test_a_cache_is_not_pruned_in_place(world: World) -> None:
    before = snapshot(world.cache)
    with pytest.raises(UsageError, match="is the cache itself, which is never changed"):
        finish(cache_prune.run(world.cache, ["main"], world.cache / "."))
    assert snapshot(world.cache) == before
