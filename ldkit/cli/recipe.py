"""`ldkit recipe`: list, show, check and compare recipes, and look up what they may hold."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from ldkit.cli import console
from ldkit.cli.options import Json, Overrides
from ldkit.errors import RecipeError
from ldkit.recipe.describe import SectionText, describe
from ldkit.recipe.explain import label_of, recipe_error
from ldkit.recipe.load import check_recipe, leaves, load_recipe
from ldkit.recipe.schema import Recipe
from ldkit.recipe.shipped import find_recipe, shipped_recipes, title_of
from ldkit.recipe.yaml_writer import document_lines, write_value

app = typer.Typer(no_args_is_help=True, help="List, show, check, compare and explain recipes.")
Name = Annotated[str, typer.Argument(metavar="RECIPE", help="A shipped recipe, or a YAML file.")]
ABSENT = "–"


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the shipped recipes."""
    rows = []
    for name in shipped_recipes():
        path = find_recipe(name)
        rows.append({"name": name, "title": title_of(path), "path": str(path)})
    if as_json:
        console.print_json(rows)
        return
    console.print_columns([(row["name"], row["title"]) for row in rows])


@app.command("show")
def show(recipe: Name, overrides: Overrides = None, as_json: Json = False) -> None:
    """Print the whole recipe, each value with its origin; the output is a recipe itself."""
    loaded = load_recipe(recipe, overrides or [])
    if as_json:
        console.print_json(
            {"source": loaded.source, "recipe": loaded.document, "origins": loaded.origins}
        )
        return
    lines = list(document_lines(loaded.document))
    width = max(len(line.text) for line in lines)
    typer.echo(f"# {loaded.source}, with the origin of each value")
    for line in lines:
        if not line.key:
            typer.echo(line.text)
            continue
        origin = loaded.origins[line.key].rpartition("/")[2]
        typer.echo(f"{line.text:<{width}}  " + typer.style(f"# {origin}", dim=True))


@app.command("check")
def check(
    recipes: Annotated[list[str], typer.Argument(metavar="RECIPE", help="Names or files.")],
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Say whether recipes are valid, and everything that is wrong with those that are not."""
    verdicts = [_verdict(recipe, overrides or []) for recipe in recipes]
    if as_json:
        console.print_json([{k: v for k, v in each.items() if k != "text"} for each in verdicts])
    else:
        typer.echo("\n".join(str(verdict["text"]) for verdict in verdicts))
    if not all(verdict["valid"] for verdict in verdicts):
        raise typer.Exit(RecipeError.exit_code)


def _verdict(recipe: str, overrides: Sequence[str]) -> dict[str, Any]:
    try:
        source, problems = check_recipe(recipe, overrides)
    except RecipeError as error:
        told = [{"where": error.where, "subject": "", "text": error.message}]
        return {"recipe": recipe, "valid": False, "problems": told, "text": str(error)}
    text = str(recipe_error(source, problems)) if problems else f"{source}: valid"
    told = [{"where": label_of(p, source), "subject": p.subject, "text": p.text} for p in problems]
    return {"recipe": recipe, "valid": not problems, "problems": told, "text": text}


@app.command("diff")
def diff(left: Name, right: Name, as_json: Json = False) -> None:
    """Show the values in which two recipes differ."""
    sides = [dict(leaves(load_recipe(recipe).document)) for recipe in (left, right)]
    sections = list(Recipe.model_fields)
    keys = sorted({**sides[0], **sides[1]}, key=lambda key: sections.index(key.split(".")[0]))
    differing = [key for key in keys if sides[0].get(key) != sides[1].get(key)]
    if as_json:
        console.print_json({key: [side.get(key) for side in sides] for key in differing})
        return
    if not differing:
        typer.echo("The recipes are equal.")
        return
    rows = [
        (key, *(write_value(side[key]) if key in side else ABSENT for side in sides))
        for key in differing
    ]
    console.print_columns([("", left, right), *rows])


@app.command("schema")
def schema(
    section: Annotated[
        str, typer.Argument(metavar="SECTION", help="Such as optim; without, everything.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Explain the sections and keys of a recipe: types, defaults, meanings."""
    found = describe(section)
    if as_json:
        console.print_json(
            [{**text._asdict(), "keys": [key._asdict() for key in text.keys]} for text in found]
        )
        return
    for number, text in enumerate(found):
        if number:
            typer.echo()
        typer.echo(typer.style(_heading(text), bold=True))
        typer.echo(f"  {text.text}")
        rows = [(f"  {k.key.rpartition('.')[2]}", k.type, k.default, k.text) for k in text.keys]
        console.print_columns(rows)


def _heading(section: SectionText) -> str:
    notes = [section.kind] if section.kind else []
    if section.key and section.default in ("required", "null"):
        notes.append("required" if section.default == "required" else "null by default")
    name = section.key or "a recipe"
    return f"{name} ({', '.join(notes)})" if notes else name
