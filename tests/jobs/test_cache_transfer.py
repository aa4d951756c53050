"""Sealed caches to a URL and back: whole, resumed, refused."""

import errno
import os
import shutil
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from ldkit import files
from ldkit.cache import writer
from ldkit.cache.folder import CacheFolder, missing_shards
from ldkit.cache.info import info
from ldkit.cache.remote import Remote
from ldkit.errors import CacheCorrupt, CacheIncomplete, CacheMismatch, StorageError, UsageError
from ldkit.jobs.cache_transfer import pull, push
from ldkit.jobs.facts import as_json
from ldkit.jobs.progress import Note, Progress
from tests.cache.flaky import changed, flaky, intact, lost
from tests.cache.synthetic import build, make_keys, make_plan, make_rows
from tests.cache.test_generations import build_all
from tests.jobs.tiny import snapshot
from tests.system_calls import system_calls

__all__ = ["flaky"]

KEYS = make_keys(6)
PLAN = make_plan(KEYS)
URL = "flaky://team/r101"


@pytest.fixture
def built(tmp_path):
    build(tmp_path / "built", PLAN, KEYS)
    return tmp_path / "built"


@pytest.fixture
def pushed(built, flaky):
    list(push(built, URL))
    flaky.read.clear()
    return Remote(URL)


def there(url: str = URL) -> dict[str, bytes]:
    root = "/" + url.partition("://")[2] + "/"
    store = MemoryFileSystem.store
    return {path.removeprefix(root): file.getvalue() for path, file in store.items()}


@pytest.mark.law
@pytest.mark.usefixtures("flaky")
@pytest.mark.parametrize("url", [URL, URL + "/"])
def test_a_cache_comes_back_as_it_was(built, tmp_path, url: str) -> None:
    list(push(built, url))
    assert there() == snapshot(built)
    list(pull(url, tmp_path / "back"))
    assert snapshot(tmp_path / "back") == snapshot(built)


@pytest.mark.law
def test_a_cache_goes_through_a_folder_of_this_machine(built, tmp_path) -> None:
    list(push(built, f"file://{tmp_path}/far/r101"))
    assert snapshot(tmp_path / "far" / "r101") == snapshot(built)
    list(pull(f"file://{tmp_path}/far/r101", tmp_path / "back"))
    assert snapshot(tmp_path / "back") == snapshot(built)


@pytest.mark.contract
@pytest.mark.usefixtures("flaky")
@pytest.mark.parametrize("moved", ["sent", "received"])
def test_progress_is_in_bytes_and_the_result_says_what_was_moved(
    built, tmp_path, moved: str
) -> None:
    back, told = tmp_path / "back", []
    messages = push(built, URL)
    if moved == "received":
        list(messages)
        messages = pull(URL, back)
    place = URL if moved == "sent" else str(back)
    while True:
        try:
            told.append(next(messages))
        except StopIteration as end:
            facts = as_json(end.value)
            break
    total = info(built).bytes
    assert [message.done for message in told] == sorted(message.done for message in told)
    assert told[-1] == Progress(total, total, "bytes")
    assert facts == {
        "cache": place,
        "fingerprint": info(built).fingerprint,
        "size": {"bytes": total, "shards": 3},
        moved: {"bytes": total, "shards": 3},
    }
    assert list(push(built, URL)) == [Note(f"{URL} is complete already.")]


@pytest.mark.law
def test_the_manifest_is_written_last(built, flaky, monkeypatch) -> None:
    written: list[str] = []
    write = flaky.pipe_file

    def note(self, path: str, value: bytes, **_: object) -> None:
        written.append(path.removeprefix("/team/r101/"))
        write(self, path, value)

    monkeypatch.setattr(flaky, "pipe_file", note)
    list(push(built, URL))
    shards = [f"shards/00000{n}.{kind}" for n in range(3) for kind in ("safetensors", "json")]
    assert written == [*shards, "plan.json", "manifest.json"]


