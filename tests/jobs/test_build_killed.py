"""The real build, killed at random moments: it goes on, and ends in the same bytes."""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from ldkit.jobs import build_cache
from ldkit.jobs.cache_verify import Options
from ldkit.jobs.cache_verify import run as verify
from ldkit.recipe.schema import Recipe
from tests.jobs.conftest import MAY_FORK, World
from tests.jobs.tiny import EVERY_TERM, finish, snapshot

KILLS = 10


def build_in_a_child(recipe: Recipe) -> int:
    """Begin a build in a fork of this process; return its number."""
    child = os.fork()
    if child == 0:
        try:
            finish(build_cache.run(recipe, device="cpu"))
        finally:
            os._exit(0)
    return child


def seconds_of_a_build(recipe: Recipe) -> float:
    began = time.monotonic()
    os.waitpid(build_in_a_child(recipe), 0)
    return time.monotonic() - began


@pytest.mark.law
@MAY_FORK
def test_a_build_killed_at_10_random_moments_ends_in_the_same_bytes(
    world: World, tmp_path: Path
) -> None:
    def recipe(name: str) -> Recipe:
        small = ("cache.shard_mb=0.01", "cache.batch_size=2")
        return world.student(*EVERY_TERM, *small, cache=tmp_path / name)

    seconds = seconds_of_a_build(recipe("whole"))
    whole = snapshot(tmp_path / "whole")
    shards = len([name for name in whole if name.endswith(".safetensors")])
    assert shards >= 5
    dice, killed = random.Random(time.time_ns()), 0
    for number in range(10 * KILLS):
        folder = tmp_path / f"killed_{number // 3}"  # three kills in a row
        child = build_in_a_child(recipe(folder.name))
        time.sleep(dice.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        found = {name: text for name, text in snapshot(folder).items() if ".tmp" not in name}
        assert found == {name: whole[name] for name in found}
        if killed >= KILLS:
            break
    assert killed >= KILLS
    for folder in sorted(tmp_path.glob("killed_*")):
        finish(build_cache.run(recipe(folder.name), device="cpu"))
        assert snapshot(folder) == whole
        assert finish(verify(str(folder), Options())).error is None
