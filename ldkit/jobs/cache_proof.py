"""The levels of proof that need more than the cache: its data set, and its teacher."""

import random
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from ldkit.cache.compare import require_same_plan
from ldkit.cache.content import name_of
from ldkit.cache.generations import Generation
from ldkit.cache.reader import CacheReader
from ldkit.cache.verify_rows import TOLERANCE, Comparison
from ldkit.data.dataset import ViewDataset, load_batches
from ldkit.errors import CacheError, CacheMismatch, StorageError, UsageError
from ldkit.jobs import assemble, coverage, sources
from ldkit.jobs.build_cache import load_teacher
from ldkit.jobs.cache_build_memory import part_of
from ldkit.jobs.canvases import canvas_batches
from ldkit.jobs.facts import plural, table
from ldkit.jobs.material import Material
from ldkit.jobs.progress import Message, Progress
from ldkit.jobs.teacher_rows import rows_of_group
from ldkit.recipe.schema import Recipe
from ldkit.structures import Batch, ViewKey

Fault = CacheError | StorageError


class Part(NamedTuple):
    """A generation of a cache whose structure is proved, and views of it."""

    sealed: Generation
    keys: Sequence[ViewKey]

    def reader(self) -> CacheReader:
        """Return a reader of this generation alone."""
        return CacheReader(self.sealed.folder.path, (self.sealed,))


class Proof(NamedTuple):
    """What a level of proof found: for people, for machines, and why it failed, if it did."""

    text: str
    value: Mapping[str, object]
    error: Fault | None = None


class Evidence(NamedTuple):
    """What a cache is held against: its data set, and the teacher's file where it is asked."""

    recipe: Recipe
    material: Material
    teacher: Path | None


def gather(recipe: Recipe, *, with_teacher: bool) -> Evidence:
    """Return the data set of a recipe, and the file of its teacher where that is wanted.

    Raises:
        UsageError: The recipe has no teacher.
        LdkitError: The data set is not right.
    """
    if not with_teacher:
        return Evidence(recipe, Material.of(recipe), None)
    if recipe.teacher is None:
        raise UsageError(
            "has no `teacher` section, so there is nobody to ask again.",
            where=recipe.name,
            hint="Name the recipe that the cache was built with, or stop at `--level pixels`.",
        )
    return Evidence(recipe, Material.of(recipe), Path(recipe.teacher.checkpoint))


def require_same_sources(parts: Sequence[Part], evidence: Evidence) -> None:
    """Check that a cache was made from this data set, these views, and this teacher if any.

    Generations may be of smaller data sets or fewer views; one must be of these.

    Raises:
        CacheMismatch: It was not; both sides, field by field. Or the data set lacks an image.
    """
    recipe, material, teacher = evidence
    update = {
        "data": sources.data_source(recipe, material.index),
        "views": sources.views_source(recipe),
    }
    if teacher is not None:
        file = sources.read_teacher(teacher)
        update["weights"], update["model"] = sources.teacher_source(file, teacher)
    for sealed, _ in reversed(parts):
        plan, folder = sealed.plan, sealed.folder.path
        ours = plan.sources.model_copy(update=update)
        try:
            require_same_plan(plan, plan.model_copy(update={"sources": ours}), folder)
            break
        except CacheMismatch:
            if sealed is parts[0].sealed:
                raise
    for part in parts:
        _require_images(part, material)


def _require_images(part: Part, material: Material) -> None:
    for key in part.keys:
        if key.image_id not in material.records:
            raise CacheMismatch(
                f"has {name_of(key)}, but the data set has no such image to train on.",
                where=str(part.sealed.folder.path),
                hint="Use the images and annotations that the cache was built with.",
            )


def check_pixels(parts: Sequence[Part], evidence: Evidence) -> Generator[Message, None, Proof]:
    """Yield progress; return whether all views are those of the policy, pixel by pixel.

    The boxes that rows name must be there as well.
    """
    total, done = sum(len(part.keys) for part in parts), 0
    faults: list[CacheError] = []
    for part in parts:
        with closing(part.reader()) as reader:
            for batch in _batches(part, evidence, "cpu"):
                faults += _pixel_faults(reader, batch)
                done += len(batch.keys)
                yield Progress(done, total, "views")
    value = {"views": total, "faulty": len(faults)}
    if faults:
        return Proof(f"{len(faults):,} of {plural(total, 'view')}", value, faults[0])
    text = f"{plural(total, 'view')} show the pixels that the teacher saw, and the boxes of rows"
    return Proof(text, value)


