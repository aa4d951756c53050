import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ldkit.cache import prefetch
from ldkit.cache.folder import CacheFolder
from ldkit.cache.prefetch import THREADS, fetched_ahead
from ldkit.cache.remote import Remote
from ldkit.cache.store import Store, local
from ldkit.errors import StorageError
from ldkit.structures import ViewKey
from tests.cache.flaky import flaky, lost
from tests.cache.synthetic import build, make_keys, make_plan

__all__ = ["flaky"]

KEYS = make_keys(12)
PLAN = make_plan(KEYS, views_per_shard=2)
BATCHES = [[KEYS[first], KEYS[-1 - first]] for first in range(12)]


@pytest.fixture
def built(tmp_path):
    build(tmp_path / "built", PLAN, KEYS)
    return tmp_path / "built"


@pytest.fixture
def mirror(built, tmp_path, monkeypatch, flaky):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    for path in built.rglob("*.*"):
        Remote("flaky://r101").write(str(path.relative_to(built)), path.read_bytes())
    found = local("flaky://r101")
    flaky.read.clear()
    return found


@pytest.fixture
def asked(monkeypatch):
    """The shards that the threads are asked for, instead of fetching them."""
    numbers: list[int] = []
    monkeypatch.setattr(prefetch, "THREADS", 1)
    monkeypatch.setattr(prefetch, "fetch", lambda path: numbers.append(int(path.stem)))
    return numbers


def files_of(folder: Path) -> Callable[[ViewKey], tuple[Path, ...]]:
    return lambda key: (CacheFolder(folder).shard(KEYS.index(key) // 2),)


def hold_at_most(shards: int, monkeypatch, built: Path) -> None:
    """Make the store so small that half of it has room for so many shards."""
    most = max(path.stat().st_size for path in built.rglob("*.safetensors"))
    limited = Store(Store.of_user().root, 2.0 * shards * most)
    monkeypatch.setattr(Store, "of_user", lambda: limited)


def soon(condition: Callable[[], bool]) -> bool:
    for _ in range(500):
        if condition():
            return True
        time.sleep(0.01)
    return condition()


def working() -> int:
    return sum("_work" in thread.name for thread in threading.enumerate())


@pytest.mark.law
def test_batches_are_the_same_and_all_their_shards_are_fetched(mirror, flaky) -> None:
    assert list(fetched_ahead(files_of(mirror), BATCHES)) == BATCHES
    assert soon(lambda: len(list(mirror.rglob("*.safetensors"))) == 12)
    assert len(flaky.read) == 12
    assert soon(lambda: working() == 0)


@pytest.mark.law
def test_shards_are_asked_for_in_the_order_of_need_and_once(mirror, asked) -> None:
    list(fetched_ahead(files_of(mirror), BATCHES))
    order = [KEYS.index(key) // 2 for batch in BATCHES for key in batch]
    assert soon(lambda: len(asked) == 12)
    assert asked == list(dict.fromkeys(order))


@pytest.mark.law
@pytest.mark.parametrize("room", [1, 3, 6])
def test_no_more_is_asked_for_than_fills_half_of_the_store(
    mirror, built, asked, monkeypatch, room: int
) -> None:
    hold_at_most(room, monkeypatch, built)
    for position, _ in enumerate(fetched_ahead(files_of(mirror), BATCHES)):
        needed = {KEYS.index(key) // 2 for batch in BATCHES[: position + 1] for key in batch}
        assert soon(lambda needed=needed: needed <= set(asked))
        time.sleep(0.02)
        assert len(set(asked) - needed) <= room + 1  # a batch has two


@pytest.mark.law
def test_a_shard_that_is_needed_again_much_later_is_asked_for_again(
    mirror, built, asked, monkeypatch
) -> None:
    hold_at_most(1, monkeypatch, built)
    batches = [[KEYS[0]], [KEYS[2]], [KEYS[4]], [KEYS[0]]]
    list(fetched_ahead(files_of(mirror), batches))
    assert soon(lambda: len(asked) == 4)
    assert asked == [0, 1, 2, 0]


@pytest.mark.law
def test_of_a_local_cache_nothing_is_fetched(built, asked) -> None:
    assert list(fetched_ahead(files_of(built), BATCHES)) == BATCHES
    assert list(fetched_ahead(files_of(built), [])) == []
    assert asked == []
    assert working() == 0


@pytest.mark.law
def test_a_run_that_ends_early_fetches_no_more(mirror, monkeypatch) -> None:
    gate, begun = threading.Event(), []

    def slow(path: Path) -> None:
        begun.append(path)
        gate.wait(5)

    monkeypatch.setattr(prefetch, "fetch", slow)
    batches = fetched_ahead(files_of(mirror), BATCHES)
    next(batches)
    assert soon(lambda: len(begun) == THREADS)
    batches.close()
    gate.set()
    assert soon(lambda: working() == 0)
    assert len(begun) == THREADS


@pytest.mark.contract
def test_what_cannot_be_fetched_is_told_by_whoever_reads_it(mirror, flaky) -> None:
    flaky.faults[:] = [lost] * 999
    assert list(fetched_ahead(files_of(mirror), BATCHES)) == BATCHES
    assert soon(lambda: working() == 0)
    assert not list(mirror.rglob("*.safetensors"))
    with pytest.raises(StorageError, match="connection lost"):
        prefetch.fetch(CacheFolder(mirror).shard(0))
