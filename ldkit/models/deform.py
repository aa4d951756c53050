"""Deformable 3x3 convolutions: each tap reads beside its place, by an offset that is learned.

They stand in for the 3x3 convolution of a bottleneck and take over its weight. An ordinary
convolution beside them, `conv_offset`, says for every location where the nine taps read.

Axes: B images · I input, O output channels · H, W of the map · Y, X of the output · F of a field.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from timm.models.resnet import Bottleneck
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from ldkit.errors import UsageError

TAPS = 9

Version = Literal[1, 2]


@dataclass(frozen=True, slots=True)
class Deform:
    """Which stages of a backbone are deformable, counted from 1 at stride 4, and how.

    Version 1 moves the taps; version 2 also weighs each of them between 0 and 1.
    """

    stages: tuple[int, ...]
    version: Version


def deform_conv(
    images: Float[Tensor, "B I H W"],
    field: Float[Tensor, "B F Y X"],
    weight: Float[Tensor, "O _ 3 3"],
    version: Version,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
) -> Float[Tensor, "B O Y X"]:
    """Return the convolution whose taps are moved by `field`; bilinear, and zero outside.

    The first channels of the field are offsets in pixels of the map: (down, right) for each tap,
    row by row. In version 2 the last third, after a sigmoid, multiplies what the taps read. A
    field of several times that width moves as many groups of input channels on their own.

    A tap exactly one pixel above or left of the map, as all offsets are zero at first, gives its
    offset a gradient here and none in mmcv; from the first step on there is no such tap.

    Source: DCN (arXiv 1703.06211), DCNv2 (arXiv 1811.11168); the layout of mmcv.
    """
    offset, mask = field, None
    if version == 2:
        moves = 2 * field.shape[1] // 3
        offset, mask = field[:, :moves], field[:, moves:].sigmoid()
    output: Tensor = deform_conv2d(
        images, offset, weight, stride=stride, padding=padding, dilation=dilation, mask=mask
    )
    return output


class DeformConv2d(nn.Module):
    """A deformable 3x3 convolution with the weight, stride and groups of a plain one.

    Offsets start at zero: version 1 then gives what the plain convolution gave, version 2 half of
    that, since its taps start in the middle of their range. Names in a checkpoint are those of
    the published models: `weight`, `conv_offset.weight`, `conv_offset.bias`.
    """

    def __init__(self, plain: nn.Conv2d, version: Version) -> None:
        """Take over a 3x3 convolution without a bias."""
        super().__init__()
        if plain.kernel_size != (3, 3) or plain.bias is not None:
            raise ValueError(f"{plain} is no 3x3 convolution without a bias")
        assert isinstance(plain.padding, tuple)
        self.version: Version = version
        self.stride = (plain.stride[0], plain.stride[1])
        self.padding = (plain.padding[0], plain.padding[1])
        self.dilation = (plain.dilation[0], plain.dilation[1])
        self.weight = plain.weight
        self.conv_offset = nn.Conv2d(
            plain.in_channels,
            TAPS * (2 if version == 1 else 3),
            3,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
        )
        nn.init.zeros_(self.conv_offset.weight)
        assert self.conv_offset.bias is not None
        nn.init.zeros_(self.conv_offset.bias)

    def forward(self, images: Float[Tensor, "B I H W"]) -> Float[Tensor, "B O Y X"]:
        """Return the convolution with the offsets that the map itself asks for."""
        return deform_conv(
            images,
            self.conv_offset(images),
            self.weight,
            self.version,
            self.stride,
            self.padding,
            self.dilation,
        )


def make_deformable(net: nn.Module, ends: Mapping[int, str], deform: Deform, where: str) -> None:
    """Replace the 3x3 convolution of every bottleneck of some stages; each keeps its weight.

    All blocks of a stage, the one that halves the map included, as in mmdetection.

    Args:
        net: The backbone.
        ends: Stage → its module in `net`.
        deform: Which stages, and how.
        where: Name of the backbone, for messages.

    Raises:
        UsageError: A stage is not made of bottlenecks; `net` is as it was.
    """
    blocks: list[Bottleneck] = []
    for stage in deform.stages:
        inside = list(net.get_submodule(ends[stage]).children()) if stage in ends else []
        found = [block for block in inside if isinstance(block, Bottleneck)]
        if not found or len(found) < len(inside):
            raise UsageError(
                f"has no bottleneck blocks in stage {stage}, so it cannot be deformable there.",
                where=where,
                hint="Take a ResNet or ResNeXt of 50 layers or more, such as resnet101, or set "
                "backbone.deform: null.",
            )
        blocks += found
    for block in blocks:
        block.add_module("conv2", DeformConv2d(block.conv2, deform.version))
