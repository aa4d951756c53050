"""The arms of an ablation, from words to recipes.

An arm is one of three: the terms of the recipe that stay on (`main+kd`), named changes of the
recipe (`t2:objective.localization.main.temperature=2`), or another recipe (`shapes/ld`).
"""

import difflib
import re
from collections.abc import Sequence
from typing import NamedTuple

from ldkit.errors import UsageError
from ldkit.recipe.load import load_recipe, override
from ldkit.recipe.schema import Recipe
from ldkit.recipe.shipped import ENDINGS

FLAG = "--ablate"
PLAIN, ALL = "plain", "all"


class Term(NamedTuple):
    """A distillation term: its key below `objective`, and a value that switches it on."""

    key: str
    example: str


TERMS = {
    "main": Term("localization.main", "{weight: 0.25}"),
    "vlr": Term("localization.vlr", "{weight: 0.25}"),
    "kd": Term("classification_kd.main", "{kind: binary}"),
    "kd_vlr": Term("classification_kd.vlr", "{kind: binary}"),
    "imitation": Term("imitation", "{region: main}"),
    "score_cls": Term("score.classification", "{weight: 1}"),
    "score_box": Term("score.box", "{weight: 1}"),
    "cross_cls": Term("cross.classification", "{weight: 1}"),
    "cross_box": Term("cross.box", "{weight: 1}"),
}
GROUPS = {"score": ("score_cls", "score_box"), "cross": ("cross_cls", "cross_box")}
WORDS = (*TERMS, *GROUPS, ALL, PLAIN)

_NAMED = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*):(?P<changes>.*)", re.DOTALL)
_BRACKETS = {"[": 1, "{": 1, "]": -1, "}": -1}


class Arm(NamedTuple):
    """A row of the table: what it is called, and the recipe of its first seed."""

    name: str
    recipe: Recipe

    @property
    def folder(self) -> str:
        """Return the name as part of a folder's name."""
        bare = re.sub(r"\.ya?ml$", "", self.name).replace("+", "-")
        return re.sub(r"[^A-Za-z0-9_-]+", "_", bare).strip("_-") or "arm"


def arms(recipe: Recipe, lists: Sequence[str], overrides: Sequence[str] = ()) -> tuple[Arm, ...]:
    """Return the plain student and each arm of these comma-separated lists, each once.

    `overrides` are the `--set` values of the command: `recipe` has them already, and recipes that
    are named as arms get them too.

    Raises:
        UsageError: A word means nothing, names a term that is off, or two arms have one name.
        RecipeError: A change or a recipe is wrong.
    """
    words = [word for text in lists for word in separated(text, ",")]
    found = {PLAIN: Arm(PLAIN, _only(recipe, ()))}
    for word in words:
        arm = _arm(recipe, word, overrides)
        other = found.setdefault(arm.folder, arm)
        if other.recipe != arm.recipe:
            raise _error(
                f"{arm.name} and {other.name} are two arms of one name.",
                "Call one of them something else: `NAME:KEY=VALUE;KEY=VALUE`.",
            )
    return _once(tuple(found.values()))


def _once(found: Sequence[Arm]) -> tuple[Arm, ...]:
    """Return the arms without those whose terms are just those of an earlier one."""
    return tuple(
        arm
        for number, arm in enumerate(found)
        if not (
            set(arm.name.split("+")) <= set(WORDS)
            and arm.recipe in [other.recipe for other in found[:number]]
        )
    )


