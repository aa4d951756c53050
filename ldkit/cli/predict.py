"""`ldkit predict`: the boxes that a model finds in images."""

from pathlib import Path
from typing import Annotated

import typer

from ldkit.cli import console, progress
from ldkit.cli.options import Device, Json, Overrides

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="A model file or a run folder.")]
Images = Annotated[list[Path], typer.Argument(metavar="IMAGE", help="Image files.")]
Draw = Annotated[
    Path | None,
    typer.Option(
        "--draw", metavar="FOLDER", help="Also paint the boxes on copies.", show_default=False
    ),
]
Score = Annotated[
    float, typer.Option("--score", min=0.0, max=1.0, help="Leave out boxes of a lower score.")
]


def predict(
    model: Model,
    images: Images,
    draw: Draw = None,
    score: Score = 0.3,
    overrides: Overrides = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Find objects in images: class, score and box (x1, y1, x2, y2 in pixels)."""
    from ldkit.jobs import predict as job

    messages = job.run(
        model, images, overrides=overrides or [], score=score, draw=draw, device=device
    )
    found = progress.show("predict", messages)
    if as_json:
        console.print_json([each.as_dict() for each in found])
        return
    for each in found:
        rows = [
            [box.name, f"{box.score:.2f}", *(f"{value:.1f}" for value in box.corners)]
            for box in each.boxes
        ]
        if rows:
            console.print_table(str(each.image), ["", "score", "x1", "y1", "x2", "y2"], rows)
        else:
            console.print_text(f"{each.image}: nothing above a score of {score:g}")
    if draw is not None:
        console.say(f"Pictures are in {draw}.")
