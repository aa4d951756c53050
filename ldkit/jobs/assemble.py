"""From recipe sections to objects: the only place where a recipe meets the rooms.

One function per section, each a `match` that mypy proves complete. Nothing is looked up by name.
"""

from pathlib import Path
from typing import assert_never

import torch
from torch import nn

from ldkit.data.augment import ViewPolicy
from ldkit.data.coco import CocoIndex
from ldkit.data.voc import read_voc
from ldkit.errors import CheckpointError, DataError, UsageError
from ldkit.models import deform, gfl
from ldkit.models.backbone import small_backbone, timm_backbone
from ldkit.models.checkpoint_file import ModelFile, load_weights, read_model
from ldkit.models.fpn import Fpn
from ldkit.models.quality import EdgeQuality
from ldkit.ops.decode import DecodeSettings
from ldkit.recipe.data import CocoSplit, Data, Split, VocSplit
from ldkit.recipe.detector import Detector, Head, QualityHead, SmallBackbone, TimmBackbone
from ldkit.recipe.schema import AdamW, Cosine, Eval, Milestones, Sgd, Views
from ldkit.structures import Grid
from ldkit.training import optimizer as optimizers
from ldkit.training.schedule import CosineSchedule, MilestoneSchedule, Schedule

DEVICE_KINDS = ("cpu", "cuda")


