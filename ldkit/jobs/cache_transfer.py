"""`ldkit cache push` and `ldkit cache pull`: a sealed cache to a URL, and back.

Both send what is missing, shard by shard and each with its receipt, and the manifest last: what was
interrupted is a cache that is not sealed, and the same command goes on with it. The generations of
a cache come before its root, so that it is there as a whole or not at all.
"""

from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ldkit.cache.folder import CacheFolder, file_size, read_document, read_file, read_receipts
from ldkit.cache.format import Plan
from ldkit.cache.generations import Generation, fingerprint, read_generations
from ldkit.cache.receipts import Manifest, Receipt
from ldkit.cache.remote import Remote, difference, is_url, size_difference
from ldkit.cache.remote_cache import document_of, read_remote
from ldkit.errors import CacheCorrupt, CacheMismatch, UsageError
from ldkit.files import abandoned, write_bytes
from ldkit.jobs.facts import Fact, Facts, plural, size
from ldkit.jobs.progress import Message, Note, Progress


class _Transfer(NamedTuple):
    """A generation, where it goes to, and which of its shards are not there yet."""

    source: Generation
    target: CacheFolder
    missing: tuple[Receipt, ...]


def push(path: Path, url: str) -> Generator[Message, None, Facts]:
    """Yield progress; at the end the cache in a folder also stands at the URL.

    Raises:
        UsageError: That is no URL, or none that can be used.
        CacheIncomplete: The cache is not sealed.
        CacheCorrupt: A file of it is damaged; nothing damaged is sent.
        CacheMismatch: Another cache is at the URL.
        StorageError: A file cannot be read, or not be written there.
    """
    remote, generations = _remote(url), read_generations(path)
    transfers = []
    for source in generations:
        target = CacheFolder(source.folder.path.relative_to(path))
        transfers.append(_Transfer(source, target, tuple(_lacking(remote, source, target))))
    yield from _told(url, transfers)
    done = _bytes_there(transfers)
    for transfer in (*transfers[1:], transfers[0]):
        for receipt in _pushed(remote, transfer):
            done += receipt.bytes
            yield Progress(done, _all_bytes(transfers), "bytes")
    return _facts(url, generations, "sent", transfers)


def pull(url: str, path: Path) -> Generator[Message, None, Facts]:
    """Yield progress; at the end the cache at a URL also stands in the folder.

    Raises:
        UsageError: That is no URL, or none that can be used.
        CacheIncomplete: There is no sealed cache.
        CacheCorrupt: A file of it is not what was pushed; nothing of it is kept.
        CacheMismatch: The folder holds another cache.
        StorageError: The URL cannot be reached, or the folder not be written.
    """
    remote = _remote(url)
    generations = read_remote(remote)
    transfers = []
    for source in generations:
        target = CacheFolder(path / source.folder.path)
        _refuse_other_folder(target, source.manifest)
        here = read_receipts(target, source.plan)
        missing = [each for each in source.manifest.receipts if here.get(each.shard) != each]
        transfers.append(_Transfer(source, target, tuple(missing)))
    yield from _told(str(path), transfers)
    done = _bytes_there(transfers)
    for transfer in (*transfers[1:], transfers[0]):
        for receipt in _pulled(remote, transfer):
            done += receipt.bytes
            yield Progress(done, _all_bytes(transfers), "bytes")
    return _facts(str(path), generations, "received", transfers)


def _remote(url: str) -> Remote:
    if is_url(url):
        return Remote(url.rstrip("/"))
    raise UsageError(
        "is no URL.",
        where=url,
        hint="Name one such as s3://BUCKET/NAME. A folder on this machine is a URL, too: "
        "file:///FOLDER.",
    )


def _pushed(remote: Remote, transfer: _Transfer) -> Iterator[Receipt]:
    """Send what is missing of a generation; yield the receipt of each shard that has arrived."""
    source, target, missing = transfer
    if missing and remote.find(target.manifest.as_posix()) is not None:
        remote.remove(target.manifest.as_posix())  # what is no longer whole must not look so
    for receipt in missing:
        file = source.folder.shard(receipt.shard)
        remote.write(target.shard(receipt.shard).as_posix(), _intact(file, receipt))
        remote.write(target.receipt(receipt.shard).as_posix(), receipt.to_bytes())
        yield receipt
    for path, document in ((target.plan, source.plan), (target.manifest, source.manifest)):
        if remote.find(path.as_posix()) != document.to_bytes():
            remote.write(path.as_posix(), document.to_bytes())


