"""Proving a sealed cache, level by level, without believing a single byte of it.

Level 1, structure: documents, receipts, keys, columns and rows are those of the plan. Level 2,
bytes: every shard has the sha256 of its receipt. What needs the data set or the teacher (pixels,
teacher) is `ldkit.jobs.cache_verify`.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ldkit.cache.document import REBUILD
from ldkit.cache.folder import CacheFolder, read_document, unreadable
from ldkit.cache.format import Plan
from ldkit.cache.generations import Generation, read_generations
from ldkit.cache.header import HeaderError, read_header
from ldkit.cache.receipts import Receipt, RowCounts
from ldkit.cache.shard import corrupt_shard, entries
from ldkit.cache.store import hold, lock_of
from ldkit.cache.verify_shard import GroupCheck, Table, read_views, rises
from ldkit.errors import CacheCorrupt
from ldkit.files import canonical_json
from ldkit.structures import ViewKey


def read_sealed(path: Path) -> tuple[Generation, ...]:
    """Return the documents of a cache: each intact, and none contradicting another.

    Raises:
        CacheIncomplete: The cache is not sealed.
        CacheCorrupt: A document is missing, damaged, or says something else than another.
        CacheMismatch: It has another format version, or parts of several teachers.
    """
    generations = read_generations(path)
    for generation in generations:
        _check_totals(generation)
    return generations


def _check_totals(sealed: Generation) -> None:
    receipts, manifest = sealed.manifest.receipts, sealed.manifest
    sums = {
        "bytes": sum(receipt.bytes for receipt in receipts),
        "views": sum(receipt.views for receipt in receipts),
        "rows": RowCounts.sum(receipt.rows for receipt in receipts),
    }
    for name, total in sums.items():
        if getattr(manifest, name) != total:
            raise CacheCorrupt(
                f"states other {name} than its receipts have together.",
                where=str(sealed.folder.manifest),
                hint=REBUILD,
            )
    if manifest.views != sealed.plan.keys.count:
        raise CacheCorrupt(
            f"has {manifest.views} views; plan.json says {sealed.plan.keys.count}.",
            where=str(sealed.folder.manifest),
            hint=REBUILD,
        )


def leftovers(generations: Sequence[Generation]) -> list[Path]:
    """Return the files below a cache that no reader looks at: of killed builds, or foreign."""
    root = generations[0].folder
    known = set()
    for generation in generations:
        folder = generation.folder
        known |= {folder.path / "origin.json", folder.plan, folder.manifest}
        for number in range(generation.plan.shards):
            shard = folder.shard(number)
            known |= {shard, lock_of(shard), folder.receipt(number)}
    return sorted(path for path in root.path.rglob("*") if path.is_file() and path not in known)


class Structure:
    """Level 1, shard by shard in their order."""

    def __init__(self, sealed: Generation) -> None:
        self.sealed = sealed
        self._keys: list[NDArray[np.int64]] = []

    def check(self, number: int) -> None:
        """Check the structure of the next shard.

        Raises:
            CacheCorrupt: It is missing, or not what plan and receipt say.
            StorageError: It cannot be read.
        """
        folder, plan = self.sealed.folder, self.sealed.plan
        receipt = self.sealed.manifest.receipts[number]
        _check_receipt(folder, receipt, plan)
        try:
            self._keys.append(self._check_file(folder.shard(number), receipt))
        except HeaderError as error:
            raise corrupt_shard(folder, number, str(error)) from error
        except FileNotFoundError as error:
            raise corrupt_shard(folder, number, "is missing.") from error
        except OSError as error:
            raise unreadable(folder.shard(number), error) from error

    def keys(self) -> list[ViewKey]:
        """Return all keys, after all shards were found to be right.

        Raises:
            CacheCorrupt: They are not the keys of the plan.
        """
        keys, expected = np.concatenate(self._keys), self.sealed.plan.keys.digest
        found = hashlib.sha256(keys.astype("<i8").tobytes()).hexdigest()
        if found == expected and rises(keys).all():
            return [ViewKey(*key) for key in keys.tolist()]
        raise CacheCorrupt(
            "has shards whose keys are not those of the plan.\n"
            f"  expected sha256 {expected}\n  found           {found}",
            where=str(self.sealed.folder.path),
            hint="It was put together from several caches. Build it again (`ldkit cache-logits` "
            "with the same recipe and teacher and another `--out`).",
        )

    def _check_file(self, path: Path, receipt: Receipt) -> NDArray[np.int64]:
        plan, folder = self.sealed.plan, self.sealed.folder
        with os.fdopen(hold(path), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size != receipt.bytes:
                message = f"has {size} bytes; its receipt says {receipt.bytes}."
                raise corrupt_shard(folder, receipt.shard, message)
            header = read_header(file, size, entries(receipt, plan))
            identity = {"plan": plan.digest, "shard": receipt.shard, "version": plan.version}
            if header.identity != canonical_json(identity):
                message = "calls itself another shard, or one of another cache."
                raise corrupt_shard(folder, receipt.shard, message)
            table = Table(file, dict(header.starts))
            views, fault = read_views(table, receipt, plan)
            scored = None
            for group in plan.groups:
                if fault is not None:
                    break
                check = GroupCheck(table, group, views, plan)
                fault = check.fault(receipt.rows.by_group[group.name], scored)
                scored = check.offsets if group.name == "score" else None
            if fault is not None:
                raise corrupt_shard(folder, receipt.shard, fault)
            return views.keys


def _check_receipt(folder: CacheFolder, receipt: Receipt, plan: Plan) -> None:
    path, planned = folder.receipt(receipt.shard), len(plan.views_of(receipt.shard))
    beside = read_document(path, Receipt)
    if beside != receipt:
        raise CacheCorrupt(
            f"is not the receipt of shard {receipt.shard} that manifest.json has.",
            where=str(path),
            hint=REBUILD,
        )
    if receipt.views != planned:
        message = f"has {receipt.views} views; the plan says {planned}."
        raise corrupt_shard(folder, receipt.shard, message)


def check_bytes(sealed: Generation, number: int) -> int:
    """Return the bytes of a shard after checking that they have the sha256 of its receipt.

    Raises:
        CacheCorrupt: They have not, or the shard is missing.
        StorageError: It cannot be read.
    """
    receipt, path = sealed.manifest.receipts[number], sealed.folder.shard(number)
    try:
        with os.fdopen(hold(path), "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise corrupt_shard(sealed.folder, number, "is missing.") from error
    except OSError as error:
        raise unreadable(path, error) from error
    if found != receipt.sha256:
        raise corrupt_shard(
            sealed.folder,
            number,
            f"is not what was written.\n  expected sha256 {receipt.sha256}\n"
            f"  found           {found}",
        )
    return receipt.bytes
