"""`ldkit cache push` and `ldkit cache pull`: a sealed cache to a URL, and back.

Both send what is missing, shard by shard and each with its receipt, and the manifest last: what was
interrupted is a cache that is not sealed, and the same command goes on with it.
"""

from collections.abc import Generator, Sequence
from pathlib import Path

from ldkit.cache.folder import CacheFolder, file_size, read_document, read_file, read_receipts
from ldkit.cache.format import Plan
from ldkit.cache.reader import CacheReader
from ldkit.cache.receipts import Manifest, Receipt
from ldkit.cache.remote import Remote, difference, is_url
from ldkit.cache.store import document_of, plan_of, sealed_manifest
from ldkit.errors import CacheCorrupt, CacheMismatch, UsageError
from ldkit.files import write_bytes
from ldkit.jobs.facts import Fact, Facts, plural, size
from ldkit.jobs.progress import Message, Note, Progress


def push(path: Path, url: str) -> Generator[Message, None, Facts]:
    """Yield progress; at the end the cache in a folder also stands at the URL.

    Raises:
        UsageError: That is no URL, or none that can be used.
        CacheIncomplete: The cache is not sealed.
        CacheCorrupt: A file of it is damaged; nothing damaged is sent.
        CacheMismatch: Another cache is at the URL.
        StorageError: A file cannot be read, or not be written there.
    """
    remote = _remote(url)
    cache, folder = CacheReader.open_(path), CacheFolder(path)
    plan, manifest = cache.plan, cache.manifest
    _refuse_other(remote, "plan.json", remote.find("plan.json"), plan)
    missing = _missing(remote, plan, manifest)
    if missing and remote.find("manifest.json") is not None:
        remote.remove("manifest.json")  # what is no longer whole must not look so
    yield from _told(f"{url} is complete already.", url, manifest, missing)
    done = manifest.bytes - sum(receipt.bytes for receipt in missing)
    for receipt in missing:
        file = folder.shard(receipt.shard)
        content = read_file(file)
        problem = difference(content, receipt)
        if problem:
            raise CacheCorrupt(problem, where=str(file), hint="Repair the cache before you push.")
        remote.write(f"shards/{file.name}", content)
        remote.write(f"shards/{folder.receipt(receipt.shard).name}", receipt.to_bytes())
        done += receipt.bytes
        yield Progress(done, manifest.bytes, "bytes")
    for name, document in (("plan.json", plan), ("manifest.json", manifest)):
        if remote.find(name) != document.to_bytes():
            remote.write(name, document.to_bytes())
    return _facts(url, manifest, missing)


def pull(url: str, path: Path) -> Generator[Message, None, Facts]:
    """Yield progress; at the end the cache at a URL also stands in the folder.

    Raises:
        UsageError: That is no URL, or none that can be used.
        CacheIncomplete: There is no sealed cache.
        CacheCorrupt: A file of it is not what was pushed; nothing of it is kept.
        CacheMismatch: The folder holds another cache.
        StorageError: The URL cannot be reached, or the folder not be written.
    """
    remote, folder = _remote(url), CacheFolder(path)
    manifest = sealed_manifest(remote)
    plan = plan_of(remote, manifest)
    _refuse_other_folder(folder, manifest)
    here = read_receipts(folder, plan)
    missing = [each for each in manifest.receipts if here.get(each.shard) != each]
    yield from _told(f"{path} is complete already.", str(path), manifest, missing)
    # As a build does, so that `ldkit cache-logits` can go on with it, too.
    write_bytes(folder.plan, plan.to_bytes())
    done = manifest.bytes - sum(receipt.bytes for receipt in missing)
    for receipt in missing:
        file = folder.shard(receipt.shard)
        write_bytes(file, remote.proved(f"shards/{file.name}", receipt))
        write_bytes(folder.receipt(receipt.shard), receipt.to_bytes())
        done += receipt.bytes
        yield Progress(done, manifest.bytes, "bytes")
    write_bytes(folder.manifest, manifest.to_bytes())
    return _facts(str(path), manifest, missing)


def _remote(url: str) -> Remote:
    if is_url(url):
        return Remote(url.rstrip("/"))
    raise UsageError(
        "is no URL.",
        where=url,
        hint="Name one such as s3://BUCKET/NAME. A folder on this machine is a URL, too: "
        "file:///FOLDER.",
    )


def _missing(remote: Remote, plan: Plan, manifest: Manifest) -> list[Receipt]:
    """Return the shards that the URL lacks: another receipt, or a file of another size.

    Raises:
        CacheMismatch: A receipt there is of another plan.
    """
    here = CacheFolder(Path())
    sizes = remote.sizes("shards")
    names = [here.receipt(receipt.shard).name for receipt in manifest.receipts]
    found = remote.find_many([f"shards/{name}" for name in names if name in sizes])
    missing = []
    for receipt, name in zip(manifest.receipts, names, strict=True):
        content = found.get(f"shards/{name}")
        size_there = sizes.get(here.shard(receipt.shard).name)
        if content != receipt.to_bytes() or size_there != receipt.bytes:
            _refuse_other(remote, f"shards/{name}", content, plan)
            missing.append(receipt)
    return missing


def _refuse_other(remote: Remote, name: str, content: bytes | None, plan: Plan) -> None:
    """Refuse a URL where a document, plan or receipt, is of another plan; a damaged one is not."""
    if content is None:
        return
    try:
        if name == "plan.json":
            found = document_of(remote, name, content, Plan).digest
        else:
            found = document_of(remote, name, content, Receipt).plan
    except CacheCorrupt:
        return
    if found != plan.digest:
        raise CacheMismatch(
            f"holds another cache.\n  plan there {found}\n  plan here  {plan.digest}",
            where=remote.url,
            hint="Push to another URL, or remove what is there.",
        )


def _refuse_other_folder(folder: CacheFolder, manifest: Manifest) -> None:
    """Refuse a folder with another plan, or with the same one sealed over other shards."""
    found = {
        name: read_document(file, kind).digest
        for name, file, kind in (
            ("plan", folder.plan, Plan),
            ("manifest", folder.manifest, Manifest),
        )
        if file_size(file) is not None
    }
    expected = {"plan": manifest.plan, "manifest": manifest.digest}
    for name, digest in found.items():
        if digest != expected[name]:
            raise CacheMismatch(
                f"holds another cache.\n  {name} here  {digest}\n  {name} there {expected[name]}",
                where=str(folder.path),
                hint="Pull to another folder.",
            )


def _told(
    complete: str, place: str, manifest: Manifest, missing: Sequence[Receipt]
) -> Generator[Message, None, None]:
    count = len(manifest.receipts)
    if not missing:
        yield Note(complete)
    elif len(missing) < count:
        yield Note(f"Going on: {count - len(missing)} of {count} shards are at {place}.")


def _facts(place: str, manifest: Manifest, sent: Sequence[Receipt]) -> Facts:
    sent_bytes = sum(receipt.bytes for receipt in sent)
    return {
        "cache": place,
        "fingerprint": manifest.digest,
        "size": Fact(
            f"{size(manifest.bytes)} in {plural(len(manifest.receipts), 'shard')}",
            {"bytes": manifest.bytes, "shards": len(manifest.receipts)},
        ),
        "sent": Fact(
            f"{size(sent_bytes)} in {plural(len(sent), 'shard')}",
            {"bytes": sent_bytes, "shards": len(sent)},
        ),
    }
