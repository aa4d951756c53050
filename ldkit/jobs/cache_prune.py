"""`ldkit cache prune`: a cache anew with fewer groups, and in one piece."""

from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path

from ldkit.cache.folder import CacheFolder
from ldkit.cache.generations import read_generation
from ldkit.cache.prune import Copier, Kept, rewrite
from ldkit.errors import UsageError
from ldkit.jobs.facts import Fact, Facts, size
from ldkit.jobs.progress import Message, Progress
from ldkit.jobs.size_estimate import SAMPLE, locations_of, sample, scored_rows

SHARD_MB = 64.0
"""Size of a shard, as recipes have it."""


def run(
    path: Path, names: Sequence[str], out: Path, shard_mb: float = SHARD_MB
) -> Generator[Message, None, Facts]:
    """Yield progress; write a cache with these regions alone, and return what that saves.

    Shards are cut as a build of the same size would cut them.

    Raises:
        UsageError: The cache does not hold what is to be kept, or is to be written into itself.
        CacheError: It is not sealed or damaged, or some views lack what is to be kept.
        StorageError: The folder cannot be written.
    """
    if out.resolve() == path.resolve():
        raise UsageError(
            "is the cache itself, which is never changed.",
            where=str(out),
            hint="Name a folder that does not exist yet (`--out caches/NAME`); delete the old one "
            "when you no longer need it.",
        )
    kept = Kept.of(path, names)
    with closing(Copier(kept)) as copier:  # one: it proves each shard once
        plan = kept.plan(shard_mb * 1e6, _rows_per_view(copier))
        for done in rewrite(copier, plan, out):
            yield Progress(done, plan.keys.count, "views")
    before = sum(each.manifest.bytes for each in kept.generations)
    after = read_generation(CacheFolder(out)).manifest.bytes
    return {
        "cache": str(out),
        "kept": ", ".join(name for name, region in kept.coverage if region is not None),
        "views": f"{plan.keys.count:,}",
        "size": Fact(
            f"{size(after)}, {1 - after / before:.0%} less than the {size(before)} of {path}",
            {"bytes": after, "bytes_before": before},
        ),
    }


def _rows_per_view(copier: Copier) -> dict[str, float]:
    """Return the mean rows of each group, as an estimate before a build has them."""
    kept, keys = copier.kept, sample(copier.kept.keys, SAMPLE)
    rows = {name: sum(found) / len(found) for name, found in copier.counts(keys).items()}
    if "score" in rows:
        grid = kept.generations[0].plan.axes.grid
        counts = [locations_of(canvas_hw, grid) for canvas_hw in copier.canvases(keys)]
        rows |= scored_rows(sum(counts) / len(counts))
    return rows
