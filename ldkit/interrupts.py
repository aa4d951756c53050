"""Ctrl-C that waits for a safe moment.

A training step changes weights, optimizer, running statistics and position. Interrupted half
way these no longer agree, and a run resumed from them is another run. A step is short, so the
interrupt waits for its end. So it does while a line, a checkpoint or a loader is made.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class HeldInterrupt:
    """Remembers whether Ctrl-C was pressed while it was held back."""

    def __init__(self) -> None:
        self._arrived = False

    def note(self, _signal: int, _frame: FrameType | None) -> None:
        """Remember an interrupt; this is the signal's handler."""
        self._arrived = True

    def release(self) -> None:
        """Let an interrupt that has arrived take effect now, as if it came at this line.

        Raises:
            KeyboardInterrupt: One had arrived, and Python's usual handler is in place.
        """
        if self._arrived:
            self._arrived = False
            signal.raise_signal(signal.SIGINT)


@contextmanager
def interrupts_held() -> Iterator[HeldInterrupt]:
    """Hold Ctrl-C back inside the block. The caller releases it afterwards.

    Only the main thread receives interrupts, so in another one there is nothing to hold.
    """
    held = HeldInterrupt()
    previous = signal.getsignal(signal.SIGINT)
    if previous is None or threading.current_thread() is not threading.main_thread():
        yield held
        return
    signal.signal(signal.SIGINT, held.note)
    try:
        yield held
    finally:
        signal.signal(signal.SIGINT, previous)
