"""`ldkit cache info`: what a cache holds, and for whom it was made."""

from pathlib import Path
from typing import Annotated

import typer

from ldkit.cli import console
from ldkit.cli.options import Json

app = typer.Typer(no_args_is_help=True, help="Look into a teacher cache.")


@app.command("info")
def info(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Folder of the cache.")],
    as_json: Json = False,
) -> None:
    """Show what a cache holds: rows, bytes by column, teacher, data set and views."""
    from ldkit.jobs.cache_info import facts

    console.show_facts(facts(path), as_json=as_json)
