"""`ldkit cache-logits`: every view that the schedule can show, through the teacher, to disk once.

Plan, missing shards, seal. A shard is built from its keys alone, so a build that was killed goes
on with what is missing and ends in the same bytes.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ldkit.cache import writer
from ldkit.cache.compare import require_same_plan
from ldkit.cache.content import ViewRows, pixels_crc32
from ldkit.cache.folder import CacheFolder, missing_shards, read_document
from ldkit.cache.format import Build, Columns, MainColumns, Plan, views_per_shard
from ldkit.cache.info import FP16_BYTES, logits_per_row
from ldkit.data.dataset import ViewDataset, load_batches
from ldkit.errors import UsageError
from ldkit.jobs import assemble, sources
from ldkit.jobs.canvases import canvas_batches
from ldkit.jobs.facts import Fact, Facts, size
from ldkit.jobs.progress import Message, Note, Progress
from ldkit.jobs.size_estimate import Estimate, estimate
from ldkit.jobs.teacher_rows import rows_of_group
from ldkit.jobs.train import Material
from ldkit.models.gfl import Detector
from ldkit.recipe.cache import Cache
from ldkit.recipe.detector import SmallBackbone, TimmBackbone
from ldkit.recipe.schema import Recipe
from ldkit.structures import Batch, TeacherRows, ViewKey


@dataclass(frozen=True, slots=True)
class Order:
    """A cache to build: checked against the data, before anything is written."""

    folder: Path
    material: Material
    keys: list[ViewKey]
    plan: Plan
    size: Estimate

    @property
    def main_bytes_per_view(self) -> float:
        """Return the estimated bytes of main rows, one view."""
        return self.size.rows_per_view * _bytes_per_row(self.plan)

    @property
    def dense_bytes_per_view(self) -> float:
        """Return what the same logits take at every location, in fp16, one view."""
        return self.size.locations_per_view * FP16_BYTES * logits_per_row(self.plan)


def order(recipe: Recipe) -> Order:
    """Return what is to be built, with every check that needs no teacher forward.

    Raises:
        UsageError: The recipe has no teacher or no cache section.
        CheckpointError: The teacher's file is not there or foreign.
        CacheMismatch: The teacher's classes are not those of the data set.
    """
    cache, teacher = _sections(recipe)
    file = sources.read_teacher(teacher)
    material = Material.of(recipe)
    sources.check_teacher(file, teacher, material.index)
    section = assemble.detector_section(file, teacher)
    keys = sources.planned_keys(recipe, list(material.records))
    grid, topk = assemble.grid(section), recipe.objective.assign.topk
    size = estimate(material.records, material.draw, keys, grid, topk)
    axes = sources.axes(section, len(file.classes))
    columns = Columns(main=MainColumns(**cache.main.model_dump()))
    plan = Plan.of(
        sources=sources.sources(recipe, material.index, file, teacher),
        axes=axes,
        coverage=sources.coverage(recipe),
        columns=columns,
        build=Build(
            batch_size=cache.batch_size,
            pad_multiple_px=recipe.views.pad_multiple_px,
            views_per_shard=views_per_shard(
                cache.shard_mb * 1e6, size.rows_per_view, axes, columns
            ),
        ),
        keys=keys,
    )
    return Order(Path(cache.path), material, keys, plan, size)


def run(recipe: Recipe, *, device: str = "auto") -> Generator[Message, None, None]:
    """Yield progress; build what is missing, then seal. Finished work is never done twice."""
    place = assemble.device(device)
    todo = order(recipe)
    teacher = load_teacher(
        Path(_sections(recipe)[1]), place, channels_last=recipe.train.channels_last
    )
    plan = writer.begin(todo.folder, todo.plan)
    missing = missing_shards(CacheFolder(todo.folder), plan)
    if not missing:
        yield Note(f"{todo.folder} is complete already.")
    elif len(missing) < plan.shards:
        done = plan.shards - len(missing)
        yield Note(f"Going on: {done} of {plan.shards} shards of {todo.folder} are complete.")
    yield from _build(todo, plan, missing, teacher, recipe, place)
    writer.seal(todo.folder, plan, todo.keys)


def load_teacher(path: Path, device: torch.device, *, channels_last: bool) -> Detector:
    """Return the teacher on the device, frozen."""
    teacher, _ = assemble.trained_detector(path)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return teacher.to(device).to(memory_format=layout)


def _build(
    todo: Order,
    plan: Plan,
    missing: Sequence[int],
    teacher: Detector,
    recipe: Recipe,
    device: torch.device,
) -> Iterator[Progress]:
    """Write the missing shards, one after the other; one loader feeds them all."""
    material, limit = todo.material, plan.build.batch_size
    planned = {
        shard: canvas_batches(
            material.records, material.draw, plan.keys_of(shard, todo.keys), limit
        )
        for shard in missing
    }
    all_batches = [batch for shard in missing for batch in planned[shard]]
    dataset = ViewDataset(material.records, material.draw)
    rendered = load_batches(dataset, all_batches, recipe.data.workers, device)
    total = sum(len(batch) for batch in all_batches)
    done = 0
    for shard in missing:
        rows: dict[ViewKey, ViewRows] = {}
        for _ in planned[shard]:
            batch = next(rendered)
            answer = rows_of_group(teacher, batch, plan.coverage.main.topk)
            rows.update(_by_view(batch, answer))
            yield Progress(done + len(rows), total, "views")
        done += len(rows)
        content = [rows[key] for key in plan.keys_of(shard, todo.keys)]
        writer.write_shard(todo.folder, shard, content, plan)


def _by_view(batch: Batch, answer: TeacherRows) -> dict[ViewKey, ViewRows]:
    """Return the rows of each view, on the processor."""
    main = answer.main
    image, location, gt_index = (tensor.cpu() for tensor in main.rows)
    bbox_logits = main.bbox_logits.cpu()
    cls_logits = None if main.cls_logits is None else main.cls_logits.cpu()
    found = {}
    for position, (key, view) in enumerate(zip(batch.keys, batch.views, strict=True)):
        own = image == position
        found[key] = ViewRows(
            key=key,
            view=view,
            pixels_crc32=pixels_crc32(batch.pixels[position], view.padded_hw),
            location=location[own],
            gt_index=gt_index[own],
            bbox_logits=bbox_logits[own],
            cls_logits=None if cls_logits is None else cls_logits[own],
        )
    return found


def _bytes_per_row(plan: Plan) -> int:
    return sum(column.entry_bytes for column in plan.row_columns)


def backbone_of(teacher: Path) -> TimmBackbone | SmallBackbone:
    """Return the backbone in a teacher's file."""
    return assemble.detector_section(sources.read_teacher(teacher), teacher).backbone


