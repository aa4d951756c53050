"""The header of a shard, read from bytes that nobody vouches for.

Nothing is allocated by a number that the file merely states: its length and its tensors must fit
into the bytes that are there.
"""

import json
from collections.abc import Mapping
from reprlib import repr as short
from typing import Any, BinaryIO, NamedTuple

from ldkit.cache.columns import Column

LENGTH_BYTES = 8
HEADER_LIMIT = 1 << 20
"""Longest header in bytes. That of a shard with every column takes 3 KB."""
METADATA = "__metadata__"


class Header(NamedTuple):
    """Where the columns of a shard begin in its file, in bytes, and what the shard calls itself."""

    starts: Mapping[str, int]
    identity: str
    """The text below `ldkit-cache` in the metadata; "": none."""


class HeaderError(ValueError):
    """Say, as the end of a sentence about the file, what is wrong with its header."""


def read_header(file: BinaryIO, size: int, counts: Mapping[Column, int]) -> Header:
    """Return the header of a file of so many bytes that shall have exactly these columns.

    `counts` are the entries of each column. The tensors must lie side by side and fill the file.

    Raises:
        HeaderError: The file is no such shard.
        OSError: It cannot be read.

    Source: the safetensors format: 8 bytes of length, JSON of that length, then the tensors.
    """
    file.seek(0)
    length = int.from_bytes(file.read(LENGTH_BYTES), "little")
    first = LENGTH_BYTES + length
    if length > HEADER_LIMIT or first > size:
        raise HeaderError(f"has {size} bytes, but states a header of {length} bytes.")
    entries = _parsed(file.read(length))
    identity = _identity(entries.pop(METADATA, {}))
    spans = {column.name: _span(entries, column, count) for column, count in counts.items()}
    for name in entries:
        if name not in spans:
            raise HeaderError(f"has a column that the plan does not have: {short(name)}.")
    end = 0
    for start, stop in sorted(spans.values()):
        if start != end:
            raise HeaderError("has columns that overlap or leave a gap.")
        end = stop
    if first + end != size:
        raise HeaderError(f"has {size - first} bytes of columns; its header says {end}.")
    return Header({name: first + start for name, (start, _) in spans.items()}, identity)


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        entries = json.loads(text, object_pairs_hook=_without_repetition)
    except HeaderError:
        raise
    except (ValueError, RecursionError) as error:
        raise HeaderError("has a header that is no JSON.") from error
    if not isinstance(entries, dict):
        raise HeaderError("has a header that is no JSON object.")
    return entries


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise HeaderError("has a header that names something twice.")
    return dict(pairs)


def _identity(metadata: object) -> str:
    text = metadata.get("ldkit-cache", "") if isinstance(metadata, dict) else ""
    return text if isinstance(text, str) else ""


def _span(entries: Mapping[str, object], column: Column, count: int) -> tuple[int, int]:
    """Return where a column with so many entries begins and ends among the tensors."""
    entry = entries.get(column.name)
    fields = entry if isinstance(entry, dict) else {}
    expected = [column.dtype, [count, *column.shape]]
    found = [fields.get("dtype"), fields.get("shape")]
    if found != expected:
        raise HeaderError(f"has {column.name} as {short(found)}; the plan says {short(expected)}.")
    size = count * column.entry_bytes
    match fields.get("data_offsets"):
        case [int(start), int(stop)] if 0 <= start <= stop and stop - start == size:
            return start, stop
        case offsets:
            raise HeaderError(f"has {column.name} at {short(offsets)}; it takes {size} bytes.")
