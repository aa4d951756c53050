"""`ldkit bench`: how fast parts of ldkit are on this machine."""

from typing import Annotated

import typer

from ldkit.cli import console, progress
from ldkit.cli.options import Json

app = typer.Typer(no_args_is_help=True, help="Measure ldkit on this machine.")


@app.callback()
def root() -> None:
    """Measure ldkit on this machine."""


@app.command("cache")
def cache(
    path: Annotated[str, typer.Argument(metavar="PATH", help="Folder of the cache, or its URL.")],
    batch: Annotated[int, typer.Option("--batch", min=1, help="Views of a batch.")] = 16,
    views: Annotated[int, typer.Option("--views", min=1, help="Views that are read.")] = 4096,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Times; the median counts.")] = 7,
    as_json: Json = False,
) -> None:
    """Read random batches of a cache: views a second warm and cold, page faults, memory."""
    from ldkit.jobs.cache_bench import bench

    job = bench(path, batch_size=batch, views=views, rounds=rounds)
    console.show_facts(progress.show("bench", job), as_json=as_json)
