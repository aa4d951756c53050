"""`ldkit cache merge`: sealed caches of one teacher and other views, as one cache."""

from collections.abc import Generator, Sequence
from pathlib import Path

from ldkit.cache.merge import merge, read_parts
from ldkit.jobs.cache_info import facts
from ldkit.jobs.facts import Facts
from ldkit.jobs.progress import Message, Progress


def run(paths: Sequence[Path], out: Path) -> Generator[Message, None, Facts]:
    """Yield progress; return what the cache holds that was put together from these.

    Raises:
        UsageError: There are fewer than two.
        CacheError: One is not sealed or damaged, they overlap, or are of several teachers.
        StorageError: The folder cannot be written.
    """
    parts = read_parts(paths)
    total = sum(part.manifest.bytes for part in parts)
    for done in merge(parts, out):
        yield Progress(done, total, "bytes")
    return facts(out)
