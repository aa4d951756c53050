"""Which generations of a cache answer for which groups of columns."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ldkit.cache.columns import Group
from ldkit.cache.format import Plan, Wanted
from ldkit.cache.gather import Place, wanted_groups
from ldkit.cache.generations import Generation
from ldkit.cache.shard import Shard
from ldkit.cache.shortfall import holds
from ldkit.structures import ViewKey

GROUPS_OF = {
    "main": ("main",),
    "vlr": ("vlr",),
    "imitation": ("imitation",),
    "score": ("score", "score_class"),
    "cross": ("cross",),
}
"""Region → its groups."""


class Route(NamedTuple):
    """Groups of columns that lie in the same generations; of each view in the first that has it."""

    groups: tuple[Group, ...]
    generations: tuple[int, ...]


class Stock:
    """The shards of one generation, each opened on first use."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation
        self._first_keys = [receipt.first_key for receipt in generation.manifest.receipts]
        self._shards: dict[int, Shard] = {}

    def find(self, key: ViewKey) -> Place | None:
        """Return where a view is stored; None: not here.

        Raises:
            CacheCorrupt: The one shard that may hold it is damaged.
            StorageError: It cannot be read.
        """
        number = self._number(key)
        if number < 0:
            return None
        shard = self._shards.get(number)
        if shard is None:
            folder, plan = self._generation.folder, self._generation.plan
            receipt = self._generation.manifest.receipts[number]
            shard = self._shards[number] = Shard(folder, receipt, plan)
        position = shard.find(key)
        return None if position is None else Place(shard, position)

    def file_of(self, key: ViewKey) -> Path | None:
        """Return the one shard that may hold a view, without looking into it."""
        number = self._number(key)
        return None if number < 0 else self._generation.folder.shard(number)

    def _number(self, key: ViewKey) -> int:
        return bisect_right(self._first_keys, key) - 1


def routes(plans: Sequence[Plan], wanted: Wanted | None) -> tuple[Route, ...]:
    """Return which generations answer for what is wanted: main first, the newest first in each.

    `plans` are those of the generations, the root's first. A generation answers for a region if
    it holds all that is wanted of it, the way it is wanted. Where none does, or with None, those
    answer that store most of it.
    """
    found: dict[tuple[int, ...], list[Group]] = {}
    for region, groups in _chosen(plans, wanted):
        found.setdefault(region, []).extend(groups)
    return tuple(Route(tuple(groups), generations) for generations, groups in found.items())


def raised_floor(plans: Sequence[Plan], wanted: Wanted | None) -> float | None:
    """Return the score below which rows that are stored are not wanted; None: all are."""
    if wanted is None or wanted.coverage.score is None:
        return None
    floor = wanted.coverage.score.floor
    lower = [plan for plan in plans if plan.coverage.score and plan.coverage.score.floor < floor]
    return floor if lower else None


def _chosen(
    plans: Sequence[Plan], wanted: Wanted | None
) -> Iterator[tuple[tuple[int, ...], list[Group]]]:
    for region, names in GROUPS_OF.items():
        if wanted is not None and getattr(wanted.coverage, region) is None:
            continue
        numbers = tuple(
            number
            for number in reversed(range(len(plans)))
            if wanted is not None and holds(plans[number], wanted, region)
        ) or _richest(plans, names)
        if numbers:
            groups = wanted_groups(plans[numbers[0]].groups, wanted)
            yield numbers, [group for group in groups if group.name in names]


def _richest(plans: Sequence[Plan], names: Sequence[str]) -> tuple[int, ...]:
    """Return the generations that store the most columns of some groups, the newest first."""
    columns = [
        sum(len(group.columns) for group in plan.groups if group.name in names) for plan in plans
    ]
    most = max(columns)
    return tuple(n for n in reversed(range(len(plans))) if most and columns[n] == most)
