"""`ldkit cache`: what a cache holds and for whom it was made; caches that travel."""

from pathlib import Path
from typing import Annotated

import typer

from ldkit.cli import console, progress
from ldkit.cli.options import Device, Json, Overrides
from ldkit.errors import UsageError
from ldkit.recipe.load import load_recipe

VerifiedBy = Annotated[
    str | None,
    typer.Argument(
        metavar="RECIPE",
        help="The recipe it was built with: its data set, and its teacher where it is asked.",
        show_default=False,
    ),
]
Level = Annotated[
    str | None,
    typer.Option(
        "--level",
        metavar="LEVEL",
        help="structure, bytes, pixels or teacher; each includes those before. Without it: bytes, "
        "with a recipe pixels.",
        show_default=False,
    ),
]
NewCache = Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Folder of the new cache.")]

app = typer.Typer(no_args_is_help=True, help="Prove, measure, move and reshape teacher caches.")


@app.command("info")
def info(
    path: Annotated[str, typer.Argument(metavar="PATH", help="Folder of the cache, or its URL.")],
    as_json: Json = False,
) -> None:
    """Show what a cache holds: rows, bytes by column, teacher, data set and views."""
    from ldkit.jobs.cache_info import facts

    console.show_facts(facts(path), as_json=as_json)


@app.command("estimate")
def estimate(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="The recipe of a student.")],
    teacher: Annotated[
        str | None,
        typer.Option("--teacher", help="Model file of the teacher.", show_default=False),
    ] = None,
    overrides: Overrides = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Say what a cache would cost in bytes and seconds, and after how many epochs it has paid."""
    from ldkit.jobs.cache_estimate import estimate

    flags = {} if teacher is None else {"teacher.checkpoint": ("--teacher", teacher)}
    document = load_recipe(recipe, overrides or [], flags)
    console.show_facts(estimate(document.recipe, device), as_json=as_json)


@app.command("merge")
def merge(
    paths: Annotated[list[str], typer.Argument(metavar="A B ...", help="Folders of caches.")],
    out: NewCache,
    as_json: Json = False,
) -> None:
    """Put sealed caches of one teacher together whose views differ; they stay as they are."""
    from ldkit.jobs import cache_merge

    folders = [_folder(path) for path in paths]
    console.show_facts(progress.show("merge", cache_merge.run(folders, out)), as_json=as_json)


@app.command("prune")
def prune(
    path: Annotated[str, typer.Argument(metavar="PATH", help="Folder of a sealed cache.")],
    keep: Annotated[
        str,
        typer.Option(
            "--keep",
            metavar="REGIONS",
            help="Of main, vlr, imitation, score, cross; main.bbox_logits leaves its classes out.",
        ),
    ],
    out: NewCache,
    as_json: Json = False,
) -> None:
    """Write a cache anew with some of its regions, and without generations; the old one stays."""
    from ldkit.jobs import cache_prune

    names = [name.strip() for name in keep.split(",")]
    facts = progress.show("prune", cache_prune.run(_folder(path), names, out))
    console.show_facts(facts, as_json=as_json)


@app.command("push")
def push(
    path: Annotated[str, typer.Argument(metavar="PATH", help="Folder of a sealed cache.")],
    url: Annotated[str, typer.Argument(metavar="URL", help="Where to: s3://BUCKET/NAME, ...")],
    as_json: Json = False,
) -> None:
    """Copy a sealed cache to a URL; run it again to go on after a stop."""
    from ldkit.jobs import cache_transfer

    facts = progress.show("push", cache_transfer.push(_folder(path), url))
    console.show_facts(facts, as_json=as_json)


@app.command("pull")
def pull(
    url: Annotated[str, typer.Argument(metavar="URL", help="Where a cache was pushed to.")],
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Folder for the cache.")],
    as_json: Json = False,
) -> None:
    """Copy a cache from a URL to a folder; run it again to go on after a stop."""
    from ldkit.jobs import cache_transfer

    facts = progress.show("pull", cache_transfer.pull(url, path))
    console.show_facts(facts, as_json=as_json)


@app.command("verify")
def verify(
    path: Annotated[str, typer.Argument(metavar="PATH", help="Folder of the cache, or its URL.")],
    recipe: VerifiedBy = None,
    level: Level = None,
    views: Annotated[
        int, typer.Option("--views", min=1, help="Views that the teacher is asked about again.")
    ] = 64,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Decides which views.")] = 0,
    overrides: Overrides = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Prove that a cache is whole, and with a recipe that its pixels and teacher are the same."""
    from ldkit.jobs import cache_verify as job

    document = None if recipe is None else load_recipe(recipe, overrides or []).recipe
    options = job.Options(level, document, views=views, seed=seed, device=device)
    report = progress.show("verify", job.run(path, options))
    console.show_facts(report.facts, as_json=as_json)
    if report.error is not None:
        raise report.error


def _folder(path: str) -> Path:
    """Return the folder of a cache on this machine; as a path a URL would lose a slash.

    Raises:
        UsageError: It is a URL.
    """
    from ldkit.cache.remote import is_url

    if is_url(path):
        raise UsageError(
            "is a URL, where a folder is wanted.",
            where=path,
            hint=f"Pull it first (`ldkit cache pull {path} FOLDER`), then name that folder.",
        )
    return Path(path)
