"""A recipe from its name to its typed form: parents, flags, overrides, types, origins.

`extends` names one parent, by a path relative to the file or by the name of a shipped recipe; a
parent may have a parent, and that one another, and there it ends. Over the files lie the command's
flags, over those the `--set` values. Whatever is wrong with any of it is told at once.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from ldkit.errors import RecipeError
from ldkit.recipe.explain import problems_in, recipe_error
from ldkit.recipe.nodes import Node, Origin, Problem, find, merge, plain, written
from ldkit.recipe.schema import Recipe
from ldkit.recipe.shipped import find_recipe, shipped_recipes
from ldkit.recipe.yaml_reader import Reading, read_document, read_value
from ldkit.recipe.yaml_writer import dump_recipe

__all__ = [
    "LoadedRecipe",
    "check_recipe",
    "dump_recipe",
    "leaves",
    "load_recipe",
    "override",
    "shipped_recipes",
]

MOST_PARENTS = 3  # a base, a base over it, a shipped recipe, and then one's own
DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class LoadedRecipe:
    """A recipe and where it comes from.

    `document` is the whole recipe as plain values, defaults written out; `origins` tells for each
    value in it (by dotted key) its file and line, its flag, `--set`, or "default".
    """

    recipe: Recipe
    source: str
    document: dict[str, Any]
    origins: dict[str, str]


def load_recipe(
    name: str,
    overrides: Sequence[str] = (),
    flags: Mapping[str, tuple[str, Any]] = {},
) -> LoadedRecipe:
    """Return the recipe of that name or path, with overrides laid over it.

    `overrides` are texts `key=value` as given to `--set`, their values read as YAML; `flags` map a
    key to the flag that sets it and to its value, which is taken as it is.

    Raises:
        RecipeError: There is no such recipe, or it is wrong; all its problems are told at once.
    """
    source, tree, recipe, problems = _examine(name, overrides, flags)
    if problems or recipe is None or tree is None:
        raise recipe_error(source, problems)
    document = recipe.model_dump(mode="json")
    origins = {}
    for key, _ in leaves(document):
        found = find(tree, tuple(key.split(".")))
        origins[key] = DEFAULT if found is None else str(found.origin)
    return LoadedRecipe(recipe, source, document, origins)


def override(recipe: Recipe, source: str, overrides: Sequence[str]) -> Recipe:
    """Return a recipe that is at hand (from a model file, say) with `--set` values laid over it.

    Raises:
        RecipeError: The overrides are wrong; all their problems are told at once.
    """
    own, laid = read_document(dump_recipe(recipe), source), _read_overrides(overrides, {})
    if own.node is None or laid.node is None:
        raise recipe_error(source, laid.problems)
    examined = _typed(source, merge(own.node, laid.node), laid.problems)
    if examined.problems or examined.recipe is None:
        raise recipe_error(source, examined.problems)
    return examined.recipe


def check_recipe(name: str, overrides: Sequence[str] = ()) -> tuple[str, tuple[Problem, ...]]:
    """Return the file of a recipe and everything that is wrong with it.

    Raises:
        RecipeError: There is no such file, or it cannot be read.
    """
    examined = _examine(name, overrides, {})
    return examined.source, examined.problems


def leaves(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) for every value of a document that is not a section."""
    for key, value in document.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


class _Examined(NamedTuple):
    source: str
    tree: Node | None
    recipe: Recipe | None
    problems: tuple[Problem, ...]


def _examine(
    name: str, overrides: Sequence[str], flags: Mapping[str, tuple[str, Any]]
) -> _Examined:
    path = find_recipe(name)
    source = name if path == Path(name) else _shown(path)
    files, laid = _read_with_parents(path, source, ()), _read_overrides(overrides, flags)
    problems = files.problems + laid.problems
    if files.node is None or laid.node is None:
        return _Examined(source, None, None, problems)
    return _typed(source, merge(files.node, laid.node), problems)


