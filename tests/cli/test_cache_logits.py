"""`ldkit cache-logits` as one of several processes."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Shell

NEW = ("cache-logits", "student.yaml", "--out", "caches/new", "--set", "cache.shard_mb=0.003")


@pytest.mark.contract
def test_the_first_process_tells_and_the_others_are_silent(
    ldkit: Shell, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert ldkit(*NEW, "--dry-run") == (said := ldkit(*NEW))
    assert (said.code, said.out, said.err) == (0, "", "")
    assert not (home / "caches/new/manifest.json").exists()
    monkeypatch.setenv("RANK", "0")
    last = ldkit(*NEW, "--json")
    assert last.code == 0
    assert json.loads(last.out)["state"]["sealed"] is True
    assert "Going on: " in last.err


@pytest.mark.contract
def test_the_errors_of_every_process_show(
    ldkit: Shell, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    said = ldkit("cache-logits", "student.yaml", "--teacher", str(home / "none.pt"))
    assert said.code == 5
    assert "none.pt: does not exist" in said.err
    monkeypatch.setenv("RANK", "2")
    said = ldkit(*NEW)
    assert (said.code, said.out) == (2, "")
    assert "RANK=2 and WORLD_SIZE=2: this is no process of so many." in said.err


@pytest.mark.contract
def test_a_job_of_an_array_builds_its_shards_and_says_what_is_left(
    ldkit: Shell, home: Path
) -> None:
    said = ldkit(*NEW, "--shards", "0:2", "--json")
    assert said.code == 0
    state = json.loads(said.out)["state"]
    assert state["sealed"] is False
    assert state["shards"] == 2
    shards = state["planned_shards"]
    left = f"This process has built its shards; 2 of {shards} are complete; the last process seals."
    assert said.err.endswith(f"{left}\n")
    last = ldkit(*NEW, "--shards", f"2:{shards}")
    assert "sealed, " in last.out
    assert (home / "caches/new/manifest.json").exists()


@pytest.mark.contract
def test_what_is_no_range_of_shards_ends_in_a_message(ldkit: Shell, home: Path) -> None:
    said = ldkit(*NEW, "--shards", "7")
    assert said.code == 2
    assert "--shards: '7' is no range of shards.\nTake FIRST:END, as in 0:100" in said.err
    assert not (home / "caches/new").exists()
