"""The documents of a cache at a URL: those of its root, and of the generations that extend it."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

from ldkit.cache.document import Kind, from_bytes
from ldkit.cache.folder import DOCUMENT_LIMIT, CacheFolder
from ldkit.cache.format import Plan
from ldkit.cache.generations import Generation
from ldkit.cache.receipts import Manifest
from ldkit.cache.remote import Remote
from ldkit.errors import CacheCorrupt, CacheIncomplete


def read_remote(remote: Remote) -> tuple[Generation, ...]:
    """Return the root of a cache at a URL and its sealed generations; paths are relative to it.

    Raises:
        CacheIncomplete: There is no sealed cache.
        CacheCorrupt: A document is missing, or not what was written.
        CacheMismatch: One has another format version.
        StorageError: The URL cannot be reached.
    """
    root = _sealed(remote, CacheFolder(Path()))
    if root is None:
        raise CacheIncomplete(
            "holds no manifest.json: there is no cache, or its push is not finished.",
            where=remote.url,
            hint="Name the URL of a cache, or push one there with `ldkit cache push`.",
        )
    return root, *_generations(remote)


def document_of(remote: Remote, name: str, content: bytes | None, kind: type[Kind]) -> Kind:
    """Return the document in a file of the cache at a URL, given its content.

    Raises:
        CacheCorrupt: It is missing, or not what was written.
        CacheMismatch: It has another format version.
    """
    if content is None:
        raise remote.corrupt(name, "is missing.")
    if len(content) > DOCUMENT_LIMIT:
        message = f"is too large; no document has more than {DOCUMENT_LIMIT} bytes."
        raise remote.corrupt(name, message)
    try:
        return from_bytes(kind, content, remote.where(name))
    except CacheCorrupt as error:
        raise remote.corrupt(name, error.message) from error


def _generations(remote: Remote) -> Iterator[Generation]:
    """Yield the sealed generations, oldest first; where a server lists no files, up to a gap."""
    here = CacheFolder(Path())
    listed = sorted(
        int(name) for name in remote.sizes(here.generations.as_posix()) if name.isdecimal()
    )
    for number in listed or count(1):
        found = _sealed(remote, here.generation(number))
        if found is not None:
            yield found
        elif not listed:
            return


def _sealed(remote: Remote, folder: CacheFolder) -> Generation | None:
    name = folder.manifest.as_posix()
    content = remote.find(name)
    if content is None:
        return None
    manifest = document_of(remote, name, content, Manifest)
    name = folder.plan.as_posix()
    plan = document_of(remote, name, remote.find(name), Plan)
    if plan.digest != manifest.plan:
        raise remote.corrupt(name, "is not the plan of manifest.json.")
    if not manifest.lists(plan.shards):
        message = f"does not list the {plan.shards} shards of the plan."
        raise remote.corrupt(folder.manifest.as_posix(), message)
    return Generation(folder, plan, manifest)
