"""JSON files that prove themselves: the first line holds the sha256 of all bytes after it.

    {"digest":"4f0c9a31be72…",
    "bytes":63907512,"first_key":[9,0], …}

Whoever changes, loses or adds a byte is found out by whoever reads the file next.
"""

import hashlib
import json
import re
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ldkit.errors import CacheCorrupt, CacheError, CacheMismatch
from ldkit.files import canonical_json

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

FORMAT_VERSION = 1
REBUILD = (
    "Delete this file and manifest.json, then run `ldkit cache-logits` again with the same recipe "
    "and teacher: every intact shard is kept."
)

_SEAL = re.compile(rb'\{"digest":"([0-9a-f]{64})",')


class Part(BaseModel):
    """A part of a document: unknown fields are refused, values never change."""

    model_config = ConfigDict(
        allow_inf_nan=False,
        extra="forbid",
        frozen=True,
        strict=True,
        use_attribute_docstrings=True,
    )

    def model_post_init(self, _context: object) -> None:
        """Take an optional field that was given as None for one that was not set."""
        for name, field in type(self).model_fields.items():
            if not field.is_required() and getattr(self, name) is None:
                self.model_fields_set.discard(name)


class Document(Part):
    """A JSON file of a cache."""

    @property
    def digest(self) -> str:
        """Return the sha256 that the first line of this document's file holds."""
        return hashlib.sha256(self._body()).hexdigest()

    def to_bytes(self) -> bytes:
        """Return the content of the file; equal documents give equal bytes."""
        body = self._body()
        return _seal(hashlib.sha256(body).hexdigest()) + b"\n" + body

    def _body(self) -> bytes:
        # Only what was set is written: a field added later leaves older documents as they are.
        fields = self.model_dump(mode="json", exclude_unset=True)
        return canonical_json(fields)[1:].encode() + b"\n"


Kind = TypeVar("Kind", bound=Document)


def from_bytes(kind: type[Kind], content: bytes, where: str) -> Kind:
    """Return the document in a file's content; `where` names the file in errors.

    Raises:
        CacheCorrupt: The content is not what was written.
        CacheMismatch: It was written by a version of ldkit with another format.
    """
    head, _, body = content.partition(b"\n")
    digest = hashlib.sha256(body).hexdigest()
    if head != _seal(digest):
        raise _broken(head, digest, where)
    try:
        document = kind.model_validate_json(b"{" + body)
    except ValidationError as error:
        raise _foreign(body, where, error) from error
    if document.to_bytes() != content:  # a name twice, other spaces: two readers may differ
        raise CacheCorrupt("is not in canonical form.", where=where, hint=REBUILD)
    return document


def _seal(digest: str) -> bytes:
    return f'{{"digest":"{digest}",'.encode()


def _broken(head: bytes, found: str, where: str) -> CacheCorrupt:
    seal = _SEAL.fullmatch(head)
    if seal is None:
        message = "does not begin with a digest: it is truncated, damaged or not from a cache."
    else:
        message = (
            "is not what was written.\n"
            f"  expected sha256 {seal[1].decode()}\n  found           {found}"
        )
    return CacheCorrupt(message, where=where, hint=REBUILD)


def _foreign(body: bytes, where: str, error: ValidationError) -> CacheError:
    version = _version(body)
    if version != FORMAT_VERSION:
        return CacheMismatch(
            f"has format version {version}; this ldkit reads version {FORMAT_VERSION}.",
            where=where,
            hint="Use the ldkit that wrote it, or build a new cache (`--out caches/NAME`).",
        )
    first = error.errors()[0]
    place = ".".join(str(step) for step in first["loc"])
    return CacheCorrupt(
        f"does not have the fields of a cache document ({place}: {first['msg']}).",
        where=where,
        hint=REBUILD,
    )


def _version(body: bytes) -> object:
    """Return the version that a document states; that of ours where it states none."""
    try:
        return json.loads(b"{" + body).get("version", FORMAT_VERSION)
    except (ValueError, RecursionError):  # no JSON
        return FORMAT_VERSION
