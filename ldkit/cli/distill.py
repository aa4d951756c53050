"""`ldkit distill`: a student learns from a cache, or from a teacher that runs beside it."""

from pathlib import Path
from typing import Annotated

import typer

from ldkit.cli import ablation, console, progress
from ldkit.cli.options import (
    ARCHITECTURES,
    Device,
    DryRun,
    Json,
    OutFile,
    Overrides,
    RecipeName,
    Resume,
)
from ldkit.errors import UsageError
from ldkit.recipe.load import load_recipe
from ldkit.recipe.table import Choice, Flags, short_name, student_recipe

Student = Annotated[
    str | None,
    typer.Option("--student", help=ARCHITECTURES, show_default=False),
]
CachePlace = Annotated[
    str | None,
    typer.Option(
        "--cache", metavar="FOLDER", help="A sealed cache; also its URL.", show_default=False
    ),
]
Online = Annotated[bool, typer.Option("--online", help="Run the teacher at every step instead.")]
Teacher = Annotated[
    Path | None,
    typer.Option("--teacher", help="Model file of the teacher, for --online.", show_default=False),
]


def distill(
    recipe: RecipeName = None,
    student: Student = None,
    cache: CachePlace = None,
    online: Online = False,
    teacher: Teacher = None,
    out: OutFile = None,
    overrides: Overrides = None,
    resume: Resume = False,
    device: Device = "auto",
    ablate: ablation.Arms = None,
    seeds: ablation.Seeds = 1,
    at_once: ablation.AtOnce = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Train a student from a sealed teacher cache.

    Without RECIPE, the paper's row for this teacher and --student.

    --ablate trains it without a teacher (plain) and once for each arm, on one cache by the same
    seeds, and compares all on val. An arm is the terms that stay on (main+vlr+kd, kd_vlr,
    imitation, score, score_cls, score_box, cross, cross_cls, cross_box, all), changes under a name
    (t2:objective.localization.main.temperature=2;KEY=VALUE), or a recipe (shapes/ld, mine.yaml).
    """
    _check_flags(ablate, seeds, at_once, out)
    _check_source(cache, online=online)
    flags: Flags = {}
    if teacher is not None:
        flags["teacher.checkpoint"] = ("--teacher", str(teacher))
    if cache is not None:
        flags["cache.path"] = ("--cache", cache)
    from ldkit.jobs import distill as job
    from ldkit.jobs import open_cache

    if recipe is None and cache is None and not online:
        cache = str(open_cache.only_sealed_cache(Path("caches")))
        console.say(f"Taking the cache {cache}, the only sealed one.")
        flags["cache.path"] = ("caches/", cache)
    if recipe is None:
        chosen = _table_row(student, teacher if online else None, None if online else cache)
    else:
        chosen = student_recipe(recipe, student)
    document = load_recipe(chosen.name, overrides or [], chosen.flags | flags)
    run = Path("runs") / document.recipe.name
    source = job.Source.ONLINE if online else job.Source.CACHE
    if ablate:
        ablation.ablate(
            document.recipe,
            ablate,
            overrides or [],
            ablation.options(source, device, seeds, at_once),
            dry_run=dry_run,
            as_json=as_json,
        )
        return
    options = job.Options(source=source, device=device, resume=resume, out=out)
    if dry_run:
        facts = job.outline(document.recipe, run, options)
        console.show_facts(facts, as_json=as_json)
        return
    progress.show(document.recipe.name, job.run(document.recipe, run, options))
    console.show_facts({"run": str(run), "model": str(out or run / "model.pt")}, as_json=as_json)


def _check_flags(
    ablate: list[str] | None, seeds: int, at_once: int | None, out: Path | None
) -> None:
    """Refuse flags that mean nothing without, or beside, --ablate."""
    if ablate is None:
        lonely = "--seeds" if seeds != 1 else "--at-once" if at_once is not None else None
        if lonely is not None:
            raise UsageError(
                "counts only with --ablate.",
                where=lonely,
                hint="Name the arms to compare, such as `--ablate main,all`, or train one student "
                "by another seed with `--set seed=1`.",
            )
    elif out is not None:
        raise UsageError(
            "is one file, but --ablate trains several students.",
            where=f"--out {out}",
            hint="Leave it out: each run has its model.pt.",
        )


def _check_source(cache: str | None, *, online: bool) -> None:
    """Refuse a cache that would not be read."""
    if online and cache is not None:
        raise UsageError(
            "is not read with --online, which asks the teacher itself.",
            where=f"--cache {cache}",
            hint="Leave out one of them.",
        )


def _table_row(student: str | None, teacher: Path | None, cache: str | None) -> Choice:
    """Return the row of the table for the teacher at hand: a file, a cache, or none."""
    from ldkit.jobs import build_cache, open_cache

    known = None
    if cache is not None:
        known = short_name(open_cache.backbone_of(cache))
    elif teacher is not None:
        known = short_name(build_cache.backbone_of(teacher))
    chosen = student_recipe(None, student, known)
    teaches = "" if known is None else f" for the teacher {known}"
    console.say(f"Taking the recipe {chosen.name}{teaches}.")
    return chosen
