"""`ldkit cache info`: the figures of a cache, in words."""

from collections.abc import Mapping
from pathlib import Path

from ldkit.cache.info import CacheInfo, info


def facts(path: Path) -> dict[str, str]:
    """Return what a cache holds, for whom it was made, and what it weighs.

    Raises:
        CacheError: There is no cache, or its documents are damaged.
    """
    found = info(path)
    plan = found.plan
    axes, sources = plan.axes, plan.sources
    columns = "  ".join(f"{name} {_size(size)}" for name, size in found.column_bytes.items())
    return {
        "cache": str(path),
        "state": _state(found),
        "views": f"{found.views:,} of {plan.keys.count:,}",
        "rows": f"{found.rows:,} of the main region ({found.rows_per_view:.1f} a view)",
        "size": size_beside_dense(found),
        "columns": columns,
        "axes": f"{axes.num_classes} classes, {axes.num_bins} bins of {axes.bin_width:g} strides, "
        f"strides {', '.join(map(str, axes.strides))}, anchors of {axes.anchor_scale:g} strides",
        "teacher": _source(sources.weights.facts, sources.weights.fingerprint),
        "data": _source(sources.data.facts, sources.data.fingerprint),
        "view policy": _source(sources.views.facts, sources.views.fingerprint),
        "renderer": _source(sources.render.facts, sources.render.fingerprint),
        "written by": f"ldkit {plan.ldkit}",
    }


def size_beside_dense(found: CacheInfo) -> str:
    """Return the size of a cache beside that of the same logits at every location."""
    if not found.bytes:
        return "nothing yet"
    share = found.dense_bytes / found.bytes
    return (
        f"{_size(found.bytes)} (dense in fp16: {_size(found.dense_bytes)}, {share:.0f} times that)"
    )


def _state(found: CacheInfo) -> str:
    if found.fingerprint is not None:
        return f"sealed, {found.shards:,} shards, fingerprint {found.fingerprint[:12]}"
    return f"not sealed: {found.shards:,} of {found.plan.shards:,} shards are complete"


def _source(facts: Mapping[str, object], fingerprint: str) -> str:
    shown = ", ".join(f"{name} {value}" for name, value in facts.items() if value is not None)
    return f"{shown} ({fingerprint[:12]})"


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "KB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"
