"""Shards of a mirror, fetched by threads in the order in which the sampler needs them."""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread

from ldkit.cache.store import fetch, most_open
from ldkit.errors import LdkitError
from ldkit.structures import ViewKey

THREADS = 4
"""Shards that are on their way at once."""

FilesOf = Callable[[ViewKey], tuple[Path, ...]]
"""Which shards a lookup of a view may open."""


def fetched_ahead(files_of: FilesOf, batches: Sequence[list[ViewKey]]) -> Iterator[list[ViewKey]]:
    """Yield the batches while the shards of those that follow are fetched, in their order.

    `files_of` says which shards hold a view. So many are fetched ahead as fill half of the store.
    What cannot be fetched is left to whoever reads it, to tell. Of a cache that is no mirror
    nothing is fetched.
    """
    some = next((file for batch in batches for key in batch for file in files_of(key)), None)
    limit = None if some is None else most_open(some)
    yield from batches if limit is None else _led(files_of, batches, limit)


class _Window:
    """The shards of the batches that were looked at and are not over yet: so many, or one batch."""

    def __init__(self, files_of: FilesOf, batches: Sequence[list[ViewKey]], limit: int) -> None:
        self._files_of = files_of
        self._following = iter(batches)
        self._limit = limit
        self._batches: deque[Counter[Path]] = deque()
        self._files: Counter[Path] = Counter()

    def enlarge(self) -> Iterator[Path]:
        """Yield the shards of further batches that were not in the window, until it is full."""
        while not self._batches or len(self._files) < self._limit:
            batch = next(self._following, None)
            if batch is None:
                return
            files = Counter(file for key in batch for file in self._files_of(key))
            yield from (file for file in files if file not in self._files)
            self._files += files
            self._batches.append(files)

    def move(self) -> None:
        """Leave the first batch behind."""
        self._files -= self._batches.popleft()


def _led(
    files_of: FilesOf, batches: Sequence[list[ViewKey]], limit: int
) -> Iterator[list[ViewKey]]:
    window = _Window(files_of, batches, limit)
    with _fetching() as ask:
        for batch in batches:
            for file in window.enlarge():
                ask(file)
            yield batch
            window.move()


@contextmanager
def _fetching() -> Iterator[Callable[[Path], None]]:
    """Yield what asks the threads for a shard; after an early end they leave the rest."""
    queue: SimpleQueue[Path | None] = SimpleQueue()
    stop = Event()
    for _ in range(THREADS):
        Thread(target=_work, args=(queue, stop), daemon=True).start()
    try:
        yield queue.put
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
