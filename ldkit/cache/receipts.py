"""The cache format, version 1: what is. One receipt for each shard, the manifest over all."""

from collections import Counter
from collections.abc import Iterable
from typing import Literal

from pydantic import NonNegativeInt, PositiveInt

from ldkit.cache.document import Digest, Document, Part
from ldkit.structures import ViewKey


class RowCounts(Part):
    """Rows of each group. What a cache does not hold is not set."""

    main: NonNegativeInt
    vlr: NonNegativeInt | None = None
    imitation: NonNegativeInt | None = None
    score: NonNegativeInt | None = None
    score_class: NonNegativeInt | None = None
    cross: NonNegativeInt | None = None

    @property
    def by_group(self) -> dict[str, int]:
        """Return name of the group → rows, for the groups that are held."""
        return self.model_dump(exclude_unset=True)

    @classmethod
    def sum(cls, counts: Iterable["RowCounts"]) -> "RowCounts":
        """Return the sums over receipts; those of one cache count the same groups."""
        total: Counter[str] = Counter()
        for each in counts:
            total.update(each.by_group)
        return cls(**total)


class Receipt(Document):
    """The proof that a shard is complete. Written after the shard."""

    plan: Digest
    """Digest of the plan that the shard belongs to."""
    shard: NonNegativeInt
    bytes: PositiveInt
    sha256: Digest
    views: PositiveInt
    rows: RowCounts
    locations: PositiveInt
    """Locations of all its canvases: the rows of a dense cache."""
    first_key: ViewKey
    last_key: ViewKey


class Manifest(Document):
    """What a cache is. Written once, after the last receipt; its digest names the cache."""

    version: Literal[1]
    plan: Digest
    receipts: tuple[Receipt, ...]
    bytes: PositiveInt
    views: PositiveInt
    rows: RowCounts

    def lists(self, shards: int) -> bool:
        """Say whether the receipts are those of so many shards, each once and in order."""
        return len(self.receipts) == shards and all(
            receipt.shard == number for number, receipt in enumerate(self.receipts)
        )
