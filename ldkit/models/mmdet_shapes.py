"""The architecture of a published GFL or GFLv2 detector, read off the shapes of its weights.

Shapes do not tell everything. Assumed as published, and said so: strides of 8 to 128 pixels for
the levels 3 to 7, anchors of 8 strides, 32 groups in the GroupNorm of the head, ResNets in
"pytorch" style (the stride in the 3x3 convolution), and that the quality of GFLv2 reads the mean
of the largest probabilities beside them.
Source: the shapes of mmdetection's GFL checkpoints, and those of the GFLv2 repository.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ldkit.errors import CheckpointError

Shapes = Mapping[str, tuple[int, ...]]

STAGES = (1, 2, 3, 4)
_CLS, _BBOX = "bbox_head.gfl_cls.weight", "bbox_head.gfl_reg.weight"
_QUALITY = "bbox_head.reg_conf."
_PLAIN: dict[tuple[int, tuple[int, ...]], str] = {
    (2, (2, 2, 2, 2)): "resnet18",
    (2, (3, 4, 6, 3)): "resnet34",
    (3, (3, 4, 6, 3)): "resnet50",
    (3, (3, 4, 23, 3)): "resnet101",
    (3, (3, 8, 36, 3)): "resnet152",
}
_BASE_WIDTH = 64  # channels of the first stage's 3x3 in a plain ResNet
_VERSIONS = {18: 1, 27: 2}  # two offsets for each of nine taps; version 2 adds a mask


@dataclass(frozen=True, slots=True)
class Quality:
    """What weighs the scores of a GFLv2 head: how much of each edge it reads, and its channels."""

    topk: int
    channels: int


@dataclass(frozen=True, slots=True)
class Architecture:
    """What the shapes say. `backbone` is timm's name; `deform_stages` count from stride 4.

    `deform_version` is 1 or 2 where `deform_stages` has any, else 0. `levels` are those of the
    pyramid, the first ones from the backbone. `num_classes` are the rows of the class branch,
    which in published GFLv2 are one more than the classes. `quality` is None in GFL.
    """

    backbone: str
    deform_stages: tuple[int, ...]
    deform_version: int
    channels: int
    levels: tuple[int, ...]
    convs: int
    reg_max: int
    num_classes: int
    quality: Quality | None = None

    @property
    def head(self) -> Literal["gfl", "gflv2"]:
        """Return the kind of head."""
        return "gfl" if self.quality is None else "gflv2"


def read_architecture(shapes: Shapes, where: str) -> Architecture:
    """Return the architecture of a state, by its published names.

    Raises:
        CheckpointError: A tensor from which something is read is absent, or the shapes are those
            of no network that is known here.
    """
    shape = _Reader(shapes, where)
    rows = shape.of(_BBOX)[0]
    if rows % 4 or rows < 12:
        raise shape.refusal(f"{_BBOX} has {rows} rows, but four edges of equal bins are expected")
    backbone = _backbone(shape)
    outputs = _count(shapes, r"neck\.fpn_convs\.(\d+)\.")
    first = _first_level(shape)
    stages, version = _deformable(shape)
    return Architecture(
        backbone=backbone,
        deform_stages=stages,
        deform_version=version,
        channels=shape.of("neck.lateral_convs.0.conv.weight")[0],
        levels=tuple(range(first, first + outputs)),
        convs=_count(shapes, r"bbox_head\.reg_convs\.(\d+)\."),
        reg_max=rows // 4 - 1,
        num_classes=shape.of(_CLS)[0],
        quality=_quality(shape),
    )


class _Reader:
    """Shapes by name; an absent one is an error for the user."""

    def __init__(self, shapes: Shapes, where: str) -> None:
        self.shapes = shapes
        self._where = where

    def of(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor of at least two axes."""
        found = self.shapes.get(name)
        if found is None:
            raise self.refusal(f"{name} is missing")
        if len(found) < 2:
            raise self.refusal(f"{name} has the shape {found}, but a convolution is expected")
        return found

    def refusal(self, problem: str) -> CheckpointError:
        """Return the error to raise."""
        return CheckpointError(
            f"cannot be a GFL detector on a ResNet or ResNeXt: {problem}.",
            where=self._where,
            hint="Known are ResNet-18 to 152 and ResNeXt, with or without deformable stages, "
            "below a feature pyramid. It may also be damaged: download it again.",
        )


def _count(shapes: Shapes, pattern: str) -> int:
    """Return one more than the largest number that stands in names of this form."""
    found = (re.match(pattern, name) for name in shapes)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def _backbone(shape: _Reader) -> str:
    blocks = tuple(_count(shape.shapes, rf"backbone\.layer{s}\.(\d+)\.") for s in STAGES)
    if not any(blocks):
        some = next((name for name in shape.shapes if name.startswith("backbone.")), "nothing")
        raise shape.refusal(f"its backbone has no stages layer1 to layer4, but {some}")
    depth = 3 if "backbone.layer1.0.conv3.weight" in shape.shapes else 2
    plain = _PLAIN.get((depth, blocks))
    if plain is None:
        raise shape.refusal(f"its four stages have {blocks} blocks of {depth} convolutions")
    width, per_group = shape.of("backbone.layer1.0.conv2.weight")[:2]
    if width == per_group == _BASE_WIDTH:
        return plain
    if width > per_group > 0 and width % per_group == 0:
        layers = plain.removeprefix("resnet")
        return f"resnext{layers}_{width // per_group}x{per_group}d"
    raise shape.refusal(f"the first 3x3 convolution of its stage 1 is of {width} channels")


def _first_level(shape: _Reader) -> int:
    """Return the level of the first lateral convolution, by the channels that it takes."""
    taken = shape.of("neck.lateral_convs.0.conv.weight")[1]
    last = 3 if "backbone.layer1.0.conv3.weight" in shape.shapes else 2
    given = [shape.of(f"backbone.layer{stage}.0.conv{last}.weight")[0] for stage in STAGES]
    if taken not in given:
        raise shape.refusal(f"its pyramid takes {taken} channels, its stages give {given}")
    return given.index(taken) + 2


def _deformable(shape: _Reader) -> tuple[tuple[int, ...], int]:
    """Return the stages with deformable convolutions, and their version (0 without any)."""
    names = [name for name in shape.shapes if name.endswith(".conv2.conv_offset.weight")]
    matches = [re.match(r"backbone\.layer([1-4])\.", name) for name in names]
    stages = tuple(sorted({int(match[1]) for match in matches if match}))
    rows = sorted({shape.of(name)[0] for name in names})
    if not rows:
        return (), 0
    if len(rows) > 1 or rows[0] not in _VERSIONS:
        raise shape.refusal(
            f"its deformable convolutions have {rows} rows of offsets; 18 (version 1) or 27 "
            "(version 2) are expected"
        )
    return stages, _VERSIONS[rows[0]]


def _quality(shape: _Reader) -> Quality | None:
    """Return the quality of a GFLv2 head: it takes the largest values of four edges and a mean."""
    if not any(name.startswith(_QUALITY) for name in shape.shapes):
        return None
    first = f"{_QUALITY}0.weight"
    channels, taken = shape.of(first)[:2]
    if taken % 4 or taken < 8:
        raise shape.refusal(
            f"{first} takes {taken} values, but as many of each of four edges are expected"
        )
    return Quality(topk=taken // 4 - 1, channels=channels)
