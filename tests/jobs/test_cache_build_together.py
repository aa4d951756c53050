"""Any number of processes build one cache, and it is the same byte for byte."""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from ldkit.cache.folder import CacheFolder, missing_shards
from ldkit.cache.info import info
from ldkit.errors import CacheIncomplete
from ldkit.jobs import build_cache
from ldkit.jobs.cache_build_share import Share
from ldkit.jobs.progress import Note
from ldkit.recipe.load import dump_recipe
from ldkit.recipe.schema import Recipe
from tests.jobs.conftest import World
from tests.jobs.tiny import ROOT, environment, finish, python, snapshot, told

SMALL = ("cache.shard_mb=0.003", "cache.batch_size=2")
CHILD = """
import os, sys, time
import torch
import ldkit.jobs.build_cache as job
import ldkit.jobs.cache_build_memory as memory
from ldkit.jobs.cache_build_share import share_of
from ldkit.recipe.load import load_recipe
torch.set_num_threads(1)
forward = memory.ask
memory.ask = lambda *given: (time.sleep(0.01), forward(*given))[1]
recipe = load_recipe(sys.argv[1]).recipe
share = share_of(os.environ)
print("ready", flush=True)
sys.stdin.readline()
for message in job.run(recipe, device="cpu", share=share):
    pass
"""
"""Starts to build when it is told to, so that several do at once."""


@pytest.fixture(scope="module")
def whole(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bytes of a cache that one process has built."""
    folder = tmp_path_factory.mktemp("whole") / "cache"
    finish(build_cache.run(world.student(*SMALL, cache=folder), device="cpu"))
    return snapshot(folder)


def build_at_once(recipe: Recipe, file: Path, ranks: Sequence[tuple[int, int]]) -> None:
    """Build with several processes that start at the same moment; each is (rank, of how many)."""
    file.write_text(dump_recipe(recipe))
    children = [
        subprocess.Popen(
            python(CHILD, file),
            cwd=ROOT,
            env=environment() | {"RANK": str(rank), "WORLD_SIZE": str(world)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank, world in ranks
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write(b"go\n")
        child.stdin.flush()
    for child in children:
        _, errors = child.communicate(timeout=120)
        assert child.returncode == 0, errors.decode()


@pytest.mark.law
@pytest.mark.parametrize("world_size", [2, 3])
def test_the_number_of_processes_changes_no_byte(
    world: World, tmp_path: Path, whole: dict[str, bytes], world_size: int
) -> None:
    recipe = world.student(*SMALL, cache=tmp_path / "cache")
    ranks = [(rank, world_size) for rank in range(world_size)]
    build_at_once(recipe, tmp_path / "recipe.yaml", ranks)
    assert snapshot(tmp_path / "cache") == whole


@pytest.mark.law
def test_two_builders_that_do_not_know_of_each_other_build_the_same_cache(
    world: World, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    recipe = world.student(*SMALL, cache=tmp_path / "cache")
    build_at_once(recipe, tmp_path / "recipe.yaml", [(0, 1), (0, 1)])
    assert snapshot(tmp_path / "cache") == whole
    assert info(tmp_path / "cache").is_sealed


@pytest.mark.law
def test_processes_that_start_late_leave_no_shard_out(
    world: World, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    recipe = world.student(*SMALL, cache=tmp_path)
    ends = []
    for rank in (1, 2, 0):
        job = build_cache.run(recipe, device="cpu", share=Share(rank, 3))
        ends.append(finish(job))
    assert ends == [False, False, True]
    assert snapshot(tmp_path) == whole


@pytest.mark.contract
def test_who_ends_before_the_others_says_so(world: World, tmp_path: Path) -> None:
    recipe = world.student(*SMALL, cache=tmp_path)
    shards = build_cache.order(recipe).plan.shards
    said = told(build_cache.run(recipe, device="cpu", share=Share(0, 2)))
    half = (shards + 1) // 2
    assert said[-1] == Note(
        f"This process has built its shards; {half} of {shards} are complete; "
        "the last process seals."
    )
    assert not CacheFolder(tmp_path).manifest.exists()
    beyond = Share(first=shards, end=shards + 10)
    assert told(build_cache.run(recipe, device="cpu", share=beyond))[-1] == Note(
        f"This process had no shard to build; {half} of {shards} are complete; "
        "the last process seals."
    )


@pytest.mark.law
def test_ranges_of_shards_make_the_same_cache_in_any_order(
    world: World, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    recipe = world.student(*SMALL, cache=tmp_path)
    plan = build_cache.order(recipe).plan
    finish(build_cache.run(recipe, device="cpu", share=Share(first=2, end=100)))
    assert missing_shards(CacheFolder(tmp_path), plan) == [0, 1]
    assert finish(build_cache.run(recipe, device="cpu", share=Share(first=0, end=2)))
    assert snapshot(tmp_path) == whole


@pytest.mark.contract
def test_who_seals_while_a_shard_is_taken_away_leaves_that_to_the_others(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = world.student(*SMALL, cache=tmp_path)

    def vanished(*_: object) -> None:
        raise CacheIncomplete("is not sealed.", where="cache")

    monkeypatch.setattr(build_cache.writer, "seal", vanished)
    *_, last = told(build_cache.run(recipe, device="cpu"))
    assert isinstance(last, Note)
    assert last.text.endswith("the last process seals.")
    monkeypatch.undo()
    assert finish(build_cache.run(recipe, device="cpu"))


@pytest.mark.story
def test_torchrun_builds_from_the_shell(
    world: World, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(dump_recipe(world.student(*SMALL, cache=tmp_path / "cache")))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    torchrun += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    result = subprocess.run(
        [*torchrun, "-m", "ldkit", "cache-logits", file, "--device", "cpu"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert snapshot(tmp_path / "cache") == whole
    assert result.stdout.count("written by") == 1  # the facts of the first process alone
    assert len(re.findall(r"\b(\d+)/\1 views", result.stderr)) == 1