def cache_folder(recipe: Recipe) -> Path:
    """Return the folder of the recipe's cache."""
    return Path(_sections(recipe)[0].path)


def _sections(recipe: Recipe) -> tuple[Cache, Path]:
    if recipe.teacher is None or recipe.cache is None:
        absent = "teacher" if recipe.teacher is None else "cache"
        raise UsageError(
            f"has no `{absent}` section, so there is nothing to cache.",
            where=recipe.name,
            hint="Name the recipe that you are going to distill with (`ldkit recipe list`).",
        )
    return recipe.cache, Path(recipe.teacher.checkpoint)


def outline(recipe: Recipe, device: str = "auto") -> Facts:
    """Return what a build would do: views, shards, disk beside the dense size."""
    place = assemble.device(device)
    todo = order(recipe)
    views = todo.plan.keys.count
    main, dense = todo.main_bytes_per_view, todo.dense_bytes_per_view
    missing = todo.plan.shards
    begun = CacheFolder(todo.folder)
    if begun.plan.is_file():
        plan = read_document(begun.plan, Plan)
        require_same_plan(plan, todo.plan, todo.folder)
        missing = len(missing_shards(begun, plan))
    images, shards = len(todo.material.records), todo.plan.shards
    rows, locations = todo.size.rows_per_view, todo.size.locations_per_view
    return {
        "cache": str(todo.folder),
        "views": Fact(f"{views:,} of {images:,} images", {"count": views, "images": images}),
        "rows per view": Fact(
            f"{rows:.1f} of {locations:,.0f} locations", {"main": rows, "locations": locations}
        ),
        "disk": _disk(views, main),
        "dense": _disk(views, dense),
        "shards": Fact(f"{missing:,} to build of {shards:,}", {"missing": missing, "of": shards}),
        "device": str(place),
    }


def _disk(views: int, bytes_per_view: float) -> Fact:
    total = views * bytes_per_view
    text = f"about {size(total)}, {size(bytes_per_view)} a view"
    return Fact(text, {"bytes": round(total), "bytes_per_view": round(bytes_per_view)})
