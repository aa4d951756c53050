"""What rows a cache holds, in words and figures: regions, groups, and how many a view has."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ldkit.cache.format import Coverage
from ldkit.cache.info import CacheInfo
from ldkit.jobs.facts import Fact, size, table
from ldkit.jobs.histogram import bins, drawn, percentiles

_WORDS = {
    "main": "locations with a box by ATSS, topk {topk}",
    "vlr": "overlap {overlap} from {floor:g} of the threshold, topk {topk}",
    "imitation": "features at {region}",
    "score": "locations whose best class scores {floor:g} or more",
    "cross": "statistics of head features after convolution {after}",
}


def covered(coverages: Sequence[Coverage]) -> Fact:
    """Return which rows there are; of several generations, the newest that has a region."""
    held: dict[str, dict[str, object]] = {}
    for coverage in coverages:
        held |= coverage.model_dump(exclude_unset=True)
    lines = [[name, _WORDS[name].format(**held[name])] for name in _WORDS if name in held]
    return Fact(table(lines, texts=(0, 1)), held)


def groups(parts: Sequence[CacheInfo]) -> Fact:
    """Return rows and bytes of each group; where a view was stored twice, both count."""
    names = dict.fromkeys(each.name for part in parts for each in part.groups)
    lines, values = [["", "rows", "a view", "size"]], {}
    for name in names:
        views = sum(part.views for part in parts if name in {each.name for each in part.groups})
        found = [each for part in parts for each in part.groups if each.name == name]
        rows, count = sum(each.rows for each in found), sum(each.bytes for each in found)
        mean = rows / views if views else 0.0
        lines.append([name, f"{rows:,}", f"{mean:,.1f}", size(count)])
        values[name] = {"rows": rows, "rows_per_view": round(mean, 3), "bytes": count}
    text, distinct = table(lines), distinct_views(parts)
    if distinct is not None and sum(part.views for part in parts) > distinct:
        text += "\nRows of views that two parts store count twice."
    return Fact(text, values)


def distinct_views(parts: Sequence[CacheInfo]) -> int | None:
    """Return how many views there are, one that several parts store once; None: not known."""
    spreads = [part.spread for part in parts if part.spread is not None]
    if not spreads or len(spreads) < len(parts):
        return None
    return len(np.unique(np.concatenate([each.keys for each in spreads]), axis=0))


def rows_per_view(parts: Sequence[CacheInfo]) -> Fact:
    """Return percentiles of the rows of a view for each group, and the histogram of main."""
    if any(part.spread is None for part in parts):
        return Fact("not known: shards are not here yet, or damaged", None)
    names = dict.fromkeys(each.name for part in parts for each in part.groups)
    counts = {name: _counts(parts, name) for name in names}
    if not len(counts["main"]):
        return Fact("nothing yet", None)
    found = {name: percentiles(each) for name, each in counts.items()}
    lines = [["", *found["main"]]]
    lines += [[name, *(f"{n:,}" for n in each.values())] for name, each in found.items()]
    main = bins(counts["main"])
    text = f"{table(lines)}\nviews by rows of main:\n{drawn(main)}"
    histogram = [{"first": b.first, "last": b.last, "views": b.amount} for b in main]
    return Fact(text, {"percentiles": found, "main_histogram": histogram})


def _counts(parts: Sequence[CacheInfo], name: str) -> NDArray[np.int64]:
    """Return the rows of each view in a group; views that are stored twice count once."""
    spreads = [part.spread for part in parts if part.spread and name in part.spread.rows]
    keys = np.concatenate([each.keys for each in spreads])
    _, first = np.unique(keys, axis=0, return_index=True)
    counts: NDArray[np.int64] = np.concatenate([each.rows[name] for each in spreads])[first]
    return counts
