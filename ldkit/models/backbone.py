"""Backbones: timm networks as feature maps at the strides of a pyramid.

Levels as everywhere: level l has a stride of 2^l pixels. A backbone gives the levels up to 5;
the pyramid makes those above.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import timm
import torch
from jaxtyping import Float
from timm.models import FeatureInfo
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ldkit.errors import UsageError
from ldkit.models.deform import Deform, make_deformable
from ldkit.models.pretrained import features_only

SHORT_NAMES = {
    "r18": "resnet18",
    "r34": "resnet34",
    "r50": "resnet50",
    "r101": "resnet101",
    "r101dcn": "resnet101 with backbone.deform: {stages: [2, 3, 4]}",
    "x101": "resnext101_32x4d",
    "x101dcn": "resnext101_32x4d with backbone.deform: {stages: [3, 4]}",
}
"""What a short name of the command line stands for, in words; for messages."""

HIGHEST_LEVEL = 5  # stride 32, where classification networks end
_PROBE_HW = (64, 96)  # pixels; not square, and no multiple of any usual window


@dataclass(frozen=True, slots=True)
class Frozen:
    """What of a backbone stays as it is while the rest trains.

    `modules` are names of modules that neither learn nor count statistics. With `batchnorm` no
    BatchNorm counts statistics; those outside `modules` still learn their scale and shift.
    """

    modules: tuple[str, ...] = ()
    batchnorm: bool = False

    def hold(self, net: nn.Module) -> None:
        """Put these parts of `net` into evaluation mode, whatever the rest does."""
        for name in self.modules:
            net.get_submodule(name).eval()
        if self.batchnorm:
            for module in net.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()


@dataclass(frozen=True, slots=True)
class Backbone:
    """A network from images to feature maps, fine first, and the channels of each map.

    The module is timm's own, so that a checkpoint carries the names of timm and torchvision.
    """

    net: nn.Module
    channels: tuple[int, ...]
    frozen: Frozen = Frozen()


def timm_backbone(
    name: str,
    levels: Sequence[int],
    pretrained: bool | str,
    frozen_stages: int,
    frozen_batchnorm: bool,
    deform: Deform | None = None,
) -> Backbone:
    """Return a network of timm as a backbone for the pyramid's levels.

    Args:
        name: timm name, with or without a tag (`resnet50`, `resnet50.a1_in1k`). Plain ResNets
            take the torchvision weights of the published models.
        levels: Levels of the pyramid; the network must have maps for those up to 5.
        pretrained: True: timm's weights from the hub; False: random; else a local file.
        frozen_stages: Stages that stay as they are, counted from stride 4 and including what
            comes before; 0 freezes nothing.
        frozen_batchnorm: Keep the running statistics of every BatchNorm.
        deform: Stages whose bottlenecks get deformable convolutions; they keep their weights.

    Raises:
        UsageError: Unknown name, no such maps or blocks, or weights that cannot be had.
        CheckpointError: The local file is broken or does not fit.

    Source: frozen parts as published for GFL (frozen_stages=1, norm_eval=True in mmdetection).
    """
    _refuse_unknown(name)
    info = features_only(name).feature_info
    taken = _indices(name, info, [level for level in levels if level <= HIGHEST_LEVEL])
    net = features_only(name, tuple(taken), pretrained)
    channels, strides = tuple(info.channels(taken)), info.reduction(taken)
    net = _channels_first(name, net, channels, strides)
    ends = _stage_ends(net, info)
    if deform is not None:
        make_deformable(net, ends, deform, name)
    frozen = Frozen(_stage_modules(name, net, ends, frozen_stages), frozen_batchnorm)
    for module in frozen.modules:
        net.get_submodule(module).requires_grad_(requires_grad=False)
    return Backbone(net, channels, frozen)


def small_backbone(width: int, depth: int, levels: Sequence[int]) -> Backbone:
    """Return a small residual network to train from scratch; nothing in it is frozen.

    Stages of width, 2, 4 and 4 · width channels with `depth` blocks each, at strides 4 to 32.
    The shortcuts halve by average pooling: a strided 1x1 convolution of 8 channels in
    channels_last crashes the backward pass of some CPU builds of torch.
    """
    taken = [level - 1 for level in levels if level <= HIGHEST_LEVEL]
    net: Any = timm.create_model(
        "resnet18",
        features_only=True,
        out_indices=tuple(taken),
        layers=(depth,) * 4,
        channels=(width, 2 * width, 4 * width, 4 * width),
        stem_type="deep",
        stem_width=max(1, width // 2),
        avg_down=True,
    )
    return Backbone(net, tuple(net.feature_info.channels()))


def _refuse_unknown(name: str) -> None:
    architecture = name.partition(".")[0]
    tagged_names = timm.list_pretrained(f"{architecture}.*")
    if timm.is_model(architecture) and ("." not in name or name in tagged_names):
        return
    known = tagged_names if timm.is_model(architecture) else timm.list_models()
    close = difflib.get_close_matches(name, [*known, *SHORT_NAMES], n=3)
    close = list(dict.fromkeys(SHORT_NAMES.get(match, match) for match in close))
    raise UsageError(
        "is no backbone of timm.",
        where=name,
        hint=f"Did you mean {', '.join(close)}?"
        if close
        else "`timm.list_models()` lists the names.",
    )


def _indices(name: str, info: FeatureInfo, levels: list[int]) -> list[int]:
    """Return which of the network's maps have the strides of these levels."""
    strides = [info.reduction(index) for index in range(len(info.info))]
    wanted = [2**level for level in levels]
    if not set(wanted) <= set(strides):
        raise UsageError(
            f"has feature maps of strides {strides}, but a pyramid of these levels needs {wanted}.",
            where=name,
            hint="Take a network with stages, such as resnet50, or set other fpn.levels.",
        )
    last = {stride: index for index, stride in enumerate(strides)}
    return [last[stride] for stride in wanted]


