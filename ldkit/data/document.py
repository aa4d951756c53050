"""A COCO file, opened: its JSON, its sections, and everything that is wrong with it, told at once.

Checks do not raise; they add to a list of `Problem`s, and `refuse` ends the reading with all of
them in one error.
"""

import gc
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from ldkit.errors import DataError

JsonObject = dict[str, Any]

_SHOWN = 10


class Problem(NamedTuple):
    """One kind of mistake: how often it occurs, the first cases in words, and what to do."""

    times: int
    cases: tuple[str, ...]
    hint: str


def found(
    is_bad: Bool[np.ndarray, "N"], describe: Callable[[int], str], hint: str = ""
) -> list[Problem]:
    """Return the problem of the marked rows, or none where no row is marked."""
    rows = np.flatnonzero(is_bad)
    if rows.size == 0:
        return []
    return [Problem(rows.size, tuple(describe(int(row)) for row in rows[:_SHOWN]), hint)]


def refuse(path: Path, problems: list[Problem]) -> None:
    """Raise a `DataError` that tells all problems of the file, if there are any.

    Each kind shows its first cases, about ten in all, and counts the rest.
    """
    if not problems:
        return
    total = sum(problem.times for problem in problems)
    shown = max(2, _SHOWN // len(problems))
    lines: list[str] = []
    for problem in problems:
        lines += problem.cases[:shown]
        rest = problem.times - min(shown, len(problem.cases))
        lines += [f"and {rest} more of this kind"] if rest else []
    hints = dict.fromkeys(problem.hint for problem in problems if problem.hint)
    raise DataError(
        f"{total} problem{'s' if total > 1 else ''}\n\n"
        + "\n".join(f"  {x}" for x in lines)
        + "\n",
        where=str(path),
        hint=" ".join(["Nothing was started.", *hints]),
    )


def read_document(path: Path) -> JsonObject:
    """Return the JSON object of a COCO file.

    Raises:
        DataError: The file is missing, a folder, empty, not JSON (with line and column), or its
            outermost value is not an object.
    """
    content = _read_bytes(path)
    try:
        document = json.loads(content)
    except json.JSONDecodeError as error:
        raise _broken(
            path, f"is not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}."
        ) from error
    except (ValueError, RecursionError) as error:
        raise _broken(path, f"is not valid JSON: {error}.") from error
    if not isinstance(document, dict):
        raise _broken(path, f"holds {kind_of(document)} where an object {{...}} is expected.")
    return document


@contextmanager
def collector_paused() -> Iterator[None]:
    """Read without Python's search for cycles, which JSON has none of: a third faster on COCO."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _read_bytes(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise _broken(path, "does not exist.") from error
    except IsADirectoryError as error:
        raise _broken(path, "is a folder, but a COCO JSON file is expected.") from error
    except OSError as error:
        raise _broken(path, f"cannot be read: {error.strerror or error}.") from error
    if not content.strip():
        raise _broken(path, "is empty.")
    return content


def _broken(path: Path, message: str) -> DataError:
    return DataError(
        message,
        where=str(path),
        hint="Name a complete COCO annotation file (an interrupted download ends in the middle).",
    )


def kind_of(value: object) -> str:
    """Return what JSON calls the type of this value."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "a number")


def section(document: JsonObject, name: str, problems: list[Problem]) -> list[JsonObject]:
    """Return the objects listed in a section of the file, and note what is wrong with it."""
    if name not in document:
        problems.append(Problem(1, (f"the section `{name}` is missing.",), ""))
        return []
    rows = document[name]
    if not isinstance(rows, list):
        problems.append(Problem(1, (f"`{name}` is {kind_of(rows)}, not a list.",), ""))
        return []
    if not rows and name != "annotations":
        problems.append(Problem(1, (f"`{name}` has no entries.",), ""))
    is_bad = np.array([not isinstance(row, dict) for row in rows], bool)
    problems += found(is_bad, lambda row: f"{name}[{row}] is {kind_of(rows[row])}, not an object.")
    return [row for row in rows if isinstance(row, dict)]
