"""The paper's table: short names, and which shipped recipe answers `--arch` and `--student`.

A distillation is a row: a teacher and a student. Rows are read off the names of the shipped
recipes, coco/ld_STUDENT_TEACHER and coco/self_ld_ARCH. A short name without a recipe of its own,
or any other name of timm, takes another row's recipe with its own backbone, and says so in the
name of the run.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ldkit.errors import UsageError
from ldkit.recipe.detector import Deform, SmallBackbone, TimmBackbone
from ldkit.recipe.load import shipped_recipes

SHORT_NAMES = {
    "r18": TimmBackbone(name="resnet18"),
    "r34": TimmBackbone(name="resnet34"),
    "r50": TimmBackbone(name="resnet50"),
    "r101": TimmBackbone(name="resnet101"),
    "r101dcn": TimmBackbone(name="resnet101", deform=Deform(stages=(2, 3, 4))),
    "x101": TimmBackbone(name="resnext101_32x4d"),
    "x101dcn": TimmBackbone(name="resnext101_32x4d", deform=Deform(stages=(3, 4))),
}
DEFAULT_ARCH = "r101dcn"
BASE_ARCH = "r101"
"""The recipe that a backbone without one of its own starts from."""
DEFAULT_STUDENT = "r18"

_ROW = re.compile(
    r"coco/(ld_(?P<student>[a-z0-9]+)_(?P<teacher>[a-z0-9]+)|self_ld_(?P<own>[a-z0-9]+))"
)

Flags = dict[str, tuple[str, Any]]
"""Recipe key → the flag that sets it, and its value."""


@dataclass(frozen=True, slots=True)
class Row:
    """A distillation of the table, by short names."""

    recipe: str
    student: str
    teacher: str


@dataclass(frozen=True, slots=True)
class Choice:
    """A recipe name, the short name of its backbone, and the keys that flags set in it."""

    name: str
    arch: str
    flags: Flags = field(default_factory=dict)


def short_name(backbone: TimmBackbone | SmallBackbone) -> str:
    """Return the short name of a backbone, or timm's name where the table has none.

    Which stages are deformable, and in which version, makes no difference: published networks of
    one name differ in it.
    """
    architecture = backbone.name.partition(".")[0]
    plain = {b.name: short for short, b in SHORT_NAMES.items() if b.deform is None}
    short = plain.get(architecture, architecture)
    is_deformable = isinstance(backbone, TimmBackbone) and backbone.deform is not None
    return f"{short}dcn" if is_deformable else short


def rows() -> tuple[Row, ...]:
    """Return the distillations of the table; of one teacher, the row of the default student first.

    A row of the default teacher comes before other rows of the same student.
    """
    found = list(_shipped_rows())
    return tuple(sorted(found, key=lambda row: (row.student != DEFAULT_STUDENT, row.recipe)))


def _shipped_rows() -> Iterator[Row]:
    for name in shipped_recipes():
        match = _ROW.fullmatch(name)
        if match is not None:
            own = match["own"]
            yield Row(name, match["student"] or own, match["teacher"] or own)


def teacher_recipe(recipe: str | None, arch: str | None) -> Choice:
    """Return the recipe that trains `arch` alone; a named recipe gets its backbone replaced."""
    if recipe is not None:
        return _with_backbone(recipe, arch, "--arch", "model")
    wanted = arch or DEFAULT_ARCH
    own = f"coco/gfl_{wanted}"
    if own in shipped_recipes():
        return Choice(own, wanted)
    base = _with_backbone(f"coco/gfl_{BASE_ARCH}", wanted, "--arch", "model")
    return _renamed(base, f"gfl_{wanted}", "--arch")


def student_recipe(recipe: str | None, student: str | None, teacher: str | None = None) -> Choice:
    """Return the recipe that distills into `student`; a named recipe gets its backbone replaced.

    Args:
        recipe: A named recipe.
        student: Short name, or timm's; None takes the first row of the teacher.
        teacher: Short name of the teacher at hand; None takes the student's own row.

    Raises:
        UsageError: The table has no row of this teacher for this student, nor for R-18.
    """
    if recipe is not None:
        return _with_backbone(recipe, student, "--student", "student")
    theirs = [row for row in rows() if teacher in (None, row.teacher)]
    wanted = student or (theirs[0].student if theirs else DEFAULT_STUDENT)
    for row in theirs:
        if row.student == wanted:
            return Choice(row.recipe, wanted)
    for row in theirs:
        if row.student == DEFAULT_STUDENT:
            base = _with_backbone(row.recipe, wanted, "--student", "student")
            return _renamed(base, f"ld_{wanted}_{row.teacher}", "--student")
    raise _no_row(
        f"no recipe of the paper's table distills {teacher} into {wanted}.",
        "ldkit distill",
        "Name the recipe that the teacher rows were made for.",
    )


def cache_recipe(teacher: str) -> str:
    """Return the recipe whose views the cache of this teacher, by its short name, is made for.

    Raises:
        UsageError: No recipe of the table has a teacher like that.
    """
    for row in rows():
        if row.teacher == teacher:
            return row.recipe
    raise _no_row(
        f"no recipe of the paper's table has the teacher {teacher}.",
        "ldkit cache-logits",
        "Name the recipe that you are going to distill with.",
    )


def _no_row(problem: str, where: str, advice: str) -> UsageError:
    width = max(len(row.recipe) for row in rows())
    listing = [f"  {row.recipe:<{width}}  {row.teacher} → {row.student}" for row in rows()]
    return UsageError(problem, where=where, hint="\n".join([f"{advice} The table:", *listing]))


def _with_backbone(recipe: str, arch: str | None, flag: str, section: str) -> Choice:
    """Return a recipe whose `section` has another backbone.

    A short name says all about the layers; a name of timm only renames the backbone.
    """
    if arch is None:
        return Choice(recipe, "")
    known = SHORT_NAMES.get(arch)
    flags: Flags = {f"{section}.backbone.name": (flag, arch if known is None else known.name)}
    if known is not None:
        deform = None if known.deform is None else known.deform.model_dump()
        flags[f"{section}.backbone.deform"] = (flag, deform)
    return Choice(recipe, arch, flags)


def _renamed(choice: Choice, name: str, flag: str) -> Choice:
    """Return a recipe under another name, about whose results nothing is known."""
    own = {"name": (flag, name.replace("/", "_")), "expect": (flag, None)}
    return Choice(choice.name, choice.arch, choice.flags | own)