def _intact(file: Path, receipt: Receipt) -> bytes:
    """Return the content of a shard, which is what its receipt says; another size is not read."""
    found = file_size(file)
    if found is None or found == receipt.bytes:
        content = read_file(file)
        problem = difference(content, receipt)
        if not problem:
            return content
    else:
        problem = size_difference(found, receipt)
    raise CacheCorrupt(problem, where=str(file), hint="Repair the cache before you push.")


def _pulled(remote: Remote, transfer: _Transfer) -> Iterator[Receipt]:
    """Fetch what is missing of a generation; yield the receipt of each shard that has arrived.

    The plan comes first, as in a build, so that `ldkit cache-logits` can go on with it, too.
    """
    source, target, missing = transfer
    write_bytes(target.plan, source.plan.to_bytes())
    for receipt in missing:
        content = remote.proved(source.folder.shard(receipt.shard).as_posix(), receipt)
        write_bytes(target.shard(receipt.shard), content)
        write_bytes(target.receipt(receipt.shard), receipt.to_bytes())
        yield receipt
    for stale in (*abandoned(target.path), *abandoned(target.shards)):
        stale.unlink(missing_ok=True)
    write_bytes(target.manifest, source.manifest.to_bytes())


def _lacking(remote: Remote, source: Generation, target: CacheFolder) -> Iterator[Receipt]:
    """Yield the shards that the URL lacks: another receipt, or a file of another size.

    Raises:
        CacheMismatch: The plan, or a receipt, there is of another plan.
    """
    plan, receipts = target.plan.as_posix(), source.manifest.receipts
    _refuse_other(remote, plan, remote.find(plan), source.plan)
    sizes = remote.sizes(target.shards.as_posix())
    names = [target.receipt(receipt.shard) for receipt in receipts]
    found = remote.find_many([name.as_posix() for name in names if name.name in sizes])
    for receipt, name in zip(receipts, names, strict=True):
        content = found.get(name.as_posix())
        size_there = sizes.get(target.shard(receipt.shard).name)
        if content != receipt.to_bytes() or size_there != receipt.bytes:
            _refuse_other(remote, name.as_posix(), content, source.plan)
            yield receipt


def _refuse_other(remote: Remote, name: str, content: bytes | None, plan: Plan) -> None:
    """Refuse a URL where a document, plan or receipt, is of another plan; a damaged one is not."""
    if content is None:
        return
    try:
        if name.endswith("plan.json"):
            found = document_of(remote, name, content, Plan).digest
        else:
            found = document_of(remote, name, content, Receipt).plan
    except CacheCorrupt:
        return
    if found != plan.digest:
        raise CacheMismatch(
            f"is of another cache.\n  plan there {found}\n  plan here  {plan.digest}",
            where=remote.where(name),
            hint="Push to another URL, or remove what is there.",
        )


def _refuse_other_folder(folder: CacheFolder, manifest: Manifest) -> None:
    """Refuse a folder with another plan, or with the same one sealed over other shards."""
    expected = {folder.plan: manifest.plan, folder.manifest: manifest.digest}
    for path, kind in ((folder.plan, Plan), (folder.manifest, Manifest)):
        if file_size(path) is None:
            continue
        found = read_document(path, kind).digest
        if found != expected[path]:
            raise CacheMismatch(
                f"is of another cache.\n  digest here  {found}\n  digest there {expected[path]}",
                where=str(path),
                hint="Pull to another folder.",
            )


def _told(place: str, transfers: Sequence[_Transfer]) -> Iterator[Message]:
    missing = sum(len(transfer.missing) for transfer in transfers)
    count = sum(len(transfer.source.manifest.receipts) for transfer in transfers)
    if not missing:
        yield Note(f"{place} is complete already.")
    elif missing < count:
        yield Note(f"Going on: {count - missing} of {count} shards are at {place}.")


def _all_bytes(transfers: Sequence[_Transfer]) -> int:
    return sum(transfer.source.manifest.bytes for transfer in transfers)


def _bytes_there(transfers: Sequence[_Transfer]) -> int:
    missing = sum(receipt.bytes for transfer in transfers for receipt in transfer.missing)
    return _all_bytes(transfers) - missing


def _facts(
    place: str, cache: Sequence[Generation], moved: str, transfers: Sequence[_Transfer]
) -> Facts:
    sizes = [receipt.bytes for part in cache for receipt in part.manifest.receipts]
    missing = [receipt.bytes for transfer in transfers for receipt in transfer.missing]
    return {
        "cache": place,
        "fingerprint": fingerprint(cache),
        "size": _size(sizes),
        moved: _size(missing),
    }


def _size(shards: Sequence[int]) -> Fact:
    value = {"bytes": sum(shards), "shards": len(shards)}
    return Fact(f"{size(sum(shards))} in {plural(len(shards), 'shard')}", value)
