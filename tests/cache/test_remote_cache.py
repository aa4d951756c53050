import shutil

import pytest

from ldkit.cache import remote_cache
from ldkit.cache.generations import fingerprint, read_generations
from ldkit.cache.reader import CacheReader
from ldkit.cache.remote import Remote
from ldkit.cache.remote_cache import read_remote
from ldkit.cache.store import local, origin_of
from ldkit.errors import CacheCorrupt, CacheIncomplete
from tests.cache.flaky import flaky
from tests.cache.synthetic import make_batch, make_keys, make_plan
from tests.cache.test_generations import build_all

__all__ = ["flaky"]

KEYS = make_keys(6)
PARTS = [(keys, make_plan(keys, 2)) for keys in (KEYS[:5], KEYS[5:6], KEYS[6:])]


@pytest.fixture
def extended(tmp_path):
    build_all(tmp_path / "built", *PARTS)
    return tmp_path / "built"


@pytest.fixture
def remote(extended, tmp_path, monkeypatch, flaky):  # noqa: ARG001
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    for path in extended.rglob("*.*"):
        Remote("flaky://r101").write(str(path.relative_to(extended)), path.read_bytes())
    return Remote("flaky://r101")


def list_nothing(*_: object, **__: object) -> None:
    raise FileNotFoundError


@pytest.mark.law
@pytest.mark.parametrize("lists", [True, False])
def test_generations_are_found_where_files_are_listed_and_where_not(
    extended, remote, flaky, monkeypatch, lists: bool
) -> None:
    if not lists:
        monkeypatch.setattr(flaky, "ls", list_nothing)
    found, built = read_remote(remote), read_generations(extended)
    assert [part.folder.path.as_posix() for part in found] == [
        ".",
        "generations/001",
        "generations/002",
    ]
    assert [part.manifest for part in found] == [part.manifest for part in built]
    assert [part.plan for part in found] == [part.plan for part in built]


@pytest.mark.law
def test_generations_that_are_not_sealed_are_left_out(remote) -> None:
    remote.remove("generations/001/manifest.json")
    assert [part.plan for part in read_remote(remote)] == [PARTS[0][1], PARTS[2][1]]
    remote.remove("manifest.json")
    with pytest.raises(CacheIncomplete, match="flaky://r101: holds no manifest"):
        read_remote(remote)


@pytest.mark.contract
def test_damage_is_told_with_the_document(remote) -> None:
    remote.write("generations/002/plan.json", PARTS[1][1].to_bytes())
    with pytest.raises(CacheCorrupt, match=r"r101/generations/002/plan\.json: is not the plan"):
        read_remote(remote)
    remote.write("generations/002/plan.json", b"{}")
    with pytest.raises(CacheCorrupt, match=r"002/plan\.json: does not begin with a digest"):
        read_remote(remote)
    remote.remove("generations/002/plan.json")
    with pytest.raises(CacheCorrupt, match=r"002/plan\.json: is missing") as caught:
        read_remote(remote)
    assert "Push the cache again" in caught.value.hint


@pytest.mark.contract
def test_a_document_that_is_too_large_is_refused(remote, monkeypatch) -> None:
    monkeypatch.setattr(remote_cache, "DOCUMENT_LIMIT", 10)
    with pytest.raises(CacheCorrupt, match="is too large; no document has more than 10 bytes"):
        read_remote(remote)


@pytest.mark.contract
@pytest.mark.parametrize("pick", [slice(-1), slice(None, None, -1), slice(0)])
def test_a_manifest_lists_the_shards_of_its_plan(remote, pick: slice) -> None:
    manifest = read_remote(remote)[0].manifest
    for receipts in (manifest.receipts[pick], (*manifest.receipts, *manifest.receipts[pick])):
        if receipts == manifest.receipts:
            continue
        changed = manifest.model_copy(update={"receipts": receipts})
        remote.write("manifest.json", changed.to_bytes())
        told = r"r101/manifest\.json: does not list the \d+ shards of the plan"
        with pytest.raises(CacheCorrupt, match=told):
            read_remote(remote)


@pytest.mark.law
def test_a_mirror_answers_for_all_generations(extended, remote) -> None:
    mirror = local(remote.url)
    assert mirror.name == fingerprint(read_generations(extended))[:16]
    assert origin_of(mirror) == "flaky://r101"
    assert origin_of(mirror / "generations" / "002") == "flaky://r101/generations/002"
    reader, built = CacheReader.open_(mirror), CacheReader.open_(extended)
    assert reader.fingerprint == built.fingerprint
    reader.require_keys(KEYS)
    assert repr(reader.lookup(make_batch(KEYS))) == repr(built.lookup(make_batch(KEYS)))
    shards = [path.relative_to(extended) for path in extended.rglob("*.safetensors")]
    assert all((mirror / shard).is_file() for shard in shards)


@pytest.mark.law
def test_a_cache_that_was_extended_has_another_mirror(extended, remote) -> None:
    before = local(remote.url)
    shutil.rmtree(extended / "generations" / "002")
    for path in ("manifest.json", "plan.json"):
        remote.remove(f"generations/002/{path}")
    after = local(remote.url)
    assert after != before
    assert CacheReader.open_(after).fingerprint == CacheReader.open_(extended).fingerprint
