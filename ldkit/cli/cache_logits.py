"""`ldkit cache-logits`: the teacher's distributions, written to disk once."""

from pathlib import Path
from typing import Annotated

import typer

from ldkit.cli import console, progress
from ldkit.cli.options import Device, DryRun, Json, Overrides, RecipeName
from ldkit.recipe.load import load_recipe
from ldkit.recipe.table import DEFAULT_ARCH, cache_recipe, short_name

Teacher = Annotated[
    Path | None,
    typer.Option("--teacher", help="Model file of the teacher.", show_default=False),
]
OutFolder = Annotated[
    Path | None, typer.Option("--out", metavar="FOLDER", help="Folder of the cache.")
]


def cache_logits(
    recipe: RecipeName = None,
    teacher: Teacher = None,
    out: OutFolder = None,
    overrides: Overrides = None,
    device: Device = "auto",
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Write the teacher's box distributions to a cache; run it again to go on after a stop."""
    flags = {}
    if teacher is not None:
        flags["teacher.checkpoint"] = ("--teacher", str(teacher))
    if out is not None:
        flags["cache.path"] = ("--out", str(out))
    from ldkit.jobs import build_cache as job

    if recipe is None:
        arch = DEFAULT_ARCH if teacher is None else short_name(job.backbone_of(teacher))
        recipe = cache_recipe(arch)
        console.say(f"Taking the recipe {recipe}, for the teacher {arch}.")
        if teacher is not None and out is None:
            flags["cache.path"] = ("--teacher", f"caches/{teacher.stem}")
    document = load_recipe(recipe, overrides or [], flags)

    if dry_run:
        from ldkit.jobs.cache_outline import outline

        console.show_facts(outline(document.recipe, device), as_json=as_json)
        return
    progress.show("cache", job.run(document.recipe, device=device))
    from ldkit.jobs.cache_info import facts

    console.show_facts(facts(job.cache_folder(document.recipe)), as_json=as_json)
