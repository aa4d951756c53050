import hashlib
import importlib.util
import os

import pytest

from ldkit.cache import remote
from ldkit.cache.receipts import Receipt, RowCounts
from ldkit.cache.remote import Remote, difference, is_url
from ldkit.errors import CacheCorrupt, StorageError, UsageError
from ldkit.structures import ViewKey
from tests.cache.flaky import changed, flaky, lost, truncated

__all__ = ["flaky"]

CONTENT = bytes(range(200))


def receipt_of(content: bytes) -> Receipt:
    return Receipt(
        plan="ab" * 32,
        shard=0,
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        views=1,
        rows=RowCounts(main=1),
        locations=4,
        first_key=ViewKey(1, 0),
        last_key=ViewKey(1, 0),
    )


@pytest.mark.contract
def test_urls_are_told_from_paths() -> None:
    assert all(map(is_url, ["s3://bucket/name", "memory://a", "zip://x::s3://b/c.zip"]))
    assert not any(map(is_url, ["caches/r101", "/caches", "C:\\caches", "s3:/bucket", "."]))


@pytest.mark.law
@pytest.mark.parametrize("scheme", ["memory", "file"])
@pytest.mark.usefixtures("flaky")
def test_what_is_written_is_found_again(scheme: str, tmp_path) -> None:
    place = Remote(f"{scheme}://{tmp_path}/new/cache/")
    assert place.find("shards/1") is None
    assert place.sizes("shards") == {}
    place.write("shards/1", CONTENT)
    place.write("shards/2", b"two")
    place.write("plan.json", b"plan")
    assert place.find("shards/1") == CONTENT
    assert place.sizes("shards") == {"1": 200, "2": 3}
    names = ["shards/1", "shards/2", "shards/3"]
    assert place.find_many(names) == {"shards/1": CONTENT, "shards/2": b"two"}
    assert place.find_many([]) == {}
    place.remove("shards/1")
    assert place.sizes("shards") == {"2": 3}


@pytest.mark.law
@pytest.mark.parametrize("faults", [[lost], [lost, lost, lost], [truncated], [changed, lost]])
def test_failures_that_pass_are_overcome(faults, flaky) -> None:
    place = Remote("flaky://cache")
    place.write("shard", CONTENT)
    flaky.faults[:] = faults
    assert place.proved("shard", receipt_of(CONTENT)) == CONTENT
    assert len(flaky.read) == len(faults) + 1


@pytest.mark.contract
def test_a_place_out_of_reach_is_told_with_the_reason(flaky) -> None:
    place = Remote("flaky://cache")
    place.write("shard", CONTENT)
    flaky.faults[:] = [lost] * 9
    with pytest.raises(StorageError) as caught:
        place.find("shard")
    assert caught.value.where == "flaky://cache/shard"
    assert caught.value.message == "could not be read: ConnectionResetError: connection lost."
    assert "the same command again: it goes on where it stopped" in caught.value.hint
    assert len(flaky.read) == 4


@pytest.mark.contract
def test_a_refusal_is_told_at_once(flaky) -> None:
    def refuse(_path: str, _content: bytes) -> bytes:
        raise PermissionError("403")

    place = Remote("flaky://cache")
    place.write("shard", CONTENT)
    flaky.faults[:] = [refuse] * 9
    with pytest.raises(StorageError, match="could not be read: PermissionError: 403"):
        place.find("shard")
    assert len(flaky.read) == 1


@pytest.mark.contract
@pytest.mark.usefixtures("flaky")
def test_other_bytes_are_never_taken_for_the_right_ones() -> None:
    place, receipt = Remote("flaky://cache"), receipt_of(CONTENT)
    with pytest.raises(CacheCorrupt, match="flaky://cache/shard: is missing"):
        place.proved("shard", receipt)
    place.write("shard", CONTENT[:-1])
    with pytest.raises(CacheCorrupt, match="has 199 bytes; its receipt says 200"):
        place.proved("shard", receipt)
    place.write("shard", changed("", CONTENT))
    with pytest.raises(CacheCorrupt, match=f"expected sha256 {receipt.sha256}") as caught:
        place.proved("shard", receipt)
    assert "Push the cache again" in caught.value.hint
    assert difference(CONTENT, receipt) == ""


@pytest.mark.contract
def test_no_more_is_read_than_may_be_there(tmp_path) -> None:
    place = Remote(f"file://{tmp_path}")
    place.write("shard", CONTENT)
    os.truncate(tmp_path / "shard", 1 << 40)
    assert place.find("shard", 300) == CONTENT + bytes(101)
    with pytest.raises(CacheCorrupt, match="shard: has more than the 200 bytes that its receipt"):
        place.proved("shard", receipt_of(CONTENT))


@pytest.mark.contract
def test_an_empty_file_is_found_where_a_server_has_no_part_of_it(flaky) -> None:
    place = Remote("flaky://cache")
    place.write("plan.json", b"")
    flaky.faults[:] = [lost]
    assert place.find("plan.json") == b""


@pytest.mark.contract
@pytest.mark.parametrize(
    ("url", "package"), [("s3://bucket/r101", "s3fs"), ("gs://bucket/r101", "gcsfs")]
)
def test_a_package_that_is_absent_is_named(url: str, package: str) -> None:
    if importlib.util.find_spec(package) is not None:
        pytest.skip(f"{package} is installed")
    with pytest.raises(UsageError, match=f"{url}: needs a package") as caught:
        Remote(url).find("plan.json")
    assert caught.value.hint == f"Run `pip install {package}`, then the same command again."


@pytest.mark.contract
def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot be used: Protocol not known: ftpp") as caught:
        Remote("ftpp://host/r101").find("plan.json")
    assert "s3://BUCKET/NAME" in caught.value.hint


@pytest.mark.contract
def test_attempts_are_some_seconds_apart() -> None:
    assert remote.PAUSES_SECONDS == (0.5, 2.0, 8.0)
