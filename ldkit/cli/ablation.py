"""`ldkit distill --ablate`: its options, its plan, and its table as the terminal has room for."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ldkit.cli import console, progress
from ldkit.recipe.schema import Recipe

if TYPE_CHECKING:  # the jobs import torch, and help must not
    from ldkit.jobs.ablate import Options, Planned
    from ldkit.jobs.ablate_table import Outcome
    from ldkit.jobs.distill import Source

Arms = Annotated[
    list[str] | None,
    typer.Option(
        "--ablate",
        metavar="ARM,ARM...",
        help="Compare students with other terms: plain and these arms; repeatable.",
        show_default=False,
    ),
]
Seeds = Annotated[
    int,
    typer.Option(
        "--seeds", min=1, max=64, help="With --ablate: seeds of each arm, from `seed` on."
    ),
]
AtOnce = Annotated[
    int | None,
    typer.Option(
        "--at-once",
        min=1,
        help="With --ablate: students that train side by side; else one a core, or one on a GPU.",
        show_default=False,
    ),
]
GAP = 2


def options(source: "Source", device: str, seeds: int, at_once: int | None) -> "Options":
    """Return the options of the job."""
    from ldkit.jobs.ablate import Options

    return Options(seeds=seeds, source=source, device=device, at_once=at_once)


def ablate(
    recipe: Recipe,
    lists: Sequence[str],
    overrides: Sequence[str],
    chosen: "Options",
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Train what is left of an ablation and show its table; or only what would be trained."""
    from ldkit.jobs import ablate as job
    from ldkit.jobs.arms import arms

    found = arms(recipe, lists, overrides)
    if dry_run:
        _show_plan(job.outline(recipe, found, chosen), as_json=as_json)
        return
    result = progress.show_stages(job.run(recipe, found, chosen))
    if as_json:
        console.print_json(result.document)
        return
    _show_table(result)
    folder = job.folder(recipe, chosen)
    console.show_facts(
        {"runs": f"{folder}/ARM_seedN", "table": str(folder / "ablation.json")}, as_json=False
    )


def _show_plan(planned: "list[Planned]", *, as_json: bool) -> None:
    if as_json:
        console.print_json([each.as_dict() for each in planned])
        return
    head = ("arm", "seed", "steps", "state", "run")
    rows = [
        (each.arm, str(each.seed), f"{each.steps:,}", each.state, str(each.run)) for each in planned
    ]
    console.print_columns([head, *rows], style="dim")


def _show_table(result: "Outcome") -> None:
    columns = ["", *result.columns]
    rows, gaps = result.rows, result.gaps
    needed = _width(columns, _on_one_line([*rows, *gaps]))
    if not console.out.is_terminal or console.out.width >= needed:
        rows, gaps = _on_one_line(rows), _on_one_line(gaps)
    console.print_table(result.title, columns, rows)
    if gaps:
        console.print_text()
        console.print_table("Difference to plain, seed by seed", columns, gaps)
    console.print_text(f"\n{result.caveat}\n")


def _on_one_line(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return the rows with each standard error beside its mean."""
    return [[cell.replace("\n", " ") for cell in row] for row in rows]


def _width(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """Return how many characters a table takes."""
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    return sum(widths) + GAP * len(widths)
