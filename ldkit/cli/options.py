"""The options that several commands share, spelled once."""

from pathlib import Path
from typing import Annotated

import typer

from ldkit.recipe.table import SHORT_NAMES

ARCHITECTURES = f"{', '.join(SHORT_NAMES)}, or any timm backbone."
RecipeName = Annotated[
    str | None,
    typer.Argument(
        metavar="RECIPE",
        help="A recipe of `ldkit recipe list`, or a YAML file.",
        show_default=False,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one value of the recipe; repeatable."),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Json = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON; progress goes to stderr.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check everything, say what would be done, and stop.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the unfinished run.")]
OutFile = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE", help="Also write the finished model to this file."),
]
