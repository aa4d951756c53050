"""`ldkit quickstart`: the whole story on drawn shapes, in minutes, on a CPU."""

from pathlib import Path
from typing import Annotated

import typer

from ldkit.cli import console, progress
from ldkit.cli.options import Json


def quickstart(
    out: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", help="Where everything is written.")
    ] = Path("quickstart"),
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, max=64, help="Student pairs to train.")
    ] = 1,
    as_json: Json = False,
) -> None:
    """Draw shapes, train a teacher, cache it, train a student with and without it, compare."""
    from ldkit.jobs import quickstart as job

    result = progress.show_stages(job.run(out, seeds=seeds))
    if as_json:
        console.print_json(result.as_dict())
        return
    console.print_table(result.title, ["", *result.columns], result.rows)
    console.print_text()
    console.show_facts(result.facts, as_json=False)
    console.print_text(f"\n{result.caveat}")