def _channels_first(
    name: str, net: nn.Module, channels: tuple[int, ...], strides: list[int]
) -> nn.Module:
    """Return the network with maps [B, C, H, W], after trying it on one small canvas."""
    height, width = _PROBE_HW
    sizes = [(ceil(height / stride), ceil(width / stride)) for stride in strides]
    try:
        with torch.no_grad():
            shapes = [tuple(x.shape[1:]) for x in net.eval()(torch.zeros(1, 3, height, width))]
    except (AssertionError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"does not take images of any size (timm: {str(error).strip().splitlines()[-1]}).",
            where=name,
            hint="Take a convolutional network such as resnet50, or convnext_tiny.",
        ) from error
    if shapes == [(C, *size) for C, size in zip(channels, sizes, strict=True)]:
        return net
    if shapes == [(*size, C) for C, size in zip(channels, sizes, strict=True)]:
        return _ChannelsFirst(net)
    raise UsageError(
        f"gives maps of the shapes {shapes} for an image of {height}x{width} pixels, but "
        f"channels {list(channels)} at strides {strides} are expected.",
        where=name,
        hint="Take a convolutional network such as resnet50, or convnext_tiny.",
    )


class _ChannelsFirst(nn.Module):
    """A network whose maps come as [B, H, W, C]."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        return [map_BHWC.permute(0, 3, 1, 2) for map_BHWC in self.net(images)]


def _stage_ends(net: nn.Module, info: FeatureInfo) -> dict[int, str]:
    """Return the module at the end of each stage that timm names; stage 1 has stride 4."""
    last = {step["reduction"]: step["module"] for step in info.info}
    # timm flattens `stages.0` to `stages_0` in most networks, and `net` is our own wrapping
    here = {module.removeprefix("net."): module for module, _ in net.named_modules() if module}
    ends = {}
    for stage in range(1, HIGHEST_LEVEL):
        end = last.get(2 ** (stage + 1), "")
        path = here.get(end) or here.get(end.replace(".", "_", 1))
        if path is not None:
            ends[stage] = path
    return ends


def _stage_modules(name: str, net: nn.Module, ends: dict[int, str], stages: int) -> tuple[str, ...]:
    """Return the modules up to the end of a stage: timm registers them in running order."""
    if stages == 0:
        return ()
    if not set(range(1, stages + 1)) <= set(ends):
        raise UsageError(
            f"cannot have {stages} frozen stages: timm does not say which of its modules they are.",
            where=name,
            hint="Set frozen_stages: 0, or take a network such as resnet50.",
        )
    modules, prefix, parent = [], "", net
    for part in ends[stages].split("."):
        children = [child for child, _ in parent.named_children()]
        modules += [prefix + child for child in children[: children.index(part)]]
        prefix, parent = f"{prefix}{part}.", parent.get_submodule(part)
    return (*modules, ends[stages])
