"""Files of other programs that torch saved: tensors among objects of classes that we do not have.

torch's own reader refuses such files when it may run nothing. Here the pickle in them is read as
data, and tensors are made only of those storages that are asked for. Lengths and places are
checked before anything of that size is allocated.
"""

import hashlib
import math
import mmap
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldkit.errors import CheckpointError
from ldkit.models.inert_pickle import BrokenPickle, Record
from ldkit.models.tensor_file import refuse_missing
from ldkit.models.torch_layouts import (
    ZIP_START,
    BrokenLayout,
    Place,
    Storage,
    read_old,
    read_zip,
    storage_of,
)

_TENSORS = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor")
_WRAPPERS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")


class ForeignFile:
    """An open file: its content, and the tensors of it that are asked for.

    `content` holds a `Record` for each tensor and each object of an unknown class.
    """

    def __init__(
        self, path: Path, content: Any, bytes_: mmap.mmap, places: Mapping[str, Place]
    ) -> None:
        self.path = path
        self.content = content
        self._bytes = bytes_
        self._places = places

    def sha256(self) -> str:
        """Return the sha256 (hex) of the whole file."""
        return hashlib.sha256(self._bytes).hexdigest()

    def tensors(self, records: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the tensors that these records stand for, on the CPU.

        Raises:
            CheckpointError: One of them is no tensor, of an unknown type, or reaches beyond its
                storage; or a storage is damaged.
        """
        storages: dict[Storage, Tensor] = {}
        made = {}
        for name, record in records.items():
            try:
                made[name] = self._tensor(record, storages)
            except BrokenLayout as error:
                raise CheckpointError(
                    f"is damaged: {name} {error}.",
                    where=str(self.path),
                    hint="Copy or download it again.",
                ) from error
        return made

    def _tensor(self, record: Any, storages: dict[Storage, Tensor]) -> Tensor:
        while isinstance(record, Record) and record.name in _WRAPPERS:
            record = record.args[0] if record.args else None
        if not is_tensor(record) or len(record.args) < 4:
            raise BrokenLayout("is no tensor")
        reference, offset, shape, strides = record.args[:4]
        storage, shift = storage_of(reference)
        if storage not in storages:
            storages[storage] = self._load(storage)
        if not _fit([shift, offset], shape, strides, storage.numel):
            raise BrokenLayout(f"reaches beyond its storage of {storage.numel} values")
        if 0 in shape:
            return torch.empty(0, dtype=storage.dtype)
        return storages[storage].as_strided(shape, strides, shift + offset).contiguous()

    def _load(self, storage: Storage) -> Tensor:
        place = self._places.get(storage.key)
        if place is None:
            raise BrokenLayout("has no values in the file")
        if place.end - place.start != storage.numel * storage.dtype.itemsize:
            raise BrokenLayout(
                f"should have {storage.numel} values, but {place.end - place.start} bytes are there"
            )
        if storage.numel == 0:
            return torch.empty(0, dtype=storage.dtype)
        content = bytearray(self._bytes[place.start : place.end])
        if place.crc is not None and zlib.crc32(content) != place.crc:
            raise BrokenLayout("has values that do not fit their checksum")
        return torch.frombuffer(content, dtype=storage.dtype)


def is_tensor(value: Any) -> bool:
    """Say whether a value of a file's content stands for a tensor."""
    return isinstance(value, Record) and value.name in (*_TENSORS, *_WRAPPERS)


def read_foreign_file(path: Path, wanted: str, hint: str) -> ForeignFile:
    """Return a file that torch saved, whatever it holds; nothing in it is run.

    Args:
        path: The file.
        wanted: What it should be, with its article; for messages.
        hint: What the user shall do where it is something else.

    Raises:
        CheckpointError: The file is missing, a folder, truncated, or of another program.
    """
    refuse_missing(path, wanted, hint)
    try:
        with path.open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        read = read_zip if content[:4] == ZIP_START else read_old
        value, places = read(path, content)
        return ForeignFile(path, value, content, places)
    except OSError as error:
        problem = f"cannot be read ({error.strerror or error})."
        raise CheckpointError(problem, where=str(path), hint=hint) from error
    except BrokenLayout as error:
        raise CheckpointError(f"is not {wanted}: {error}.", where=str(path), hint=hint) from error
    except (BrokenPickle, zipfile.BadZipFile, EOFError) as error:
        detail = f" ({error})" if isinstance(error, EOFError) else ""
        raise CheckpointError(
            f"is truncated or damaged: a file of torch, but not a whole one{detail}.",
            where=str(path),
            hint="Copy or download it again.",
        ) from error


def _fit(offsets: list[Any], shape: Any, strides: Any, numel: int) -> bool:
    """Say whether a view of these sizes and strides lies within `numel` values."""
    if not isinstance(shape, tuple) or not isinstance(strides, tuple):
        return False
    if len(shape) != len(strides) or not all(map(_is_count, (*offsets, *shape, *strides))):
        return False
    last = sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    fits = math.prod(shape) <= numel and sum(offsets) + last < numel
    return 0 in shape or (fits and max(strides, default=0) <= numel)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0
