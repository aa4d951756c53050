"""A typed recipe to YAML text that reads back to the equal recipe."""

import re
from collections.abc import Iterator, Mapping
from math import isfinite, isnan
from typing import Any, NamedTuple

import yaml

from ldkit.recipe.schema import Recipe
from ldkit.recipe.yaml_reader import read_scalar

# Words that need no quotes in any place of a document, brackets included.
BARE = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./+-]*")


class Line(NamedTuple):
    """A line of a document; `key` is the dotted path of the value on it, "" for a heading."""

    text: str
    key: str


def write_value(value: object) -> str:
    """Return a scalar or a list on one line, as YAML."""
    match value:
        case None:
            return "null"
        case str():
            return _write_text(value)
        case list() | tuple():
            return f"[{', '.join(write_value(item) for item in value)}]"
        case dict():
            return f"{{{', '.join(f'{k}: {write_value(v)}' for k, v in value.items())}}}"
        case bool():
            return "true" if value else "false"
        case float() if not isfinite(value):
            return ".nan" if isnan(value) else f"{'-' if value < 0 else ''}.inf"
        case _:
            return repr(value)


def _write_text(text: str) -> str:
    if BARE.fullmatch(text) and isinstance(read_scalar(text), str):
        return text
    quoted = yaml.safe_dump(text, default_style='"', allow_unicode=True, width=float("inf"))
    return quoted.strip()


def document_lines(document: Mapping[str, Any], prefix: str = "") -> Iterator[Line]:
    """Yield the lines of a document, one value each, sections indented by two spaces."""
    indent = "  " * prefix.count(".")
    for key, value in document.items():
        if isinstance(value, dict):
            yield Line(f"{indent}{key}:", "")
            yield from document_lines(value, f"{prefix}{key}.")
        else:
            yield Line(f"{indent}{key}: {write_value(value)}", f"{prefix}{key}")


def dump_recipe(recipe: Recipe) -> str:
    """Return the recipe as YAML with every value written out; it reads back to an equal one."""
    lines = document_lines(recipe.model_dump(mode="json"))
    return "".join(f"{line.text}\n" for line in lines)
