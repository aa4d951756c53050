"""The shares of several processes have every shard once, whoever starts when."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ldkit.errors import UsageError
from ldkit.jobs.cache_build_share import WHOLE, Share, own_device, share_of


@pytest.mark.law
@given(shards=st.integers(1, 40), world=st.integers(1, 6), complete=st.lists(st.integers(0, 39)))
def test_every_missing_shard_is_in_one_share_though_others_have_begun(
    shards: int, world: int, complete: list[int]
) -> None:
    missing = list(range(shards))
    built: list[int] = []
    for rank in range(world):
        # A process that starts late sees less: what the others have built, and `complete`.
        seen = [shard for shard in missing if shard not in {*built, *complete[:rank]}]
        built += Share(rank, world).of(seen)
    assert sorted({*built, *complete} & set(missing)) == missing
    assert len(built) == len(set(built))


@pytest.mark.law
@given(cuts=st.sets(st.integers(1, 39)), world=st.integers(1, 3))
def test_half_open_ranges_that_follow_each_other_have_every_shard_once(
    cuts: set[int], world: int
) -> None:
    edges = [0, *sorted(cuts), 40]
    built = [
        shard
        for first, end in pairwise(edges)
        for rank in range(world)
        for shard in Share(rank, world, first, end).of(range(40))
    ]
    assert sorted(built) == list(range(40))


@pytest.mark.contract
def test_the_environment_and_the_option_say_which_share() -> None:
    assert share_of({}) == WHOLE
    assert share_of({"RANK": "1", "WORLD_SIZE": "3"}) == Share(1, 3)
    assert share_of({}, "0:100") == Share(0, 1, 0, 100)
    assert share_of({}, "0:100").of([0, 99, 100]) == [0, 99]
    assert share_of({"RANK": "0", "WORLD_SIZE": "2"}, "4:8").of(range(10)) == [4, 6]


@pytest.mark.contract
@pytest.mark.parametrize("shards", ["5", "5:", ":5", "5:5", "7:5", "-1:5", "a:b", "1:2:3", ""])
def test_what_is_no_range_is_refused(shards: str) -> None:
    with pytest.raises(UsageError, match="is no range of shards") as refused:
        share_of({}, shards)
    assert refused.value.where == "--shards"
    assert "FIRST:END, as in 0:100" in refused.value.hint


@pytest.mark.contract
@pytest.mark.parametrize(("rank", "world"), [("2", "2"), ("-1", "2"), ("x", "2"), ("0", "0")])
def test_a_rank_outside_its_world_is_refused(rank: str, world: str) -> None:
    with pytest.raises(UsageError, match=f"RANK={rank} and WORLD_SIZE={world}"):
        share_of({"RANK": rank, "WORLD_SIZE": world})


@pytest.mark.contract
def test_each_process_of_a_machine_takes_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    third = {"LOCAL_RANK": "2"}
    assert own_device("auto", third) == ("cuda:2" if torch.cuda.device_count() > 2 else "auto")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert own_device("auto", {"LOCAL_RANK": "1"}) == "cuda:1"
    assert own_device("cuda", third) == "cuda:0"  # more processes than GPUs share them
    assert own_device("cuda:1", third) == "cuda:1"
    assert own_device("cpu", third) == "cpu"
    assert own_device("auto", {}) == "auto"
