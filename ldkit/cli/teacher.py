"""`ldkit teacher train`: a detector alone, from a recipe or from the paper's table."""

from pathlib import Path
from typing import Annotated

import typer

from ldkit.cli import console, progress
from ldkit.cli.options import (
    ARCHITECTURES,
    Device,
    DryRun,
    Json,
    OutFile,
    Overrides,
    RecipeName,
    Resume,
)
from ldkit.recipe.load import load_recipe
from ldkit.recipe.table import teacher_recipe

app = typer.Typer(no_args_is_help=True, help="Train a teacher (or a baseline).")
Arch = Annotated[
    str | None,
    typer.Option("--arch", help=ARCHITECTURES, show_default=False),
]


@app.command("train")
def train(
    recipe: RecipeName = None,
    arch: Arch = None,
    out: OutFile = None,
    overrides: Overrides = None,
    resume: Resume = False,
    device: Device = "auto",
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Train a detector alone; without RECIPE the paper's schedule for --arch (r101) on COCO."""
    chosen = teacher_recipe(recipe, arch)
    document = load_recipe(chosen.name, overrides or [], chosen.flags)
    if out is None and recipe is None:
        out = Path(f"{chosen.arch}.pt")
    from ldkit.jobs import train_teacher as job

    run = Path("runs") / document.recipe.name
    if dry_run:
        facts = job.outline(document.recipe, run, device=device, resume=resume, out=out)
        console.show_facts(facts, as_json=as_json)
        return
    messages = job.run(document.recipe, run, device=device, resume=resume, out=out)
    progress.show(document.recipe.name, messages)
    console.show_facts({"run": str(run), "model": str(out or run / "model.pt")}, as_json=as_json)
