"""The detector sections: what a recipe trains, and what a model file says it holds."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, PositiveInt, Tag, model_validator

from ldkit.recipe.section import PositiveFloat, Section

Stage = Annotated[int, Field(ge=1, le=4)]


class Deform(Section):
    """Deformable 3x3 convolutions in place of plain ones, in backbones of bottleneck blocks."""

    stages: tuple[Stage, ...]
    """Stages that get them, counted as in frozen_stages: [2, 3, 4] is the papers' c3-c5."""
    version: Literal[1, 2] = 1
    """1 moves the taps; 2 also weighs each of them between 0 and 1 (DCNv2)."""

    @model_validator(mode="after")
    def _check(self) -> "Deform":
        if not self.stages or list(self.stages) != sorted(set(self.stages)):
            raise ValueError("stages: must name stages, rising, as [2, 3, 4].")
        return self


class TimmBackbone(Section):
    """A backbone of timm, by its timm name."""

    name: str
    """Name in timm, such as resnet18; the short names (r18) are for --student and --arch."""
    pretrained: bool | str = True
    """true: timm's weights from the hub; false: random; a path: a local weights file."""
    frozen_stages: Annotated[int, Field(ge=0, le=4)] = 1
    """Stages that stay as they are; 1 is the stem and the first stage, 0 freezes nothing."""
    frozen_batchnorm: bool = True
    """Keep the running statistics of every BatchNorm; its weights are still trained."""
    deform: Deform | None = None
    """Stages with deformable convolutions; null has none."""

    @model_validator(mode="after")
    def _check(self) -> "TimmBackbone":
        if self.deform is not None and self.deform.stages[0] <= self.frozen_stages:
            raise ValueError(
                f"deform.stages: must lie above the frozen ones (frozen_stages = "
                f"{self.frozen_stages}), where nothing learns."
            )
        return self


class SmallBackbone(Section):
    """A residual network small enough to train from scratch on a laptop."""

    name: Literal["small"]
    """The word small; any other name is one of timm's."""
    width: PositiveInt = 16
    """Channels of the first stage; the stages have 1, 2, 4, 4 times as many."""
    depth: PositiveInt = 1
    """Residual blocks in each stage."""


def backbone_kind(value: object) -> str:
    """Return which section a backbone is: "small" by that name, "timm" by any other."""
    match value:
        case {"name": "small"} | SmallBackbone():
            return "small"
        case _:
            return "timm"


Backbone = Annotated[
    Annotated[TimmBackbone, Tag("timm")] | Annotated[SmallBackbone, Tag("small")],
    Discriminator(backbone_kind),
]


class Fpn(Section):
    """The feature pyramid."""

    channels: PositiveInt = 256
    """Channels of every level."""
    levels: tuple[Annotated[int, Field(ge=2, le=9)], ...] = (3, 4, 5, 6, 7)
    """Level l has stride 2^l pixels; levels above 5 are made by strided convolutions."""

    @model_validator(mode="after")
    def _check(self) -> "Fpn":
        wanted = (
            tuple(range(self.levels[0], self.levels[0] + len(self.levels))) if self.levels else ()
        )
        if not self.levels or self.levels != wanted or self.levels[0] > 5:
            raise ValueError("levels: must be consecutive and start at 2, 3, 4 or 5, as [3, 4, 5].")
        return self


class HeadShape(Section):
    """What every head has: towers, and a distribution over reg_max + 1 bins for each box edge."""

    convs: Annotated[int, Field(ge=0, le=8)] = 4
    """Convolutions of each tower."""
    norm_groups: PositiveInt = 32
    """Groups of the towers' GroupNorm; must divide fpn.channels."""
    reg_max: Annotated[int, Field(ge=2, le=64)] = 16
    """Largest distance, in bins."""
    bin_width: PositiveFloat = 1.0
    """Width of a bin, in strides."""
    anchor_scale: PositiveFloat = 8.0
    """Side of the anchor of a location, in strides."""


class Head(HeadShape):
    """The GFL head: each box edge is a distribution over reg_max + 1 bins."""

    kind: Literal["gfl"] = "gfl"
    """Scores are those of the classes; a head without a kind is this one."""


class QualityHead(HeadShape):
    """The GFLv2 head: scores are weighed by how peaked the distributions of the edges are."""

    kind: Literal["gflv2"]
    """Scores are those of the classes times a quality, read off the distributions."""
    topk: PositiveInt = 4
    """Largest probabilities of each edge that are read, with their mean."""
    quality_channels: PositiveInt = 64
    """Channels between the two convolutions that read them."""

    @model_validator(mode="after")
    def _check(self) -> "QualityHead":
        if self.topk > self.reg_max + 1:
            raise ValueError(
                f"topk: must be at most the {self.reg_max + 1} bins of an edge (reg_max + 1)."
            )
        return self


def head_kind(value: object) -> str:
    """Return which section a head is: the kind that it names, "gfl" where it names none."""
    match value:
        case {"kind": kind} | Head(kind=kind) | QualityHead(kind=kind):
            return str(kind)
        case _:
            return "gfl"


AnyHead = Annotated[
    Annotated[Head, Tag("gfl")] | Annotated[QualityHead, Tag("gflv2")], Discriminator(head_kind)
]


class Detector(Section):
    """A GFL detector."""

    backbone: Backbone
    fpn: Fpn = Fpn()
    head: AnyHead = Head()

    @model_validator(mode="after")
    def _check(self) -> "Detector":
        if self.fpn.channels % self.head.norm_groups:
            raise ValueError(f"head.norm_groups: must divide fpn.channels = {self.fpn.channels}.")
        return self
