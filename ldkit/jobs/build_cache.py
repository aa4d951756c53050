"""`ldkit cache-logits`: every view that the schedule can show, through the teacher, to disk once.

Plan, missing shards, seal. A shard is built from its keys alone, so a build that was killed goes
on with what is missing and ends in the same bytes, and so do several processes that share it.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ldkit.cache import writer
from ldkit.cache.folder import CacheFolder, missing_shards
from ldkit.cache.format import Build, Plan, views_per_shard
from ldkit.cache.info import FP16_BYTES, logits_per_row
from ldkit.cache.remote import is_url
from ldkit.data.dataset import ViewDataset, load_batches
from ldkit.errors import CacheIncomplete, UsageError
from ldkit.jobs import assemble, coverage, sources
from ldkit.jobs.cache_build_memory import Asking
from ldkit.jobs.cache_build_order import Coming
from ldkit.jobs.cache_build_share import WHOLE, Share
from ldkit.jobs.cache_build_writer import ShardWriter
from ldkit.jobs.progress import Message, Note, Progress
from ldkit.jobs.size_estimate import Estimate, estimate
from ldkit.jobs.train import Material
from ldkit.models.gfl import Detector
from ldkit.recipe.cache import Cache
from ldkit.recipe.detector import SmallBackbone, TimmBackbone
from ldkit.recipe.schema import Recipe
from ldkit.structures import ViewKey


@dataclass(frozen=True, slots=True)
class Order:
    """A cache to build: checked against the data, before anything is written."""

    folder: Path
    material: Material
    keys: list[ViewKey]
    plan: Plan
    size: Estimate

    def bytes_per_view(self, group: str) -> float:
        """Return the estimated bytes of a group's rows, one view."""
        bytes_of = {found.name: found.row_bytes for found in self.plan.groups}
        return self.size.rows[group] * bytes_of[group]

    @property
    def dense_bytes_per_view(self) -> float:
        """Return what the same logits take at every location, in fp16, one view."""
        return self.size.locations * FP16_BYTES * logits_per_row(self.plan)


def order(recipe: Recipe) -> Order:
    """Return what is to be built, with every check that needs no teacher forward.

    Raises:
        UsageError: The recipe has no teacher or no cache section.
        CheckpointError: The teacher's file is not there or foreign.
        CacheMismatch: The teacher's classes are not those of the data set.
    """
    cache, teacher = sections(recipe)
    folder = cache_folder(recipe)
    file = sources.read_teacher(teacher)
    material = Material.of(recipe)
    sources.check_teacher(file, teacher, material.index)
    section = assemble.detector_section(file, teacher)
    keys = sources.planned_keys(recipe, list(material.records))
    held, columns = coverage.stored(recipe, cache)
    size = estimate(material.records, material.draw, keys, assemble.grid(section), held)
    axes = sources.cached_axes(section, len(file.classes), held)
    plan = Plan.of(
        sources=sources.sources(recipe, material.index, file, teacher),
        axes=axes,
        coverage=held,
        columns=columns,
        build=Build(
            batch_size=cache.batch_size,
            pad_multiple_px=recipe.views.pad_multiple_px,
            views_per_shard=views_per_shard(cache.shard_mb * 1e6, size.rows, axes, columns),
        ),
        keys=keys,
    )
    return Order(folder, material, keys, plan, size)


def run(
    recipe: Recipe, *, device: str = "auto", share: Share = WHOLE
) -> Generator[Message, None, bool]:
    """Yield progress; build what is missing of a share, and seal once nothing is missing at all.

    Finished work is never done twice. Return whether the cache is sealed: else other processes
    are still at their shares, and the last of them seals.
    """
    return (yield from build(order(recipe), recipe, assemble.device(device), share))


