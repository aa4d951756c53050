"""A recipe before it is typed: a tree in which every value knows where it was written.

Reading, `extends` and `--set` all make such trees; merging two of them is the whole rule of who
wins. A path is a tuple of keys, with numbers for the entries of lists.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from ldkit.recipe.data import split_kind
from ldkit.recipe.detector import backbone_kind

Scalar = str | int | float | bool | None
KeyPath = tuple[str | int, ...]

SPLITS = ("train", "val", "test_dev")
"""Sections that are of a kind even where it is not written; the loop's `train` has none at all."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value was written: a file and a line (from 1), or the flag that set it."""

    source: str
    line: int | None = None

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}"


@dataclass(frozen=True, slots=True)
class Node:
    """A scalar, a list or a mapping, and its origin (of its key, where it has one)."""

    value: "Scalar | tuple[Node, ...] | dict[str, Node]"
    origin: Origin

    @property
    def is_leaf(self) -> bool:
        """Say whether this is a value rather than a section; a list is one value."""
        return not isinstance(self.value, dict)


class Problem(NamedTuple):
    """One thing that is wrong: where it stands, what stands there, and what to do."""

    origin: Origin
    subject: str
    text: str
    section: str | None = None
    """The section to look up; "" is the whole recipe, None none at all."""


def plain(node: Node) -> Any:
    """Return the values without origins; lists become tuples, as strict typing wants them."""
    match node.value:
        case dict() as entries:
            return {key: plain(entry) for key, entry in entries.items()}
        case tuple() as items:
            return tuple(plain(item) for item in items)
        case scalar:
            return scalar


def written(value: Any, origin: Origin) -> Node:
    """Return plain values as a tree in which all were written at one place."""
    match value:
        case dict():
            return Node({key: written(entry, origin) for key, entry in value.items()}, origin)
        case tuple() | list():
            return Node(tuple(written(item, origin) for item in value), origin)
        case _:
            return Node(value, origin)


def child(node: Node, key: str | int) -> Node | None:
    """Return the entry of a mapping or a list, or None where there is none."""
    if isinstance(node.value, dict):
        return node.value.get(key) if isinstance(key, str) else None
    if isinstance(node.value, tuple) and isinstance(key, int) and key < len(node.value):
        return node.value[key]
    return None


def find(node: Node, path: KeyPath) -> Node | None:
    """Return the node at `path`, or None where nothing was written there."""
    found: Node | None = node
    for key in path:
        found = None if found is None else child(found, key)
    return found


def nearest_origin(node: Node, path: KeyPath) -> Origin:
    """Return the origin of the node at `path`, or of the deepest one above it."""
    for key in path:
        below = child(node, key)
        if below is None:
            break
        node = below
    return node.origin


def merge(lower: Node, upper: Node, key: str = "") -> Node:
    """Return `upper` laid over `lower`: mappings merge; scalars, lists and null replace.

    A section that changes its kind replaces as well: the momentum of `sgd` means nothing to
    `adamw`. See docs/recipes.md.
    """
    if not isinstance(lower.value, dict) or not isinstance(upper.value, dict):
        return upper
    if _changes_kind(key, lower.value, upper.value):
        return upper
    merged = dict(lower.value)
    for name, node in upper.value.items():
        merged[name] = merge(merged[name], node, name) if name in merged else node
    # A section stays where the file has it when a flag sets one of its values.
    origin = lower.origin if upper.origin.line is None else upper.origin
    return Node(merged, origin)


def _changes_kind(key: str, lower: dict[str, Node], upper: dict[str, Node]) -> bool:
    tag = "name" if key == "backbone" else "kind"
    if tag not in upper or (tag not in lower and key not in SPLITS):
        return False
    return _kind(key, lower.get(tag)) != _kind(key, upper[tag])


def _kind(key: str, tag: Node | None) -> object:
    value = None if tag is None else tag.value
    if key == "backbone":
        return backbone_kind({"name": value})
    return split_kind({"kind": value}) if key in SPLITS else value
