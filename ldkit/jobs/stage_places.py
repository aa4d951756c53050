"""Where the output of a stage stands, and whether it is the one that a recipe asks for.

An output keeps its plain name (runs/NAME, caches/NAME) while the recipe stays what it was. A recipe
that asks for another one gets a folder beside it, NAME-1a2b3c4d: nothing is moved, overwritten or
removed, and a recipe that is changed back finds its old output again.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from ldkit.errors import UsageError

DIGITS = 8
"""Digits of a fingerprint in the name of a folder."""


class State(Enum):
    """How far a stage is."""

    FINISHED = "finished"
    UNFINISHED = "unfinished"
    TO_DO = "to do"
    WAITING = "waiting"
    """For an earlier stage: what it makes decides what is to be done here."""


class Change(NamedTuple):
    """One value in which an output differs from what a recipe asks for, as text."""

    key: str
    was: str
    now: str


class Found(NamedTuple):
    """An output on disk: complete or not, and where it differs (nowhere: it is the one)."""

    is_finished: bool
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class Status:
    """How a stage stands: where its output is or will be, and why not in the place of another.

    `changes` are the differences from `nearest`, the output that is most alike; both are empty
    where nothing was in the way. `note` says the rest in words.
    """

    state: State
    output: Path
    note: str = ""
    nearest: Path | None = None
    changes: tuple[Change, ...] = ()


Look = Callable[[Path], Found | None]
"""What stands at a path; None: nothing."""


def place(base: Path, digest: str, look: Look) -> Status:
    """Return where the output belongs: where it is already, or `base`, or a name of its own.

    `digest` is the fingerprint of all that the output depends on.

    Raises:
        UsageError: Something else stands under that name of its own.
    """
    found = {path: seen for path in (base, *_siblings(base)) if (seen := look(path)) is not None}
    own = [path for path, seen in found.items() if not seen.changes]
    for path in sorted(own, key=lambda path: not found[path].is_finished):
        is_finished = found[path].is_finished
        return Status(State.FINISHED if is_finished else State.UNFINISHED, path)
    if base not in found:
        return Status(State.TO_DO, base)
    output = named(base, digest)
    if output in found:
        raise UsageError(
            "is not what its name says: its documents were changed by hand.",
            where=str(output),
            hint="Remove it or give it another name, then run the same command again.",
        )
    nearest = min(found, key=lambda path: len(found[path].changes))
    return Status(State.TO_DO, output, nearest=nearest, changes=found[nearest].changes)


def named(base: Path, digest: str) -> Path:
    """Return the name beside `base` that belongs to this digest."""
    return base.with_name(f"{base.name}-{digest[:DIGITS]}")


def _siblings(base: Path) -> Iterator[Path]:
    """Yield what stands beside `base` under its name and a digest."""
    pattern = re.compile(rf"{re.escape(base.name)}-[0-9a-f]{{{DIGITS}}}")
    if base.parent.is_dir():
        yield from sorted(path for path in base.parent.iterdir() if pattern.fullmatch(path.name))
