import errno
import fcntl
import multiprocessing
import os
import threading
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ldkit import files
from ldkit.cache import store
from ldkit.cache.folder import CacheFolder
from ldkit.cache.reader import CacheReader
from ldkit.cache.remote import Remote
from ldkit.cache.store import Store, fetch, hold, local, most_open, origin_of
from ldkit.cache.verify import leftovers, read_sealed
from ldkit.errors import CacheCorrupt, CacheIncomplete, StorageError, UsageError
from tests.cache.flaky import changed, flaky, lost, truncated
from tests.cache.synthetic import build, make_batch, make_keys, make_plan
from tests.cache.test_generations import build_all
from tests.system_calls import HOST

__all__ = ["flaky"]

KEYS = make_keys(6)
PLAN = make_plan(KEYS)
SHARDS = 3


def upload(folder: Path, url: str) -> None:
    for path in folder.rglob("*.*"):
        Remote(url).write(str(path.relative_to(folder)), path.read_bytes())


@pytest.fixture
def built(tmp_path):
    build(tmp_path / "built", PLAN, KEYS)
    return tmp_path / "built"


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The store of the user, in an empty place."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv(store.LIMIT_VARIABLE, raising=False)
    return tmp_path / "home" / "ldkit" / "caches"


@pytest.fixture
def mirror(built, root, flaky):  # noqa: ARG001
    upload(built, "flaky://r101")
    flaky.read.clear()
    return CacheFolder(local("flaky://r101"))


def here(folder: CacheFolder) -> list[int]:
    return sorted(int(path.stem) for path in folder.shards.glob("*.safetensors"))


def mirror_bytes(built: Path) -> int:
    """Return the size of the first shard."""
    return CacheFolder(built).shard(0).stat().st_size


def small(folder: Path, shards: float) -> Store:
    size = max(path.stat().st_size for path in (folder / "shards").glob("*.safetensors"))
    return Store(Store.of_user().root, shards * size)


@pytest.mark.contract
def test_the_store_lies_where_the_user_keeps_caches_and_is_20_gb_large() -> None:
    found = Store.of_user({"XDG_CACHE_HOME": "/home/x/c"})
    assert found == Store(Path("/home/x/c/ldkit/caches"), 20e9)
    assert Store.of_user({}).root == Path.home() / ".cache" / "ldkit" / "caches"
    assert Store.of_user({"LDKIT_STORE_GB": "0.5"}).limit_bytes == 5e8


@pytest.mark.contract
@pytest.mark.parametrize("stated", ["", "much", "0", "-3", "nan"])
def test_a_size_that_is_none_is_refused(stated: str) -> None:
    with pytest.raises(UsageError, match=f"LDKIT_STORE_GB: is '{stated}', but must be a positive"):
        Store.of_user({"LDKIT_STORE_GB": stated})


@pytest.mark.law
def test_a_local_folder_is_its_own_store(built, root) -> None:
    assert local(str(built)) == built
    assert origin_of(built) is None
    path = CacheFolder(built).shard(0)
    assert most_open(path) is None
    os.close(hold(path))
    assert not root.exists()


@pytest.mark.contract
def test_a_folder_from_elsewhere_sends_nobody_to_a_url(built, root) -> None:  # noqa: ARG001
    (built / "origin.json").write_text('{"url": "memory://somewhere/else"}')
    assert origin_of(built) is None
    missing = CacheFolder(built).shard(0)
    missing.unlink()
    with pytest.raises(OSError, match="No such file"):
        hold(missing)


@pytest.mark.law
def test_a_mirror_is_named_by_content_and_begins_with_documents(built, mirror, root, flaky) -> None:
    fingerprint = CacheReader.open_(built).fingerprint
    assert mirror.path == root / fingerprint[:16]
    assert origin_of(mirror.path) == "flaky://r101"
    assert here(mirror) == []
    assert CacheReader.open_(mirror.path).fingerprint == fingerprint
    assert flaky.read == ["/r101/manifest.json", "/r101/plan.json"]
    assert root.stat().st_mode & 0o777 == 0o700
    upload(built, "memory://copy")
    assert local("memory://copy") == mirror.path
    assert origin_of(mirror.path) == "memory://copy"


@pytest.mark.law
def test_rows_are_those_of_the_cache_and_a_shard_is_fetched_once(built, mirror, flaky) -> None:
    flaky.read.clear()
    batch = make_batch(KEYS)
    with_rows = CacheReader.open_(built).lookup(batch)
    for _ in range(2):
        reader = CacheReader.open_(mirror.path)
        assert repr(reader.lookup(batch)) == repr(with_rows)
        reader.close()
    assert sorted(flaky.read) == [f"/r101/shards/00000{n}.safetensors" for n in range(SHARDS)]
    assert here(mirror) == [0, 1, 2]


