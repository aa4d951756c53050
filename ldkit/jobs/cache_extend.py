"""`ldkit cache-logits --extend`: what a recipe stores and its cache lacks, as new generations.

Images, views and groups of columns may be added. Views that lack the same go into one generation,
an ordinary cache of its own; no file that is there is written again. A data set that lacks nothing
is added as well, by the rows of a single view: the cache is then known to be made for it.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from ldkit.cache.compare import knows_data, require_extensible
from ldkit.cache.format import Axes, Columns, Coverage, Plan, RowColumns, views_per_shard
from ldkit.cache.generations import Generation, generation_for, read_generations
from ldkit.cache.held import missing_views
from ldkit.cache.routes import GROUPS_OF
from ldkit.cache.shortfall import holds
from ldkit.jobs import assemble, build_cache, coverage
from ldkit.jobs.build_cache import Order
from ldkit.jobs.cache_boxes import check_boxes, one_view_each
from ldkit.jobs.cache_build_share import WHOLE, Share
from ldkit.jobs.coverage import Stored
from ldkit.jobs.facts import Fact, Facts, aligned, plural, size
from ldkit.jobs.progress import Message, Note, Progress
from ldkit.jobs.size_estimate import Estimate
from ldkit.recipe.schema import Recipe
from ldkit.structures import ViewKey


class Addition(NamedTuple):
    """Views that lack the same regions, and the order that adds these."""

    regions: tuple[str, ...]
    order: Order


def run(
    recipe: Recipe, *, device: str = "auto", share: Share = WHOLE
) -> Generator[Message, None, bool]:
    """Yield progress; add what the recipe's cache lacks. Return whether all of it is sealed.

    Raises:
        CacheIncomplete: The cache itself is not sealed.
        CacheMismatch: It is of another teacher, view policy or codec, or of other boxes.
    """
    place = assemble.device(device)
    todo = build_cache.order(recipe)
    generations = read_generations(todo.folder)
    yield from _same_boxes(todo, generations, place)
    found = list(_additions(todo, generations, _shard_bytes(recipe)))
    if not found:
        yield Note(f"{todo.folder} holds all that this recipe stores.")
    sealed = True
    for addition in found:
        # Numbered only now that those before have their folders.
        folder = generation_for(todo.folder, addition.order.plan).path
        order = replace(addition.order, folder=folder)
        views = plural(len(order.keys), "view")
        yield Note(f"Adding {_named(addition)} with {views} in {folder}.")
        sealed &= yield from build_cache.build(order, recipe, place, share)
    return sealed


def outline(recipe: Recipe, device: str = "auto") -> Facts:
    """Return what would be added to the recipe's cache; nothing is written.

    Raises:
        LdkitError: What `run` would raise before its first shard, but for boxes that differ.
    """
    assemble.device(device)
    todo = build_cache.order(recipe)
    found = list(_additions(todo, read_generations(todo.folder), _shard_bytes(recipe)))
    parts = [
        {"regions": each.regions, "views": len(each.order.keys), "bytes": _bytes(each.order)}
        for each in found
    ]
    lines = {
        _named(each): f"{len(each.order.keys):,} views, about {size(_bytes(each.order))}"
        for each in found
    }
    return {"cache": str(todo.folder), "to add": Fact(aligned(lines) or "nothing", parts)}


def _named(addition: Addition) -> str:
    return ", ".join(addition.regions) or "the data set"


def _bytes(order: Order) -> int:
    return round(len(order.keys) * sum(order.bytes_per_view(g.name) for g in order.plan.groups))


def _shard_bytes(recipe: Recipe) -> float:
    return build_cache.sections(recipe)[0].shard_mb * 1e6


def _additions(
    todo: Order, generations: Sequence[Generation], shard_bytes: float
) -> Iterator[Addition]:
    require_extensible(generations[0].plan, todo.plan, todo.folder)
    lacking: dict[ViewKey, list[str]] = {}
    for region in GROUPS_OF:
        for key in _missing(todo, generations, region):
            lacking.setdefault(key, []).append(region)
    parts: dict[tuple[str, ...], list[ViewKey]] = {}
    for key in sorted(lacking):
        parts.setdefault(tuple(lacking[key]), []).append(key)
    if not parts and not _knows(generations, todo):
        # Nothing is missing, but nothing says either that it was made for this data set.
        parts[()] = todo.keys[:1]
    for regions, keys in parts.items():
        yield Addition(regions, _order(todo, regions, keys, shard_bytes))


def _missing(todo: Order, generations: Sequence[Generation], region: str) -> Sequence[ViewKey]:
    """Return the views that lack a region, or hold it otherwise; none where it is not stored."""
    plan = todo.plan
    if getattr(plan.coverage, region) is None:
        return []
    wanted = coverage.everything(plan.coverage, plan.columns)
    having = [each for each in generations if holds(each.plan, wanted, region)]
    return missing_views(having, todo.keys)


def _order(todo: Order, regions: tuple[str, ...], keys: list[ViewKey], shard_bytes: float) -> Order:
    """Return the order for some regions of some views; the main region is in every plan."""
    plan = todo.plan
    held = {name: part for name, part in plan.coverage if name in regions}
    columns = {name: part for name, part in plan.columns if name in regions}
    if "main" not in regions:  # they hold it: once more for the format, as small as can be
        codec = plan.columns.main.bbox_logits
        columns["main"] = RowColumns(bbox_logits=codec, cls_logits=None)
    groups = {"main", *(name for region in regions for name in GROUPS_OF[region])}
    rows = {name: count for name, count in todo.size.rows.items() if name in groups}
    stored = Stored(
        Coverage.model_validate({**held, "main": plan.coverage.main}),
        Columns.model_validate(columns),
    )
    axes = _axes(plan.axes, stored.coverage)
    count = views_per_shard(shard_bytes, rows, axes, stored.columns)
    build = plan.build.model_copy(update={"views_per_shard": count})
    part = Plan.of(plan.sources, axes, stored.coverage, stored.columns, build, keys)
    return replace(todo, keys=keys, plan=part, size=Estimate(rows, todo.size.locations))


def _axes(axes: Axes, held: Coverage) -> Axes:
    """Return the axes of a part: the width of the pyramid only where it keeps features."""
    if held.imitation is None and held.cross is None:
        return Axes.model_validate(axes.model_dump(exclude={"channels"}))
    return axes


def _knows(generations: Sequence[Generation], todo: Order) -> bool:
    return knows_data([each.plan for each in generations], todo.plan.sources.data)


def _same_boxes(
    todo: Order, generations: Sequence[Generation], device: torch.device
) -> Generator[Message, None, None]:
    """Yield progress; check images of another data set than any part was built from."""
    if _knows(generations, todo):
        return
    main = generations[0].plan.coverage.main
    alike = [each for each in generations if each.plan.coverage.main == main]
    absent = set(missing_views(alike, todo.keys))
    shared = one_view_each([key for key in todo.keys if key not in absent])
    for done in check_boxes(todo.folder, todo.material, shared, main.topk, device):
        yield Progress(done, len(shared), "views compared")
