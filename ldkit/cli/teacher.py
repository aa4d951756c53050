"""`ldkit teacher`: train a detector alone, or import one that others have published."""

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

app = typer.Typer(no_args_is_help=True, help="Train a teacher (or a baseline), or import one.")
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
    """Train a detector alone; without RECIPE the paper's schedule for --arch (r101dcn) on COCO."""
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


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE.pth", help="A published checkpoint.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="The model file; without it the short name, such as r101.pt.",
            show_default=False,
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            "--classes",
            metavar="NAMES",
            help="a,b,c or a text file with one name a line, where the file names none.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a model file of a published GFL, GFLv2 or LD checkpoint; no code in it runs."""
    from ldkit.jobs import import_teacher as job

    facts = progress.show("import", job.run(file, out, classes))
    console.show_facts(facts, as_json=as_json)
