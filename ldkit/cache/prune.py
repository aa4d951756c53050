"""A cache anew with fewer groups of columns, and without generations; the old one stays.

Encoded columns are copied as they are, so that the shards have the bytes that a build without the
other groups would have written.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ldkit.cache import writer
from ldkit.cache.columns import Group
from ldkit.cache.content import Arrays, view_columns
from ldkit.cache.folder import CacheFolder, missing_shards
from ldkit.cache.format import Axes, Columns, Coverage, Plan, Wanted, views_per_shard
from ldkit.cache.gather import Gatherer, Place, runs_of
from ldkit.cache.generations import Generation, read_generations, stored_keys
from ldkit.cache.held import require_views
from ldkit.cache.routes import GROUPS_OF, Route, Stock, routes
from ldkit.errors import UsageError
from ldkit.structures import Size, ViewKey

WITHOUT_CLASSES = {"main.bbox_logits": "main", "vlr.bbox_logits": "vlr"}
"""What is named to keep a region without its class logits."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of a cache: its views, and for each of them these regions and columns."""

    generations: tuple[Generation, ...]
    keys: tuple[ViewKey, ...]
    coverage: Coverage
    columns: Columns

    @classmethod
    def of(cls, path: Path, names: Sequence[str]) -> "Kept":
        """Return what is kept of the cache in a folder.

        `names` are regions; `main.bbox_logits` and `vlr.bbox_logits` keep one without its class
        logits. The main region is always kept.

        Raises:
            UsageError: A name is unknown, or the cache does not hold it.
            CacheCoverage: Some of its views do not have it.
            CacheError: The cache is not sealed, or damaged.
        """
        generations = read_generations(path)
        regions, columns = _regions(path, generations, names)
        held = {ViewKey(*key) for each in generations for key in stored_keys(each).tolist()}
        kept = cls(
            generations,
            tuple(sorted(held)),
            Coverage.model_validate(regions),
            Columns.model_validate(columns),
        )
        for route in kept.routes:
            parts = [generations[number] for number in route.generations]
            require_views(path, [group.name for group in route.groups], parts, kept.keys)
        return kept

    @property
    def routes(self) -> tuple[Route, ...]:
        """Return where the groups are read."""
        names = set()
        for region in ("main", "vlr"):
            columns = getattr(self.columns, region)
            if columns is not None and columns.cls_logits is not None:
                names.add(f"{region}.cls_logits")
        wanted = Wanted(self.coverage, frozenset(names))
        return routes([each.plan for each in self.generations], wanted)

    def plan(self, shard_bytes: float, rows_per_view: Mapping[str, float]) -> Plan:
        """Return the plan of the cache to write, in shards of about so many bytes.

        Data set and view policy are those of the newest generation.
        """
        newest = self.generations[-1].plan
        axes = newest.axes
        for each in self.generations:
            axes = axes if axes.channels is not None else each.plan.axes
        if self.coverage.imitation is None and self.coverage.cross is None:
            axes = Axes.model_validate(axes.model_dump(exclude={"channels"}))
        count = views_per_shard(shard_bytes, rows_per_view, axes, self.columns)
        build = self.generations[0].plan.build.model_copy(update={"views_per_shard": count})
        return Plan.of(newest.sources, axes, self.coverage, self.columns, build, self.keys)


class Copier:
    """Reads what is kept, encoded as it is stored."""

    def __init__(self, kept: Kept) -> None:
        self.kept = kept
        self._routes = kept.routes
        self._stocks = [Stock(each) for each in kept.generations]
        self._gatherer = Gatherer()

    def counts(self, keys: Sequence[ViewKey]) -> dict[str, list[int]]:
        """Return the rows of each of these views in each group."""
        return {
            group.name: runs_of(group.name, places)[0]
            for route in self._routes
            for places in [self._places(keys, route)]
            for group in route.groups
        }

    def canvases(self, keys: Sequence[ViewKey]) -> Iterator[Size]:
        """Yield the size of the canvas of each of these views."""
        for place in self._places(keys, self._routes[0]):
            yield place.shard.view(place.position).padded_hw

    def columns(self, keys: Sequence[ViewKey], groups: Sequence[Group]) -> Arrays:
        """Return the tensors of a shard of these views, by name."""
        places = self._places(keys, self._routes[0])
        views = [place.shard.view(place.position) for place in places]
        pixels = [place.shard.pixels_crc32(place.position) for place in places]
        found = view_columns(keys, views, pixels)
        gathered: Arrays = {}
        for route in self._routes:
            places = self._places(keys, route)
            for group in route.groups:
                rows = self._gatherer.read(group, places)
                gathered[group.offsets.name] = np.cumsum([0, *rows.counts]).astype(
                    group.offsets.numpy
                )
                gathered |= {name: column.copy() for name, column in rows.columns.items()}
        for group in groups:
            for column in (group.offsets, *group.columns):
                found[column.name] = gathered[column.name]
        return found

    def close(self) -> None:
        """Close all files."""
        self._gatherer.close()

    def _places(self, keys: Sequence[ViewKey], route: Route) -> list[Place]:
        places = []
        for key in keys:
            found = (self._stocks[number].find(key) for number in route.generations)
            places.append(next(place for place in found if place is not None))
        return places


def rewrite(copier: Copier, plan: Plan, out: Path) -> Iterator[int]:
    """Yield how many views are written; go on where it stopped, and seal at the end.

    Raises:
        CacheMismatch: The folder holds another cache.
        CacheCorrupt: A shard is not what its receipt says.
        StorageError: The folder cannot be written.
    """
    plan = writer.begin(out, plan)
    missing = missing_shards(CacheFolder(out), plan)
    kept, done = copier.kept, plan.keys.count - sum(len(plan.views_of(n)) for n in missing)
    for number in missing:
        keys = plan.keys_of(number, kept.keys)
        writer.write_columns(out, number, copier.columns(keys, plan.groups), plan)
        done += len(keys)
        yield done
    writer.seal(out, plan, kept.keys)


def _regions(
    path: Path, generations: Sequence[Generation], names: Sequence[str]
) -> tuple[dict[str, object], dict[str, object]]:
    """Return the sections of coverage and columns; of the newest generation that stores most."""
    bare = {WITHOUT_CLASSES[name] for name in names if name in WITHOUT_CLASSES}
    asked = {"main", *bare, *(name for name in names if name not in WITHOUT_CLASSES)}
    coverage: dict[str, object] = {}
    columns: dict[str, object] = {}
    for region in GROUPS_OF:
        having = [each.plan for each in generations if getattr(each.plan.coverage, region)]
        if region not in asked or not having:
            continue
        best = max(reversed(having), key=lambda plan: len(_kept(plan, region)))
        coverage[region] = getattr(best.coverage, region)
        section = getattr(best.columns, region)
        without = {"cls_logits": None} if region in bare else {}
        columns[region] = section.model_copy(update=without)
    absent = sorted(asked - coverage.keys())
    if absent:
        stored = {name for each in generations for name in each.plan.coverage.model_fields_set}
        raise UsageError(
            f"does not hold {', '.join(absent)}.",
            where=str(path),
            hint=f"It holds {', '.join(name for name in GROUPS_OF if name in stored)}: keep some "
            "of these; `main.bbox_logits` is the main region without its class logits.",
        )
    return coverage, columns


def _kept(plan: Plan, region: str) -> list[str]:
    groups = [group for group in plan.groups if group.name in GROUPS_OF[region]]
    return [column.name for group in groups for column in group.columns]
