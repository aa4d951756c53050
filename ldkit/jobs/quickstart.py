"""The whole story on drawn shapes: teacher, cache, and pairs of students with and without it.

A pair shares its seed: first weights, order of batches and views are equal, so that what differs
is the distillation alone. The two students of a pair train side by side, one thread each.
"""

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ldkit.data.shapes import write_shapes
from ldkit.files import canonical_json, write_text
from ldkit.jobs import build_cache
from ldkit.jobs.progress import Note
from ldkit.jobs.quickstart_table import Outcome, outcome
from ldkit.jobs.scored_runs import Job, Told, in_processes
from ldkit.jobs.terms import alone
from ldkit.recipe.load import load_recipe
from ldkit.recipe.schema import Recipe

TRAIN_IMAGES, VAL_IMAGES = 1200, 300
TEACHER, PLAIN, DISTILLED = "teacher", "student", "student + LD"
CORES = 2


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything of a quickstart stands, below one folder."""

    root: Path

    @property
    def data(self) -> Path:
        """Return the folder of the drawn images."""
        return self.root / "shapes"

    @property
    def cache(self) -> Path:
        """Return the folder of the teacher cache."""
        return self.root / "caches" / "shapes"

    def run(self, name: str) -> Path:
        """Return the folder of a run."""
        return self.root / "runs" / name

    def recipe(self, name: str, run: str, *overrides: str) -> Recipe:
        """Return a shipped recipe with its paths below this folder."""
        flags = {
            "name": run,
            "data.root": str(self.data),
            "teacher.checkpoint": str(self.run("teacher") / "model.pt"),
            "cache.path": str(self.cache),
        }
        if name == "shapes/teacher":
            flags = {key: flags[key] for key in ("name", "data.root")}
        given = {key: ("ldkit quickstart", value) for key, value in flags.items()}
        return load_recipe(name, overrides, given).recipe


def run(root: Path, *, seeds: int, overrides: Sequence[str] = ()) -> Generator[Told, None, Outcome]:
    """Yield (stage, message); return the table. Finished stages are taken as they are.

    `overrides` are `--set` values for both recipes: a shorter trial, for instance.
    """
    began = time.monotonic()
    layout = Layout(root)
    yield from _draw(layout)
    teacher = layout.recipe("shapes/teacher", "teacher", *overrides)
    jobs = list(_students(layout, seeds, overrides))
    yield from in_processes([Job(TEACHER, teacher, layout.run("teacher"))], CORES)
    for message in build_cache.run(jobs[0].recipe, device="cpu"):
        yield "cache", message
    yield from in_processes(jobs, CORES)
    seconds = time.monotonic() - began
    result = outcome(
        layout.cache,
        {TEACHER: [layout.run("teacher")], **_folders(jobs)},
        seconds,
        f"{root}/ (runs, caches, shapes, quickstart.json)",
    )
    write_text(root / "quickstart.json", canonical_json(result.as_dict()) + "\n")
    return result


def _draw(layout: Layout) -> Generator[Told, None, None]:
    if (layout.data / "annotations" / "instances_val.json").is_file():
        return
    yield "data", Note(f"Drawing {TRAIN_IMAGES} + {VAL_IMAGES} scenes in {layout.data}.")
    write_shapes(layout.data, seed=0, train_images=TRAIN_IMAGES, val_images=VAL_IMAGES)


def _students(layout: Layout, seeds: int, overrides: Sequence[str]) -> Generator[Job, None, None]:
    """Yield the pairs: the student with distillation, and the same one without it."""
    for seed in range(seeds):
        for stage, kind in ((DISTILLED, "distilled"), (PLAIN, "plain")):
            name = f"{kind}_seed{seed}"
            whole = layout.recipe("shapes/full", name, *overrides, f"seed={seed}")
            recipe = whole if stage == DISTILLED else alone(whole)
            yield Job(f"{stage}, seed {seed}", recipe, layout.run(name))


def _folders(jobs: Sequence[Job]) -> dict[str, list[Path]]:
    return {
        kind: [job.folder for job in jobs if job.stage.startswith(f"{kind},")]
        for kind in (PLAIN, DISTILLED)
    }
