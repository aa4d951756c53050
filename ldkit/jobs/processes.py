"""Several tasks side by side, each in a process of one thread; what they tell comes out here.

Ctrl-C is for this process alone. It asks the others to stop between two messages, which closes
their generators, and so they save.
"""

import os
import signal
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.synchronize import Event

import torch

from ldkit.errors import LdkitError, TrainingError
from ldkit.interrupts import interrupts_held
from ldkit.jobs.progress import Message

POLL_SECONDS = 0.2
PIPE_BYTES = 65_536

Task = Callable[[], Generator[Message, None, object]]
"""Must be picklable: a function of a module, or a partial of one."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The last word of a process, with the error for the user that ended it, if there was one."""

    error: LdkitError | None


@dataclass(frozen=True, slots=True)
class Running:
    """A process, and our end of the pipe it tells by."""

    name: str
    process: SpawnProcess
    pipe: Connection


def side_by_side(
    tasks: Mapping[str, Task], at_once: int
) -> Generator[tuple[str, Message], None, None]:
    """Yield (name, message) as the tasks tell them; at most so many run at once.

    Raises:
        LdkitError: The first that a task raises; the others have stopped then.
        TrainingError: A process was killed.
    """
    context = get_context("spawn")
    stop = context.Event()
    waiting = list(tasks)
    running: list[Running] = []
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                with interrupts_held() as held:  # a process we do not know of could not be stopped
                    name = waiting.pop(0)
                    running.append(_started(context, name, tasks[name], stop))
                held.release()
            ready = wait([each.pipe for each in running])
            for each in [each for each in running if each.pipe in ready]:
                heard = _heard(each)
                if not isinstance(heard, Ended):
                    yield each.name, heard
                    continue
                running.remove(each)
                each.process.join()
                if heard.error is not None:
                    raise heard.error
    finally:
        stop.set()
        for each in running:
            _see_out(each)


def _started(context: SpawnContext, name: str, task: Task, stop: Event) -> Running:
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(task, theirs, stop))
    with theirs, _deaf_to_interrupts():
        process.start()
    return Running(name, process, ours)


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Start processes that never hear of Ctrl-C, not even while they start."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _heard(each: Running) -> Message | Ended:
    try:
        heard: Message | Ended = each.pipe.recv()
    except EOFError:
        each.process.join()
        raise _death(each) from None
    return heard


def _death(each: Running) -> Exception:
    """Return the error for a process that ended without a last word."""
    code = each.process.exitcode or 0
    if code >= 0:  # its traceback is on the terminal
        return RuntimeError(f"the process of {each.name} ended with code {code}.")
    return TrainingError(
        f"its process was killed ({signal.Signals(-code).name}).",
        where=each.name,
        hint="Usually memory has run out. The same command goes on from the last checkpoint.",
    )


def _see_out(each: Running) -> None:
    """Wait for the end of a process that was asked to stop; it cannot end while its pipe is full.

    What comes is thrown away: an interrupted reading may have stopped within a message.
    """
    while each.process.is_alive():
        if each.pipe.poll(POLL_SECONDS) and not os.read(each.pipe.fileno(), PIPE_BYTES):
            each.process.join()


def _work(task: Task, pipe: Connection, stop: Event) -> None:
    """Run a task and send what it tells."""
    torch.set_num_threads(1)
    with suppress(BrokenPipeError):  # there is none to hear: the main process was killed
        pipe.send(Ended(_tell(task, pipe, stop)))


def _tell(task: Task, pipe: Connection, stop: Event) -> LdkitError | None:
    """Send every message of a task until asked to stop; return the error that ended it."""
    parent = parent_process()
    assert parent is not None
    try:
        with closing(task()) as messages:
            for message in messages:
                if stop.is_set() or not parent.is_alive():
                    break
                pipe.send(message)
    except LdkitError as error:
        return error
    return None
