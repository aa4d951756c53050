"""`ldkit data`: look at a COCO data set, or draw the embedded one."""

from pathlib import Path
from typing import Annotated

import typer

from ldkit.cli import console
from ldkit.cli.options import Json

app = typer.Typer(no_args_is_help=True, help="Check a data set, or draw the embedded one.")


@app.command("synth")
def synth(
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to write it.")],
    train: Annotated[int, typer.Option("--train", min=1, help="Training images.")] = 1200,
    val: Annotated[int, typer.Option("--val", min=1, help="Validation images.")] = 300,
    size: Annotated[int, typer.Option("--size", min=64, help="Side of an image in pixels.")] = 128,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the drawing.")] = 0,
    as_json: Json = False,
) -> None:
    """Draw scenes of shapes with soft, blurred and occluded edges, as images and COCO JSON."""
    from ldkit.jobs.synth import run

    facts = run(out, train=train, val=val, size_px=size, seed=seed)
    console.show_facts(facts, as_json=as_json)


@app.command("check")
def check(
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="Folder of the images.")],
    annotations: Annotated[Path, typer.Argument(metavar="JSON", help="COCO annotations.")],
    as_json: Json = False,
) -> None:
    """Read a COCO data set as training would, and say what is in it, or what is wrong."""
    from ldkit.jobs.data_check import facts

    console.show_facts(facts(images, annotations), as_json=as_json)
