"""The command tree, and the one place where errors become messages and exit codes."""

import os
import sys
import traceback
from typing import Annotated

import typer

from ldkit import __version__
from ldkit.cli import (
    bench,
    cache,
    cache_logits,
    console,
    ctrl_c,
    data,
    distill,
    evaluate,
    predict,
    quickstart,
    recipe,
    run,
    teacher,
)
from ldkit.errors import LdkitError

app = typer.Typer(
    name="ldkit",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("quickstart")(quickstart.quickstart)
app.command("run")(run.run)
app.add_typer(teacher.app, name="teacher")
app.command("cache-logits")(cache_logits.cache_logits)
app.add_typer(cache.app, name="cache")
app.command("distill")(distill.distill)
app.command("eval")(evaluate.evaluate)
app.command("predict")(predict.predict)
app.add_typer(recipe.app, name="recipe")
app.add_typer(data.app, name="data")
app.add_typer(bench.app, name="bench")


def _print_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"ldkit {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Distill object detectors from a teacher cache on disk (localization distillation)."""
    del version
    if debug:
        os.environ["LDKIT_DEBUG"] = "1"


def main() -> None:
    """Run the command line; user mistakes end in a message, not in a traceback."""
    # Waiting OpenMP threads burn the cores that other processes need; set before torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    ctrl_c.Interrupts().install()
    try:
        app()
    except LdkitError as error:
        if os.environ.get("LDKIT_DEBUG"):
            traceback.print_exception(error)
        console.print_error(error)
        sys.exit(error.exit_code)
    except SystemExit as end:  # Typer makes this of Ctrl-C
        if end.code == ctrl_c.EXIT_CODE:
            console.say(ctrl_c.stopped(sys.argv[1:]))
        raise
