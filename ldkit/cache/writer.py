"""Building a cache: the plan first, then shard by shard, the manifest last.

A shard exists exactly when its receipt does, and a cache is whole exactly when its manifest is
there. So a build that was killed goes on with `missing_shards`, and ends in the same bytes.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from safetensors.numpy import save

from ldkit.cache.compare import require_same_plan
from ldkit.cache.content import Arrays, ViewRows, columns_of, locations_of, name_of
from ldkit.cache.folder import CacheFolder, file_size, incomplete, read_document, read_receipts
from ldkit.cache.format import Plan, keys_digest
from ldkit.cache.receipts import Manifest, Receipt, RowCounts
from ldkit.errors import StorageError
from ldkit.files import abandoned, canonical_json, write_bytes, write_changed
from ldkit.structures import ViewKey


def begin(folder: Path, plan: Plan) -> Plan:
    """Return the plan to build by: the one that stands in the folder, or `plan`, written there.

    Facts such as file names may differ where the fingerprints agree; those on disk count.

    Raises:
        CacheMismatch: The folder was begun with another plan.
        CacheCorrupt: Its plan.json is damaged.
        StorageError: The folder cannot be written.
    """
    files = CacheFolder(folder)
    if file_size(files.plan) is None:
        write_bytes(files.plan, plan.to_bytes(), keep=True)  # another builder may be first
    begun = read_document(files.plan, Plan)
    require_same_plan(begun, plan, folder)
    return begun


def write_shard(folder: Path, number: int, content: Sequence[ViewRows], plan: Plan) -> Receipt:
    """Write the views of one shard, in key order, and then its receipt.

    A cache that was sealed is no longer, and an old receipt never vouches for new bytes.

    Raises:
        CacheError: A logit is not finite or does not fit its column.
        UsageError: A canvas has more locations than 16 bits can number.
        StorageError: The disk is full or the folder not writable; no receipt was written.
        ValueError: These are not the views or shapes of the plan.
    """
    return write_columns(folder, number, columns_of(content, plan), plan)


def write_columns(folder: Path, number: int, columns: Arrays, plan: Plan) -> Receipt:
    """Write one shard whose columns are encoded already, as `write_shard` does.

    Raises:
        StorageError: The disk is full or the folder not writable; no receipt was written.
        ValueError: These are not the views of the plan.
    """
    keys = [ViewKey(*key) for key in zip(*_whole(columns, "image_id", "index"), strict=True)]
    planned = len(plan.views_of(number))
    if len(keys) != planned:
        raise ValueError(f"shard {number} has {planned} views, not {len(keys)}.")
    keys_digest(keys)  # refuses keys that are out of order
    identity = {"plan": plan.digest, "shard": number, "version": plan.version}
    # A single metadata key: the order of several changes from one process to the next.
    written = save(columns, metadata={"ldkit-cache": canonical_json(identity)})
    receipt = Receipt(
        plan=plan.digest,
        shard=number,
        bytes=len(written),
        sha256=hashlib.sha256(written).hexdigest(),
        views=len(keys),
        rows=RowCounts(
            **{group.name: int(columns[group.offsets.name][-1]) for group in plan.groups}
        ),
        locations=sum(
            locations_of((height, width), plan.axes.strides, name_of(key))
            for key, (height, width) in zip(keys, columns["view.padded_hw"].tolist(), strict=True)
        ),
        first_key=keys[0],
        last_key=keys[-1],
    )
    files = CacheFolder(folder)
    _remove(files.manifest)
    _remove(files.receipt(number))
    write_bytes(files.shard(number), written)
    write_bytes(files.receipt(number), receipt.to_bytes())
    return receipt


def _whole(columns: Arrays, *names: str) -> list[list[int]]:
    return [columns[f"view.{name}"].tolist() for name in names]


def seal(folder: Path, plan: Plan, keys: Sequence[ViewKey]) -> Manifest:
    """Write the manifest over all receipts and return it; temporary files of killed builds go.

    Raises:
        CacheIncomplete: A shard is missing.
        StorageError: The manifest cannot be written.
        ValueError: These are not the keys of the plan.
    """
    if keys_digest(keys) != plan.keys.digest:
        raise ValueError("these are not the keys of the plan.")
    files = CacheFolder(folder)
    found = read_receipts(files, plan)
    if len(found) < plan.shards:
        raise incomplete(files)
    receipts = tuple(found[number] for number in range(plan.shards))
    for receipt in receipts:
        ours = plan.keys_of(receipt.shard, keys)
        if (receipt.first_key, receipt.last_key) != (ours[0], ours[-1]):
            raise ValueError(f"shard {receipt.shard} was written with other keys.")
    manifest = Manifest(
        version=1,
        plan=plan.digest,
        receipts=receipts,
        bytes=sum(receipt.bytes for receipt in receipts),
        views=sum(receipt.views for receipt in receipts),
        rows=RowCounts.sum(receipt.rows for receipt in receipts),
    )
    for stale in (*abandoned(folder), *abandoned(files.shards)):
        _remove(stale)
    write_changed(files.manifest, manifest.to_bytes())
    return manifest


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"could not be removed: {error.strerror or error}.",
            where=str(path),
            hint="Check the permissions of the folder, then run the same command again.",
        ) from error
