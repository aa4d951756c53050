"""Which shipped recipe answers `--arch` and `--student`: the rows of the paper's table.

A short name with a recipe of its own takes that recipe; any other name takes the R-18 or R-101
recipe with another backbone and says so in the name of the run.
"""

from dataclasses import dataclass, field

from ldkit.errors import UsageError
from ldkit.recipe.load import shipped_recipes

SHORT_NAMES = {
    "r18": "resnet18",
    "r34": "resnet34",
    "r50": "resnet50",
    "r101": "resnet101",
}
DEFAULT_TEACHER = "r101"
DEFAULT_STUDENT = "r18"
DEFAULT_CACHE_RECIPE = "coco/ld_r18_r101"

Flags = dict[str, tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Choice:
    """A recipe name, the short name of its backbone, and the keys that flags set in it."""

    name: str
    arch: str
    flags: Flags = field(default_factory=dict)


def teacher_recipe(recipe: str | None, arch: str | None) -> Choice:
    """Return the recipe that trains `arch` alone; a named recipe gets its backbone replaced."""
    return _choose(recipe, arch, "--arch", "model", DEFAULT_TEACHER, "coco/gfl_{}")


def student_recipe(recipe: str | None, student: str | None) -> Choice:
    """Return the recipe that distills into `student`, from the table's teacher."""
    return _choose(recipe, student, "--student", "student", DEFAULT_STUDENT, "coco/ld_{}_r101")


def cache_recipe(teacher_arch: str) -> str:
    """Return the recipe whose views the cache of this teacher is made for.

    Raises:
        UsageError: No recipe of the table has a teacher like that.
    """
    backbones = {timm: short for short, timm in SHORT_NAMES.items()}
    short = backbones.get(teacher_arch, teacher_arch)
    matching = [name for name in shipped_recipes() if name.startswith("coco/ld_")]
    for name in matching:
        if name.endswith(f"_{short}"):
            return name
    raise UsageError(
        f"no recipe of the paper's table has a teacher with the backbone {teacher_arch}.",
        where="ldkit cache-logits",
        hint="Name the recipe you are going to distill with. The table has: "
        f"{', '.join(matching)}.",
    )


def _choose(
    recipe: str | None, arch: str | None, flag: str, section: str, default: str, pattern: str
) -> Choice:
    if recipe is not None and arch is None:
        return Choice(recipe, "")
    wanted = arch or default
    backbone = SHORT_NAMES.get(wanted, wanted)
    flags: Flags = {f"{section}.backbone.name": (flag, backbone)}
    if recipe is not None:
        return Choice(recipe, wanted, flags)
    own = pattern.format(wanted)
    if own in shipped_recipes():
        return Choice(own, wanted)
    base = pattern.format(default)
    flags["name"] = (flag, own.removeprefix("coco/").replace("/", "_"))
    return Choice(base, wanted, flags)
