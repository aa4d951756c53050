"""Builds that are killed with signal 9 at any moment, and go on to the same bytes."""

import os
import random
import signal
import time
import warnings
from pathlib import Path

import pytest

from ldkit.cache.folder import CacheFolder, missing_shards
from ldkit.cache.writer import begin, seal, write_shard
from tests.cache.synthetic import EVERY, make_keys, make_plan, make_rows
from tests.cache.test_writer import snapshot

KEYS = make_keys(3)
PLAN = make_plan(KEYS, views_per_shard=2, held=EVERY)
ROWS = {key: make_rows(key, PLAN) for key in KEYS}
KILLS = 200


def build(folder: Path) -> None:
    """Build what is missing of rows that are at hand, so that most of the time goes to files."""
    plan = begin(folder, PLAN)
    for number in missing_shards(CacheFolder(folder), plan):
        write_shard(folder, number, [ROWS[key] for key in plan.keys_of(number, KEYS)], plan)
    seal(folder, plan, KEYS)


def build_in_a_child(folder: Path) -> int:
    """Begin a build in a fork of this process; return its number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of threads
        child = os.fork()
    if child == 0:
        try:
            build(folder)
        finally:
            os._exit(0)
    return child


def was_killed(child: int, after_seconds: float) -> bool:
    """Kill a child after a while; say whether it was still at work."""
    time.sleep(after_seconds)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def seconds_of_a_build(folder: Path) -> float:
    began = time.monotonic()
    os.waitpid(build_in_a_child(folder), 0)
    return time.monotonic() - began


def finished(names: set[str]) -> set[str]:
    return {name for name in names if not name.endswith(".tmp")}


@pytest.mark.law
def test_a_build_killed_at_200_random_moments_ends_in_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A kill leaves what was written, synced or not; waiting for the disk would hide other moments.
    monkeypatch.setattr(os, "fsync", lambda _: None)
    build(tmp_path / "whole")
    whole = snapshot(tmp_path / "whole")
    duration = min(seconds_of_a_build(tmp_path / f"timed_{number}") for number in range(5))
    dice = random.Random(time.time_ns())
    left: set[int] = set()
    kills = 0
    while kills < KILLS:
        folder = tmp_path / f"killed_{kills}"
        for _ in range(dice.randint(1, 3)):  # a build that goes on is killed as well
            if not was_killed(build_in_a_child(folder), dice.uniform(0, duration)):
                break
            kills += 1
        found = snapshot(folder)
        # Whatever has its final name is whole at every moment.
        names = finished(set(found))
        assert {name: found[name] for name in names} == {name: whole[name] for name in names}
        assert "manifest.json" not in names or names == set(whole)
        left.add(len(names))
        build(folder)
        assert snapshot(folder) == whole, f"killed {kills}"
    assert len(left) >= 4, "the kills came at too few different moments"
