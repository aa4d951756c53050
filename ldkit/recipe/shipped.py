"""Where recipes stand: the shipped ones by name, one's own by path.

In a wheel the shipped recipes are part of the package; in a checkout they are the repository's
`recipes/`. Files called `base*` hold what others extend and are no recipes of their own.
"""

import difflib
from pathlib import Path

import ldkit
from ldkit.errors import RecipeError

ENDINGS = (".yaml", ".yml")


def recipes_folder() -> Path:
    """Return the folder of the shipped recipes."""
    package = Path(ldkit.__file__).parent
    inside = package / "recipes"
    return inside if inside.is_dir() else package.parent / "recipes"


def shipped_recipes() -> tuple[str, ...]:
    """Return the names of the shipped recipes, such as coco/ld_r18_r101, sorted."""
    return tuple(name for name in _names() if not name.split("/")[-1].startswith("base"))


def _names() -> tuple[str, ...]:
    folder = recipes_folder()
    files = folder.rglob("*.yaml")
    return tuple(sorted(file.relative_to(folder).with_suffix("").as_posix() for file in files))


def find_recipe(name: str, beside: Path | None = None) -> Path:
    """Return the file of a recipe: a path that ends in .yaml, or the name of a shipped one.

    A relative path starts in the folder `beside`, or in the current one.

    Raises:
        RecipeError: There is no such file; the message names the nearest ones.
    """
    is_path = name.endswith(ENDINGS)
    path = (beside or Path()) / name if is_path else recipes_folder() / f"{name}.yaml"
    if path.is_file():
        return path
    here = (beside or Path()) / name
    if here.is_dir():
        raise RecipeError(
            "is a folder, but a recipe is a file that ends in .yaml.",
            where=name,
            hint=_listing("It holds", sorted(p.as_posix() for p in here.glob("*.yaml"))),
        )
    if here.is_file():
        raise RecipeError("does not end in .yaml, as recipes do.", where=name, hint="Rename it.")
    raise RecipeError(
        "there is no such recipe.", where=name, hint=_nearest(name, path if is_path else None)
    )


def _nearest(name: str, path: Path | None) -> str:
    """Return a suggestion: a file beside the missing `path`, or a shipped recipe."""
    bare = name.removeprefix("recipes/").removesuffix(".yaml").removesuffix(".yml")
    files = [] if path is None else [file.as_posix() for file in path.parent.glob("*.yaml")]
    near = difflib.get_close_matches(path.as_posix() if path else "", files, n=1, cutoff=0.75)
    near = near or difflib.get_close_matches(bare, _names(), n=1, cutoff=0.7)
    if near:
        return f"Did you mean `{near[0]}`?"
    shipped = _listing("Shipped recipes:", list(shipped_recipes()))
    return f"{shipped} Your own are named by a path that ends in .yaml."


def _listing(head: str, names: list[str]) -> str:
    return f"{head} {', '.join(names) if names else 'none'}."


def title_of(path: Path) -> str:
    """Return the first line of a recipe's header comment, without its full stop."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip().removesuffix(".") if first.startswith("#") else ""
