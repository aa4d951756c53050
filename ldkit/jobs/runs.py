"""The folder of a run: what stands where, who may write into it, which one is the newest.

runs/NAME/ holds recipe.yaml (resolved), environment.json, lineage.json, metrics.jsonl,
checkpoints/, eval/ and model.pt. model.pt is written last: its presence means that the run is
finished.
"""

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from ldkit import __version__
from ldkit.errors import UsageError
from ldkit.files import canonical_json, short, write_text
from ldkit.recipe.load import dump_recipe, load_recipe
from ldkit.recipe.schema import Recipe

LIBRARIES = ("torch", "torchvision", "timm", "numpy", "opencv-python-headless", "safetensors")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The paths inside one run's folder."""

    path: Path

    @property
    def recipe(self) -> Path:
        """Return the resolved recipe of the run."""
        return self.path / "recipe.yaml"

    @property
    def lineage(self) -> Path:
        """Return what the run was begun with: fingerprints of data, teacher and cache."""
        return self.path / "lineage.json"

    @property
    def journal(self) -> Path:
        """Return the file with one JSON line for each event."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Return the folder of resumable states."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """Return the finished model file."""
        return self.path / "model.pt"

    @property
    def evaluations(self) -> Path:
        """Return the folder of evaluation results."""
        return self.path / "eval"

    @property
    def is_finished(self) -> bool:
        """Say whether the run has reached its end."""
        return self.model.is_file()


def claim(folder: Path, recipe: Recipe, *, resume: bool) -> RunFolder:
    """Return the run's folder after checking that this recipe may be run there.

    Nothing is written yet, so that a run which fails at its start leaves nothing behind.

    Raises:
        UsageError: The folder holds a run and `resume` is off, or it holds another recipe.
    """
    run = RunFolder(folder)
    if run.recipe.is_file():
        _check_may_continue(run, recipe, resume=resume)
    elif folder.exists() and not folder.is_dir():
        raise UsageError(
            "is a file, but the folder of the run is to be made there.",
            where=str(folder),
            hint="Choose another name with `--set name=...`.",
        )
    return run


def begin(run: RunFolder, recipe: Recipe, lineage: Mapping[str, str]) -> None:
    """Write the recipe, lineage and environment of a run, unless it was begun before.

    `lineage` names what the run learns from (`data`, `teacher`, `cache`) by fingerprints. The cache
    may be built anew, or give way to the live teacher: it says what the teacher says.

    Raises:
        UsageError: It was begun with other data or another teacher under the same names.
    """
    if run.recipe.is_file():
        _check_lineage(run, lineage)
        return
    libraries = {name: version(name) for name in LIBRARIES}
    environment = {"ldkit": __version__, "python": platform.python_version(), **libraries}
    write_text(run.path / "environment.json", canonical_json(environment) + "\n")
    write_text(run.lineage, canonical_json(lineage) + "\n")
    write_text(run.recipe, dump_recipe(recipe))


def _check_lineage(run: RunFolder, lineage: Mapping[str, str]) -> None:
    begun = json.loads(run.lineage.read_text(encoding="utf-8")) if run.lineage.is_file() else {}
    lines = [
        f"  {name}: {short(begun[name])} when it was begun, {short(found)} now"
        for name, found in lineage.items()
        if name != "cache" and begun.get(name, found) != found
    ]
    if lines:
        raise UsageError(
            "learnt from something else so far, so it cannot be resumed:\n" + "\n".join(lines),
            where=str(run.path),
            hint="Put back what it was begun with, or begin another run with `--set name=...`.",
        )


def _check_may_continue(run: RunFolder, recipe: Recipe, *, resume: bool) -> None:
    if not resume:
        state = "a finished run" if run.is_finished else "an unfinished run"
        raise UsageError(
            f"holds {state} already.",
            where=str(run.path),
            hint="Go on with it by `--resume`, or begin another with `--set name=...`.",
        )
    if load_recipe(str(run.recipe)).recipe != recipe:
        raise UsageError(
            "was begun with another recipe, so it cannot be resumed with this one.",
            where=str(run.path),
            hint=f"See what differs with `ldkit recipe diff RECIPE {run.recipe}`, or begin "
            "another run with `--set name=...`.",
        )


def newest_finished(root: Path) -> RunFolder:
    """Return the run below `root` that finished last.

    Raises:
        UsageError: There is none.
    """
    finished = [RunFolder(path.parent) for path in root.glob("*/model.pt")]
    if not finished:
        raise UsageError(
            "holds no finished run.",
            where=str(root),
            hint="Train one (`ldkit teacher train`, `ldkit distill`), or name a run folder or a "
            "model file: `ldkit eval PATH`.",
        )
    return max(finished, key=lambda run: run.model.stat().st_mtime_ns)