@pytest.mark.law
def test_the_least_recently_used_shards_make_room(mirror, built, monkeypatch) -> None:
    limited = small(built, 2.5)
    monkeypatch.setattr(Store, "of_user", lambda: limited)
    for number in (0, 1):
        fetch(mirror.shard(number))
    for number, used in ((0, 200), (1, 100)):
        os.utime(mirror.shard(number), (used, used))
    fetch(mirror.shard(2))
    assert here(mirror) == [0, 2]
    os.utime(mirror.shard(2), (300, 300))
    fetch(mirror.shard(0))
    fetch(mirror.shard(1))
    assert here(mirror) == [0, 1]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@pytest.mark.law
def test_a_cache_of_ones_own_that_stands_in_the_store_is_not_evicted(
    mirror, built, root, monkeypatch
) -> None:
    build(root / "mine", PLAN, KEYS)
    limited = small(built, 1.5)
    monkeypatch.setattr(Store, "of_user", lambda: limited)
    for number in range(SHARDS):
        fetch(mirror.shard(number))
    assert here(CacheFolder(root / "mine")) == [0, 1, 2]
    assert here(mirror) == [2]


@pytest.mark.law
def test_an_open_shard_is_not_evicted_by_any_process(mirror) -> None:
    handle = hold(mirror.shard(0))
    fetch(mirror.shard(1))
    process = multiprocessing.get_context("fork").Process(
        target=_make_room, args=(mirror.path.parent,)
    )
    process.start()
    process.join()
    assert process.exitcode == 0
    assert here(mirror) == [0]
    os.close(handle)
    _make_room(mirror.path.parent)
    assert here(mirror) == []


def _make_room(root: Path) -> None:
    Store(root, 1.0).make_room(0)


@pytest.mark.law
@pytest.mark.parametrize("room", [0.5, 1.0, 2.0, 9.0])
def test_rows_stay_the_same_however_small_the_store(
    mirror, built, monkeypatch, room: float
) -> None:
    limited = small(built, room)
    monkeypatch.setattr(Store, "of_user", lambda: limited)
    reader, expected = CacheReader.open_(mirror.path), CacheReader.open_(built)
    for position in (0, 7, 3, 11, 5, 1):
        batch = make_batch(KEYS[position:] + KEYS[:position])
        assert repr(reader.lookup(batch)) == repr(expected.lookup(batch))
        assert len(here(mirror)) <= max(2, room)
    reader.close()


@pytest.mark.law
@given(shards=st.floats(0.01, 99.0))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_shards_that_are_open_fill_no_more_than_half_of_the_store(
    mirror, built, monkeypatch, shards: float
) -> None:
    limited = small(built, shards)
    monkeypatch.setattr(Store, "of_user", lambda: limited)
    most = most_open(mirror.shard(0))
    assert most is not None
    assert most == 1 or most * mirror_bytes(built) <= limited.limit_bytes / 2