def _typed(source: str, tree: Node, problems: tuple[Problem, ...]) -> _Examined:
    try:
        return _Examined(source, tree, Recipe.model_validate(plain(tree)), problems)
    except ValidationError as error:
        return _Examined(source, tree, None, (*problems, *problems_in(error, tree)))


def _shown(path: Path) -> str:
    here = Path.cwd()
    full = path.resolve()
    return full.relative_to(here).as_posix() if full.is_relative_to(here) else str(full)


def _read_text(path: Path, source: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        reason = error.strerror or str(error)
        raise RecipeError(f"cannot be read: {reason}.", where=source) from error
    except UnicodeDecodeError as error:
        found = error.object[error.start]
        raise RecipeError(
            f"is not UTF-8 text: byte {error.start} is 0x{found:02x}.",
            where=source,
            hint="A recipe is a YAML text file. Is this one?",
        ) from error


def _read_with_parents(path: Path, source: str, children: tuple[Path, ...]) -> Reading:
    """Return the tree of a file laid over its parents'; no tree where one cannot be read."""
    reading = read_document(_read_text(path, source), source)
    if reading.node is None or not isinstance(reading.node.value, dict):
        return reading
    own = {key: node for key, node in reading.node.value.items() if key != "extends"}
    node = Node(own, reading.node.origin)
    extends = reading.node.value.get("extends")
    if extends is None or extends.value is None:
        return Reading(node, reading.problems)
    parent = _parent_of(extends, path, (*children, path.resolve()))
    if isinstance(parent, Problem):
        return Reading(None, (*reading.problems, parent))
    above = _read_with_parents(parent, _shown(parent), (*children, path.resolve()))
    merged = None if above.node is None else merge(above.node, node)
    return Reading(merged, reading.problems + above.problems)


def _parent_of(extends: Node, path: Path, family: tuple[Path, ...]) -> Path | Problem:
    name = extends.value
    if not isinstance(name, str):
        text = "Must be one parent: a path relative to this file, or a shipped recipe's name."
        return Problem(extends.origin, "extends", text)
    subject = f"extends = {name}"
    try:
        parent = find_recipe(name, beside=path.parent)
    except RecipeError as error:
        text = f"{error.message[:1].upper()}{error.message[1:]} {error.hint}"
        return Problem(extends.origin, subject, text)
    if parent.resolve() in family:
        names = " → ".join(file.name for file in (*family, parent))
        return Problem(extends.origin, subject, f"A recipe cannot extend itself: {names}.")
    if len(family) > MOST_PARENTS:
        names = " → ".join(file.name for file in (*family, parent))
        text = f"A recipe may have three parents above it, and there it ends: {names}."
        return Problem(extends.origin, subject, text)
    return parent


def _read_overrides(overrides: Sequence[str], flags: Mapping[str, tuple[str, Any]]) -> Reading:
    """Return one tree of all that the command line sets; of two equal keys the later wins."""
    given = [
        _at(key.split("."), written(value, Origin(flag))) for key, (flag, value) in flags.items()
    ]
    problems: list[Problem] = []
    for override in overrides:
        reading = _read_override(override)
        problems += reading.problems
        given += [reading.node] if reading.node is not None else []
    nothing = Node({}, Origin("--set"))
    return Reading(reduce(merge, given, nothing), tuple(problems))


def _read_override(override: str) -> Reading:
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not all(key.split(".")):
        advice = "Must be KEY=VALUE, such as `--set optim.lr=0.01`."
        return Reading(None, (Problem(Origin("--set"), override, advice, ""),))
    reading = read_value(text, "--set")
    problems = tuple(
        problem._replace(subject=f"{key}: {problem.subject}") for problem in reading.problems
    )
    node = None if reading.node is None else _at(key.split("."), reading.node)
    return Reading(node, problems)


def _at(keys: Sequence[str], node: Node) -> Node:
    for key in reversed(keys):
        node = Node({key: node}, node.origin)
    return node
