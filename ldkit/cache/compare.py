"""Is this the cache that a recipe needs? Both sides, field by field, where it is not."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from ldkit.cache.format import Axes, Plan, Sources, Wanted
from ldkit.cache.shortfall import coverage_error, shortfalls
from ldkit.errors import CacheMismatch
from ldkit.files import canonical_json

logger = logging.getLogger(__name__)

SHOWN = 12
"""Digits of a fingerprint that are shown."""

_PHRASES = {
    "weights": "another teacher",
    "model": "another detector",
    "data": "another data set",
    "views": "another view policy",
    "render": "another renderer",
    "axes": "other axes",
    "coverage": "other rows",
    "columns": "other columns",
    "build": "other shards or batches",
    "keys": "other views",
}
_ADVICE = {
    "weights": "Point `teacher.checkpoint` at the original teacher",
    "model": "Point `teacher.checkpoint` at the original teacher",
    "data": "Point `data` at the original data set",
    "views": "Set `views` and `seed` as they were",
}

Fields = dict[str, str]
"""Dotted name → text. The fingerprint of a source has the empty name: it alone decides."""


class _Line(NamedTuple):
    name: str
    cached: str
    wanted: str = ""


class Difference(NamedTuple):
    """One value in which two plans differ, as text; "-" where a side does not have it.

    `part` is what it belongs to: a source, or axes, coverage, columns, build, keys.
    """

    part: str
    name: str
    cached: str
    wanted: str


def differences(cached: Plan, wanted: Plan) -> tuple[Difference, ...]:
    """Return where two plans differ in what their shards hold; none: one goes on with the other.

    A part is told by its values; by its fingerprint where these say nothing.
    """
    ours, theirs = _sections(_dump(cached)), _sections(_dump(wanted))
    found = []
    for part in theirs:
        if _agree(ours[part], theirs[part]):
            continue
        fingerprints, *fields = _lines(part, ours[part], theirs[part])
        for name, was, now in fields or [fingerprints]:
            found.append(Difference(part, f"{part}.{name.strip()}" if fields else name, was, now))
    return tuple(found)


def require_same_plan(cached: Plan, wanted: Plan, folder: Path) -> None:
    """Check that a cache which was begun can go on with this plan.

    File names and other facts may differ where the fingerprints agree; so may the ldkit version.

    Raises:
        CacheMismatch: With both sides, field by field.
    """
    _require_equal(_sections(_dump(cached)), _sections(_dump(wanted)), folder)


def require_fit(plan: Plan, sources: Sources, axes: Axes, wanted: Wanted, folder: Path) -> None:
    """Check that a cache says what a student of this recipe would hear from its teacher.

    It may hold more than is wanted. The width of features counts where they are wanted and
    `axes` has one. Another renderer only warns: `CacheReader.check_pixels` proves whether it
    matters.

    Raises:
        CacheMismatch: It was made from something else; both sides, field by field.
        CacheCoverage: It lacks what is wanted, or holds it otherwise.
    """
    render = plan.sources.render
    if render.fingerprint != sources.render.fingerprint:
        facts = canonical_json(render.facts), canonical_json(sources.render.facts)
        logger.warning("%s was rendered by %s, this run renders by %s.", folder, *facts)
    features = wanted.coverage.imitation is not None or wanted.coverage.cross is not None
    if plan.axes.channels is None or axes.channels is None or not features:
        axes = axes.model_copy(update={"channels": plan.axes.channels})
    sources = sources.model_copy(update={"render": render})
    require_same_plan(plan, plan.model_copy(update={"sources": sources, "axes": axes}), folder)
    found = tuple(shortfalls(plan, wanted))
    if found:
        raise coverage_error(found, folder)


def _require_equal(cached: dict[str, Fields], wanted: dict[str, Fields], folder: Path) -> None:
    different = [name for name in wanted if not _agree(cached[name], wanted[name])]
    if not different:
        return
    lines = [line for name in wanted for line in _lines(name, cached[name], wanted[name])]
    phrases = dict.fromkeys(_PHRASES[name] for name in different)
    advice = _ADVICE.get(different[0], "Set the recipe as it was")
    raise CacheMismatch(
        f"was made for {' and '.join(phrases)}.\n\n{_table(lines)}\n",
        where=str(folder),
        hint=f"{advice}, or build a new cache (`--out caches/NAME`).",
    )


def _dump(plan: Plan) -> dict[str, object]:
    # What a cache does not hold is no field of it, so that "-" stands for it beside another.
    content = plan.model_dump(exclude_unset=True)
    if plan.axes.channels is None:
        content["axes"].pop("channels", None)
    return content


def _sections(plan: Mapping[str, object]) -> dict[str, Fields]:
    """Return the parts of a plan that decide what its shards hold."""
    sections: dict[str, Fields] = {}
    for name, value in plan.items():
        if name == "sources" and isinstance(value, dict):
            for source, content in value.items():
                sections[source] = dict(_source(content))
        elif name in _PHRASES:
            sections[name] = dict(_flat(value))
    return sections


def _source(content: object) -> Iterator[tuple[str, str]]:
    assert isinstance(content, dict)
    yield "", str(content["fingerprint"])[:SHOWN]
    yield from _flat(content["facts"])


def _flat(value: object, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{name}.{key}" if name else key)
    else:
        yield name, value if isinstance(value, str) else canonical_json(value)


def _agree(cached: Fields, wanted: Fields) -> bool:
    return cached[""] == wanted[""] if "" in wanted else cached == wanted


def _lines(name: str, cached: Fields, wanted: Fields) -> Iterator[_Line]:
    if _agree(cached, wanted):
        yield _Line(name, "same")
        return
    yield _Line(name, cached.get("", ""), wanted.get("", ""))
    for field in dict.fromkeys([*cached, *wanted]):
        pair = cached.get(field, "-"), wanted.get(field, "-")
        if field and pair[0] != pair[1]:
            yield _Line(f"  {field}", *pair)


def _table(lines: list[_Line]) -> str:
    rows = [_Line("", "cache", "this recipe"), *lines]
    names = max(len(row.name) for row in rows)
    cached = max(len(row.cached) for row in rows)
    return "\n".join(
        f"  {row.name:<{names}}   {row.cached:<{cached}}   {row.wanted}".rstrip() for row in rows
    )
