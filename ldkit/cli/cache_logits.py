"""`ldkit cache-logits`: the teacher's distributions, written to disk once."""

import os
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ldkit.cli import console, progress
from ldkit.cli.options import Device, DryRun, Json, Overrides, RecipeName
from ldkit.recipe.load import LoadedRecipe, load_recipe
from ldkit.recipe.table import DEFAULT_ARCH, cache_recipe, short_name

if TYPE_CHECKING:  # the jobs import torch, and help must not
    from collections.abc import Generator

    from ldkit.jobs.progress import Message

Teacher = Annotated[
    Path | None,
    typer.Option("--teacher", help="Model file of the teacher.", show_default=False),
]
OutFolder = Annotated[
    str | None, typer.Option("--out", metavar="FOLDER", help="Folder of the cache.")
]
Shards = Annotated[
    str | None,
    typer.Option(
        "--shards",
        metavar="FIRST:END",
        help="Build these shards only, without END: for the jobs of an array.",
        show_default=False,
    ),
]
Extend = Annotated[
    bool,
    typer.Option(
        "--extend",
        help="Add to a sealed cache what it lacks of the recipe: images, views, groups of rows.",
    ),
]


def cache_logits(
    recipe: RecipeName = None,
    teacher: Teacher = None,
    out: OutFolder = None,
    shards: Shards = None,
    extend: Extend = False,
    overrides: Overrides = None,
    device: Device = "auto",
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Write the teacher's box distributions to a cache; run it again to go on after a stop.

    Under `torchrun -m ldkit` each process builds a part; the first one tells.
    """
    from ldkit.jobs import build_cache, cache_extend
    from ldkit.jobs.cache_build_share import own_device, share_of

    share = share_of(os.environ, shards)
    tells = share.rank == 0
    document = _document(recipe, teacher, out, overrides or [], tells=tells)
    if dry_run:
        from ldkit.jobs.cache_outline import outline

        if tells:
            chosen = cache_extend.outline if extend else outline
            console.show_facts(chosen(document.recipe, device), as_json=as_json)
        return
    job = cache_extend if extend else build_cache
    building = job.run(document.recipe, device=own_device(device, os.environ), share=share)
    if not tells:
        _silent(building)
        return
    progress.show("cache", building)
    from ldkit.jobs.cache_info import facts

    console.show_facts(facts(build_cache.cache_folder(document.recipe)), as_json=as_json)


def _document(
    recipe: str | None,
    teacher: Path | None,
    out: str | None,
    overrides: list[str],
    *,
    tells: bool,
) -> LoadedRecipe:
    """Return the recipe of a build; without one, the recipe for the teacher's backbone."""
    flags = {}
    if teacher is not None:
        flags["teacher.checkpoint"] = ("--teacher", str(teacher))
    if out is not None:
        flags["cache.path"] = ("--out", out)
    if recipe is None:
        from ldkit.jobs.build_cache import backbone_of

        arch = DEFAULT_ARCH if teacher is None else short_name(backbone_of(teacher))
        recipe = cache_recipe(arch)
        if tells:
            console.say(f"Taking the recipe {recipe}, for the teacher {arch}.")
        if teacher is not None and out is None:
            flags["cache.path"] = ("--teacher", f"caches/{teacher.stem}")
    return load_recipe(recipe, overrides, flags)


def _silent(job: "Generator[Message, None, bool]") -> None:
    """Run a job to its end; only its errors are shown."""
    with closing(job):
        for _ in job:
            pass
