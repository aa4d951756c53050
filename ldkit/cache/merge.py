"""Putting sealed caches of other views together: each becomes a generation of one cache.

No row is written anew. Shards are proved, then linked or copied; the manifest of the root comes
last, so that what was interrupted is not sealed, and goes on when it is asked again.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from ldkit.cache.compare import require_kin
from ldkit.cache.content import name_of
from ldkit.cache.folder import CacheFolder, file_size, is_complete, read_document
from ldkit.cache.format import Plan
from ldkit.cache.generations import Generation, fingerprint, read_generations, stored_keys
from ldkit.cache.verify import check_bytes
from ldkit.errors import CacheMismatch, UsageError
from ldkit.files import abandoned, replacing, write_bytes
from ldkit.structures import ViewKey


def read_parts(paths: Sequence[Path]) -> tuple[Generation, ...]:
    """Return all generations of some caches, in the order in which they will stand.

    Raises:
        CacheError: One is not sealed or damaged, or they cannot stand in one cache.
        UsageError: There are fewer than two.
    """
    if len({path.resolve() for path in paths}) < 2:
        raise UsageError(
            "merging takes two caches or more.",
            where=", ".join(map(str, paths)),
            hint="Name their folders: `ldkit cache merge A B --out C`.",
        )
    caches = [read_generations(path) for path in paths]
    owner: dict[ViewKey, Path] = {}
    data: dict[int, str] = {}
    for path, cache in zip(paths, caches, strict=True):
        keys = {ViewKey(*key) for part in cache for key in stored_keys(part).tolist()}
        shared = sorted(keys & owner.keys())
        if shared:
            raise _overlapping(path, owner[shared[0]], shared, len(keys))
        # The parts of one cache were proved to agree on the boxes of the images they share.
        source = cache[-1].plan.sources.data.fingerprint
        for key in sorted(keys):
            if data.setdefault(key.image_id, source) != source:
                raise _other_boxes(path, key)
        owner |= dict.fromkeys(keys, path)
    parts = tuple(part for cache in caches for part in cache)
    for part in parts[1:]:
        require_kin(parts[0].plan, part.plan, part.folder.path)
    return parts


def merge(parts: Sequence[Generation], out: Path) -> Iterator[int]:
    """Yield the bytes that are done; write these generations as one cache.

    Raises:
        CacheMismatch: The folder holds another cache.
        CacheCorrupt: A shard is not what its receipt says.
        StorageError: The folder cannot be written.
    """
    root = CacheFolder(out)
    if file_size(root.manifest) is not None:
        _require(fingerprint(read_generations(out)) == fingerprint(parts), root)
    targets = [root, *(root.generation(number) for number in range(1, len(parts)))]
    for part, target in zip(parts, targets, strict=True):
        if file_size(target.plan) is not None:
            _require(read_document(target.plan, Plan) == part.plan, root)
    done = 0
    for part, target in reversed(list(zip(parts, targets, strict=True))):
        write_bytes(target.plan, part.plan.to_bytes())
        for receipt in part.manifest.receipts:
            number = receipt.shard
            if not is_complete(target, part.plan, number):
                check_bytes(part, number)
                _link(part.folder.shard(number), target.shard(number))
                write_bytes(target.receipt(number), receipt.to_bytes())
            done += receipt.bytes
            yield done
        for stale in (*abandoned(target.path), *abandoned(target.shards)):
            stale.unlink(missing_ok=True)
        write_bytes(target.manifest, part.manifest.to_bytes())


def _link(source: Path, target: Path) -> None:
    """Let a file stand at a second place, without a second copy where the disk can do that."""
    with replacing(target) as temporary:
        try:
            os.link(source.resolve(), temporary)
        except OSError:  # another disk, or a file system without links
            shutil.copyfile(source, temporary)


def _require(is_same: bool, folder: CacheFolder) -> None:
    """Refuse a folder that was begun for something else."""
    if not is_same:
        raise CacheMismatch(
            "holds another cache.",
            where=str(folder.path),
            hint="Name a folder that does not exist yet (`--out caches/NAME`).",
        )


def _overlapping(path: Path, other: Path, shared: Sequence[ViewKey], count: int) -> CacheMismatch:
    return CacheMismatch(
        f"has {len(shared):,} of its {count:,} views in common with {other}, such as "
        f"{name_of(shared[0])}.",
        where=str(path),
        hint="Caches can be merged where each holds other views. Add to one of them what it lacks "
        "(`ldkit cache-logits RECIPE --extend`), or build a new cache.",
    )


def _other_boxes(path: Path, key: ViewKey) -> CacheMismatch:
    return CacheMismatch(
        f"shows image {key.image_id} as another cache does, but was built from another data set: "
        "its boxes may differ.",
        where=str(path),
        hint="Add to one of the caches what it lacks (`ldkit cache-logits RECIPE --extend`), which "
        "compares boxes.",
    )
