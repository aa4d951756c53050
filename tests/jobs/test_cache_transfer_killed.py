"""Pushes, pulls and fetches that are killed with signal 9 at any moment."""

import os
import random
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from ldkit.cache.folder import CacheFolder
from ldkit.cache.generations import read_generations
from ldkit.cache.reader import CacheReader
from ldkit.cache.remote import Remote
from ldkit.cache.remote_cache import read_remote
from ldkit.cache.store import fetch, local
from ldkit.errors import CacheError
from ldkit.jobs.cache_transfer import pull, push
from tests.cache.synthetic import make_batch, make_keys, make_plan
from tests.cache.test_generations import build_all
from tests.jobs.tiny import snapshot

KEYS = make_keys(5)
PARTS = [(keys, make_plan(keys, 2)) for keys in (KEYS[:5], KEYS[5:])]
KILLS = 20


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # A kill leaves what was written, synced or not; waiting for the disk would hide other moments.
    monkeypatch.setattr(os, "fsync", lambda _: None)
    build_all(tmp_path / "built", *PARTS)
    return tmp_path / "built"


def in_a_child(work: Callable[[], object]) -> int:
    """Begin some work in a fork of this process; return its number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of threads
        child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return child


def killed_again_and_again(work: Callable[[], object], look: Callable[[], object]) -> None:
    """Kill the work at random moments until it has once come to its end; look after each."""
    dice, longest = random.Random(time.time_ns()), 0.001
    for _ in range(KILLS):
        child = in_a_child(work)
        time.sleep(dice.uniform(0, longest))
        os.kill(child, signal.SIGKILL)
        ended = not os.WIFSIGNALED(os.waitpid(child, 0)[1])
        look()
        if ended:
            return
        longest *= 1.2
    os.waitpid(in_a_child(work), 0)
    look()


@pytest.mark.law
@pytest.mark.parametrize("attempt", range(2))
def test_what_a_url_says_is_sealed_is_whole_at_every_moment_of_a_push(
    built: Path, tmp_path: Path, attempt: int
) -> None:
    far = tmp_path / f"far_{attempt}"
    whole = snapshot(built)

    def look() -> None:
        try:
            found = read_remote(Remote(f"file://{far}"))
        except CacheError:
            return
        assert len(found) == len(PARTS)
        assert snapshot(far) == whole

    killed_again_and_again(lambda: list(push(built, f"file://{far}")), look)
    assert snapshot(far) == whole


@pytest.mark.law
@pytest.mark.parametrize("attempt", range(2))
def test_whatever_has_its_final_name_is_whole_at_every_moment_of_a_pull(
    built: Path, tmp_path: Path, attempt: int
) -> None:
    back, whole = tmp_path / f"back_{attempt}", snapshot(built)

    def look() -> None:
        found = {n: data for n, data in snapshot(back).items() if not n.endswith(".tmp")}
        assert found == {name: whole[name] for name in found}
        assert "manifest.json" not in found or found == whole

    killed_again_and_again(lambda: list(pull(f"file://{built}", back)), look)
    assert snapshot(back) == whole


@pytest.mark.law
@pytest.mark.parametrize("attempt", range(2))
def test_a_store_is_whole_at_every_moment(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attempt: int
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"home_{attempt}"))
    shards = [
        part.folder.shard(n.shard)
        for part in read_generations(built)
        for n in part.manifest.receipts
    ]
    places = [path.relative_to(built) for path in shards]

    def work() -> None:
        mirror = local(f"file://{built}")
        for place in places:
            fetch(mirror / place)

    def look() -> None:
        for path in tmp_path.glob(f"home_{attempt}/ldkit/caches/*/**/*.safetensors"):
            mirror = CacheFolder(next(p for p in path.parents if p.parent.name == "caches"))
            assert path.read_bytes() == (built / path.relative_to(mirror.path)).read_bytes()

    killed_again_and_again(work, look)
    mirror = local(f"file://{built}")
    found = CacheReader.open_(mirror).lookup(make_batch(KEYS))
    assert repr(found) == repr(CacheReader.open_(built).lookup(make_batch(KEYS)))
    assert not list(mirror.rglob(".*.tmp"))
