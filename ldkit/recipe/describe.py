"""The schema as text: every section and key, with type, default and meaning.

`ldkit recipe schema` shows it, and messages take their suggestions from it, so that a key is
described in one place: the schema itself.
"""

import difflib
import types
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Annotated, Literal, NamedTuple, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from ldkit.errors import RecipeError
from ldkit.recipe.schema import Recipe
from ldkit.recipe.section import Section
from ldkit.recipe.yaml_writer import write_value

NOUNS = {int: "whole number", float: "number", str: "text", bool: "true | false"}


class KeyText(NamedTuple):
    """One key: its dotted path, what it takes, its default ("required") and its meaning."""

    key: str
    type: str
    default: str
    text: str


class SectionText(NamedTuple):
    """One section; where a section has kinds, each kind is described on its own.

    `kind` is such as "kind: sgd", or "". `names` are all keys allowed, sections among them.
    """

    key: str
    kind: str
    default: str
    text: str
    names: tuple[str, ...]
    keys: tuple[KeyText, ...]


@cache
def describe_all() -> tuple[SectionText, ...]:
    """Return every section of a recipe, outer ones first; the recipe itself has the key ""."""
    return tuple(_describe(Recipe, "", "required", ""))


def describe(key: str) -> tuple[SectionText, ...]:
    """Return the section `key` and those inside it; for a single key, its section cut to it.

    Raises:
        RecipeError: There is no such section or key.
    """
    everything = describe_all()
    found = tuple(s for s in everything if not key or s.key == key or s.key.startswith(f"{key}."))
    if found:
        return found
    found = tuple(
        section._replace(keys=keys)
        for section in everything
        if (keys := tuple(text for text in section.keys if text.key == key))
    )
    if found:
        return found
    near = closest(key, {section.key for section in everything} | set(_leaf_keys()), count=1)
    known = ", ".join(name for name in everything[0].names)
    hint = f"Did you mean `{near[0]}`?" if near else f"A recipe holds: {known}."
    raise RecipeError("there is no such section or key in a recipe.", where=key, hint=hint)


def names_in(key: str, kind: str = "") -> tuple[str, ...]:
    """Return the keys allowed in a section; `kind` picks one where the section has several."""
    sections = [section for section in describe_all() if section.key == key]
    picked = [section for section in sections if section.kind.endswith(f" {kind}")] or sections
    return picked[0].names if picked else ()


def has_kinds(key: str) -> bool:
    """Say whether this section is one of several kinds."""
    return sum(section.key == key for section in describe_all()) > 1


def kinds_of(key: str) -> tuple[str, ...]:
    """Return the kinds that a section may have: sgd, adamw."""
    kinds = (section.kind for section in describe_all() if section.key == key)
    return tuple(kind.partition(": ")[2] for kind in kinds if kind)


def keys_named(name: str) -> tuple[str, ...]:
    """Return the dotted paths of all keys whose last part is `name`."""
    return tuple(key for key in _leaf_keys() if key.rpartition(".")[2] == name)


def is_known(key: str) -> bool:
    """Say whether a section or key of this dotted path exists, in a section of whatever kind."""
    return key in _leaf_keys() or any(section.key == key for section in describe_all())


def closest(word: str, known: Sequence[str] | set[str], count: int = 1) -> list[str]:
    """Return the known words that `word` may be a slip of, nearest first."""
    return difflib.get_close_matches(word, sorted(known), n=count, cutoff=0.6)


def _leaf_keys() -> tuple[str, ...]:
    keys = (text.key for section in describe_all() for text in section.keys)
    return tuple(dict.fromkeys(keys))


def _describe(
    section: type[Section], key: str, default: str, meaning: str
) -> Iterator[SectionText]:
    prefix = f"{key}." if key else ""
    keys: list[KeyText] = []
    inner: list[SectionText] = []
    for name, info in section.model_fields.items():
        kinds = _sections_of(info.annotation)
        shown = _default(info)
        if not kinds:
            what = _type_text(info.annotation, info.metadata)
            keys.append(KeyText(prefix + name, what, shown, _one_line(info.description)))
        for kind in kinds:
            inner += _describe(kind, prefix + name, shown, _one_line(info.description))
    text = meaning or _one_line(section.__doc__)
    names = tuple(section.model_fields)
    yield SectionText(key, kind_of(section), default, text, names, tuple(keys))
    yield from inner


def kind_of(section: type[Section]) -> str:
    """Return what tells this section from its alternatives, such as "kind: sgd"; else ""."""
    for name in ("kind", "name"):
        info = section.model_fields.get(name)
        if info is not None and get_origin(info.annotation) is Literal:
            return f"{name}: {get_args(info.annotation)[0]}"
    return ""


def _sections_of(annotation: object) -> tuple[type[Section], ...]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return (annotation,)
    if get_origin(annotation) is Annotated:
        return _sections_of(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(kind for arg in get_args(annotation) for kind in _sections_of(arg))
    return ()


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    value = info.default
    return write_value(value.model_dump(mode="json") if isinstance(value, Section) else value)


def _type_text(annotation: object, metadata: Sequence[object] = ()) -> str:
    arguments = get_args(annotation)
    if get_origin(annotation) is Annotated:
        return _type_text(arguments[0], arguments[1:])
    if get_origin(annotation) is Literal:
        return " | ".join(str(word) for word in arguments)
    if get_origin(annotation) in (Union, types.UnionType):
        return " | ".join(_type_text(part) for part in arguments)
    if get_origin(annotation) is tuple:
        if arguments[-1] is Ellipsis:
            return f"list of {_type_text(arguments[0])}"
        return f"[{', '.join(_type_text(part) for part in arguments)}]"
    if annotation is type(None):
        return "null"
    assert isinstance(annotation, type)
    return f"{NOUNS[annotation]}{_range_text(metadata)}"


def _range_text(metadata: Sequence[object]) -> str:
    nested = ((mark.metadata if isinstance(mark, FieldInfo) else [mark]) for mark in metadata)
    match [bound for marks in nested for bound in marks]:
        case [Gt(gt=low)]:
            return f" > {low}"
        case [Ge(ge=low)]:
            return f" >= {low}"
        case [Ge(ge=low), Le(le=high)]:
            return f" {low} to {high}"
        case [Ge(ge=low), Lt(lt=high)]:
            return f" {low} to below {high}"
        case _:
            return ""


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())
