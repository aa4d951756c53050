"""Caches that were damaged or forged: each is caught at a named level, and nothing is half-read."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ldkit import files
from ldkit.cache.folder import CacheFolder
from ldkit.cache.generations import stored_keys
from ldkit.cache.info import info
from ldkit.cache.reader import CacheReader
from ldkit.cache.store import Store
from ldkit.cache.verify import read_sealed
from ldkit.errors import CacheCorrupt, CacheError, CacheIncomplete, CacheMismatch, StorageError
from tests.cache import forgery
from tests.cache.conftest import KEYS, PLAN
from tests.cache.forgery import Fields
from tests.cache.limits import little_memory, soon
from tests.cache.synthetic import build, make_batch, make_plan
from tests.cache.test_verify import verify
from tests.cache.test_writer import snapshot

HUGE = 2**62


def read_all(path: Path) -> None:
    """Use every part of a cache that a student or a human uses."""
    info(path)
    reader = CacheReader.open_(path)
    for key in KEYS:
        reader.lookup(make_batch([key]))
    reader.lookup(make_batch(KEYS))


def refused(path: Path, message: str) -> None:
    """Check that reader and verifier refuse a cache soon, with a message, in little memory."""
    for use in (read_all, verify):
        with soon(), little_memory(), pytest.raises(CacheError, match=message) as caught:
            use(path)
        assert caught.value.where.startswith(str(path))
        assert caught.value.hint


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


Damage = Callable[[CacheFolder], object]

DAMAGES: dict[str, tuple[Damage, str]] = {
    "a flipped byte": (lambda f: flip(f.shard(1), -400), "is not what was written"),
    "a swapped shard": (lambda f: swap(f.shard(0), f.shard(1)), "has .* bytes; its receipt says"),
    "a truncated shard": (lambda f: cut(f.shard(2)), "has .* bytes; its receipt says"),
    "a missing shard": (lambda f: f.shard(0).unlink(), "is missing"),
    "a duplicated receipt": (lambda f: copy(f.receipt(0), f.receipt(1)), "is not the receipt"),
    "a missing receipt": (lambda f: f.receipt(1).unlink(), "is missing"),
    "an edited plan": (lambda f: flip(f.plan, -20), "is not what was written"),
    "an empty plan": (lambda f: f.plan.write_bytes(b""), "does not begin with a digest"),
    "a truncated manifest": (lambda f: cut(f.manifest), "is not what was written"),
}


def swap(one: Path, other: Path) -> None:
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


def copy(source: Path, to: Path) -> None:
    to.write_bytes(source.read_bytes())


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.contract
@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_refused_by_whoever_reads(name: str, cache: Path) -> None:
    damage, message = DAMAGES[name]
    damage(CacheFolder(cache))
    before = snapshot(cache)
    refused(cache, message)
    assert snapshot(cache) == before


@pytest.mark.contract
def test_a_foreign_manifest_is_refused(cache: Path, tmp_path: Path) -> None:
    build(tmp_path / "other", make_plan(KEYS, views_per_shard=4), KEYS)
    shutil.copy(tmp_path / "other" / "manifest.json", cache)
    refused(cache, "is not the plan of manifest.json")


@pytest.mark.contract
def test_a_stale_temporary_file_changes_nothing(cache: Path) -> None:
    for name in (".plan.json.77.tmp", "shards/.000001.safetensors.77.tmp"):
        (cache / name).write_bytes(b"half a fi")
    read_all(cache)
    assert verify(cache) == list(KEYS)


@pytest.mark.contract
@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"[" * 10**5, b"\xff"])
def test_a_copy_in_the_store_that_does_not_say_of_what_is_told(
    content: bytes, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent))
    store = Store.of_user().root
    store.mkdir(parents=True)
    cache = cache.rename(store / cache.name)
    (cache / "origin.json").write_bytes(content)
    for use in (read_all, verify):
        with pytest.raises(CacheCorrupt, match="does not say where this copy comes from"):
            use(cache)


@pytest.mark.contract
@pytest.mark.parametrize("forge", [{"dtype": "F8_E4M3"}, {"shape": [1]}, {"dtype": "BF16"}])
def test_keys_that_cannot_be_read_are_told(forge: Fields, cache: Path) -> None:
    generation = read_sealed(cache)[0]
    header(lambda entries: entries["view.index"].update(forge))(cache)
    with pytest.raises(CacheCorrupt, match=r"000001\.safetensors: cannot be read"):
        stored_keys(generation)


@pytest.mark.contract
def test_a_file_in_the_place_of_a_folder_is_told(cache: Path) -> None:
    shutil.rmtree(cache / "shards")
    (cache / "shards").write_bytes(b"x")
    for use in (read_all, verify):
        with pytest.raises(
            Exception, match=r"could not be read: Not a directory|is missing"
        ) as got:
            use(cache)
        assert type(got.value).__name__ in ("StorageError", "CacheCorrupt")


def header(change: Callable[[Fields], object]) -> Callable[[Path], None]:
    return lambda cache: forgery.forge_header(cache, 1, change)


def entry(name: str, **fields: Any) -> Callable[[Path], None]:
    return header(lambda entries: entries[name].update(fields))


def text(make: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Put other text in the place of a header."""

    def forge(cache: Path) -> None:
        content = CacheFolder(cache).shard(1).read_bytes()
        found = content[8 : forgery.tensors_from(content)]
        forgery.forge_content(cache, 1, forgery.with_header(content, make(found)))

    return forge


