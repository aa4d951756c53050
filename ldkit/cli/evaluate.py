"""`ldkit eval`: the paper's columns on val, or the file for the test server."""

from pathlib import Path
from typing import Annotated

import typer

from ldkit.cli import console, progress
from ldkit.cli.options import Device, Json, Overrides

Model = Annotated[
    Path | None,
    typer.Argument(
        metavar="[RUN|MODEL]",
        help="A run folder or a model file; without it the newest finished run below runs/.",
        show_default=False,
    ),
]
SplitName = Annotated[str, typer.Option("--split", help="val, test-dev or train.")]


def evaluate(
    path: Model = None,
    split: SplitName = "val",
    overrides: Overrides = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Evaluate a detector: AP, AP50, AP75, APs, APm, APl, AR100; or write the test-dev zip."""
    from ldkit.jobs import evaluate as job
    from ldkit.jobs.facts import Fact, Facts, number, size

    target = job.target(path, overrides or [])
    if path is None:
        console.say(f"Evaluating {target.model}, the newest finished run.")
    result = progress.show("eval", job.run(target, split, device=device))
    match result:
        case job.Scores(metrics=metrics, file=file):
            if as_json:
                console.print_json({"model": str(target.model), **metrics.as_dict()})
                return
            console.print_table(
                f"{target.name} on {split}",
                ["", *job.COLUMNS],
                [[target.name, *job.columns(metrics)]],
            )
            console.say(f"Written to {file}.")
        case job.Submitted(submission=submission):
            facts: Facts = {
                "model": str(target.model),
                "file": str(submission.path),
                "detections": number(submission.count),
                "size": Fact(size(submission.bytes), {"bytes": submission.bytes}),
            }
            console.show_facts(facts, as_json=as_json)
