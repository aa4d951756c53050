"""Ctrl-C ends a command calmly, whenever it comes: one true line, exit code 130, no traceback."""

import signal
import sys
import time
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

EXIT_CODE = 130
DOUBLE_PRESS_SECONDS = 1.0
"""Ctrl-C within so many seconds of another is the same one: what it began is not disturbed."""
LATER_SECONDS = 0.05

RESUME = "Stopped. The same command with --resume goes on from the last saved step."
AGAIN = "Stopped. What is complete stays; the same command goes on from there."
STOPPED = {
    "teacher train": RESUME,
    "distill": RESUME,
    "cache-logits": AGAIN,
    "eval": AGAIN,
    "quickstart": AGAIN,
    "run": AGAIN,
    "data synth": "Stopped. The data set is incomplete; the same command draws it anew.",
}
"""What an interrupted command leaves; those that are not named leave nothing."""


def stopped(arguments: list[str]) -> str:
    """Return what to say when Ctrl-C has ended the command with these arguments."""
    if any(word.partition("=")[0] == "--ablate" for word in arguments):
        return AGAIN
    words = [word for word in arguments if not word.startswith("-")]
    names = [" ".join(words[:count]) for count in (1, 2)]
    return next((STOPPED[name] for name in names if name in STOPPED), "Stopped.")


class Interrupts:
    """The handler of SIGINT: Python's own, but patient with imports and with impatient users.

    A module that is interrupted while it loads stays half made, and what then needs it fails in
    strange ways. Loading torch takes seconds, so the interrupt waits for the end of it. And where
    it falls into a finalizer, which lets no exception out, it comes again.
    """

    def __init__(self) -> None:
        self._last_press = -DOUBLE_PRESS_SECONDS
        self._unraisable = sys.unraisablehook

    def install(self) -> None:
        """Handle SIGINT from now on, unless this process was started to ignore it."""
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self.press)
            signal.signal(signal.SIGALRM, self.press_again)
            sys.unraisablehook = self.swallowed

    def press(self, _signal: int, frame: FrameType | None) -> None:
        """Interrupt, or soon, or not, where that has just been done.

        Raises:
            KeyboardInterrupt: As Python's own handler does.
        """
        now = time.monotonic()
        if now - self._last_press < DOUBLE_PRESS_SECONDS:
            return
        if is_importing(frame):
            signal.setitimer(signal.ITIMER_REAL, LATER_SECONDS)
            return
        self._last_press = now
        raise KeyboardInterrupt

    def press_again(self, _signal: int, _frame: FrameType | None) -> None:
        """Give the interrupt that had to wait to whoever handles interrupts now."""
        signal.raise_signal(signal.SIGINT)

    def swallowed(self, found: "UnraisableHookArgs") -> None:
        """Press again soon, where an interrupt was lost; tell of any other lost exception."""
        if issubclass(found.exc_type, KeyboardInterrupt):
            self._last_press = -DOUBLE_PRESS_SECONDS
            signal.setitimer(signal.ITIMER_REAL, LATER_SECONDS)
        else:
            self._unraisable(found)


def is_importing(frame: FrameType | None) -> bool:
    """Say whether a module is being loaded at this point of the program."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False
