"""A forger: changes what a cache holds, and signs all its documents anew, so that digests agree."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from ldkit.cache.folder import CacheFolder

Arrays = dict[str, np.ndarray]
Fields = dict[str, Any]


def signed(fields: Fields) -> bytes:
    """Return a document with these fields, whatever they are, and the digest that belongs to it."""
    return signed_text(json.dumps(fields, sort_keys=True, separators=(",", ":"))[1:])


def signed_text(text: str) -> bytes:
    """Return a document whose text, after the first brace, is this one."""
    body = f"{text}\n".encode("utf-8", "surrogateescape")
    return b'{"digest":"' + hashlib.sha256(body).hexdigest().encode() + b'",\n' + body


def fields_of(path: Path) -> Fields:
    """Return the fields of a document, without its digest."""
    fields = json.loads(path.read_bytes())
    del fields["digest"]
    return fields


def digest_of(path: Path) -> str:
    return digest_in(path.read_bytes())


def digest_in(content: bytes) -> str:
    return content[len(b'{"digest":"') :][:64].decode()


def forge_plan(cache: Path, change: Callable[[Fields], object]) -> None:
    """Change the plan, and name the new one in all other documents."""
    folder = CacheFolder(cache)
    fields = fields_of(folder.plan)
    change(fields)
    folder.plan.write_bytes(signed(fields))
    digest = digest_of(folder.plan)

    def rename(manifest: Fields) -> None:
        manifest["plan"] = digest
        for receipt in manifest["receipts"]:
            receipt["plan"] = digest

    forge_manifest(cache, rename)


def forge_manifest(cache: Path, change: Callable[[Fields], object]) -> None:
    """Change the manifest, and write the receipts that it then holds."""
    folder = CacheFolder(cache)
    fields = fields_of(folder.manifest)
    change(fields)
    folder.manifest.write_bytes(signed(fields))
    for receipt in fields["receipts"]:
        number = receipt["shard"]
        if isinstance(number, int) and 0 <= number < 10**6:
            folder.receipt(number).write_bytes(signed(receipt))


def forge_content(cache: Path, number: int, content: bytes) -> None:
    """Put other bytes in the place of a shard, and vouch for them."""
    CacheFolder(cache).shard(number).write_bytes(content)

    def vouch(manifest: Fields) -> None:
        receipt = manifest["receipts"][number]
        manifest["bytes"] += len(content) - receipt["bytes"]
        receipt["bytes"] = len(content)
        receipt["sha256"] = hashlib.sha256(content).hexdigest()

    forge_manifest(cache, vouch)


def forge_columns(cache: Path, number: int, change: Callable[[Arrays], object]) -> None:
    """Change the columns of a shard in place."""
    content = CacheFolder(cache).shard(number).read_bytes()
    columns = {name: column.copy() for name, column in load(content).items()}
    change(columns)
    forge_content(cache, number, save(columns, metadata=header_of(content)["__metadata__"]))


def forge_header(cache: Path, number: int, change: Callable[[Fields], object]) -> None:
    """Change the header of a shard; its tensors stay as they are."""
    content = CacheFolder(cache).shard(number).read_bytes()
    header = header_of(content)
    change(header)
    text = json.dumps(header).encode()
    forge_content(cache, number, with_header(content, text))


def header_of(content: bytes) -> Fields:
    fields: Fields = json.loads(content[8 : tensors_from(content)])
    return fields


def tensors_from(content: bytes) -> int:
    return 8 + int.from_bytes(content[:8], "little")


def with_header(content: bytes, text: bytes) -> bytes:
    """Return the content of a shard with another text for a header."""
    return len(text).to_bytes(8, "little") + text + content[tensors_from(content) :]