@pytest.mark.law
def test_many_threads_fetch_a_shard_once(mirror, flaky) -> None:
    flaky.read.clear()
    threads = [threading.Thread(target=fetch, args=(mirror.shard(0),)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert flaky.read == ["/r101/shards/000000.safetensors"]


@pytest.mark.law
def test_without_locks_both_fetch_and_the_bytes_are_the_same(mirror, built, monkeypatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    os.close(hold(mirror.shard(0)))
    assert mirror.shard(0).read_bytes() == CacheFolder(built).shard(0).read_bytes()


@pytest.mark.law
@pytest.mark.parametrize("faults", [[lost], [truncated], [changed, lost, truncated]])
def test_a_shard_is_fetched_in_spite_of_failures(mirror, built, flaky, faults) -> None:
    flaky.faults[:] = faults
    fetch(mirror.shard(1))
    assert mirror.shard(1).read_bytes() == CacheFolder(built).shard(1).read_bytes()


@pytest.mark.contract
@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        (lost, StorageError, "could not be read: ConnectionResetError: connection lost"),
        (truncated, CacheCorrupt, "bytes; its receipt says"),
        (changed, CacheCorrupt, "is not what its receipt says"),
    ],
)
def test_what_stays_wrong_is_told_and_never_kept(mirror, flaky, fault, error, message) -> None:
    flaky.faults[:] = [fault] * 9
    with pytest.raises(error, match=message) as caught:
        CacheReader.open_(mirror.path).lookup(make_batch(KEYS[:1]))
    assert caught.value.where == "flaky://r101/shards/000000.safetensors"
    assert here(mirror) == []
    assert not list(mirror.shards.glob(".*.tmp"))


@pytest.mark.contract
def test_a_full_disk_is_told_and_the_next_attempt_goes_on(mirror, monkeypatch) -> None:
    def full(_path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(files, "_sync", full)
        with pytest.raises(StorageError, match="could not be written: No space left") as caught:
            fetch(mirror.shard(0))
    assert "copy of flaky://r101" in caught.value.hint
    assert "LDKIT_STORE_GB" in caught.value.hint
    assert here(mirror) == []
    assert not list(mirror.shards.glob(".*.tmp"))
    fetch(mirror.shard(0))
    assert here(mirror) == [0]


@pytest.mark.law
def test_what_a_killed_process_left_is_cleaned_up(mirror) -> None:
    stale = mirror.shards / f".000000.safetensors.{HOST}.{2**22 + 1}.tmp"
    stale.write_bytes(b"half")
    fetch(mirror.shard(0))
    assert not stale.exists()


@pytest.mark.contract
def test_a_url_without_a_sealed_cache_is_told(root) -> None:
    with pytest.raises(CacheIncomplete, match="memory://r101: holds no manifest") as caught:
        local("memory://r101")
    assert "ldkit cache push" in caught.value.hint
    assert not root.exists()


@pytest.mark.contract
@pytest.mark.usefixtures("root", "flaky")
def test_damaged_documents_are_told_by_their_url(built) -> None:
    upload(built, "memory://r101")
    whole = dict(MemoryFileSystem.store)
    place = Remote("memory://r101")
    place.write("manifest.json", (built / "manifest.json").read_bytes()[:-3])
    with pytest.raises(CacheCorrupt, match=r"memory://r101/manifest\.json: is not what was writ"):
        local("memory://r101")
    MemoryFileSystem.store.update(whole)
    upload(built, "memory://r101")
    place.write("plan.json", make_plan(KEYS, views_per_shard=3).to_bytes())
    with pytest.raises(CacheCorrupt, match="is not the plan of manifest") as caught:
        local("memory://r101")
    assert "Push the cache again" in caught.value.hint
    place.remove("plan.json")
    with pytest.raises(CacheCorrupt, match=r"plan\.json: is missing"):
        local("memory://r101")


@pytest.mark.law
def test_damaged_documents_of_a_mirror_are_written_anew(mirror, built) -> None:
    mirror.plan.write_bytes(b"")
    mirror.receipt(1).unlink()
    assert local("flaky://r101") == mirror.path
    assert mirror.plan.read_bytes() == CacheFolder(built).plan.read_bytes()
    assert mirror.receipt(1).read_bytes() == CacheFolder(built).receipt(1).read_bytes()


@pytest.mark.law
def test_another_cache_at_the_same_url_has_another_mirror(mirror, tmp_path) -> None:
    other = make_plan(KEYS, views_per_shard=6)
    build(tmp_path / "other", other, KEYS)
    upload(tmp_path / "other", "flaky://r101")
    found = local("flaky://r101")
    assert found != mirror.path
    assert CacheReader.open_(found).plan == other


@pytest.mark.contract
def test_a_copy_that_is_damaged_is_told_with_the_way_to_another(mirror, built) -> None:
    fetch(mirror.shard(0))
    mirror.shard(0).write_bytes(changed("", mirror.shard(0).read_bytes()))
    with pytest.raises(CacheCorrupt, match="is not what was written") as caught:
        CacheReader.open_(mirror.path).lookup(make_batch(KEYS[:1]))
    assert caught.value.where == str(mirror.shard(0))
    assert caught.value.hint == (
        "Delete this file: it is a copy, and the next use fetches it from flaky://r101."
    )
    mirror.shard(0).unlink()
    assert CacheReader.open_(mirror.path).view(KEYS[0]) == CacheReader.open_(built).view(KEYS[0])


@pytest.mark.contract
@pytest.mark.usefixtures("root")
def test_what_the_store_adds_to_a_mirror_is_no_leftover(tmp_path) -> None:
    cache = tmp_path / "cache"
    build_all(cache, (KEYS[:6], make_plan(KEYS[:6])), (KEYS[6:], make_plan(KEYS[6:])))
    mirror = local(f"file://{cache}")
    CacheReader.open_(mirror).lookup(make_batch(KEYS))
    assert len(list(mirror.rglob("*.lock"))) > 1
    assert leftovers(read_sealed(mirror)) == []
