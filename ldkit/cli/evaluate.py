"""`ldkit eval`: the paper's columns on val, or the file for the test server."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ldkit.cli import console, progress
from ldkit.cli.options import Device, Json, Overrides

if TYPE_CHECKING:  # the jobs import torch, and help must not
    from ldkit.jobs.evaluate import Scores, Submitted
    from ldkit.jobs.targets import Target

Models = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="RUN|MODEL",
        help="Run folders or model files; without any the newest finished run below runs/.",
        show_default=False,
    ),
]
SplitName = Annotated[str, typer.Option("--split", help="val, test-dev or train.")]
PerClass = Annotated[bool, typer.Option("--per-class", help="Also AP of each class.")]
EvaluatorName = Annotated[
    str | None,
    typer.Option(
        "--evaluator",
        metavar="NAME",
        help="pycocotools or faster-coco-eval (equal figures); the second where it is installed.",
        show_default=False,
    ),
]


def evaluate(
    paths: Models = None,
    split: SplitName = "val",
    per_class: PerClass = False,
    evaluator: EvaluatorName = None,
    overrides: Overrides = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Evaluate detectors: AP, AP50, AP75, APs, APm, APl, AR100; or write the test-dev zip.

    Several are evaluated on the same images and compared with the first. An evaluation that was
    interrupted goes on where it stopped.
    """
    from ldkit.jobs import evaluate as job

    goals = [job.target(path, overrides or []) for path in paths or (None,)]
    if not paths:
        console.say(f"Evaluating {goals[0].model}, the newest finished run.")
    found = progress.show_stages(job.run_all(goals, split, device=device, evaluator=evaluator))
    scores = [each for each in found if isinstance(each, job.Scores)]
    submitted = [each for each in found if isinstance(each, job.Submitted)]
    if scores:
        _show_scores(goals, scores, split, per_class, as_json)
    if submitted:
        _show_submissions(goals, submitted, as_json)


def _show_scores(
    goals: "list[Target]", scores: "list[Scores]", split: str, per_class: bool, as_json: bool
) -> None:
    from ldkit.jobs import score_table

    if as_json:
        found = score_table.as_dicts(goals, scores, split)
        console.print_json(found[0] if len(found) == 1 else found)
        return
    console.print_table(*score_table.score_table(goals, scores, split))
    if per_class:
        console.print_text()
        console.print_table(*score_table.class_table(goals, scores))
    for each in scores:
        console.say(f"Written to {each.file}.")


def _show_submissions(goals: "list[Target]", found: "list[Submitted]", as_json: bool) -> None:
    from ldkit.jobs import facts
    from ldkit.jobs.score_table import submission_facts

    told = [submission_facts(goal, each) for goal, each in zip(goals, found, strict=True)]
    if as_json:
        values = [facts.as_json(each) for each in told]
        console.print_json(values[0] if len(values) == 1 else values)
        return
    for each in told:
        console.show_facts(each, as_json=False)
