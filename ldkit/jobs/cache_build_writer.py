"""Rows are found, encoded and written in a thread of their own, while the teacher goes on."""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

import torch

from ldkit.cache import writer
from ldkit.cache.folder import CacheFolder, is_complete
from ldkit.cache.format import Plan, Wanted
from ldkit.interrupts import interrupts_held
from ldkit.jobs.cache_build_memory import Answer, is_exhausted, no_room
from ldkit.jobs.teacher_rows import rows_said
from ldkit.jobs.view_rows import rows_by_view
from ldkit.structures import ViewKey

if TYPE_CHECKING:
    from ldkit.cache.content import ViewRows

WAITING = 2
"""Answers that may wait for the thread. A builder that is ahead of its disk waits for it."""


class _Task(NamedTuple):
    """An answer of the teacher, the shard it belongs to, and when it is there (GPU)."""

    shard: int
    answer: Answer
    ready: torch.cuda.Event | None


class ShardWriter:
    """Takes what the teacher says; writes each shard once it has the rows of all its views.

    Errors of the thread come out of the next `take`, or of `finish`. However the block ends, what
    was taken is written first and the thread is gone afterwards: what is complete stays.
    """

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        keys: Sequence[ViewKey],
        wanted: Wanted,
        device: torch.device,
    ) -> None:
        self._folder = CacheFolder(folder)
        self._plan = plan
        self._keys = keys
        self._wanted = wanted
        self._copies = _Copies(device)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ldkit-shards")
        self._pending: deque[tuple[_Task, Future[None]]] = deque()
        self._rows: dict[ViewKey, ViewRows] = {}

    def __enter__(self) -> "ShardWriter":
        """Begin; the thread starts with the first answer."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let the thread finish what it has; an interrupt waits until it has."""
        with interrupts_held() as held:
            self._thread.shutdown(wait=True)
        held.release()

    def take(self, shard: int, answer: Answer) -> None:
        """Take what is said of some views of a shard; wait where too much is waiting already.

        Raises:
            LdkitError: An earlier shard could not be written.
        """
        while len(self._pending) >= WAITING:
            self._settle(*self._pending.popleft())
        task = _Task(shard, answer, self._copies.ready())
        self._pending.append((task, self._thread.submit(self._keep, task)))

    def finish(self) -> None:
        """Wait until all is written.

        Raises:
            LdkitError: A shard could not be written.
        """
        while self._pending:
            self._settle(*self._pending.popleft())

    def _settle(self, task: _Task, future: Future[None]) -> None:
        """Wait for a task; where memory ran out beside the teacher, try again while it rests."""
        error = future.exception()
        if error is None:
            return
        if not is_exhausted(error):
            raise error
        del error, future  # with them go the tensors that their traceback holds
        again = self._thread.submit(self._keep, task)
        if is_exhausted(again.exception()):
            raise no_room(task.answer.batch) from again.exception()
        again.result()

    def _keep(self, task: _Task) -> None:
        """Find the rows of an answer; write its shard if nothing of it is missing any more."""
        batch, said = task.answer
        with self._copies.after(task.ready), torch.no_grad():
            rows = rows_said(said, batch, self._plan.axes.grid, self._wanted)
            self._rows.update(rows_by_view(batch, rows))
        keys = self._plan.keys_of(task.shard, self._keys)
        if not all(key in self._rows for key in keys):
            return
        if not is_complete(self._folder, self._plan, task.shard):  # by another process
            content = [self._rows[key] for key in keys]
            writer.write_shard(self._folder.path, task.shard, content, self._plan)
        for key in keys:  # only now: where memory runs out, all of it is tried again
            del self._rows[key]


class _Copies:
    """Copies from a GPU beside the teacher's kernels, which are queued on another stream."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def ready(self) -> torch.cuda.Event | None:
        """Return the event that all that is queued by now is done; None: it is done."""
        if self._stream is None:
            return None
        event: torch.cuda.Event = torch.cuda.current_stream(self._device).record_event()
        return event

    def after(self, ready: torch.cuda.Event | None) -> AbstractContextManager[object]:
        """Return a block whose copies wait for an event, and for nothing queued after it."""
        if self._stream is None or ready is None:
            return nullcontext()
        self._stream.wait_event(ready)
        return torch.cuda.stream(self._stream)