def length(stated: int) -> Callable[[Path], None]:
    def forge(cache: Path) -> None:
        content = CacheFolder(cache).shard(1).read_bytes()
        forgery.forge_content(cache, 1, stated.to_bytes(8, "little") + content[8:])

    return forge


def manifest(change: Callable[[Fields], object]) -> Callable[[Path], None]:
    return lambda cache: forgery.forge_manifest(cache, change)


def plan(change: Callable[[Fields], object]) -> Callable[[Path], None]:
    return lambda cache: forgery.forge_plan(cache, change)


def many_rows(cache: Path) -> None:
    """State absurd rows in receipt and header alike."""
    forgery.forge_manifest(cache, lambda m: m["receipts"][1]["rows"].update(main=HUGE))
    shape = [HUGE, 4, PLAN.axes.num_bins]
    entry("main.bbox_logits", shape=shape, data_offsets=[0, HUGE * 40])(cache)


OFFSETS = "takes .* bytes"
FORGERIES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a header of 2^60 bytes": (length(2**60), "states a header of 1152921504606846976 bytes"),
    "a header of 2^64 - 1 bytes": (length(2**64 - 1), "states a header of"),
    "a header beyond the limit": (length(2**20 + 1), "states a header of 1048577 bytes"),
    "no JSON": (text(lambda _: b"{]"), "has a header that is no JSON"),
    "no UTF-8": (text(lambda _: b'{"\xff": 1}'), "has a header that is no JSON"),
    "a list": (text(lambda _: b"[1, 2]"), "has a header that is no JSON object"),
    "deep nesting": (text(lambda _: b"[" * 10**5), "has a header that is no JSON"),
    "deep objects": (text(lambda _: b'{"a":' * 10**5 + b"1"), "has a header that is no JSON"),
    "a name twice": (
        text(lambda found: found.rstrip()[:-1] + b',"main.location":{}}'),
        "has a header that names something twice",
    ),
    "an endless number": (text(lambda _: b'{"a":' + b"9" * 9999 + b"}"), "that is no JSON"),
    "negative offsets": (entry("main.location", data_offsets=[-8, 0]), OFFSETS),
    "offsets backwards": (entry("main.location", data_offsets=[8, 0]), OFFSETS),
    "offsets beyond the file": (entry("main.location", data_offsets=[HUGE, HUGE + 2]), OFFSETS),
    "offsets of text": (entry("vlr.location", data_offsets=["0", "8"]), OFFSETS),
    "no offsets": (entry("vlr.location", data_offsets=None), OFFSETS),
    "overlapping columns": (
        header(lambda h: h["view.image_id"].update(h["view.pixels_crc32"])),
        "has columns that overlap or leave a gap",
    ),
    "bytes after the columns": (
        lambda cache: forgery.forge_content(
            cache, 1, CacheFolder(cache).shard(1).read_bytes() + bytes(8)
        ),
        "has .* bytes of columns; its header says",
    ),
    "a column too many": (
        header(lambda h: h.update({"../../x": h["view.flip"]})),
        "has a column that the plan does not have: '../../x'",
    ),
    "an entry that is no object": (header(lambda h: h.update({"view.flip": 7})), "has view.flip"),
    "absurd rows": (many_rows, "has main.location as .*; the plan says|states other rows"),
    "absurd views": (
        manifest(lambda m: m["receipts"][1].update(views=HUGE)),
        "has view.image_id as .*; the plan says|states other views",
    ),
    "absurd bytes": (
        manifest(lambda m: m["receipts"][1].update(bytes=HUGE)),
        "bytes; its receipt says 4611686018427387904|states other bytes",
    ),
    "absurd keys": (plan(lambda p: p["keys"].update(count=HUGE)), "does not list the .* shards"),
    "absurd shards": (
        plan(lambda p: p["build"].update(views_per_shard=HUGE)),
        "does not list the 1 shards",
    ),
    "absurd bins": (
        plan(lambda p: p["axes"].update(num_bins=HUGE)),
        "num_bins: Input should be less",
    ),
    "no views": (manifest(lambda m: m["receipts"][1].update(views=0)), "receipts.1.views"),
    "a shard elsewhere": (
        manifest(lambda m: m["receipts"][1].update(shard="../../../etc/x")),
        "receipts.1.shard: Input should be a valid integer",
    ),
    "a shard below zero": (manifest(lambda m: m["receipts"][1].update(shard=-1)), "receipts.1.sh"),
    "a shard twice": (manifest(lambda m: m["receipts"].insert(1, m["receipts"][0])), "not list"),
    "shards in another order": (manifest(lambda m: m["receipts"].reverse()), "does not list"),
    "a field too many": (manifest(lambda m: m.update(path="/etc/passwd")), "path: Extra inputs"),
    "an infinite anchor": (
        plan(lambda p: p["axes"].update(anchor_scale=float("inf"))),
        "anchor_scale",
    ),
}