def separated(text: str, separator: str) -> list[str]:
    """Return the parts of a text between separators that stand in no brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += _BRACKETS.get(character, 0)
        if character == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def _arm(recipe: Recipe, word: str, overrides: Sequence[str]) -> Arm:
    named = _NAMED.fullmatch(word)
    if named is not None:
        return _changed(recipe, named["name"], separated(named["changes"], ";"))
    if "/" in word or word.endswith(ENDINGS):
        return Arm(word, _beside(recipe, load_recipe(word, overrides).recipe, word))
    terms = _terms(word)
    if terms == (PLAIN,):
        return Arm(PLAIN, _only(recipe, ()))
    if ALL in terms:
        _refuse_without_terms(recipe)
        return Arm(ALL, recipe)
    ordered = sorted(terms, key=WORDS.index)
    return Arm("+".join(ordered), _only(recipe, _switched_on(recipe, ordered)))


def _changed(recipe: Recipe, name: str, changes: Sequence[str]) -> Arm:
    """Return the whole recipe with some values of its own."""
    if name in WORDS:
        raise _error(
            f"{name} is a word for terms, so it cannot name changes.",
            f"Call them something else, such as `my_{name}:{';'.join(changes)}`.",
        )
    changed = override(recipe, f"{FLAG} {name}", changes)
    if (changed.name, changed.seed) != (recipe.name, recipe.seed):
        raise _error(
            f"{name} changes `name` or `seed`, which are set for each run.",
            "Leave them out; `--seeds N` trains every arm with N seeds.",
        )
    return Arm(name, changed)


def _beside(recipe: Recipe, other: Recipe, word: str) -> Recipe:
    """Return another recipe on the data, teacher and cache of this one, evaluated as this one.

    Raises:
        UsageError: It trains no student.
    """
    if other.student is None:
        raise _error(
            f"{word} trains a detector alone, but an arm trains a student.",
            "Name recipes with a `student` section (`ldkit recipe list`).",
        )
    cache = other.cache
    if recipe.cache is not None:
        cache = (cache or recipe.cache).model_copy(update={"path": recipe.cache.path})
    same = {"data": recipe.data, "teacher": recipe.teacher, "eval": recipe.eval, "cache": cache}
    return other.model_copy(update=same)


def _terms(word: str) -> tuple[str, ...]:
    """Return the words between the pluses, each once."""
    terms = tuple(dict.fromkeys(part.strip() for part in word.split("+")))
    for term in terms:
        if term not in WORDS:
            near = difflib.get_close_matches(term, WORDS, n=1)
            meant = f" Did you mean `{near[0]}`?" if near else ""
            raise _error(
                f"{term!r} is no term.{meant}",
                f"Terms, joined by +: {', '.join(WORDS)}. An arm may also be named changes "
                "(NAME:KEY=VALUE;KEY=VALUE) or a recipe (shapes/ld, mine.yaml).",
            )
    if PLAIN in terms and len(terms) > 1:
        raise _error(f"{word}: {PLAIN} means no term at all.", "Leave it out, or name it alone.")
    return terms


def _switched_on(recipe: Recipe, words: Sequence[str]) -> tuple[str, ...]:
    """Return the keys of these words that the recipe has values for; a word without any is wrong.

    Raises:
        UsageError: The recipe has such a term switched off.
    """
    on = _keys_on(recipe)
    keys: list[str] = []
    for word in words:
        terms = [TERMS[name] for name in GROUPS.get(word, (word,))]
        found = [term.key for term in terms if term.key in on]
        if not found:
            names = " and ".join(f"objective.{term.key}" for term in terms)
            values = " ".join(f"--set 'objective.{term.key}={term.example}'" for term in terms)
            raise _error(
                f"{word}: the recipe {recipe.name} has {names} = null, so there is nothing to "
                "compare.",
                f"Give it a value, for instance `{values}`, or leave the arm out.",
            )
        keys += found
    return tuple(keys)


def _only(recipe: Recipe, kept: Sequence[str]) -> Recipe:
    """Return the recipe with all distillation terms off but these."""
    off = [f"objective.{key}=null" for key in _keys_on(recipe) if key not in kept]
    return override(recipe, recipe.name, off) if off else recipe


def _keys_on(recipe: Recipe) -> list[str]:
    return [key.removeprefix("objective.") for key, _, _ in recipe.objective.distillation_terms()]


def _refuse_without_terms(recipe: Recipe) -> None:
    if not _keys_on(recipe):
        raise _error(
            f"{ALL}: the recipe {recipe.name} has no distillation term.",
            "Give it one, such as `--set 'objective.localization.main={weight: 0.25}'`, or name "
            "another recipe (`ldkit recipe list`).",
        )


def _error(message: str, hint: str) -> UsageError:
    return UsageError(message, where=FLAG, hint=hint)
