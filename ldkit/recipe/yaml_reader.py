"""YAML text to a tree of values with lines, by the rules of YAML 1.2.

PyYAML alone reads `1e-2` as text, `on` as true, and lets the second of two equal keys win without
a word. Here only `true` and `false` are booleans, numbers are what JSON calls numbers, keys are
text and stand once, and there are no anchors, aliases or tags.
"""

import re
from typing import NamedTuple

import yaml

from ldkit.recipe.nodes import Node, Origin, Problem, Scalar

# Longer numbers than 18 digits fit no int64; they are read as floats.
INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
WORDS: dict[str, Scalar] = {
    "": None, "~": None, "null": None, "true": True, "false": False,
    ".inf": float("inf"), "-.inf": float("-inf"), ".nan": float("nan"),
}  # fmt: skip


class Reading(NamedTuple):
    """What could be read of a text, and what was wrong with it."""

    node: Node | None
    problems: tuple[Problem, ...]


def read_scalar(text: str) -> Scalar:
    """Return the value of an unquoted scalar."""
    if text in WORDS:
        return WORDS[text]
    if INTEGER.fullmatch(text):
        return int(text)
    return float(text) if FLOAT.fullmatch(text) else text


def read_document(text: str, source: str) -> Reading:
    """Return the tree of a recipe file; its top must be keys and values."""
    reading = _read(text, source, has_lines=True)
    top = Origin(source, 1)
    if reading.problems and reading.node is None:
        return reading
    if reading.node is None or reading.node.value is None:
        advice = "Is empty. `ldkit recipe show shapes/teacher` prints one to begin with."
        return Reading(None, (Problem(top, "the document", advice, ""),))
    if reading.node.is_leaf:
        found = "a list" if isinstance(reading.node.value, tuple) else "a single value"
        advice = f"Must be keys and values, such as `name: my_run`, but is {found}."
        return Reading(None, (Problem(top, "the document", advice, ""),))
    return reading


def read_value(text: str, flag: str) -> Reading:
    """Return the tree of a value given on the command line; nothing at all is null."""
    reading = _read(text, flag, has_lines=False)
    if reading.node is None and not reading.problems:
        return Reading(Node(None, Origin(flag)), ())
    return reading


class _Loader(yaml.SafeLoader):
    """PyYAML's composer without anchors, aliases and tags."""

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node | None:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        reason = ""
        if isinstance(event, yaml.NodeEvent) and event.anchor is not None:
            reason = "anchors (&) and aliases (*) are not read; write the value out"
        elif isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.tag:
            reason = f"tags such as {event.tag} are not read; write plain values"
        if reason:
            mark = event.start_mark
            raise yaml.MarkedYAMLError(problem=reason, problem_mark=mark)  # type: ignore[arg-type]
        return super().compose_node(parent, index)  # type: ignore[arg-type]


def _read(text: str, source: str, *, has_lines: bool) -> Reading:
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        return _unreadable(Origin(source, line if has_lines else None), _syntax(error))
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        reason = f"the character #x{ord(text[error.position]):02x} is not allowed"
        return _unreadable(Origin(source, line if has_lines else None), reason)
    except RecursionError:
        return _unreadable(Origin(source), "it is nested too deeply")
    if root is None:
        return Reading(None, ())
    builder = _Builder(source, has_lines=has_lines)
    node = builder.build(root, builder.origin(root))
    return Reading(node, tuple(builder.problems))


def _unreadable(origin: Origin, reason: str) -> Reading:
    return Reading(None, (Problem(origin, "not YAML", f"{reason[:1].upper()}{reason[1:]}."),))


def _syntax(error: yaml.MarkedYAMLError) -> str:
    reason = error.problem or "it cannot be parsed"
    if "'\\t'" in reason:
        return "a tab stands here; indent with spaces"
    if error.context and error.context_mark:
        reason += f" ({error.context} that begins in line {error.context_mark.line + 1})"
    return reason


class _Builder:
    """Turns composed YAML nodes into ours and collects repeated keys on the way."""

    def __init__(self, source: str, *, has_lines: bool) -> None:
        self._source = source
        self._has_lines = has_lines
        self.problems: list[Problem] = []

    def origin(self, node: yaml.Node) -> Origin:
        return Origin(self._source, node.start_mark.line + 1 if self._has_lines else None)

    def build(self, node: yaml.Node, origin: Origin, path: str = "") -> Node:
        match node:
            case yaml.MappingNode():
                return Node(self._entries(node, path), origin)
            case yaml.SequenceNode():
                items = enumerate(node.value)
                built = (self.build(v, self.origin(v), f"{path}[{i}]") for i, v in items)
                return Node(tuple(built), origin)
            case yaml.ScalarNode(style=None):
                return Node(read_scalar(node.value), origin)
            case _:
                return Node(node.value, origin)

    def _entries(self, node: yaml.MappingNode, path: str) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                text = "Keys are words; this one is a list or a mapping."
                self.problems.append(Problem(self.origin(key), path or "the document", text))
                continue
            below = f"{path}.{key.value}" if path else key.value
            if key.value in entries:
                first = entries[key.value].origin.line
                earlier = f": first in line {first}" if first else ""
                text = f"The key stands twice{earlier}. Keep one."
                self.problems.append(Problem(self.origin(key), below, text))
            entries[key.value] = self.build(value, self.origin(key), below)
        return entries