@pytest.mark.contract
@pytest.mark.parametrize("name", FORGERIES)
def test_a_forger_who_signs_everything_anew_is_refused_all_the_same(name: str, cache: Path) -> None:
    forge, message = FORGERIES[name]
    forge(cache)
    refused(cache, message)


TEXTS = {
    "a name twice": lambda found: found.replace('"version":1', '"version":1,"version":1'),
    "spaces": lambda found: found.replace(":", ": ", 1),
    "deep nesting": lambda _: '"a":' + "[" * 10**5,
    "no JSON": lambda _: "]",
    "nothing": lambda _: "",
    "an endless number": lambda _: '"version":' + "9" * 9999 + "}",
    "half a surrogate": lambda found: found.replace('"ldkit":"', '"ldkit":"\\ud800'),
}


@pytest.mark.contract
@pytest.mark.parametrize("name", TEXTS)
def test_a_document_in_another_form_is_refused_although_its_digest_agrees(name, cache) -> None:
    for path in (CacheFolder(cache).plan, CacheFolder(cache).manifest):
        content = path.read_bytes()
        found = content.split(b"\n", 1)[1].decode().rstrip("\n")
        path.write_bytes(forgery.signed_text(TEXTS[name](found)))
        if path.read_bytes() != content:
            refused(cache, "not in canonical form|does not have the fields")
        path.write_bytes(content)


@pytest.mark.contract
@pytest.mark.parametrize("name", ["plan.json", "manifest.json", "shards/000001.json"])
def test_a_document_without_end_is_not_read_to_its_end(name: str, cache: Path) -> None:
    with (cache / name).open("r+b") as file:
        file.truncate(1 << 40)  # a hole: it takes no room
    with little_memory(800 << 20), pytest.raises(CacheCorrupt, match="no document has more than"):
        CacheReader.open_(cache)


@pytest.mark.contract
def test_an_unsealed_plan_of_any_size_is_told_at_once(cache: Path) -> None:
    forgery.forge_plan(cache, lambda fields: fields["keys"].update(count=HUGE))
    CacheFolder(cache).manifest.unlink()
    with little_memory(), pytest.raises(CacheIncomplete, match="3 of 1152921504606846976 shards"):
        CacheReader.open_(cache)
    assert info(cache).shards == 3


@pytest.mark.contract
def test_names_of_files_come_from_numbers_alone(cache: Path) -> None:
    folder = CacheFolder(cache)
    for number in (0, 999_999, 10**6, 10**30):
        for path in (folder.shard(number), folder.receipt(number)):
            assert path.parent == cache / "shards"
            assert path.stem.isdecimal()
            assert int(path.stem) == number


@pytest.mark.contract
def test_a_cache_of_another_version_names_both(cache: Path) -> None:
    forgery.forge_plan(cache, lambda fields: fields.update(version=2))
    with pytest.raises(CacheMismatch, match="format version 2; this ldkit reads version 1"):
        CacheReader.open_(cache)


def failure_of_a_build(cache: Path) -> StorageError | None:
    try:
        build(cache, PLAN, KEYS)
    except StorageError as error:
        return error
    return None


@pytest.mark.law
def test_a_disk_that_fills_up_at_any_write_loses_nothing(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_sync", lambda _: None)  # no test waits for the disk
    for room in range(100):
        left = iter(range(room))

        def full(_: Path, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        cache = tmp_path / f"room_for_{room}"
        with monkeypatch.context() as patch:
            patch.setattr(files, "_sync", full)
            error = failure_of_a_build(cache)
        if error is None:
            break
        assert error.message == "could not be written: No space left on device."
        assert error.where.startswith(str(cache))
        assert "it goes on where it stopped" in error.hint
        assert snapshot(cache).items() <= snapshot(whole).items()
        build(cache, PLAN, KEYS)
        assert snapshot(cache) == snapshot(whole)
        assert verify(cache) == list(KEYS)
    assert room >= 16


@pytest.mark.contract
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_told_and_left_as_it_is(cache: Path) -> None:
    folder = CacheFolder(cache)
    folder.manifest.unlink()
    folder.shard(1).unlink()
    before = snapshot(cache)
    folder.shards.chmod(0o500)
    try:
        with pytest.raises(StorageError, match=r"could not be (written|removed): Permission"):
            build(cache, PLAN, KEYS)
    finally:
        folder.shards.chmod(0o700)
    assert snapshot(cache) == before


@pytest.mark.contract
def test_a_file_where_shards_are_to_be_written_is_told_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "shards").write_bytes(b"mine")
    with pytest.raises(StorageError, match=r"could not be removed: Not a dir|is a file"):
        build(tmp_path, PLAN, KEYS)
    assert (tmp_path / "shards").read_bytes() == b"mine"
