"""The published model's names, and the rules its reference weights and image follow."""

import math
import re
import zlib

import numpy as np
import torch
from torch import Tensor, nn

from ldkit.models.backbone import timm_backbone
from ldkit.models.deform import Deform
from ldkit.models.fpn import Fpn
from ldkit.models.gfl import Detector, GflHead
from ldkit.models.quality import EdgeQuality
from ldkit.structures import Grid

LEVELS = (3, 4, 5, 6, 7)
GRID = Grid(strides=(8, 16, 32, 64, 128), anchor_scale=8.0)

# Our names → mmdet's. The backbone's are the same.
RENAMES = (
    (r"^fpn\.lateral\.(\d)\.", r"neck.lateral_convs.\1.conv."),
    (r"^fpn\.output\.(\d)\.", r"neck.fpn_convs.\1.conv."),
    (r"^fpn\.extra\.0\.", r"neck.fpn_convs.3.conv."),
    (r"^fpn\.extra\.1\.", r"neck.fpn_convs.4.conv."),
    (r"^head\.cls_tower\.(\d)\.conv\.", r"bbox_head.cls_convs.\1.conv."),
    (r"^head\.cls_tower\.(\d)\.norm\.", r"bbox_head.cls_convs.\1.gn."),
    (r"^head\.bbox_tower\.(\d)\.conv\.", r"bbox_head.reg_convs.\1.conv."),
    (r"^head\.bbox_tower\.(\d)\.norm\.", r"bbox_head.reg_convs.\1.gn."),
    (r"^head\.cls_logits\.", r"bbox_head.gfl_cls."),
    (r"^head\.bbox_logits\.", r"bbox_head.gfl_reg."),
    (r"^head\.quality\.layers\.(\d)\.", r"bbox_head.reg_conf.\1."),
    (r"^head\.scales\.(\d)$", r"bbox_head.scales.\1.scale"),
)


def published_name(name: str) -> str:
    for pattern, replacement in RENAMES:
        name, found = re.subn(pattern, replacement, name)
        if found:
            break
    return name


def published_detector(
    backbone: str, deform: Deform | None = None, *, has_quality: bool = False
) -> Detector:
    """A GFL or GFLv2 detector as published: COCO's 80 classes, 256 channels, 17 bins."""
    net = timm_backbone(backbone, LEVELS, False, 1, True, deform)
    fpn = Fpn(net.channels, 256, LEVELS)
    quality = EdgeQuality(topk=4, channels=64) if has_quality else None
    return Detector(net, fpn, GflHead(256, 80, 4, 32, 16, GRID, quality))


def _draw(key: str, shape: torch.Size) -> np.ndarray:
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))
    return np.asarray(generator.standard_normal(tuple(shape)))


def rule(key: str, shape: torch.Size) -> Tensor:
    """The reference weight of that (mmdet) name: noise of a size that suits its role."""
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    noise = _draw(key, shape)
    if key.endswith("running_mean"):
        value = 0.1 * noise
    elif key.endswith("running_var"):
        value = 1.0 + 0.5 * np.abs(noise)
    elif key.endswith("gfl_cls.bias"):
        value = -4.0 + 0.05 * noise
    elif len(shape) == 4:
        value = noise / math.sqrt(math.prod(shape[1:]))
        value *= 2.0 if key.endswith(("gfl_cls.weight", "gfl_reg.weight")) else 1.0
    elif key.endswith(".bias"):
        value = 0.05 * noise
    else:  # the scale of a norm or of a level
        value = 1.0 + 0.1 * noise
    return torch.from_numpy(np.asarray(value, dtype=np.float32).reshape(tuple(shape)))


def probe(key: str, shape: torch.Size) -> Tensor:
    """The vector whose dot product stands for a gradient or a weight."""
    return torch.from_numpy(_draw(f"probe:{key}", shape).astype(np.float32))


def reference_image(height: int, width: int) -> Tensor:
    generator = np.random.Generator(np.random.PCG64(5000))
    noise = generator.standard_normal((2, 3, height, width))
    return torch.from_numpy(noise.astype(np.float32))


def fill(module: nn.Module) -> None:
    state = module.state_dict()
    module.load_state_dict({k: rule(published_name(k), v.shape) for k, v in state.items()})