def build(
    todo: Order, recipe: Recipe, device: torch.device, share: Share
) -> Generator[Message, None, bool]:
    """Yield progress; build an order, as `run` does."""
    plan = writer.begin(todo.folder, todo.plan)
    missing = missing_shards(CacheFolder(todo.folder), plan)
    if not missing:
        yield Note(f"{todo.folder} is complete already.")
    elif len(missing) < plan.shards:
        done = plan.shards - len(missing)
        yield Note(f"Going on: {done} of {plan.shards} shards of {todo.folder} are complete.")
    mine = share.of(missing)
    if mine:
        file, layout = sections(recipe)[1], recipe.train.channels_last
        teacher = load_teacher(file, device, channels_last=layout)
        yield from build_shards(todo, plan, mine, teacher, recipe.data.workers)
    if _sealed(todo, plan):
        return True
    done = plan.shards - len(missing_shards(CacheFolder(todo.folder), plan))
    built = "has built its shards" if mine else "had no shard to build"
    yield Note(
        f"This process {built}; {done} of {plan.shards} are complete; the last process seals."
    )
    return False


def _sealed(todo: Order, plan: Plan) -> bool:
    """Seal if all shards are there. Several processes may: they write the same bytes."""
    if missing_shards(CacheFolder(todo.folder), plan):
        return False
    try:
        writer.seal(todo.folder, plan, todo.keys)
    except CacheIncomplete:  # another process is just writing one of them anew
        return False
    return True


def load_teacher(path: Path, device: torch.device, *, channels_last: bool) -> Detector:
    """Return the teacher on the device, frozen."""
    teacher, _ = assemble.trained_detector(path)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return teacher.to(device).to(memory_format=layout)


def build_shards(
    todo: Order, plan: Plan, shards: Sequence[int], teacher: Detector, workers: int
) -> Iterator[Message]:
    """Yield progress; write shards, the one with the largest batch first.

    So memory runs out at the start or not at all. One loader feeds them all, and they are written
    while the teacher goes on. A shard that another process has written meanwhile is left out.
    """
    material, device = todo.material, next(teacher.parameters()).device
    asked = coverage.everything(plan.coverage, plan.columns)
    asking = Asking(teacher, asked, plan.build.batch_size)
    coming = Coming.of(CacheFolder(todo.folder), plan, todo.keys, shards, material)
    dataset = ViewDataset(material.records, material.draw)
    done = 0
    with ShardWriter(todo.folder, plan, todo.keys, asked, device) as written:
        for batch in load_batches(dataset, coming, workers, device):
            shard = coming.begun.popleft()
            for answer in asking.answers(batch):
                if isinstance(answer, Note):
                    yield answer
                    continue
                written.take(shard, answer)
                done += len(answer.batch.keys)
                yield Progress(coming.left_out + done, coming.total, "views")
        written.finish()
    if coming.left_out:
        yield Progress(coming.total, coming.total, "views")


def backbone_of(teacher: Path) -> TimmBackbone | SmallBackbone:
    """Return the backbone in a teacher's file."""
    return assemble.detector_section(sources.read_teacher(teacher), teacher).backbone


def cache_folder(recipe: Recipe) -> Path:
    """Return the folder of the recipe's cache, where one is built.

    Raises:
        UsageError: The recipe has no cache, or one at a URL.
    """
    path = sections(recipe)[0].path
    if is_url(path):
        raise UsageError(
            "is a URL, but a cache is built in a folder.",
            where=path,
            hint="Build it in a folder (`--out caches/NAME`, or `--set cache.path=caches/NAME`), "
            "then send it there: `ldkit cache push caches/NAME URL`.",
        )
    return Path(path)


def sections(recipe: Recipe) -> tuple[Cache, Path]:
    """Return the cache section of a recipe and the file of its teacher.

    Raises:
        UsageError: It has none.
    """
    if recipe.teacher is None or recipe.cache is None:
        absent = "teacher" if recipe.teacher is None else "cache"
        raise UsageError(
            f"has no `{absent}` section, so there is nothing to cache.",
            where=recipe.name,
            hint="Name the recipe that you are going to distill with (`ldkit recipe list`).",
        )
    return recipe.cache, Path(recipe.teacher.checkpoint)
