"""What is wrong with a recipe, in words: all problems at once, with lines and suggestions.

pydantic names the place of a fault by a path of its own, in which the kind of a union stands
between the keys (`optim.sgd.lr`); walking the written tree and skipping what is no key there gives
the user's path. A value that fits no branch of a union is one problem, not one for each branch.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import NamedTuple

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ldkit.errors import RecipeError
from ldkit.recipe.describe import closest, has_kinds, is_known, keys_named, kinds_of, names_in
from ldkit.recipe.nodes import KeyPath, Node, Origin, Problem, child, find, nearest_origin, plain
from ldkit.recipe.yaml_writer import write_value

WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "model_type": "a section of keys and values",
    "model_attributes_type": "a section of keys and values",
}
LIMITS = {
    "greater_than": "Must be greater than {gt:g}.",
    "greater_than_equal": "Must be at least {ge:g}.",
    "less_than": "Must be less than {lt:g}.",
    "less_than_equal": "Must be at most {le:g}.",
    "too_long": "Must have {max_length} entries, not {actual_length}.",
    "finite_number": "Must be a finite number.",
    "string_pattern_mismatch": "Names a folder: letters, digits and . _ - only, a letter or digit "
    "first.",
}
RULE = re.compile(r"(?P<key>[a-z0-9_.]+): (?P<text>.+)")
SHOWN_CHARACTERS = 60
WIDTH = 88


class _Fault(NamedTuple):
    """One error of pydantic at the user's path: a kind of value it wants, or a sentence."""

    path: KeyPath
    wanted: str
    text: str
    shows_value: bool = True


def problems_in(error: ValidationError, document: Node) -> list[Problem]:
    """Return what typing a document found wrong, one problem for each place."""
    faults = [
        fault
        for details in error.errors(include_url=False)
        for fault in _faults_of(details, document)
    ]
    inside = {fault.path[:-1] for fault in faults if fault.path and isinstance(fault.path[-1], int)}
    places = dict.fromkeys(fault.path for fault in faults)
    problems = []
    for path in places:
        here = [fault for fault in faults if fault.path == path]
        said = [fault for fault in here if not fault.wanted]
        # The other branches of a union only want another type; that is not the user's mistake.
        if not said and path in inside:
            continue
        problems.append(_problem(path, said or here, document))
    return problems


def recipe_error(source: str, problems: Sequence[Problem]) -> RecipeError:
    """Return the error that shows all problems of a recipe, in the order they were written."""
    ordered = sorted(problems, key=lambda problem: _position(source, problem.origin))
    labels = [label_of(problem, source) for problem in ordered]
    width = max(len("line 99"), *(len(label) for label in labels))
    lines = [f"{len(ordered)} problem{'s' if len(ordered) > 1 else ''}", ""]
    for label, problem in zip(labels, ordered, strict=True):
        indent = " " * (width + 5)
        lines.append(f"  {label:<{width}}   {problem.subject}")
        lines += [
            indent + line
            for line in wrap(problem.text, WIDTH, break_long_words=False, break_on_hyphens=False)
        ]
    sections = [problem.section for problem in ordered if problem.section is not None]
    see = f" See `{' '.join(['ldkit recipe schema', sections[0]]).strip()}`." if sections else ""
    message = "\n".join([*lines, ""])
    return RecipeError(message, where=source, hint=f"Nothing was started.{see}")


def label_of(problem: Problem, source: str) -> str:
    """Return where a problem stands, seen from the recipe `source`: a line, a file or a flag."""
    origin = problem.origin
    if origin.line is None:
        return origin.source
    if origin.source == source:
        return f"line {origin.line}"
    return f"{Path(origin.source).name}:{origin.line}"


def _position(source: str, origin: Origin) -> tuple[bool, bool, str, int]:
    return (origin.line is None, origin.source != source, origin.source, origin.line or 0)


def _problem(path: KeyPath, faults: Sequence[_Fault], document: Node) -> Problem:
    node = find(document, path)
    subject = dotted(path)
    if node is not None and node.is_leaf and all(fault.shows_value for fault in faults):
        subject += f" = {_shown(node)}"
    section = ".".join(key for key in path[:-1][:2] if isinstance(key, str))
    return Problem(nearest_origin(document, path), subject, _text(faults, node), section)


