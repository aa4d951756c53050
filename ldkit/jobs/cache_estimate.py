"""`ldkit cache estimate`: what a cache costs, and when it has paid, before anything is built.

Bytes follow from boxes and anchors. Seconds are measured: a few forwards of the teacher and a few
steps of the student, on the device and a canvas of the recipe, with pixels that are loaded already.
"""

import time
from collections.abc import Callable, Mapping
from math import ceil
from statistics import median
from typing import get_args

import torch

from ldkit.cache.columns import BoxCodec, Codec
from ldkit.cache.format import Columns, Plan
from ldkit.data.dataset import ViewDataset, load_batches
from ldkit.jobs import assemble, coverage
from ldkit.jobs.build_cache import Order, load_teacher, order, sections
from ldkit.jobs.cache_outline import scored
from ldkit.jobs.canvases import canvas_batches
from ldkit.jobs.facts import Fact, Facts, seconds, size, table
from ldkit.jobs.size_estimate import SAMPLE, sample
from ldkit.jobs.teacher_rows import rows_of_group
from ldkit.jobs.train_teacher import objective
from ldkit.models.gfl import Detector
from ldkit.ops.pixels import normalise
from ldkit.recipe.schema import Recipe
from ldkit.structures import Batch, resized_sizes

MEASURED = 3
"""Forwards and steps that are timed, after one that is not; their median counts."""


def estimate(recipe: Recipe, device: str = "auto") -> Facts:
    """Return the bytes of each group by codec, the seconds of both sides, and when they meet.

    Raises:
        LdkitError: What a build would raise before its first shard.
    """
    place = assemble.device(device)
    todo = order(recipe)
    layout = recipe.train.channels_last
    teacher = load_teacher(sections(recipe)[1], place, channels_last=layout)
    rows = dict(todo.size.rows)
    if "score" in rows:
        rows |= scored(todo, teacher)
    images, views = len(todo.material.records), todo.plan.keys.count
    forward = _forward_seconds(todo, teacher)
    step = _step_seconds(recipe, todo, place)
    return {
        "cache": str(todo.folder),
        "views": Fact(f"{views:,} of {images:,} images", {"count": views, "images": images}),
        "size by codec": _sizes(todo.plan, rows, views),
        "device": str(place),
        **_worth(recipe, images, views, forward, step),
    }


def _sizes(plan: Plan, rows: Mapping[str, float], views: int) -> Fact:
    """Return the bytes of each group with each codec; the recipe's own choice last."""
    codecs: tuple[str, ...] = get_args(BoxCodec)
    plans = {codec: _stored_as(plan, codec) for codec in codecs} | {"as in the recipe": plan}
    values = {
        name: {
            group.name: round(views * rows[group.name] * group.row_bytes) for group in each.groups
        }
        for name, each in plans.items()
    }
    for groups in values.values():
        groups["all"] = sum(groups.values())
    names = [*(group.name for group in plan.groups), "all"]
    lines = [["", *values]]
    lines += [[name, *(size(groups[name]) for groups in values.values())] for name in names]
    return Fact(table(lines), values)


def _stored_as(plan: Plan, codec: str) -> Plan:
    """Return the plan with every column in this codec; those that cannot be u8 are fp16."""
    plain = codec if codec in get_args(Codec) else "fp16"
    columns = plan.columns.model_dump(exclude_unset=True)
    for section in columns.values():
        for name, stored in section.items():
            if stored is not None:
                section[name] = codec if name == "bbox_logits" else plain
    return plan.model_copy(update={"columns": Columns.model_validate(columns)})


def _worth(recipe: Recipe, images: int, views: int, forward: float, step: float) -> dict[str, Fact]:
    """Return the seconds of a build, a step and a run, and the epochs after which they meet."""
    batch, epochs = recipe.train.batch_size, recipe.schedule.epochs
    build, epoch = views * forward, images * forward
    online = step + batch * forward
    pays = views / images
    saved = (epochs * images - views) * forward
    per_epoch = ceil(images / batch) * step
    verdict = f"saves {seconds(saved)}" if saved >= 0 else f"costs {seconds(-saved)} more"
    return {
        "teacher": Fact(
            f"{seconds(forward)} a view, {seconds(build)} for the cache",
            {"seconds_per_view": forward, "seconds": build},
        ),
        "student": Fact(
            f"{seconds(step)} a step of {batch}, {seconds(per_epoch)} an epoch; with the teacher "
            f"beside it {online / step:.2f} times that",
            {"seconds_per_step": step, "seconds_per_epoch": per_epoch, "online_seconds": online},
        ),
        "break even": Fact(
            f"after {pays:.2g} epochs; a run of {epochs} {verdict}, each further one saves "
            f"{seconds(epochs * epoch)}",
            {
                "epochs": pays,
                "of": epochs,
                "saved_seconds": saved,
                "saved_seconds_of_further_runs": epochs * epoch,
            },
        ),
    }


def _forward_seconds(todo: Order, teacher: Detector) -> float:
    """Return the seconds of a teacher's forward for one view, with the rows it gives."""
    device = next(teacher.parameters()).device
    batch = _batch(todo, todo.plan.build.batch_size, device)
    asked = coverage.everything(todo.plan.coverage, todo.plan.columns)
    return _timed(lambda: rows_of_group(teacher, batch, asked), device) / len(batch.keys)


def _step_seconds(recipe: Recipe, todo: Order, device: torch.device) -> float:
    """Return the seconds of a student's step, forward and backward, without any teacher."""
    torch.manual_seed(recipe.seed)
    student = assemble.detector(recipe.detector, len(todo.material.index.categories))
    layout = torch.channels_last if recipe.train.channels_last else torch.contiguous_format
    student.to(device).to(memory_format=layout).train()
    batch, terms = _batch(todo, recipe.train.batch_size, device), objective(recipe)
    images = normalise(batch.pixels, resized_sizes(batch.views, device))

    def step() -> None:
        student.zero_grad(set_to_none=True)
        total = terms(student(images.contiguous(memory_format=layout)), batch, 0).total
        torch.autograd.backward(total)

    return _timed(step, device) * recipe.train.batch_size / len(batch.keys)


def _batch(todo: Order, most: int, device: torch.device) -> Batch:
    """Return views of the canvas that most of a sample have, at most so many."""
    material = todo.material
    batches = canvas_batches(material.records, material.draw, sample(todo.keys, SAMPLE), SAMPLE)
    chosen = max(batches, key=len)[:most]
    dataset = ViewDataset(material.records, material.draw)
    return next(load_batches(dataset, [chosen], workers=0, device=device))


def _timed(work: Callable[[], object], device: torch.device) -> float:
    """Return the median seconds of some work, once it is warm."""
    found = []
    for _ in range(MEASURED + 1):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - began)
    return median(found[1:])
