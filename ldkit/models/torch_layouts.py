"""The two layouts of a file that torch saved: where its content stands, and its storages.

    since torch 1.6   a zip: ROOT/data.pkl, and each storage as an entry ROOT/data/KEY
    before            four pickles (a number, a version, facts of the machine, the content), then
                      a pickled list of keys, then each storage: its length in 8 bytes, its bytes

Nothing in the file is run, and no length in it is believed before it is compared with the file.
"""

import io
import mmap
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ldkit.models.inert_pickle import BrokenPickle, Named, Reference, read_pickle

ZIP_START = b"PK\x03\x04"
_LOCAL_HEADER_BYTES = 30
_OLD_MAGIC, _OLD_VERSION = 0x1950A86A20F9469CFC6C, 1001
_LENGTH_BYTES = 8
_OTHER_ORDER = "it was written on a machine with another order of bytes"
_TYPES = {
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}


class BrokenLayout(ValueError):
    """Say what of a file cannot be, in words that follow its name."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a storage stands in the file; `crc` is its checksum where the layout has one."""

    start: int
    end: int
    crc: int | None


@dataclass(frozen=True, slots=True)
class Storage:
    """What a pickle says of a storage: its name, the type and number of its values."""

    key: str
    dtype: torch.dtype
    numel: int


class Layout(NamedTuple):
    """The content of a file, and where each of its storages stands."""

    content: Any
    places: dict[str, Place]


def read_zip(path: Path, content: mmap.mmap) -> Layout:
    """Return the layout of a zip.

    Raises:
        BrokenLayout: Another program wrote the zip.
        BrokenPickle: Its content is damaged.
        BadZipFile, EOFError: It is truncated.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
    except (ValueError, NotImplementedError, OverflowError, struct.error) as error:
        raise zipfile.BadZipFile(str(error)) from error  # names and numbers of a damaged list
    roots = [name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise BrokenLayout("it is a zip without the parts that torch writes")
    places = {
        name.removeprefix(roots[0]): _place(content, entry)
        for name, entry in entries.items()
        if name.startswith(roots[0])
    }
    order = places.get("byteorder")
    if order is not None and content[order.start : order.end] != b"little":
        raise BrokenLayout(_OTHER_ORDER)
    pickle = places["data.pkl"]
    reading = read_pickle(io.BytesIO(content[pickle.start : pickle.end]))
    start = "data/"
    storages = {key.removeprefix(start): p for key, p in places.items() if key.startswith(start)}
    return Layout(reading.value, storages)


def _place(content: mmap.mmap, entry: zipfile.ZipInfo) -> Place:
    """Return where an entry's bytes stand: behind a header that repeats its name."""
    header = content[entry.header_offset : entry.header_offset + _LOCAL_HEADER_BYTES]
    if entry.compress_type != zipfile.ZIP_STORED or len(header) < _LOCAL_HEADER_BYTES:
        raise BrokenLayout("it is a zip that torch did not write")
    name_bytes, extra_bytes = struct.unpack_from("<HH", header, 26)
    start = entry.header_offset + _LOCAL_HEADER_BYTES + name_bytes + extra_bytes
    end = start + entry.file_size
    if header[:4] != ZIP_START or end > len(content):
        raise EOFError(f"{entry.filename} reaches beyond its end")
    return Place(start, end, entry.CRC)


def read_old(_: Path, content: mmap.mmap) -> Layout:
    """Return the layout of a file from before torch 1.6.

    Raises:
        BrokenLayout: It is no such file.
        BrokenPickle: Its content is damaged.
        EOFError: It is truncated.
    """
    try:
        is_old = read_pickle(content).value == _OLD_MAGIC
    except BrokenPickle:
        is_old = False
    if not is_old or read_pickle(content).value != _OLD_VERSION:
        raise BrokenLayout(f"no file of torch begins with {content[:12]!r}")
    machine = read_pickle(content).value
    if not isinstance(machine, dict) or not machine.get("little_endian"):
        raise BrokenLayout(_OTHER_ORDER)
    reading, keys = read_pickle(content), read_pickle(content).value
    storages = {}
    for reference in reading.references:
        try:
            storage = storage_of(reference)[0]
        except BrokenLayout as error:
            raise BrokenLayout(f"a tensor in it {error}") from error
        storages[storage.key] = storage
    if not isinstance(keys, list) or set(keys) != set(storages):
        raise BrokenLayout("its list of storages is not that of its tensors")
    return Layout(reading.value, _places_in_turn(content, [storages[key] for key in keys]))


def _places_in_turn(content: mmap.mmap, storages: list[Storage]) -> dict[str, Place]:
    places, position = {}, content.tell()
    for storage in storages:
        length = content[position : position + _LENGTH_BYTES]
        start = position + _LENGTH_BYTES
        position = start + storage.numel * storage.dtype.itemsize
        if position > len(content):
            raise EOFError(f"it has {len(content):,} bytes of at least {position:,}")
        if int.from_bytes(length, "little") != storage.numel:
            raise BrokenLayout(f"storage {storage.key} has another length than its tensor says")
        places[storage.key] = Place(start, position, None)
    return places


def storage_of(reference: Any) -> tuple[Storage, int]:
    """Return the storage that is referred to, and where the reference starts in it.

    Very old files refer to a part of a storage: (key of the part, offset, length).

    Raises:
        BrokenLayout: It is no reference to a storage, or to one of an unknown type.
    """
    match reference:
        case Reference(to=("storage", Named(name=kind), str(key), str(), int(numel), *part)):
            pass
        case _:
            raise BrokenLayout("has no storage")
    if kind not in _TYPES or numel < 0:
        raise BrokenLayout(f"is of a type that is unknown here ({kind})")
    shift = 0
    match part:
        case [] | [None]:
            pass
        case [(_, int(shift), _)]:
            pass
        case _:
            raise BrokenLayout("has no storage")
    return Storage(key, _TYPES[kind], numel), shift