def _text(faults: Sequence[_Fault], node: Node | None) -> str:
    if not faults[0].wanted:
        return " ".join(dict.fromkeys(fault.text for fault in faults))
    wanted = " or ".join(dict.fromkeys(fault.wanted for fault in faults))
    if node is not None and isinstance(node.value, dict):
        keys = ", ".join(f"`{key}`" for key in node.value) or "nothing"
        return f"Must be {wanted}, but is a section with {keys} in it."
    if wanted == "text" and node is not None and isinstance(node.value, int | float):
        return "Must be text. Put it in quotes."
    return f"Must be {wanted}."


def _faults_of(details: ErrorDetails, document: Node) -> list[_Fault]:
    path = _path_of(details["loc"], document)
    kind = details["type"]
    context = details.get("ctx", {})
    match kind:
        case "extra_forbidden":
            return [_Fault(path, "", _unknown_key(path, document), shows_value=False)]
        case "missing" | "union_tag_not_found":
            return _missing(details, path)
        case "union_tag_invalid":
            words = _words(context["expected_tags"])
            return [_Fault((*path, "kind"), "", _unknown_word("kind", context["tag"], words))]
        case "literal_error":
            word = str(details["input"])
            text = _unknown_word(str(path[-1]), word, _words(context["expected"]))
            return [_Fault(path, "", text)]
        case "value_error":
            return [_broken_rule(line, path) for line in str(context["error"]).splitlines()]
        case _ if kind in WANTED:
            return [_Fault(path, WANTED[kind], "")]
        case _:
            text = LIMITS[kind].format(**context) if kind in LIMITS else f"{details['msg']}."
            return [_Fault(path, "", text)]


def _path_of(location: Sequence[str | int], document: Node) -> KeyPath:
    path: KeyPath = ()
    is_kind = False
    for key in location:
        below = None if is_kind else child(document, key)
        is_kind = False
        if below is not None:
            path = (*path, key)
            document = below
            # A kind may be called as a key is: schedule.milestones.milestones.
            is_kind = has_kinds(dotted(path))
    return path


def _missing(details: ErrorDetails, path: KeyPath) -> list[_Fault]:
    last = details["loc"][-1]
    if isinstance(last, int):
        found = len(details["input"])
        return [_Fault(path, "", f"Must have more entries than {found}.")] if last == found else []
    if details["type"] == "missing":
        return [_Fault((*path, last), "", "Required, but missing.")]
    known = ", ".join(kinds_of(dotted(path)))
    return [_Fault((*path, "kind"), "", f"Required, but missing. Known kinds: {known}.")]


def _unknown_key(path: KeyPath, document: Node) -> str:
    *section, name = path
    node = find(document, tuple(section))
    tags = [child(node, tag) for tag in ("kind", "name")] if node else []
    kind = next((str(tag.value) for tag in tags if tag is not None), "")
    known = names_in(dotted(tuple(section)), kind)
    if is_known(dotted(path)):
        return f"Not a key of this kind. Known here: {', '.join(known)}."
    elsewhere = keys_named(str(name))
    near = [f"`{found}`" for found in closest(str(name), known) or elsewhere]
    if near:
        return f"Unknown key. Did you mean {' or '.join(near[:3])}?"
    return f"Unknown key. Known here: {', '.join(known)}."


def _unknown_word(key: str, word: str, known: Sequence[str]) -> str:
    listed = f"Must be {' or '.join(known)}."
    if key == "kind":
        listed = f"Unknown kind. Known kinds: {', '.join(known)}."
    near = closest(word, known)
    return f"{listed} Did you mean `{near[0]}`?" if near else listed


def _words(listing: str) -> list[str]:
    return [word.strip("'") for word in re.split(", | or ", listing)]


def _broken_rule(line: str, path: KeyPath) -> _Fault:
    """Return the fault of a rule between keys: our validators say `key: what must be`."""
    match = RULE.fullmatch(line)
    assert match is not None, line
    text = match["text"]
    return _Fault((*path, *match["key"].split(".")), "", f"{text[:1].upper()}{text[1:]}")


def dotted(path: KeyPath) -> str:
    """Return a path as the user writes it: objective.localization, milestones[0]."""
    text = "".join(f".{key}" if isinstance(key, str) else f"[{key}]" for key in path)
    return text.removeprefix(".")


def _shown(node: Node) -> str:
    text = write_value(plain(node))
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 1]}…"
