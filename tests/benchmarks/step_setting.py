"""What `step.py` times: a student, its cached and its live teacher, and batches; random weights."""

import argparse
from pathlib import Path
from typing import NamedTuple

import torch

from ldkit.data.dataset import ViewDataset, load_batches
from ldkit.data.sampler import epoch_batches
from ldkit.data.shapes import write_shapes
from ldkit.jobs import assemble, build_cache, coverage
from ldkit.jobs.fit_check import teacher_path
from ldkit.jobs.live_teacher import LiveTeacher
from ldkit.jobs.material import Material
from ldkit.jobs.open_cache import open_cache
from ldkit.models.checkpoint_file import ModelFile, write_model
from ldkit.recipe.load import load_recipe
from ldkit.recipe.schema import Recipe
from ldkit.structures import Batch, TeacherSource
from tests.benchmarks.coco_folder import train_split


class Setting(NamedTuple):
    """A student, its two teachers, and batches on the device."""

    recipe: Recipe
    device: torch.device
    student: torch.nn.Module
    cache: TeacherSource
    live: TeacherSource
    batches: list[Batch]


def prepare(work: Path, options: argparse.Namespace) -> Setting:
    """Return the setting; teacher and cache are written below `work` by ldkit's own jobs."""
    recipe = _recipe(work, options)
    device = assemble.device(options.device)
    material = Material.of(recipe)
    _write_teacher(recipe, options.teacher, material.index.class_names)
    for _ in build_cache.run(recipe, device=options.device):
        pass
    reader = open_cache(recipe, material)
    layout = torch.channels_last if recipe.train.channels_last else torch.contiguous_format
    student = assemble.detector(recipe.detector, len(material.index.categories))
    teacher = build_cache.load_teacher(
        teacher_path(recipe), device, channels_last=recipe.train.channels_last
    )
    return Setting(
        recipe=recipe,
        device=device,
        student=student.to(device).to(memory_format=layout),
        cache=reader,
        live=LiveTeacher(teacher, coverage.wanted(recipe), batch_size=options.batch),
        batches=_batches(recipe, material, options.batches, device),
    )


def _recipe(work: Path, options: argparse.Namespace) -> Recipe:
    root = options.root
    if root is None:
        root, count = work / "shapes", 2 * options.batch * options.batches
        write_shapes(root, seed=0, train_images=count, val_images=1, size_px=options.long)
    split = train_split(root)
    overrides = [
        f"data.root={root.resolve()}",
        f"data.train.images={split.images}",
        f"data.train.annotations={split.annotations}",
        "data.workers=0",
        f"views.short_side_px={options.short}",
        f"views.long_side_max_px={options.long}",
        "views.flip=0",
        f"teacher.checkpoint={work / 'teacher.pt'}",
        f"cache.path={work / 'cache'}",
        f"cache.batch_size={options.batch}",
        f"student.backbone.name={options.student}",
        "student.backbone.pretrained=false",
        "optim.lr=1e-6",  # random weights with frozen BatchNorm would not bear more
        f"train.batch_size={options.batch}",
    ]
    return load_recipe("coco/ld_r18_r101", overrides).recipe


def _write_teacher(recipe: Recipe, backbone: str, classes: tuple[str, ...]) -> None:
    student = recipe.detector
    chosen = student.backbone.model_copy(update={"name": backbone})
    section = student.model_copy(update={"backbone": chosen})
    weights = assemble.detector(section, len(classes)).state_dict()
    file = ModelFile(weights, section.model_dump(mode="json"), classes, {"name": "benchmark"})
    write_model(teacher_path(recipe), file)


def _batches(recipe: Recipe, material: Material, count: int, device: torch.device) -> list[Batch]:
    size = recipe.train.batch_size
    policy = assemble.view_policy(recipe.views, recipe.seed)
    keys = epoch_batches(
        material.records, policy.view_of_epoch, batch_size=size, seed=recipe.seed, epoch=0
    )
    full = [batch for batch in keys if len(batch) == size][:count]
    dataset = ViewDataset(material.records, material.draw)
    return list(load_batches(dataset, full, recipe.data.workers, device))