@pytest.mark.law
@pytest.mark.parametrize("stop", range(8))
def test_a_push_that_was_cut_goes_on_with_what_is_missing(
    built, flaky, monkeypatch, stop: int
) -> None:
    left, sent, write = iter(range(stop)), [], flaky.pipe_file

    def cut(self, path: str, value: bytes, **_: object) -> None:
        if next(left, None) is None:
            write(self, path, value[:50])
            raise PermissionError("the connection was closed")
        write(self, path, value)

    def note(self, path: str, value: bytes, **_: object) -> None:
        sent.append(path)
        write(self, path, value)

    monkeypatch.setattr(flaky, "pipe_file", cut)
    with pytest.raises(StorageError, match="could not be written: PermissionError"):
        list(push(built, URL))
    monkeypatch.setattr(flaky, "pipe_file", note)
    told = list(push(built, URL))
    assert there() == snapshot(built)
    whole = stop // 2 if stop < 6 else 3
    assert len([path for path in sent if path.endswith(".safetensors")]) == 3 - whole
    if whole == 3:
        assert told == [Note(f"{URL} is complete already.")]
    elif whole:
        assert told[0] == Note(f"Going on: {whole} of 3 shards are at {URL}.")


@pytest.mark.law
def test_damage_of_another_size_is_mended_and_hidden_meanwhile(built, pushed, monkeypatch) -> None:
    pushed.write("shards/000001.safetensors", b"short")
    pushed.write("shards/000002.json", b"{}")
    pushed.write("manifest.json", b"{}")
    seen = []
    write = type(pushed).write

    def note(self, name: str, content: bytes) -> None:
        seen.append("manifest.json" in there())
        write(self, name, content)

    monkeypatch.setattr(type(pushed), "write", note)
    list(push(built, URL))
    assert not any(seen)
    assert there() == snapshot(built)


@pytest.mark.contract
@pytest.mark.parametrize("name", ["plan.json", "shards/000001.json"])
def test_another_cache_is_never_overwritten(pushed, tmp_path, name: str) -> None:
    """Not even one whose push was cut before its plan."""
    other = make_plan(KEYS, bbox_logits="fp32")
    build(tmp_path / "other", other, KEYS)
    for path in there():
        if path != name:
            pushed.remove(path)
    before = there()
    with pytest.raises(CacheMismatch, match=f"{URL}/{name}: is of another cache") as caught:
        list(push(tmp_path / "other", URL))
    assert PLAN.digest in caught.value.message
    assert other.digest in caught.value.message
    assert caught.value.hint == "Push to another URL, or remove what is there."
    assert there() == before


@pytest.mark.contract
@pytest.mark.usefixtures("flaky")
def test_a_cache_that_is_not_sealed_is_not_pushed(built) -> None:
    (built / "manifest.json").unlink()
    with pytest.raises(CacheIncomplete, match="is not sealed: 3 of 3 shards"):
        list(push(built, URL))
    assert there() == {}


@pytest.mark.contract
@pytest.mark.usefixtures("flaky")
@pytest.mark.parametrize("same_size", [True, False])
def test_a_damaged_shard_is_not_pushed(built, same_size: bool) -> None:
    path = CacheFolder(built).shard(1)
    content = path.read_bytes()
    path.write_bytes(changed("", content) if same_size else content[:-1])
    with pytest.raises(CacheCorrupt, match=r"000001\.safetensors: (is not what|has \d+ bytes)"):
        list(push(built, URL))
    assert "manifest.json" not in there()
    assert "shards/000001.safetensors" not in there()


@pytest.mark.contract
@pytest.mark.usefixtures("flaky")
def test_a_shard_too_large_for_memory_is_refused_unread(built) -> None:
    os.truncate(CacheFolder(built).shard(1), 1 << 40)
    told = rf"000001\.safetensors: has {1 << 40} bytes; its receipt says \d+\."
    with pytest.raises(CacheCorrupt, match=told) as caught:
        list(push(built, URL))
    assert caught.value.hint == "Repair the cache before you push."
    assert "shards/000001.safetensors" not in there()


