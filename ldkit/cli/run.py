"""`ldkit run`: all stages of a recipe, one after the other."""

from typing import Annotated

import typer

from ldkit.cli import console, progress
from ldkit.cli.options import Device, DryRun, Json, Overrides
from ldkit.recipe.load import load_recipe

Name = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A recipe of `ldkit recipe list`, or a YAML file.")
]
WithBaseline = Annotated[
    bool,
    typer.Option("--with-baseline", help="Also train the same student without its teacher."),
]


def run(
    recipe: Name,
    with_baseline: WithBaseline = False,
    overrides: Overrides = None,
    device: Device = "auto",
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Teacher, cache, student, scores: whatever is not finished yet, and then one table."""
    document = load_recipe(recipe, overrides or [])
    from ldkit.jobs import pipeline as job

    options = job.Options(with_baseline=with_baseline, device=device)
    if dry_run:
        found = job.outline(document.recipe, options)
        if as_json:
            console.print_json([job.as_dict(done) for done in found])
            return
        console.show_facts({done.stage: job.in_words(done.status) for done in found}, as_json=False)
        return
    result = progress.show_stages(job.run(document.recipe, options))
    if as_json:
        console.print_json(result.as_dict())
        return
    console.print_table(result.title, ["", *result.columns], result.rows)
    console.print_text()
    console.show_facts(result.models, as_json=False)
    if result.caveat:
        console.print_text()
        console.print_text(result.caveat)
