"""A cache and what extends it: the root and its generations, each a cache of the same format.

    CACHE/                    the root: plan.json, manifest.json, shards/
    CACHE/generations/001/    more images, views or groups: documents and shards of its own

What stands there is never written again. A generation counts once it is sealed.
"""

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from ldkit.cache.compare import differences, require_kin
from ldkit.cache.document import REBUILD
from ldkit.cache.folder import (
    DOCUMENT_LIMIT,
    CacheFolder,
    file_size,
    incomplete,
    open_file,
    read_document,
    read_file,
    unreadable,
)
from ldkit.cache.format import Plan
from ldkit.cache.receipts import Manifest
from ldkit.errors import CacheCorrupt

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Generation:
    """The documents of one sealed cache, all of which agree: a root, or what extends it."""

    folder: CacheFolder
    plan: Plan
    manifest: Manifest


def read_generations(path: Path) -> tuple[Generation, ...]:
    """Return the root of a cache and its sealed generations, oldest first.

    A generation that is not sealed is left out, which a warning tells.

    Raises:
        CacheIncomplete: The root is not sealed.
        CacheCorrupt: A document is missing, or not what was written.
        CacheMismatch: One has another format version, or a generation is of another teacher.
    """
    root = read_generation(CacheFolder(path))
    found = [root]
    for folder in generation_folders(path):
        if file_size(folder.manifest) is None:
            logger.warning("%s is not sealed yet, and left out.", folder.path)
            continue
        generation = read_generation(folder)
        require_kin(root.plan, generation.plan, folder.path)
        found.append(generation)
    return tuple(found)


def read_generation(folder: CacheFolder) -> Generation:
    """Return one sealed cache alone.

    Raises:
        CacheIncomplete: It is not sealed.
        CacheCorrupt: A document is missing, or not what was written.
        CacheMismatch: It has another format version.
    """
    if file_size(folder.manifest) is None:
        raise incomplete(folder)
    manifest = read_document(folder.manifest, Manifest)
    plan = read_document(folder.plan, Plan)
    _check_documents(folder, plan, manifest)
    return Generation(folder, plan, manifest)


def generation_folders(path: Path) -> list[CacheFolder]:
    """Return the folders of a cache's generations, sealed or not, oldest first.

    Raises:
        StorageError: They cannot be listed.
    """
    below = CacheFolder(path).generations
    try:
        numbers = sorted(int(each.name) for each in below.iterdir() if each.name.isdecimal())
        folders = [CacheFolder(path).generation(number) for number in dict.fromkeys(numbers)]
        return [folder for folder in folders if folder.path.is_dir()]  # 1 or 0001 is none
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise unreadable(below, error) from error


def generation_for(path: Path, plan: Plan) -> CacheFolder:
    """Return the folder of a generation to build: one begun with this plan, or the next number.

    One that is sealed counts, too: another process has just built it. Numbers rise: the newest
    generation has the largest.
    """
    folders = [each for each in generation_folders(path) if file_size(each.plan) is not None]
    for folder in folders:
        if not differences(read_document(folder.plan, Plan), plan):
            return folder
    newest = int(folders[-1].path.name) if folders else 0
    return CacheFolder(path).generation(newest + 1)


def fingerprint(generations: Sequence[Generation]) -> str:
    """Return the sha256 that names a cache, content and all.

    Of the root alone it is the digest of its manifest; else that of all those digests, oldest
    first, each followed by a line break.
    """
    digests = [generation.manifest.digest for generation in generations]
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(f"{each}\n" for each in digests).encode()).hexdigest()


def stored_keys(generation: Generation) -> NDArray[np.int64]:
    """Return the keys of a generation in order, as pairs; no other byte of a shard is read.

    Raises:
        CacheCorrupt: They are not the keys of the plan.
        FileNotFoundError: A shard is not there, as in a mirror that fetches shards on demand.
    """
    parts = [
        _keys_of(generation.folder.shard(receipt.shard)) for receipt in generation.manifest.receipts
    ]
    keys = np.concatenate(parts)
    found = hashlib.sha256(keys.astype("<i8").tobytes()).hexdigest()
    if found != generation.plan.keys.digest:
        raise CacheCorrupt(
            "has shards whose keys are not those of the plan.\n"
            f"  expected sha256 {generation.plan.keys.digest}\n  found           {found}",
            where=str(generation.folder.path),
            hint="`ldkit cache verify` says which shard is damaged.",
        )
    return keys


def _keys_of(shard: Path) -> NDArray[np.int64]:
    try:
        os.close(open_file(shard))  # a pipe, which would be waited for, is refused
        with safe_open(shard, "numpy") as file:
            columns = [file.get_tensor(f"view.{name}") for name in ("image_id", "index")]
        return np.stack(columns, axis=1).astype(np.int64)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise unreadable(shard, error) from error
    # The last three: a dtype that NumPy does not have, columns of other shapes.
    except (SafetensorError, AttributeError, TypeError, ValueError) as error:
        raise CacheCorrupt(
            f"cannot be read: {error}.",
            where=str(shard),
            hint="`ldkit cache verify` says which shards are damaged.",
        ) from error


def _check_documents(folder: CacheFolder, plan: Plan, manifest: Manifest) -> None:
    if plan.digest != manifest.plan:
        raise CacheCorrupt(
            "is not the plan of manifest.json.\n"
            f"  expected digest {manifest.plan}\n  found           {plan.digest}",
            where=str(folder.plan),
            hint=REBUILD,
        )
    if not manifest.lists(plan.shards):
        raise CacheCorrupt(
            f"does not list the {plan.shards} shards of the plan.",
            where=str(folder.manifest),
            hint=REBUILD,
        )
    for receipt in manifest.receipts:
        file = folder.receipt(receipt.shard)
        if read_file(file, DOCUMENT_LIMIT) != receipt.to_bytes():
            raise CacheCorrupt(
                "is not the receipt that manifest.json holds.", where=str(file), hint=REBUILD
            )
