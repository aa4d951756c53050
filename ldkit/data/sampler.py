"""Which views in which batches, as a pure function of (seed, epoch).

Nothing is remembered between calls: an epoch that stopped at batch p goes on with `[p:]`.
Order is decided by sorting digests, so it depends on ids alone, not on the order of records, the
process, the platform or the version of a random generator.
"""

from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from typing import TypeVar

from ldkit.data.coco import Record
from ldkit.structures import Size, View, ViewKey

Entry = TypeVar("Entry")


def epoch_batches(
    records: Mapping[int, Record],
    view_of_epoch: Callable[[int, int], int],
    *,
    batch_size: int,
    seed: int,
    epoch: int,
) -> list[list[ViewKey]]:
    """Return the batches of an epoch (counted from 0): every image once, in random order.

    Wide images (width > height) and the others never share a batch, so that little of a batch is
    padding; the last batch of each group may be short. `view_of_epoch(epoch, image_id)` says
    which view an image shows.
    Source: ld-spec 8.1 (aspect-ratio groups of mmdet 2.x; there the last batch is filled up).
    """
    place = f"{seed}/{epoch}"
    groups: tuple[list[int], list[int]] = ([], [])
    for image_id, record in records.items():
        height, width = record.hw
        groups[width > height].append(image_id)
    batches = [
        [ViewKey(image_id, view_of_epoch(epoch, image_id)) for image_id in batch]
        for group in groups
        for batch in _cut(_shuffled(group, f"{place}/image"), batch_size)
    ]
    first = {batch[0].image_id: batch for batch in batches}
    return [first[image_id] for image_id in _shuffled(first, f"{place}/batch")]


def equal_canvas_batches(
    views: Iterable[tuple[ViewKey, View]], batch_size: int
) -> list[list[ViewKey]]:
    """Return batches in which all views have the same canvas, so that none is padded further.

    What a detector says of a view then does not depend on its neighbours (padding shifts the
    statistics of GroupNorm). Keys keep their order within a canvas size.
    """
    groups: dict[Size, list[ViewKey]] = {}
    for key, view in views:
        groups.setdefault(view.padded_hw, []).append(key)
    return [batch for group in groups.values() for batch in _cut(group, batch_size)]


def _shuffled(ids: Iterable[int], salt: str) -> list[int]:
    """Return the ids in an order that depends on them and the salt alone."""
    return sorted(
        ids, key=lambda id_: (blake2b(f"{salt}/{id_}".encode(), digest_size=8).digest(), id_)
    )


def _cut(entries: list[Entry], size: int) -> list[list[Entry]]:
    return [entries[start : start + size] for start in range(0, len(entries), size)]
