"""`ldkit cache info`: the figures of a cache, in words and as values."""

from pathlib import Path

from ldkit.cache.format import Axes, Source
from ldkit.cache.info import CacheInfo, info
from ldkit.cache.store import local
from ldkit.jobs.facts import Fact, Facts, aligned, plural, share, size


def facts(place: Path | str) -> Facts:
    """Return what a cache in a folder or at a URL holds, for whom it was made, what it weighs.

    Raises:
        CacheError: There is no cache, or its documents are damaged.
    """
    found = info(local(str(place)))
    plan, sources = found.plan, found.plan.sources
    return {
        "cache": str(place),
        "state": _state(found),
        "views": share(found.views, plan.keys.count),
        "rows": Fact(
            f"{found.rows:,} of the main region, {found.rows_per_view:.1f} a view",
            {"main": found.rows, "main_per_view": round(found.rows_per_view, 3)},
        ),
        "size": size_beside_dense(found),
        "columns": _columns(found.column_bytes),
        "axes": _axes(plan.axes),
        "teacher": _source(sources.weights),
        "data": _source(sources.data),
        "view policy": _source(sources.views),
        "renderer": _source(sources.render),
        "written by": f"ldkit {plan.ldkit}",
    }


def size_beside_dense(found: CacheInfo) -> Fact:
    """Return the size of a cache beside that of the same logits at every location."""
    value = {"bytes": found.bytes, "dense_bytes": found.dense_bytes}
    if not found.bytes:
        return Fact("nothing yet", value)
    times = found.dense_bytes / found.bytes
    dense = f"dense in fp16: {size(found.dense_bytes)}, {times:.0f} times that"
    return Fact(f"{size(found.bytes)} ({dense})", value)


def _state(found: CacheInfo) -> Fact:
    value = {
        "sealed": found.is_sealed,
        "shards": found.shards,
        "planned_shards": found.plan.shards,
        "fingerprint": found.fingerprint,
    }
    if found.fingerprint is None:
        return Fact(f"not sealed: {found.shards:,} of {plural(found.plan.shards, 'shard')}", value)
    shards = plural(found.shards, "shard")
    return Fact(f"sealed, {shards}, fingerprint {found.fingerprint[:12]}", value)


def _columns(column_bytes: dict[str, int]) -> Fact:
    largest_first = sorted(column_bytes, key=lambda name: -column_bytes[name])
    text = aligned({name: size(column_bytes[name]) for name in largest_first})
    return Fact(text, column_bytes)


def _axes(axes: Axes) -> Fact:
    text = (
        f"{axes.num_classes} classes, {axes.num_bins} bins of {axes.bin_width:g} strides, "
        f"strides {', '.join(map(str, axes.strides))}, anchors of {axes.anchor_scale:g} strides"
    )
    return Fact(text, axes.model_dump(mode="json"))


def _source(source: Source) -> Fact:
    shown = [f"{name} {value}" for name, value in source.facts.items() if value is not None]
    text = f"{source.fingerprint[:12]}: {', '.join(shown)}"
    return Fact(text, source.model_dump(mode="json"))