@pytest.mark.contract
def test_a_path_is_no_url(built, tmp_path) -> None:
    with pytest.raises(UsageError, match="is no URL") as caught:
        list(push(built, str(tmp_path / "far")))
    assert "file:///FOLDER" in caught.value.hint
    with pytest.raises(UsageError, match="is no URL"):
        list(pull(str(built), tmp_path / "near"))


@pytest.mark.law
@pytest.mark.usefixtures("pushed")
@pytest.mark.parametrize("stop", range(3))
def test_a_pull_that_was_cut_goes_on_with_what_is_missing(
    built, flaky, tmp_path, stop: int
) -> None:
    back, documents = tmp_path / "back", 2
    flaky.faults[:] = [intact] * (documents + stop) + [lost] * 4
    with pytest.raises(StorageError, match="connection lost"):
        list(pull(URL, back))
    assert not (back / "manifest.json").exists()
    assert missing_shards(CacheFolder(back), PLAN) == list(range(stop, 3))
    flaky.read.clear()
    flaky.faults.clear()
    told = list(pull(URL, back))
    assert len(flaky.read) == documents + 3 - stop
    assert snapshot(back) == snapshot(built)
    if stop:
        assert told[0] == Note(f"Going on: {stop} of 3 shards are at {back}.")
    assert list(pull(URL, back)) == [Note(f"{back} is complete already.")]


@pytest.mark.law
@pytest.mark.usefixtures("pushed")
def test_a_builder_can_finish_what_a_pull_began(built, flaky, tmp_path) -> None:
    back = tmp_path / "back"
    flaky.faults[:] = [intact] * 3 + [lost] * 4
    with pytest.raises(StorageError):
        list(pull(URL, back))
    plan = writer.begin(back, PLAN)
    for number in missing_shards(CacheFolder(back), plan):
        rows = [make_rows(key, plan) for key in plan.keys_of(number, KEYS)]
        writer.write_shard(back, number, rows, plan)
    writer.seal(back, plan, KEYS)
    assert snapshot(back) == snapshot(built)


@pytest.mark.law
@pytest.mark.usefixtures("pushed")
def test_a_pull_writes_a_proof_after_what_it_proves(tmp_path) -> None:
    with system_calls(tmp_path / "back") as calls:
        list(pull(URL, tmp_path / "back"))
    shards = [f"shards/00000{n}.{kind}" for n in range(3) for kind in ("safetensors", "json")]
    named = [call.split()[2] for call in calls if call.startswith("rename")]
    assert named == ["plan.json", *shards, "manifest.json"]


@pytest.mark.contract
def test_a_changed_shard_is_not_kept(pushed, tmp_path) -> None:
    name = "shards/000001.safetensors"
    pushed.write(name, changed("", pushed.find(name)))
    with pytest.raises(CacheCorrupt, match=f"{URL}/{name}: is not what its receipt says"):
        list(pull(URL, tmp_path / "back"))
    assert missing_shards(CacheFolder(tmp_path / "back"), PLAN) == [1, 2]
    assert not list((tmp_path / "back").rglob(".*.tmp"))


@pytest.mark.contract
def test_the_hint_for_a_changed_shard_mends_it(built, tmp_path) -> None:
    far = tmp_path / "far"
    list(push(built, f"file://{far}"))
    shard = CacheFolder(far).shard(1)
    shard.write_bytes(changed("", shard.read_bytes()))
    with pytest.raises(CacheCorrupt, match="is not what its receipt says") as caught:
        list(pull(f"file://{far}", tmp_path / "back"))
    assert "once this file is deleted there" in caught.value.hint
    shard.unlink()
    list(push(built, f"file://{far}"))
    list(pull(f"file://{far}", tmp_path / "back"))
    assert snapshot(tmp_path / "back") == snapshot(built)