def _pixel_faults(reader: CacheReader, batch: Batch) -> Iterator[CacheError]:
    """Yield an error for each view of a batch that is not what the teacher saw."""
    for position, key in enumerate(batch.keys):
        try:
            reader.lookup(part_of(batch, position, position + 1))
            reader.check_pixels(key, batch.pixels[position])
        except CacheError as error:
            yield error


def check_teacher(
    parts: Sequence[Part], evidence: Evidence, device: str
) -> Generator[Message, None, Proof]:
    """Yield progress; return whether the teacher says of these views what the cache stores."""
    assert evidence.teacher is not None
    channels_last = evidence.recipe.train.channels_last
    teacher = load_teacher(evidence.teacher, assemble.device(device), channels_last=channels_last)
    total, found = sum(len(part.keys) for part in parts), Comparison()
    done = 0
    for part in parts:
        plan = part.sealed.plan
        asked = coverage.everything(plan.coverage, plan.columns)
        floor = 0.0 if plan.coverage.score is None else plan.coverage.score.floor
        compact = {each.name for group in plan.groups for each in group.values if each.scale}
        with closing(part.reader()) as reader:
            for batch in _batches(part, evidence, device):
                told, stored = rows_of_group(teacher, batch, asked), reader.lookup(batch)
                found.add(told, stored, score_floor=floor, compact=compact)
                done += len(batch.keys)
                yield Progress(done, total, "views asked again")
    return _teacher_proof(parts[0].sealed.folder.path, found, total)


def _teacher_proof(cache: Path, found: Comparison, views: int) -> Proof:
    strays = {name: count for name, count in found.strays.items() if count}
    value: dict[str, object] = {
        "views": views,
        "tolerance": TOLERANCE,
        "gaps": {name: vars(gap) for name, gap in found.gaps.items()},
        "rows on one side": strays,
    }
    told = [
        [name, f"{gap.largest:.2g}", f"{gap.bins:.2g} bins" if gap.bins else ""]
        for name, gap in found.gaps.items()
    ]
    text = f"{plural(views, 'view')} asked again; largest differences:\n{table(told)}"
    if found.agrees:
        return Proof(text, value)
    lines = [f"  {count:,} rows of {name} on one side only" for name, count in strays.items()]
    lines += [
        f"  {name} differs by up to {gap.largest:.2g}, {gap.excess:.3g} times what is allowed"
        for name, gap in found.gaps.items()
        if gap.excess > 1
    ]
    error = CacheMismatch(
        "does not hold what this teacher says of these views:\n" + "\n".join(lines),
        where=str(cache),
        hint="Was it built on a device with less exact arithmetic (TF32)? Then verify it there, "
        "with `--device`. Else build a new cache (`--out caches/NAME`).",
    )
    return Proof(text, value, error)


def sample(parts: Sequence[Part], count: int, seed: int) -> list[Part]:
    """Return so many views, drawn at random, in order; all where there are no more."""
    every = [(number, key) for number, part in enumerate(parts) for key in part.keys]
    drawn = sorted(random.Random(seed).sample(every, min(count, len(every))))
    chosen = [[key for which, key in drawn if which == number] for number in range(len(parts))]
    return [Part(part.sealed, keys) for part, keys in zip(parts, chosen, strict=True) if keys]


def _batches(part: Part, evidence: Evidence, device: str) -> Iterator[Batch]:
    """Yield the views, each beside views of its own canvas only."""
    records, draw = evidence.material.records, evidence.material.draw
    batches = canvas_batches(records, draw, part.keys, part.sealed.plan.build.batch_size)
    dataset, workers = ViewDataset(records, draw), evidence.recipe.data.workers
    return load_batches(dataset, batches, workers, assemble.device(device))
