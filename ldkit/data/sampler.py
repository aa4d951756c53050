"""Which views in which batches, as a pure function of (seed, epoch).

Nothing is remembered between calls: an epoch that stopped at batch p goes on with `[p:]`.
Order is decided by sorting digests, so it depends on ids alone, not on the order of records, the
process, the platform or the version of a random generator.
"""

from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b

from ldkit.data.coco import Record
from ldkit.structures import ViewKey


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
    Source: mmdetection 2.x, `GroupSampler` (there the last batch is filled up).
    """
    place = f"{seed}/{epoch}"
    batches = [
        [ViewKey(image_id, view_of_epoch(epoch, image_id)) for image_id in batch]
        for group in _groups(records)
        for batch in _cut(_shuffled(group, f"{place}/image"), batch_size)
    ]
    first = {batch[0].image_id: batch for batch in batches}
    return [first[image_id] for image_id in _shuffled(first, f"{place}/batch")]


def batches_per_epoch(records: Mapping[int, Record], batch_size: int) -> int:
    """Return the length of `epoch_batches`, which is the same in every epoch."""
    return sum(-(-len(group) // batch_size) for group in _groups(records))


def _groups(records: Mapping[int, Record]) -> tuple[list[int], list[int]]:
    """Return the ids of images that are not wide, and of those that are."""
    groups: tuple[list[int], list[int]] = ([], [])
    for image_id, record in records.items():
        height, width = record.hw
        groups[width > height].append(image_id)
    return groups


def _shuffled(ids: Iterable[int], salt: str) -> list[int]:
    """Return the ids in an order that depends on them and the salt alone."""

    def place(image_id: int) -> tuple[bytes, int]:
        return blake2b(f"{salt}/{image_id}".encode(), digest_size=8).digest(), image_id

    return sorted(ids, key=place)


def _cut(ids: list[int], size: int) -> list[list[int]]:
    return [ids[start : start + size] for start in range(0, len(ids), size)]
