"""Shards of a mirror, fetched by threads in the order in which the sampler needs them."""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread

from ldkit.cache.store import fetch, most_open
from ldkit.errors import LdkitError
from ldkit.structures import ViewKey

THREADS = 4
"""Shards that are on their way at once."""


def fetched_ahead(
    batches: Sequence[list[ViewKey]], file_of: Callable[[ViewKey], Path]
) -> Iterator[list[ViewKey]]:
    """Yield the batches while the shards of those that follow are fetched, in their order.

    `file_of` says which shard holds a view. So many are fetched ahead as fill half of the store.
    What cannot be fetched is left to whoever reads it, to tell. Of a cache that is no mirror
    nothing is fetched.
    """
    if not batches:
        return
    limit = most_open(file_of(batches[0][0]))
    yield from batches if limit is None else _led(batches, file_of, limit)


def _led(
    batches: Sequence[list[ViewKey]], file_of: Callable[[ViewKey], Path], limit: int
) -> Iterator[list[ViewKey]]:
    queue: SimpleQueue[Path | None] = SimpleQueue()
    stop = Event()
    for _ in range(THREADS):
        Thread(target=_work, args=(queue, stop), daemon=True).start()
    asked: deque[Counter[Path]] = deque()
    ahead: Counter[Path] = Counter()
    following = iter(batches)
    try:
        for batch in batches:
            while not asked or len(ahead) < limit:
                files = Counter(file_of(key) for key in next(following, ()))
                if not files:
                    break
                for file in files.keys() - ahead.keys():
                    queue.put(file)
                ahead += files
                asked.append(files)
            yield batch
            ahead -= asked.popleft()
    except GeneratorExit:
        stop.set()
        raise
    finally:
        for _ in range(THREADS):
            queue.put(None)


def _work(queue: "SimpleQueue[Path | None]", stop: Event) -> None:
    while (file := queue.get()) is not None and not stop.is_set():
        with suppress(LdkitError, OSError):
            fetch(file)