def device(name: str) -> torch.device:
    """Return the device of that name; `auto` takes a GPU where there is one.

    Raises:
        UsageError: The name is not a device, or this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.partition(":")[0] not in DEVICE_KINDS:
        raise _no_device(f"there is no device {name!r}.")
    try:
        chosen = torch.device(name)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise _no_device(f"{name!r} cannot be used here ({reason}).") from error
    return chosen


def _no_device(message: str) -> UsageError:
    return UsageError(message, where="--device", hint="Take auto, cpu, cuda or cuda:N.")


def index(data: Data, split: Split) -> CocoIndex:
    """Return the images and boxes of a split, checked.

    Raises:
        DataError: The folder of the data set is absent, or something in it is wrong.
    """
    root = data_root(data)
    match split:
        case CocoSplit(images=images, annotations=annotations):
            return CocoIndex.read(root / images, root / annotations, data.bad_boxes)
        case VocSplit(sets=sets):
            return read_voc(root, sets, data.bad_boxes).index
        case _:
            assert_never(split)


def data_root(data: Data) -> Path:
    """Return the folder of the data set.

    Raises:
        DataError: There is no such folder.
    """
    root = Path(data.root)
    if not root.is_dir():
        raise DataError(
            "is a file, not the folder of a data set." if root.exists() else "does not exist.",
            where=data.root,
            hint="Name the folder of the data set with `--set data.root=FOLDER`, and the files in "
            "it by data.train and data.val (`ldkit recipe schema data`). Drawn shapes to try "
            "with: `ldkit data synth FOLDER`.",
        )
    return root


def place(data: Data, split: Split) -> str:
    """Return where the boxes of a split are written, in words."""
    match split:
        case CocoSplit(annotations=annotations):
            return str(Path(data.root) / annotations)
        case VocSplit(sets=sets):
            return f"{data.root}: {' + '.join(sets)}"
        case _:
            assert_never(split)


def view_policy(views: Views, seed: int) -> ViewPolicy:
    """Return the policy that draws views."""
    return ViewPolicy(
        short_side_px=views.short_side_px,
        long_side_max_px=views.long_side_max_px,
        flip=views.flip,
        count=views.count,
        pad_multiple_px=views.pad_multiple_px,
        seed=seed,
    )


def grid(section: Detector) -> Grid:
    """Return what the locations of this detector mean."""
    return Grid(
        strides=tuple(2**level for level in section.fpn.levels),
        anchor_scale=section.head.anchor_scale,
        bin_width=section.head.bin_width,
    )


def detector(section: Detector, num_classes: int) -> gfl.Detector:
    """Return a detector with fresh weights (pretrained ones where the section asks for them)."""
    match section.backbone:
        case SmallBackbone(width=width, depth=depth):
            backbone = small_backbone(width, depth, section.fpn.levels)
        case TimmBackbone() as chosen:
            backbone = timm_backbone(
                chosen.name,
                section.fpn.levels,
                chosen.pretrained,
                chosen.frozen_stages,
                chosen.frozen_batchnorm,
                deformed_stages(chosen),
            )
        case _:
            assert_never(section.backbone)
    fpn = Fpn(backbone.channels, section.fpn.channels, section.fpn.levels)
    return gfl.Detector(backbone, fpn, _head(section, num_classes))


def _head(section: Detector, num_classes: int) -> gfl.GflHead:
    match section.head:
        case Head():
            quality = None
        case QualityHead(topk=topk, quality_channels=channels):
            quality = EdgeQuality(topk, channels)
        case _:
            assert_never(section.head)
    return gfl.GflHead(
        channels=section.fpn.channels,
        num_classes=num_classes,
        convs=section.head.convs,
        norm_groups=section.head.norm_groups,
        reg_max=section.head.reg_max,
        grid=grid(section),
        quality=quality,
    )


def deformed_stages(section: TimmBackbone) -> deform.Deform | None:
    """Return which stages of the backbone are deformable."""
    chosen = section.deform
    return None if chosen is None else deform.Deform(chosen.stages, chosen.version)


def trained_detector(path: Path) -> tuple[gfl.Detector, ModelFile]:
    """Return the detector of a model file, in evaluation mode, and the file's contents.

    Raises:
        CheckpointError: The file is foreign or truncated, or its weights do not fit its sections.
    """
    file = read_model(path)
    section = detector_section(file, path)
    if isinstance(section.backbone, TimmBackbone):  # the file's weights follow: fetch no others
        backbone = section.backbone.model_copy(update={"pretrained": False})
        section = section.model_copy(update={"backbone": backbone})
    model = detector(section, len(file.classes))
    load_weights(model, file.weights, str(path))
    return model.eval().requires_grad_(requires_grad=False), file


def detector_section(file: ModelFile, path: Path) -> Detector:
    """Return the detector section that a model file holds."""
    try:
        return Detector.model_validate(file.detector, strict=False)
    except ValueError as error:
        raise CheckpointError(
            "describes a detector that this version of ldkit does not know.",
            where=str(path),
            hint=f"It was written by ldkit {file.origin.get('ldkit', '?')}: {error}",
        ) from error


def optimizer(section: Sgd | AdamW, model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer over every trainable parameter of the model."""
    match section:
        case Sgd(lr=lr, momentum=momentum, weight_decay=weight_decay):
            return optimizers.sgd(model, lr=lr, momentum=momentum, weight_decay=weight_decay)
        case AdamW(lr=lr, betas=betas, weight_decay=weight_decay):
            return optimizers.adamw(model, lr=lr, betas=betas, weight_decay=weight_decay)
        case _:
            assert_never(section)


def schedule(section: Milestones | Cosine, base_lr: float) -> Schedule:
    """Return the learning rate as a function of the step."""
    match section:
        case Milestones():
            return MilestoneSchedule(
                base_lr=base_lr,
                epochs=section.epochs,
                milestones=section.milestones,
                factor=section.factor,
                warmup_steps=section.warmup_steps,
                warmup_start=section.warmup_start,
            )
        case Cosine():
            return CosineSchedule(
                base_lr=base_lr,
                epochs=section.epochs,
                final=section.final,
                warmup_steps=section.warmup_steps,
                warmup_start=section.warmup_start,
            )
        case _:
            assert_never(section)


def decode_settings(section: Eval) -> DecodeSettings:
    """Return how predictions become detections."""
    return DecodeSettings(
        score_floor=section.score_floor,
        candidates_per_level=section.candidates_per_level,
        topk=section.topk,
        nms_iou=section.nms_iou,
        max_detections=section.max_detections,
    )
