"""The journal of a run: one JSON line for each event, in metrics.jsonl.

Lines are written one by one and unbuffered, so a kill loses at most the line being written. A
line counts when its newline is there; opening the journal at a position drops a torn line and
whatever was told of later steps, so that a resumed run tells each step once.
"""

import errno
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

from ldkit.errors import DataError, StorageError
from ldkit.files import write_bytes
from ldkit.interrupts import interrupts_held
from ldkit.training.events import (
    Contributions,
    Evaluated,
    Event,
    Finished,
    Saved,
    Started,
    Step,
)

KINDS: dict[str, type[Event]] = {
    "started": Started,
    "step": Step,
    "contributions": Contributions,
    "evaluated": Evaluated,
    "saved": Saved,
    "finished": Finished,
}
NAMES = {kind: name for name, kind in KINDS.items()}


class Journal:
    """Appends events to a file. `step` is the position at which the run begins or goes on.

    Raises:
        StorageError: The file cannot be written (also while writing).
        DataError: A line in the middle of an existing file is not an event.
    """

    def __init__(self, path: Path, *, step: int = 0) -> None:
        self._path = path
        _keep_until(path, step)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise self._failure(error) from error

    def write(self, *events: Event) -> None:
        """Add events; they are with the operating system when this returns.

        Ctrl-C does not come between the events of one call.
        """
        lines = b"".join(_line(event) for event in events)
        try:
            with interrupts_held() as held:
                self._append(lines)
        except OSError as error:
            raise self._failure(error) from error
        held.release()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _append(self, lines: bytes) -> None:
        if self._file.write(lines) != len(lines):  # a full disk takes a part, then nothing
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _failure(self, error: OSError) -> StorageError:
        return StorageError(
            f"could not be written: {error.strerror or error}.",
            where=str(self._path),
            hint="Free space, then resume: the run goes on from its last checkpoint.",
        )


def read_journal(path: Path) -> Iterator[Event]:
    """Yield the events of a journal, in order; a torn last line is left out.

    Raises:
        DataError: The file cannot be read, or a whole line of it is not an event.
    """
    for number, line in enumerate(_whole_lines(path), start=1):
        yield _event(line, path, number)


def _keep_until(path: Path, step: int) -> None:
    """Rewrite the file without a torn line and without events after `step`, if it has any."""
    if not path.is_file():
        return
    lines = list(_whole_lines(path))
    kept = [
        line
        for number, line in enumerate(lines, start=1)
        if _event(line, path, number).step <= step
    ]
    if sum(map(len, kept)) != path.stat().st_size:
        write_bytes(path, b"".join(kept))


def _whole_lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from (line for line in file if line.endswith(b"\n"))
    except OSError as error:
        raise DataError(
            f"cannot be read: {error.strerror or error}.",
            where=str(path),
            hint="The journal of a run is runs/NAME/metrics.jsonl.",
        ) from error


def _line(event: Event) -> bytes:
    record = {"event": NAMES[type(event)], **asdict(event)}
    return json.dumps(record, allow_nan=False).encode() + b"\n"


def _event(line: bytes, path: Path, number: int) -> Event:
    try:
        fields = json.loads(line)
        return KINDS[fields.pop("event")](**fields)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            "is not an event of this version of ldkit.",
            where=f"{path}, line {number}",
            hint="Remove the line to read the rest of the journal.",
        ) from error
