"""Is this the cache that a recipe needs? Both sides, field by field, where it is not."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ldkit.cache.format import Axes, Plan, Source, Sources, Wanted
from ldkit.cache.shortfall import coverage_error, shortfalls
from ldkit.errors import CacheMismatch
from ldkit.files import canonical_json, short

logger = logging.getLogger(__name__)

EXTENDS = "add what is missing to it (`ldkit cache-logits RECIPE --extend`), "
"""A way out where a cache could hold both: part of a hint."""

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

_EXTENSIBLE = ("data", "views", "coverage", "columns", "keys")

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
    ours, theirs = _sections(_dump(cached)), _sections(_dump(wanted))
    extends = any(not _agree(ours[name], theirs[name]) for name in _EXTENSIBLE)
    hint = EXTENDS if extends and is_kin(cached, wanted) else ""
    _require_equal(ours, theirs, folder, hint)


def is_kin(one: Plan, other: Plan) -> bool:
    """Say whether what two plans describe can stand in one cache."""
    ours, theirs = _kin_sections(one, other), _kin_sections(other, one)
    return all(_agree(ours[name], theirs[name]) for name in theirs)


def require_extensible(root: Plan, wanted: Plan, folder: Path) -> None:
    """Check that what a recipe wants can be added to a cache; the rule is that of `require_kin`.

    Raises:
        CacheMismatch: With both sides, field by field.
    """
    ours, theirs = _kin_sections(root, wanted), _kin_sections(wanted, root)
    _require_equal(ours, theirs, folder, "")


def knows_data(plans: Sequence[Plan], data: Source) -> bool:
    """Say whether one of a cache's generations was built from this data set."""
    return any(plan.sources.data.fingerprint == data.fingerprint for plan in plans)


def require_kin(root: Plan, other: Plan, folder: Path) -> None:
    """Check that a generation may stand beside the root of a cache.

    Teacher, detector, renderer and axes must be equal; so must the view policy but for how many
    views it draws, and how a column is stored that both have. Images, keys, regions, groups, and
    the sizes of shards and batches may differ.

    Raises:
        CacheMismatch: With both sides, field by field.
    """
    if is_kin(root, other):
        return
    ours, theirs = _kin_sections(root, other), _kin_sections(other, root)
    different = [name for name in theirs if not _agree(ours[name], theirs[name])]
    lines = [line for name in theirs for line in _lines(name, ours[name], theirs[name])]
    raise CacheMismatch(
        f"does not belong to this cache: it was made for {_phrase(different)}.\n\n"
        f"{_table([_Line('', 'cache', folder.name), *lines])}\n",
        where=str(folder),
        hint="Parts of one cache must come from one teacher and one view policy. Move this folder "
        "away.",
    )


def require_fit(
    plans: Sequence[Plan], sources: Sources, axes: Axes, wanted: Wanted, folder: Path
) -> None:
    """Check that a cache says what a student of this recipe would hear from its teacher.

    `plans` are those of its generations, the root's first; the data set may be that of any. A
    cache may hold more than is wanted, and other views of the same policy, which
    `CacheReader.require_keys` tells. The width of features counts where they are wanted and `axes`
    has one. Another renderer only warns: `CacheReader.check_pixels` proves whether it matters.

    Raises:
        CacheMismatch: It was made from something else; both sides, field by field.
        CacheCoverage: It lacks what is wanted, or holds it otherwise.
    """
    plan = _closest(plans, sources)
    render = plan.sources.render
    if render.fingerprint != sources.render.fingerprint:
        facts = canonical_json(render.facts), canonical_json(sources.render.facts)
        logger.warning("%s was rendered by %s, this run renders by %s.", folder, *facts)
    features = wanted.coverage.imitation is not None or wanted.coverage.cross is not None
    if plan.axes.channels is None or axes.channels is None or not features:
        axes = axes.model_copy(update={"channels": plan.axes.channels})
    sources = sources.model_copy(update={"render": render})
    require_same_plan(plan, plan.model_copy(update={"sources": sources, "axes": axes}), folder)
    found = tuple(shortfalls(plans, wanted))
    if found:
        raise coverage_error(found, folder)


def _closest(plans: Sequence[Plan], sources: Sources) -> Plan:
    """Return the root's plan with data set, views and width of any generation that fit better."""
    root = plans[0]
    found: dict[str, object] = {}
    if knows_data(plans, sources.data):
        found["data"] = sources.data
    if _views(root.sources.views) == _views(sources.views):
        found["views"] = sources.views
    axes = root.axes
    for plan in plans:
        axes = axes if axes.channels is not None else plan.axes
    return root.model_copy(update={"sources": root.sources.model_copy(update=found), "axes": axes})


def _require_equal(
    cached: dict[str, Fields], wanted: dict[str, Fields], folder: Path, other_way: str
) -> None:
    different = [name for name in wanted if not _agree(cached[name], wanted[name])]
    if not different:
        return
    lines = [line for name in wanted for line in _lines(name, cached[name], wanted[name])]
    advice = _ADVICE.get(different[0], "Set the recipe as it was")
    raise CacheMismatch(
        f"was made for {_phrase(different)}.\n\n"
        f"{_table([_Line('', 'cache', 'this recipe'), *lines])}\n",
        where=str(folder),
        hint=f"{advice}, {other_way}or build a new cache (`--out caches/NAME`).",
    )


def _phrase(different: Sequence[str]) -> str:
    return " and ".join(dict.fromkeys(_PHRASES[name] for name in different))


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


def _kin_sections(plan: Plan, beside: Plan) -> dict[str, Fields]:
    """Return the parts of a plan that must be equal where it stands beside another."""
    sections = _sections(_dump(plan))
    shared = _stored(plan) & _stored(beside)
    kept = {name: sections[name] for name in ("weights", "model", "render")}
    kept["views"] = _views(plan.sources.views)
    kept["axes"] = dict(sections["axes"])
    if plan.axes.channels is None or beside.axes.channels is None:
        kept["axes"].pop("channels", None)
    kept["columns"] = {name: sections["columns"][name] for name in sorted(shared)}
    kept["build"] = {"pad_multiple_px": sections["build"]["pad_multiple_px"]}
    return kept


def _views(policy: Source) -> Fields:
    """Return what decides how a view looks, but not how many views there are."""
    fields = dict(_flat(policy.facts))
    fields.pop("count", None)
    if isinstance(policy.facts.get("short_side_px"), int):  # the views are plain and mirrored
        fields.pop("flip", None)
    return fields


def _stored(plan: Plan) -> set[str]:
    return {name for name, codec in _sections(_dump(plan))["columns"].items() if codec != "null"}


def _source(content: object) -> Iterator[tuple[str, str]]:
    assert isinstance(content, dict)
    yield "", short(str(content["fingerprint"]))
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


def _table(rows: list[_Line]) -> str:
    names = max(len(row.name) for row in rows)
    cached = max(len(row.cached) for row in rows)
    return "\n".join(
        f"  {row.name:<{names}}   {row.cached:<{cached}}   {row.wanted}".rstrip() for row in rows
    )
