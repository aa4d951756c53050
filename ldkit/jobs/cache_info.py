"""`ldkit cache info`: the figures of a cache, in words and as values."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ldkit.cache.format import Axes, Source
from ldkit.cache.generations import fingerprint, read_generations
from ldkit.cache.info import CacheInfo, all_info
from ldkit.cache.store import local
from ldkit.files import short
from ldkit.jobs.cache_rows import covered, distinct_views, groups, rows_per_view
from ldkit.jobs.facts import Fact, Facts, aligned, plural, share, size


def facts(place: Path | str) -> Facts:
    """Return what a cache in a folder or at a URL holds, for whom it was made, what it weighs.

    Raises:
        CacheError: There is no cache, or its documents are damaged.
    """
    folder = local(str(place))
    parts = all_info(folder)
    root, sealed = parts[0], [part for part in parts if part.is_sealed]
    plan, sources = root.plan, root.plan.sources
    known = fingerprint(read_generations(folder)) if root.is_sealed else None
    views = distinct_views(sealed)
    found: dict[str, str | Fact] = {
        "cache": str(place),
        "state": _state(sealed or [root], known),
        "views": share(root.views, plan.keys.count) if views is None else share(views, views),
    }
    if len(parts) > 1:
        found["generations"] = _generations(parts)
    return found | {
        "size": _size(sealed or [root]),
        "coverage": covered([part.plan.coverage for part in sealed or [root]]),
        "groups": groups(sealed or [root]),
        "rows per view": rows_per_view(sealed or [root]),
        "columns": _columns(sealed or [root]),
        "axes": _axes(plan.axes),
        "teacher": _source(sources.weights),
        "data": _source((sealed or [root])[-1].plan.sources.data),
        "view policy": _source((sealed or [root])[-1].plan.sources.views),
        "renderer": _source(sources.render),
        "written by": f"ldkit {plan.ldkit}",
    }


def _generations(parts: Sequence[CacheInfo]) -> Fact:
    """Return what each generation adds, a line for each."""
    lines, values = {}, []
    for part in parts[1:]:
        added = [name for name in part.plan.coverage.model_fields_set if name != "main"]
        regions = ", ".join(["main", *(each.name for each in part.groups if each.name in added)])
        shards = f"{part.shards:,} of {plural(part.plan.shards, 'shard')}"
        state = "" if part.is_sealed else f", not sealed: {shards}"
        views = plural(part.plan.keys.count, "view")
        lines[part.path.name] = f"{views}, {size(part.bytes)}: {regions}{state}"
        values.append(
            {
                "number": int(part.path.name),
                "views": part.plan.keys.count,
                "bytes": part.bytes,
                "coverage": part.plan.coverage.model_dump(mode="json", exclude_unset=True),
                "sealed": part.is_sealed,
                "fingerprint": part.fingerprint,
            }
        )
    width = max(map(len, lines))
    text = "\n".join(f"{name:<{width}}  {line}" for name, line in lines.items())
    return Fact(text, values)


def _size(parts: Sequence[CacheInfo]) -> Fact:
    """Return the size of a cache; beside the dense one where it is in one piece."""
    if len(parts) == 1:
        return size_beside_dense(parts[0])
    total = sum(part.bytes for part in parts)
    return Fact(f"{size(total)} in {len(parts)} parts", {"bytes": total, "dense_bytes": None})


def size_beside_dense(found: CacheInfo) -> Fact:
    """Return the size of a cache beside that of the same logits at every location."""
    value = {"bytes": found.bytes, "dense_bytes": found.dense_bytes}
    if not found.bytes:
        return Fact("nothing yet", value)
    times = found.dense_bytes / found.bytes
    dense = f"dense in fp16: {size(found.dense_bytes)}, {times:.0f} times that"
    return Fact(f"{size(found.bytes)} ({dense})", value)


def _state(parts: Sequence[CacheInfo], known: str | None) -> Fact:
    done = sum(part.shards for part in parts)
    planned = sum(part.plan.shards for part in parts)
    value = {
        "sealed": known is not None,
        "shards": done,
        "planned_shards": planned,
        "fingerprint": known,
    }
    if known is None:
        return Fact(f"not sealed: {done:,} of {plural(planned, 'shard')}", value)
    return Fact(f"sealed, {plural(done, 'shard')}, fingerprint {short(known)}", value)


def _columns(parts: Sequence[CacheInfo]) -> Fact:
    column_bytes: Counter[str] = Counter()
    for part in parts:
        column_bytes.update(part.column_bytes)
    largest_first = sorted(column_bytes, key=lambda name: -column_bytes[name])
    text = aligned({name: size(column_bytes[name]) for name in largest_first})
    return Fact(text, dict(column_bytes))


def _axes(axes: Axes) -> Fact:
    text = (
        f"{axes.num_classes} classes, {axes.num_bins} bins of {axes.bin_width:g} strides, "
        f"strides {', '.join(map(str, axes.strides))}, anchors of {axes.anchor_scale:g} strides"
    )
    return Fact(text, axes.model_dump(mode="json"))


def _source(source: Source) -> Fact:
    shown = [f"{name} {value}" for name, value in source.facts.items() if value is not None]
    text = f"{short(source.fingerprint)}: {', '.join(shown)}"
    return Fact(text, source.model_dump(mode="json"))