@pytest.mark.law
@pytest.mark.usefixtures("pushed")
@pytest.mark.parametrize("room", [0, 1, 2, 3, 6, 9, 12, 15])
def test_a_full_disk_stops_a_pull_that_goes_on_later(
    built, tmp_path, monkeypatch, room: int
) -> None:
    left, sync = iter(range(room)), files._sync

    def full(path: Path) -> None:
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(path)

    with monkeypatch.context() as patch:
        patch.setattr(files, "_sync", full)
        with pytest.raises(StorageError, match="could not be written: No space left"):
            list(pull(URL, tmp_path / "back"))
    assert not list((tmp_path / "back").rglob(".*.tmp"))
    list(pull(URL, tmp_path / "back"))
    assert snapshot(tmp_path / "back") == snapshot(built)


@pytest.mark.contract
@pytest.mark.usefixtures("pushed")
def test_a_folder_with_another_cache_is_left_alone(tmp_path) -> None:
    build(tmp_path / "other", make_plan(KEYS, views_per_shard=5), KEYS)
    before = snapshot(tmp_path / "other")
    with pytest.raises(CacheMismatch, match=r"other/plan\.json: is of another cache") as caught:
        list(pull(URL, tmp_path / "other"))
    assert caught.value.hint == "Pull to another folder."
    build(tmp_path / "same", PLAN, KEYS, most=3)
    with pytest.raises(CacheMismatch, match=r"same/manifest\.json: is of another cache"):
        list(pull(URL, tmp_path / "same"))
    assert snapshot(tmp_path / "other") == before


@pytest.mark.contract
@pytest.mark.usefixtures("flaky")
def test_there_must_be_something_to_pull(tmp_path) -> None:
    with pytest.raises(CacheIncomplete, match="holds no manifest"):
        list(pull(URL, tmp_path / "back"))
    assert not (tmp_path / "back").exists()


@pytest.fixture
def extended(tmp_path):
    parts = [(keys, make_plan(keys, 2)) for keys in (KEYS[:5], KEYS[5:6], KEYS[6:])]
    build_all(tmp_path / "extended", *parts)
    return tmp_path / "extended"


@pytest.mark.law
@pytest.mark.parametrize("stop", range(0, 18, 3))
def test_a_cache_travels_with_its_generations_and_its_root_last(
    extended, flaky, tmp_path, monkeypatch, stop: int
) -> None:
    left, write = iter(range(stop)), flaky.pipe_file

    def cut(self, path: str, value: bytes, **_: object) -> None:
        if next(left, None) is None:
            raise PermissionError("the connection was closed")
        write(self, path, value)

    with monkeypatch.context() as patch:
        patch.setattr(flaky, "pipe_file", cut)
        with pytest.raises(StorageError):
            list(push(extended, URL))
    assert "manifest.json" not in there()
    told = list(push(extended, URL))
    assert there() == snapshot(extended)
    total = sum(path.stat().st_size for path in extended.rglob("*.safetensors"))
    assert told[-1] == Progress(total, total, "bytes") or "complete already" in str(told[-1])
    flaky.faults[:] = [intact] * (stop // 2) + [lost] * 4
    with pytest.raises(StorageError):
        list(pull(URL, tmp_path / "back"))
    assert not (tmp_path / "back" / "manifest.json").exists()
    flaky.faults.clear()
    list(pull(URL, tmp_path / "back"))
    assert snapshot(tmp_path / "back") == snapshot(extended)


@pytest.mark.law
@pytest.mark.usefixtures("flaky")
def test_what_was_added_to_a_cache_follows_it(extended, tmp_path) -> None:
    shutil.copytree(extended, tmp_path / "later")
    shutil.rmtree(extended / "generations")
    list(push(extended, URL))
    list(pull(URL, tmp_path / "back"))
    told = list(push(tmp_path / "later", URL))
    assert told[0] == Note(f"Going on: 3 of 7 shards are at {URL}.")
    assert there() == snapshot(tmp_path / "later")
    list(pull(URL, tmp_path / "back"))
    assert snapshot(tmp_path / "back") == snapshot(tmp_path / "later")
